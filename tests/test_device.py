"""On a device other than the CPU: no operation mixes devices, results are the CPU's, and loops do not wait for it."""

import copy
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import unmask
from pretend_device import DEVICE, DeviceTensor, move, pretend_device
from small_bpe import write_bpe
from test_pretrained import LENGTH, MASK, SPECIAL, random_model
from test_pretrained import V as WORDS
from unmask.data.digits import Digits
from unmask.evaluation import (
    frechet,
    generative,
    infill_unknown_length,
    length_posterior,
    likelihood,
    study_precision,
    study_samplers,
)
from unmask.evaluation.statistics import ModelFeatures
from unmask.given import given_and_clean
from unmask.networks.constrained import Constrained
from unmask.networks.pretrained import Pretrained
from unmask.objectives.token import TokenELBO
from unmask.randomness import generators, seeded

V, L, CLASSES = 7, 8, 3


@pytest.fixture
def waits() -> Iterator[Counter[str]]:
    """The device, and what makes the host wait for it."""
    with pretend_device() as counted:
        yield counted


def there(found: Any) -> Any:
    """Return what is made of tensors on the device."""
    return tree_map_only(Tensor, lambda x: x.to(DEVICE), found)


def here(found: Any) -> Any:
    """Return what is made of tensors on the device, on the CPU; a tensor that is there already is an error."""
    return tree_map_only(Tensor, lambda x: x.values if isinstance(x, DeviceTensor) else pytest.fail("not there"), found)


def network(length: int = L, **settings: Any) -> unmask.Transformer:
    torch.manual_seed(0)
    made = unmask.Transformer(V, (length,), width=16, depth=1, heads=2, **settings).eval()
    torch.nn.init.normal_(made.head.weight, std=0.3)
    return made


def canvas(batch: int = 3, length: int = L, shown: int = 3) -> Tensor:
    x = torch.full((batch, length), V)
    x[:, :shown] = torch.arange(batch * shown).view(batch, shown) % V
    return x


SCHEDULE = unmask.TokenPolynomial(V, 1.5)
PLANNED = [
    unmask.FirstHitting(),
    unmask.FirstHitting(unmask.Cosine(), tokens_per_call=2),
    unmask.FirstHitting(tokens_per_call=2, order=2),
    unmask.FirstHitting(tokens_per_call=2, order=2, form="predictor-corrector"),
    unmask.Ancestral(steps=8),
    unmask.InOrder(),
    unmask.InOrder(tokens_per_call=2),
    unmask.dream(steps=8, alg="origin"),
]
OTHERS = [
    unmask.FirstHitting(block_length=4, corrections=1),
    unmask.FirstHitting(block_length=5, blocks_after_prompt=True, temperature=0.7, top_k=3),
    unmask.InOrder(order=tuple(range(L))[::-1], corrections=2),
    *(unmask.MostConfident(steps=4, measure=measure) for measure in ("confidence", "margin", "entropy", "random")),
    *(unmask.MostConfident(steps=4, grid=grid, noise=1.0) for grid in ("uniform", "llada", "dream")),
    unmask.MostConfident(steps=2, block_length=4, corrections=1, top_p=0.8, measure_filtered=True),
    unmask.EntropyBounded(1.0),
    unmask.EntropyBounded(0.0, block_length=6, top_p=0.9),
    *(unmask.Remasking(steps=6, form=form, eta=0.5) for form in ("cap", "rescale")),
    unmask.Remasking(steps=6, confidence=True, eta=0.5),
    unmask.Remasking(steps=6, loop=(0.6, 0.3, 0.8), eta=0.5),
    *(unmask.TokenFirstHitting(SCHEDULE, form) for form in ("thinned", "frozen")),
    unmask.TokenAncestral(SCHEDULE, steps=6),
    unmask.llada(steps=4),
    unmask.llada(steps=2, temperature=0.5, remasking="random", block_length=4),
    *(unmask.dream(steps=8, alg=alg) for alg in ("entropy", "maskgit_plus", "topk_margin")),
    unmask.dream(steps=8, temperature=0.0),
]


def on_device(found: Any) -> Any:
    """Return a sampler or an objective whose schedule, where it has one of its own, is on the device."""
    schedule = getattr(found, "schedule", None)
    return replace(found, schedule=move(schedule)) if isinstance(schedule, torch.nn.Module) else found


def test_the_stand_in_refuses_and_counts(waits: Counter[str]) -> None:
    x, flags = torch.zeros(3, device=DEVICE), torch.ones(3, dtype=torch.bool, device=DEVICE)
    with pytest.raises(RuntimeError, match="tensors on .* and on the CPU"):
        x + torch.zeros(3)
    with pytest.raises(RuntimeError, match="tensors on .* and on the CPU"):
        torch.cat((x, torch.zeros(3)))
    with pytest.raises(TypeError, match=r"use .cpu\(\) first"):
        x.numpy()
    x = x + 1 + torch.tensor(1.0)
    x.add_(x.sum()).masked_fill_(flags, 0)
    assert not waits and x.device == DEVICE
    for i, wait in enumerate(
        (
            lambda: bool(x[0]),
            lambda: x.tolist(),
            lambda: x.cpu(),
            lambda: x[flags],
            lambda: flags.nonzero(),
            lambda: x[torch.tensor([0, 1])],
            lambda: torch.tensor([0.0], device=DEVICE),
            lambda: torch.zeros(3).to(DEVICE),
            lambda: x.copy_(torch.zeros(3)),
        )
    ):
        wait()
        assert waits.total() == i + 1
    torch.zeros(3).to(DEVICE, non_blocking=True)
    assert waits.total() == i + 1


@pytest.mark.parametrize("sampler", PLANNED + OTHERS, ids=str)
def test_samplers(sampler: Any, waits: Counter[str]) -> None:
    model, x = network(time_conditioning=True), canvas()
    moved, ours, theirs = move(model), on_device(sampler), there(x)
    moved(theirs, there(torch.ones(len(x))))  # the angles of its positions are kept
    expected = list(sampler.trajectory(model, x, generator=generators(0, len(x))))
    found, counted = [], []
    waits.clear()
    for state in ours.trajectory(moved, theirs, generator=generators(0, len(x))):
        found.append(state)
        counted.append(waits.total())
        waits.clear()
    for one, other in zip(here(found), expected, strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.calls, other.calls)
        torch.testing.assert_close(one.t, other.t, rtol=0, atol=1e-12)
    start, *steps = counted
    blocks = -(-L // (getattr(sampler, "block_length", None) or L))
    in_loop, first = sorted(steps)[:-blocks], sorted(steps)[-blocks:]
    assert start <= 4, "the canvas is checked"
    assert max(in_loop) <= waits_of_step(sampler) and max(first) <= waits_of_step(sampler) + 2
    assert waits.total() <= 1 + 2 * blocks, "whether all logits were finite"


def waits_of_step(sampler: Any) -> int:
    """Return how often a step may wait: once where the number of calls depends on what was drawn, else never."""
    thinned = isinstance(sampler, unmask.TokenFirstHitting) and sampler.form == "thinned"
    depends = isinstance(sampler, unmask.EntropyBounded | unmask.TokenAncestral) or thinned
    return int(depends or (isinstance(sampler, unmask.Remasking) and sampler.confidence))


@pytest.mark.parametrize("sampler", [*PLANNED[:1], *OTHERS], ids=str)
def test_a_network_that_fails(sampler: Any, waits: Counter[str]) -> None:
    """Found without waiting in each step; until then nothing is read outside of a tensor."""
    model = network(time_conditioning=True)
    torch.nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(FloatingPointError, match=r"step \d: the network's logits are NaN") as at_once:
        sampler(model, canvas(), generator=generators(0, 3))
    with pytest.raises(FloatingPointError, match=str(at_once.value)):
        on_device(sampler)(move(model), there(canvas()), generator=generators(0, 3))


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("sampler", [unmask.FirstHitting(), unmask.Remasking(steps=6), unmask.EntropyBounded()])
def test_labels(sampler: unmask.Sampler, guidance: float, waits: Counter[str]) -> None:
    sampler, label = replace(sampler, guidance=guidance), torch.tensor([0, 2, 3])
    model, x = network(classes=CLASSES), canvas()
    expected = sampler(model, x, label, generator=generators(0, len(x)))
    assert torch.equal(here(sampler(move(model), there(x), there(label), generator=generators(0, len(x)))), expected)


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("sampler", PLANNED + OTHERS, ids=str)
def test_constrained_samplers(sampler: Any, by_position: bool, waits: Counter[str]) -> None:
    x, ours = canvas(), on_device(sampler)
    allowed = torch.arange(L * V).view(L, V) % 3 > 0 if by_position else torch.arange(V) % 3 > 0
    model = Constrained(network(), allowed)
    expected = sampler(model, x, generator=generators(0, len(x)))
    moved, theirs = Constrained(move(network()), allowed), there(x)
    moved(theirs)  # the angles of its positions are kept
    waits.clear()
    found = ours(moved, theirs, generator=generators(0, len(x)))
    constrained = waits.total()
    assert torch.equal(here(found), expected)
    assert allowed.expand(L, V)[torch.arange(L), expected].logical_or(x < V).all(), "only what is allowed is drawn"
    waits.clear()
    ours(moved.network, theirs, generator=generators(0, len(x)))
    assert constrained <= waits.total(), "a constraint makes nothing wait"


def count_waits(waits: Counter[str], length: int, sampler: unmask.Sampler) -> Counter[str]:
    """Return why the host waits in a trajectory."""
    model, x = move(network(length)), there(canvas(length=length))
    model(x)  # the angles of its positions are kept
    waits.clear()
    sampler(model, x, generator=generators(0, len(x)))
    return waits.copy()


@pytest.mark.parametrize("sampler", PLANNED, ids=str)
def test_planned_samplers_wait_as_often_for_many_steps_as_for_few(sampler: Any, waits: Counter[str]) -> None:
    more = replace(sampler, steps=2 * sampler.steps) if isinstance(sampler, unmask.Ancestral) else sampler
    few = count_waits(waits, L // 2, sampler)
    assert count_waits(waits, L, more) == few
    assert few.total() <= 6


OBJECTIVES = [
    unmask.ContinuousELBO(),
    unmask.ContinuousELBO(unmask.Cosine()),
    unmask.ContinuousELBO(unmask.Geometric()),
    unmask.ContinuousELBO(unmask.Polynomial(2.0)),
    unmask.DiscreteELBO(steps=4),
    unmask.TimeFreeELBO(),
    unmask.TimeFreeELBO(power=0.5),
    unmask.TokenELBO(SCHEDULE),
    unmask.TokenELBO(SCHEDULE, masks=3, power=0.5),
    unmask.NextToken(),
]


def step(objective: unmask.Objective, model: unmask.Network, x: Tensor, given: Any, label: Any) -> Any:
    """Return the loss and the gradients, of the schedule too."""
    loss = objective(model, x, label, given=given, generator=seeded(1, device=x.device))
    loss.loss.backward()
    schedule = [objective.schedule] if isinstance(objective, TokenELBO) and objective.schedule else []
    gradients = [p.grad for module in (model, *schedule) for p in module.parameters()]
    return [part.detach() for part in loss], [grad for grad in gradients if grad is not None]


@pytest.mark.parametrize("with_given", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_objectives(objective: unmask.Objective, with_given: bool, waits: Counter[str]) -> None:
    model, x, label = network(classes=CLASSES, time_conditioning=True).train(), canvas(shown=L), torch.tensor([0, 1, 3])
    if isinstance(objective, unmask.NextToken):
        model = unmask.CausalTransformer(V, (L,), CLASSES, width=16, depth=1, heads=2)
    given = torch.arange(L).expand(3, -1) < torch.tensor([[0], [2], [5]]) if with_given else None
    moved, theirs, inputs = on_device(objective), move(model), there((x, given, label))
    theirs(inputs[0], there(torch.ones(3)))  # the angles of its positions are kept
    waits.clear()
    found = step(moved, theirs, *inputs)
    assert not waits
    found = here(found)
    if isinstance(objective, TokenELBO):
        objective = replace(objective, schedule=copy.deepcopy(objective.schedule))
    torch.testing.assert_close(found, step(objective, model, x, given, label))


def test_a_training_step_does_not_wait(waits: Counter[str]) -> None:
    model, x = move(network(classes=CLASSES).train()), there(canvas(4, shown=L))
    label, optimizer = there(torch.tensor([0, 1, 2, 3])), torch.optim.AdamW(model.parameters(), fused=True)
    generator = seeded(0, device=DEVICE)
    before = here([p.clone() for p in model.parameters()])
    for _ in range(3):
        waits.clear()
        unmask.TimeFreeELBO()(model, x, label, generator=generator).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert not waits
    assert all((a != b).any() for a, b in zip(here([p.detach() for p in model.parameters()]), before, strict=True))


NETWORKS = {
    "transformer": lambda: network(classes=CLASSES, time_conditioning=True),
    "unet": lambda: unmask.UNet(V, (4, 4, 1), widths=(8, 8), blocks=1, middle_depth=1),
    "ddit": lambda: unmask.DDiT(V, (L,), width=16, depth=2, heads=2),
    "timed ddit": lambda: unmask.DDiT(V, (L,), width=16, depth=2, heads=2, condition=8),
    "bert": lambda: pretrained("bert"),
    "llama": lambda: pretrained("llama", shifted=True),
}


def pretrained(kind: str, **settings: Any) -> Pretrained:
    return Pretrained(WORDS, (LENGTH,), body=random_model(kind), mask=MASK, padding=0, special=SPECIAL, **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, waits: Counter[str]) -> None:
    torch.manual_seed(1)
    model = NETWORKS[name]().eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randint(5, model.vocab_size, (2, *model.shape), generator=seeded(2))
    hidden = torch.rand(x.shape, generator=seeded(3)) < 0.3
    x_t, noise = x.masked_fill(hidden, model.mask_id), torch.tensor([0.3, 0.9], dtype=torch.float64)
    moved = move(model)
    for at in (None, hidden, unmask.Positions.of(hidden)):
        found = moved(there(x_t), there(noise), at=there_at(at)).detach()
        torch.testing.assert_close(here(found), model(x_t, noise, at=at).detach(), rtol=1e-4, atol=1e-5)
    objective, given = unmask.TimeFreeELBO(), x % 3 == 0
    found = here(step(objective, moved, there(x), there(given), None))
    torch.testing.assert_close(found, step(objective, model, x, given, None), rtol=1e-3, atol=1e-5)
    sampler = unmask.FirstHitting(tokens_per_call=2)
    tokens = sampler(model, x_t, generator=generators(0, 2))
    assert torch.equal(here(sampler(moved, there(x_t), generator=generators(0, 2))), tokens)


def there_at(at: Any) -> Any:
    if not isinstance(at, unmask.Positions):
        return there(at)
    return unmask.Positions(*(there(getattr(at, field.name)) for field in fields(at)))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a left-to-right model, and of its tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("judge")
    codec = unmask.Tokenizer(str(write_bpe(folder / "bpe")))
    sizes: dict[str, Any] = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 12}
    GPT2LMHeadModel(GPT2Config(vocab_size=codec.vocab_size, **sizes)).save_pretrained(folder)
    codec.saved(folder)
    return folder


def images(classes: int | None = None, schedule: Any = None) -> unmask.MaskedDiffusion:
    torch.manual_seed(0)
    body = unmask.Transformer(17, (8, 8, 1), classes, width=8, depth=1, heads=1, time_conditioning=schedule is not None)
    return unmask.MaskedDiffusion(body, unmask.Pixels(17), schedule).eval()


def check_same(found: unmask.Report, expected: unmask.Report) -> None:
    """Compare the figures of two reports but for the seconds that they took."""
    assert len(found.rows) == len(expected.rows) > 0
    for one, other in zip(found.rows, expected.rows, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds_per_example"}:
            a, b = (list(filter(None, x)) if isinstance(x, tuple) else x for x in (one[name], other[name]))
            assert a == (pytest.approx(b, rel=1e-4) if isinstance(b, float | list) else b)


@pytest.mark.parametrize("schedule", [None, unmask.TokenPolynomial(17, 2.0)])
def test_likelihood(schedule: Any, waits: Counter[str]) -> None:
    model = images(10, schedule)
    scalar = [unmask.DiscreteELBO(steps=4), unmask.ContinuousELBO()]
    for objective in (None, *([] if schedule else scalar)):
        how: Any = {"objective": objective, "draws": 2, "limit": 5, "batch_size": 3, "breakdown": True}
        moved = move(model)
        found, expected = likelihood(moved, Digits(), **how), likelihood(model, Digits(), **how)
        check_same(found, expected)
        torch.testing.assert_close(found.breakdown.by_value, expected.breakdown.by_value)  # type: ignore[union-attr]


def test_studies(waits: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [unmask.InOrder(tokens_per_call=16), unmask.Remasking(steps=2), unmask.MostConfident(steps=2)]
    monkeypatch.setattr("unmask.evaluation.study._samplers", lambda *_: chosen)
    few: Any = {"ngram": 1, "samples": 2, "label": torch.tensor([0, 10])}
    check_same(study_samplers(move(images(10)), Digits(), **few), study_samplers(images(10), Digits(), **few))
    check_same(*(study_precision(m, Digits(), steps=(4,), **few) for m in (move(images(10)), images(10))))


def test_frechet_distance(waits: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["unmask.evaluation.frechet"]
    monkeypatch.setattr(module, "_samplers", lambda *_: [unmask.Ancestral(steps=4)])
    reports = []
    for model, other in ((move(images(10)), move(images())), (images(10), images())):
        features = ModelFeatures(other, "other", other.codec, other.shape)
        reports.append(frechet(model, Digits(), features=features, samples=20, batch_size=512))
    check_same(*reports)


def test_generative_perplexity(judge: Path, waits: Counter[str]) -> None:
    codec = unmask.Tokenizer(str(judge))
    torch.manual_seed(0)
    model = unmask.MaskedDiffusion(unmask.Transformer(codec.vocab_size, (16,), width=8, depth=1, heads=1), codec).eval()
    for texts in ("raw", "retokenised"):
        how: Any = {"judge": str(judge), "samples": 3, "texts": texts, "sampler": unmask.Ancestral(steps=4)}
        check_same(generative(move(model), **how), generative(model, **how))


LENGTHS = {"fill": 0, "counts": [0, 0, 0, 1, 2, 1, 0, 1]}


@pytest.mark.parametrize("about", [{}, {"lengths": LENGTHS}], ids=["plain", "lengths"])
def test_models(about: dict[str, Any], waits: Counter[str]) -> None:
    model = unmask.MaskedDiffusion(network(), unmask.Symbols(V), about=about).eval()
    x, known = canvas(shown=L), torch.arange(L).expand(3, -1) < 4
    short = x[:, :6].masked_fill(torch.arange(6) % 2 == 0, V)

    def results(model: unmask.MaskedDiffusion, x: Tensor, short: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        drawn, filled = model.sample(3, generator=generators(0, 3)), model.infill(short, generator=generators(0, 3))
        bound = model.nelbo(x, draws=2, given=known, generator=seeded(0, device=model.device))
        return drawn, filled, bound, model.empty_canvas(3, 0)

    found, expected = results(move(model), *there((x, short, known))), results(model, x, short, known)
    torch.testing.assert_close(here(found), expected)
    for row, other in zip(model.decode(found[0]), model.decode(expected[0]), strict=True):
        assert (row == other).all()
    assert torch.equal(here(move(images(10)).labels("all", 10)), torch.arange(10))


def test_many_inputs(waits: Counter[str], tmp_path: Path) -> None:
    model = unmask.MaskedDiffusion(network(classes=CLASSES), unmask.Symbols(V)).eval()
    np.save(tmp_path / "in.npy", np.where(canvas(6) == V, -1, canvas(6)))
    for name, one in (("here", model), ("there", move(model))):
        unmask.infill_file(one, tmp_path / "in.npy", tmp_path / f"{name}.npy", samples=2, label=1, batch_size=3)
    assert (np.load(tmp_path / "here.npy") == np.load(tmp_path / "there.npy")).all()


@pytest.mark.parametrize("excluded", [(), (4, 5)])
def test_given_tokens_of_encoded_data(excluded: tuple[int, ...], waits: Counter[str]) -> None:
    x = torch.tensor([[1, -3, 4], [0, 5, 6]])
    for found, expected in zip(given_and_clean(there(x), excluded), given_and_clean(x, excluded), strict=True):
        assert torch.equal(here(found), expected)


def test_holes_of_unknown_length(waits: Counter[str]) -> None:
    model = unmask.MaskedDiffusion(network(time_conditioning=True), unmask.Characters("abcdefg"))
    text, settings = "ab[1-3]c", {"evaluations": 32, "seed": 1}
    expected = infill_unknown_length(model, text, samples=2, **settings)
    posterior = length_posterior(model, text, **settings)
    moved = unmask.MaskedDiffusion(move(model.network), model.codec)
    counted = []
    for batch_size in (32, 8):
        waits.clear()
        found = length_posterior(moved, text, batch_size=batch_size, **settings)
        counted.append(waits.total())
        for one, other in zip(found.probability, posterior.probability, strict=True):
            assert one == pytest.approx(other, abs=1e-6)
    assert counted[0] == counted[1], "more batches wait no more"
    drawn = infill_unknown_length(moved, text, samples=2, **settings)
    assert [one.text for one in drawn] == [one.text for one in expected]

"""Sampling in bfloat16 and compiled: the same draws from rounded logits, in few shapes, beside the model itself."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import unmask
from unmask.cli.main import main
from unmask.codecs import Characters
from unmask.networks.accelerated import Accelerated, fitting_size
from unmask.samplers.draw import draw

V, L, BATCH = 5, 16, 4


def small(**settings: Any) -> unmask.MaskedDiffusion:
    torch.manual_seed(0)
    network = unmask.Transformer(V, (L,), width=16, depth=2, heads=2, absolute_positions=True, **settings).eval()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    return unmask.MaskedDiffusion(network, Characters("abcde")).eval()


def signature(x: Any) -> Any:
    """Return the shapes of the inputs of a compiled function, for each of which it is compiled once."""
    if isinstance(x, unmask.Positions):
        return tuple(map(signature, vars(x).values()))
    return tuple(x.shape) if isinstance(x, Tensor) else x


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """A compiler that only notes the shapes of what it would compile."""
    seen: set[Any] = set()

    def compile(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            seen.add(tuple(map(signature, (*inputs, *named.values()))))
            return function(*inputs, **named)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    return seen


SAMPLERS = [
    unmask.FirstHitting(corrections=1),
    unmask.FirstHitting(tokens_per_call=3),
    unmask.Ancestral(steps=5),
    unmask.MostConfident(steps=4),
    unmask.EntropyBounded(2.0),
    unmask.Remasking(steps=6, eta=0.3),
]


def test_compiled_sampling_has_a_few_shapes(shapes: set[Any]) -> None:
    """Batches of 4, 2 and 1: a block at all positions, and the last block at 4 or 1 of each example."""
    model, plain = small(), small()
    model.network.double(), plain.network.double()  # else a batch that is filled up rounds otherwise
    assert unmask.accelerate(model, precision="32-true", compile=True) is model
    canvas = model.empty_canvas(BATCH + 3)
    canvas[0, :13] = 1
    counted = []
    for sampler in SAMPLERS:
        for seed in (0, 1):
            found = [
                draw(one.network_for(canvas, to_draw=True), canvas, sampler=sampler, seed=seed, batch_size=BATCH)
                for one in (model, plain)
            ]
            assert torch.equal(*found)
        counted.append(len(shapes))
    assert counted[0] >= 2 and counted[-1] == len(shapes) <= 3 * 3
    assert model.network.blocks[0]._compiled_call_impl is None, "the network itself is not compiled"
    before = len(shapes)
    model.nelbo(canvas.clamp(max=V - 1), draws=3)
    draw(model.network_for(canvas, to_draw=True), canvas[:3], sampler=SAMPLERS[2], seed=5, batch_size=3)
    assert len(shapes) == before, "other uses, and a last, smaller batch, compile nothing"


def test_torch_compiles_nothing_for_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what checks types in tests remembers sizes
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    torch._dynamo.reset()
    model = unmask.accelerate(small(), precision="32-true", compile=True)
    canvas, counted = model.empty_canvas(BATCH), []
    for count in (BATCH, BATCH - 1):
        draw(model.network_for(canvas, to_draw=True), canvas[:count], sampler=SAMPLERS[1], batch_size=BATCH)
        counted.append(counter.frame_count)
    assert counted[0] == counted[1] > 0
    torch._dynamo.reset()


class Wide(unmask.Network):
    """Logits of its own at all positions, without a head."""

    def __init__(self, vocab_size: int, shape: tuple[int, ...], classes: int | None = None) -> None:
        super().__init__()
        self.vocab_size, self.shape, self.classes = vocab_size, shape, classes
        self.table = torch.nn.Embedding(vocab_size + 1, vocab_size)

    def forward(self, x_t: Any, noise: Any = None, label: Any = None, *, at: Any = None) -> Any:
        return unmask.pick(self.table(x_t) + self.table(x_t).mean(1, keepdim=True), at)


@pytest.mark.parametrize("kind", ["transformer", "classes", "images", "other"])
def test_what_is_filled_up_is_not_returned(kind: str, shapes: set[Any]) -> None:
    dims, label, classes = ((4, 4, 1) if kind == "images" else (L,)), None, None
    if kind == "classes":
        classes, label = 3, torch.tensor([0, 2, 3])
    network: unmask.Network = Wide(V, dims)
    if kind != "other":
        torch.manual_seed(0)
        settings: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "time_conditioning": kind == "classes"}
        network = unmask.Transformer(V, dims, classes, **settings).double().eval()
        torch.nn.init.normal_(network.head.weight)
    fast = Accelerated(network, compile=True)
    fast.batch = 8
    x_t, noise = torch.full((3, *dims), V), torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
    flat = torch.arange(3 * L).view(3, *dims)
    one, few, many = flat % L == 5, flat % 7 == 0, flat % 5 != 0
    for at in (None, one, few, many, unmask.Positions.of(few), unmask.Positions.of(many)):
        torch.testing.assert_close(fast(x_t, noise, label, at=at), network(x_t, noise, label, at=at))


def test_sizes() -> None:
    assert [fitting_size(n, 20) for n in (20, 11, 10, 6, 5, 3, 2, 1)] == [20, 20, 10, 10, 5, 3, 2, 1]


def test_logits_in_bfloat16_draws_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network alone is called under autocast, and what is drawn is what `categorical` draws from its logits."""
    model = unmask.accelerate(small(), precision="bf16-mixed")
    canvas = model.empty_canvas(3)
    (fast,) = model.accelerated
    logits = fast(canvas)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits, model.network(canvas)) and logits.dtype == torch.bfloat16
    seen = []
    exact = unmask.categorical.categorical

    def drawn(logits: Any, uniform: Any) -> Any:
        seen.append((logits.dtype, uniform.dtype, torch.is_autocast_enabled("cpu")))
        return exact(logits, uniform)

    monkeypatch.setattr("unmask.samplers.unmasking.categorical", drawn)
    found = model.sample(3, generator=unmask.generators(0, 3))
    assert set(seen) == {(torch.bfloat16, torch.float64, False)}
    slow = small()
    for parameter, other in zip(slow.network.parameters(), model.network.parameters(), strict=True):
        assert parameter is not other and torch.equal(parameter, other)
    assert slow.sample(3, generator=unmask.generators(0, 3)).shape == found.shape
    x, first = found.clamp(max=V - 1), torch.Generator()
    assert torch.equal(model.nelbo(x, generator=first), slow.nelbo(x, generator=torch.Generator())), "bounds as before"


def test_a_left_to_right_model_in_bfloat16() -> None:
    torch.manual_seed(0)
    network = unmask.CausalTransformer(V, (L,), width=16, depth=2, heads=2).eval()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    model = unmask.accelerate(unmask.MaskedDiffusion(network, Characters("abcde")).eval(), precision="bf16-mixed")
    for cache in (True, False):
        x = model.sample(3, sampler=unmask.LeftToRight(cache=cache), generator=unmask.generators(0, 3))
        assert x.shape == (3, L) and x.max() < V
    allowed = torch.arange(V) < 2
    assert model.sample(2, allowed=allowed).max() < 2
    with pytest.raises(ValueError, match="not for left-to-right models"):
        unmask.accelerate(model, compile=True)


def test_the_rule_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    for pays, expected in ((False, "float32"), (True, "bf16-mixed")):
        monkeypatch.setattr("unmask.training.precision.has_bfloat16", lambda pays=pays: pays)
        monkeypatch.setattr("unmask.acceleration.WIDE", 16)
        assert str(*unmask.accelerate(model).accelerated) == expected
    with pytest.raises(ValueError, match="precision must be one of auto, 32-true, bf16-mixed, got 'fp8'"):
        unmask.accelerate(model, precision="fp8")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match="compile needs a C"):
        unmask.accelerate(model, compile=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accelerated") / "model"
    small().save_pretrained(folder)
    return folder


def test_commands(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = ["--precision", "bf16-mixed"]
    assert main(["sample", str(saved), "-n", "2", *fast]) == 0
    model = unmask.accelerate(unmask.load(saved), precision="bf16-mixed")
    canvas = model.empty_canvas(2)
    x = draw(model.network_for(canvas, to_draw=True), canvas, sampler=unmask.FirstHitting())
    assert capsys.readouterr().out.split() == model.decode(x)
    assert main(["infill", str(saved), "ab__", *fast]) == 0
    out = str(tmp_path / "s.json")
    few = ["--ngram", "0", "-n", "2", "--steps", "2", "--json", out, "--out", str(tmp_path / "s.png")]
    assert main(["study", "precision", str(saved), *few, *fast]) == 0
    assert json.loads(Path(out).read_text())["protocol"]["sampled_in"] == "bf16-mixed"
    capsys.readouterr()
    assert main(["sample", str(saved), "--precision", "fp8"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "fp8" in error and "bf16-mixed" in error
    monkeypatch.setattr("unmask.checks.find_compiler", lambda: None)
    assert main(["sample", str(saved), "--compile"]) != 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "C++ compiler" in error
    for word in ("generate", "frechet", "molecules"):
        with pytest.raises(SystemExit):
            main(["evaluate", word, "--help"])
        assert "--compile" in capsys.readouterr().out

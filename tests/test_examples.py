"""The examples are the library's classes, in one screen: equal on the same random numbers."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unmask
from oracle import Table
from unmask.randomness import seeded, uniform
from unmask.schedules import Cosine, Linear, TokenPolynomial

FOLDER = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
CPU = torch.device("cpu")


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def plain(network: unmask.Network) -> Any:
    """Return a network as the examples call it."""
    return lambda x, t=None: network(x, t).nan_to_num(neginf=-1e9)


def tokens(count: int, vocab: int = 3, length: int = 3) -> Tensor:
    return torch.randint(vocab, (count, length), generator=seeded(5))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_fits_a_screen_and_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 60
    assert "unmask" not in {part.split(".")[0] for part in _imports(name)}, "it is read without the library"
    example(name)["main"]()
    assert capsys.readouterr().out


def _imports(name: str) -> list[str]:
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith(("import ", "from "))]


def test_md4() -> None:
    module = example("md4")
    network = Table(8, 2)
    x = tokens(6, 8, 2)
    t = unmask.sample_times(6, generator=(generator := seeded(0)))
    u = uniform((6, 2), generator, CPU)
    expected = unmask.ContinuousELBO(Cosine())(network, x, generator=seeded(0))
    torch.testing.assert_close(module["md4_loss"](plain(network), x, t, u).double(), expected.nelbo)
    t = torch.linspace(0.01, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(module["alpha"](t), 1 - Cosine().mask_rate(t))
    torch.testing.assert_close(module["weight"](t), Cosine().weight(t))


def test_genmd4() -> None:
    module = example("genmd4")
    schedule = TokenPolynomial(4).double()
    with torch.no_grad():
        schedule.raw.copy_(torch.tensor([-0.5, 0.5, 2.0, 3.0]))
    w = schedule.powers.detach()
    network = Table(4, 3).under(w)
    x = tokens(6, 4)
    n = unmask.forward.sample_counts(6, 3, generator=(generator := seeded(0)))
    u = 1 - uniform((6, 1, 3), generator, CPU).squeeze(1)
    found = module["genmd4_bound"](plain(network), x, w, n, u)
    schedule.requires_grad_(False)
    objective = unmask.TokenELBO(schedule, masks=1)
    torch.testing.assert_close(found, objective(network, x, generator=seeded(0)).nelbo)


@pytest.mark.parametrize("name", ["first_hitting", "ancestral"])
def test_samplers(name: str) -> None:
    network, canvas = Table(3, 3), torch.full((40, 3), 3)
    canvas[:, 1] = tokens(40)[:, 0]
    v, u = uniform((40, 2, 3), seeded(0), CPU).unbind(1)
    sampler: unmask.Sampler = unmask.FirstHitting()
    steps: tuple[int, ...] = ()
    if name == "ancestral":
        sampler, steps = unmask.Ancestral(Linear(), steps=5, grid="uniform"), (5,)
    found = example(name)[name](plain(network), canvas, 3, *steps, v, u)
    assert torch.equal(found, sampler(network, canvas, generator=seeded(0)))


def test_float32_fault() -> None:
    module = example("float32_fault")
    logits = torch.randn(50, 9, generator=seeded(1))
    for dtype, precision in ((torch.float32, "float32"), (torch.float64, "float64")):
        found = module["gumbel_max"](logits.to(dtype), dtype, seeded(2))
        assert torch.equal(found, unmask.gumbel.gumbel_max(logits.to(dtype), precision, seeded(2)))
    u = uniform((50,), seeded(3), CPU)
    found = module["exact"](logits.softmax(-1), u)
    assert torch.equal(found, unmask.categorical.categorical(logits, u))
    p = torch.tensor([0.9, 0.0999, 1e-4], dtype=torch.float64)
    steps = 4096
    step = torch.cat((p / steps, torch.tensor([1 - 1 / steps], dtype=torch.float64)))
    known = unmask.gumbel.truncated_probabilities(step)[:3]
    torch.testing.assert_close(module["float32_probabilities"](p, steps), known / known.sum(), rtol=2e-3, atol=0)

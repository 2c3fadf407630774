"""Arrays of which some tokens are given, or that have lengths: rows, bounds, and what the given tokens are worth."""

import itertools
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask
from oracle import Table
from test_lengths import TINY
from unmask.cli.main import main
from unmask.data.arrays import Arrays
from unmask.evaluation.nelbo import evaluate
from unmask.given import clean_tokens, given_and_clean
from unmask.randomness import seeded

pytestmark = pytest.mark.filterwarnings("ignore:.*more than one part|.*torch.nested|.*overlapping")


def write(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def whole(data: Arrays, part: Any = "all") -> torch.Tensor:
    split = data.split(part)
    return split[np.arange(len(split))][0]


def test_given_tokens_by_hand(tmp_path: Path) -> None:
    x = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    given = np.array([[True, False, True], [False, False, False]])
    data = Arrays(write(tmp_path / "a.npz", x=x, given=given))
    assert data.has_given and data.lengths is None and data.codec == unmask.Symbols(3)
    assert whole(data).tolist() == [[-1, 1, -3], [2, 1, 0]]
    plain = Arrays(write(tmp_path / "b.npz", x=x))
    assert not plain.has_given and plain.split("all").checksum != data.split("all").checksum
    images = Arrays(write(tmp_path / "c.npz", x=x.reshape(2, 3, 1, 1), given=given.reshape(2, 3, 1, 1)), images=True)
    assert whole(images).flatten(1).tolist() == [[-1, 1, -3], [2, 1, 0]]
    parts = Arrays(write(tmp_path / "d.npz", train=x, train_given=given, test=x))
    assert whole(parts, "train").tolist() == whole(data).tolist() and whole(parts, "test").tolist() == x.tolist()


def test_lengths_by_hand(tmp_path: Path) -> None:
    x = np.array([[0, 1, 200], [2, -1, -1]])
    lengths = np.array([2, 1])
    data = Arrays(write(tmp_path / "a.npz", x=x, lengths=lengths))
    assert data.codec == unmask.Symbols(4) and data.resolved().vocab_size == 3
    assert whole(data).tolist() == whole(data.resolved()).tolist() == [[0, 1, -4], [2, -4, -4]]
    given = np.array([[True, False, False], [False, True, True]])
    both = Arrays(write(tmp_path / "b.npz", x=x, lengths=lengths, given=given))
    assert whole(both).tolist() == [[-1, 1, -4], [2, -4, -4]]
    wide = np.tile(np.array([255, 1, 0], dtype=np.uint8), (40, 1))
    many = Arrays(write(tmp_path / "c.npz", x=wide, lengths=np.arange(40) % 3 + 1, labels=np.arange(40) % 2))
    assert whole(many)[0].tolist() == [255, -257, -257] and many.codec.vocab_size == 257
    found = many.lengths
    assert found is not None and found.fill == 256 and found.by_class is not None
    n = found.measure(whole(many, "train"))
    assert [int((n == i).sum()) for i in (1, 2, 3)] == list(found.counts) and sum(found.counts) == 36
    assert np.array(found.by_class).sum(0).tolist() == list(found.counts)
    sent = pickle.loads(pickle.dumps(many.split("test")))
    assert sent[np.array([0])][0].tolist() == whole(many, "test")[:1].tolist()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"given": np.zeros((4, 3), dtype=np.int64)}, "given must be bool of the shape of x, (4, 3); got int64 (4, 3)"),
        ({"given": np.zeros((4, 2), dtype=bool)}, "given must be bool of the shape of x, (4, 3); got bool (4, 2)"),
        ({"given": np.arange(4)[:, None] // np.full(3, 3) == 1}, "given: every token of example 3 is given"),
        ({"lengths": np.array([1, 2, 4, 3])}, "lengths must be in 1..3, the length of x; got 4 at index [2]"),
        ({"lengths": np.array([1, 0, 3, 3])}, "lengths must be in 1..3, the length of x; got 0 at index [1]"),
        ({"lengths": np.array([1.0, 2, 3, 3])}, "lengths must be integers of shape (4,), got float64 (4,)"),
        ({"lengths": np.array([[1], [2], [3], [3]])}, "lengths must be integers of shape (4,), got int64 (4, 1)"),
        (
            {"x": np.zeros((4, 2, 2), dtype=int), "lengths": np.ones(4, int)},
            "lengths are for examples of one dimension",
        ),
        (
            {"lengths": np.array([1, 2, 3, 3]), "given": np.array([[1, 0, 0]] + [[0, 1, 1]] * 3, dtype=bool)},
            "given: every token of example 0 is given: there is nothing to learn",
        ),
    ],
)
def test_bad_arrays(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", **{"x": np.zeros((4, 3), dtype=np.int64)} | arrays)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {said}')}"):
        Arrays(path).split("all")


def test_some_parts_without_lengths(tmp_path: Path) -> None:
    x, n = np.zeros((4, 3), dtype=np.int64), np.ones(4, dtype=np.int64)
    with pytest.raises(ValueError, match=r"some of train, test have lengths, and some have none"):
        Arrays(write(tmp_path / "a.npz", train=x, test=x, train_lengths=n)).split("train")


def test_the_bound_given_some_tokens_is_that_of_enumeration(tmp_path: Path) -> None:
    oracle = Table(3, 4)
    x = oracle.states.numpy()
    flags = np.array(list(itertools.product([False, True], repeat=4)))[:-1]
    given = flags[np.arange(len(x)) % len(flags)]
    data = Arrays(write(tmp_path / "a.npz", x=x, given=given), vocab_size=3)
    encoded = whole(data)
    known, clean = given_and_clean(encoded)
    assert known is not None and torch.equal(known, torch.from_numpy(given)) and torch.equal(clean, oracle.states)
    same = ((oracle.states[:, None] == oracle.states) | ~known[:, None]).all(-1)  # states with these given tokens
    exact = -(oracle.p / (same * oracle.p).sum(1)).log()
    model = unmask.MaskedDiffusion(oracle, unmask.Symbols(3))
    found = torch.stack([model.nelbo(clean, given=known, draws=32, generator=seeded(i)) for i in range(20)])
    error = found.std(0) / math.sqrt(20)
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all()
    one = known.sum(1) == 3  # a single token is masked in every draw: no randomness is left
    assert one.any() and torch.allclose(found[0][one].double(), exact[one], atol=1e-6)
    split = data.split("all")
    report = evaluate(oracle, unmask.TimeFreeELBO(), split.batches(16), draws=64)
    assert report.nats == pytest.approx(exact.mean().item(), abs=0.02)
    assert report.length == pytest.approx((~given).sum(1).mean())
    assert report.nats_per_token[0] == pytest.approx(report.nats / report.length)


def test_the_bound_with_lengths_is_that_of_enumeration(tmp_path: Path) -> None:
    class Filled(Table):
        """The states of which the last token says that they end there, given which they have one distribution each."""

    oracle = Filled(3, 3)
    generator = np.random.default_rng(0)
    n = generator.integers(1, 4, 60)
    x = generator.integers(0, 2, (60, 3))
    data = Arrays(write(tmp_path / "a.npz", x=x, lengths=n), vocab_size=2)
    lengths = data.lengths
    assert lengths is not None
    model = unmask.MaskedDiffusion(oracle, data.codec, about={"lengths": lengths.describe()})
    known, clean = given_and_clean(whole(data))
    assert known is not None
    same = ((oracle.states == clean[:, None]) | ~known[:, None]).all(-1)
    p = oracle.p[oracle.index(clean)] / (same * oracle.p).sum(1)
    exact = -p.log() - lengths.log_p(torch.from_numpy(n))
    found = torch.stack([model.nelbo(clean, draws=32, generator=seeded(i)) for i in range(20)])
    error = found.std(0) / math.sqrt(20)
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-6).all()
    assert torch.allclose(found[0][n == 1].double(), exact[n == 1], atol=1e-6)


def latin_squares() -> np.ndarray:
    squares = itertools.product(itertools.permutations(range(4)), repeat=4)
    latin = [square for square in squares if all(len(set(column)) == 4 for column in zip(*square, strict=True))]
    return np.array(latin).reshape(-1, 16)


def test_clues_of_latin_squares_make_the_others_easier(tmp_path: Path) -> None:
    squares, rng = latin_squares(), np.random.default_rng(0)
    assert len(squares) == 576
    x = squares[rng.integers(0, 576, 2000)]
    given = rng.random(x.shape).argsort(1) < 8
    found = {}
    for name, arrays in {"clues": {"x": x, "given": given}, "none": {"x": x}}.items():
        data = Arrays(write(tmp_path / f"{name}.npz", **arrays))
        split, generator = data.split("train"), torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        network = unmask.Transformer(4, (16,), width=32, depth=2, heads=4, absolute_positions=True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        losses = []
        for _ in range(130):
            batch, _ = split[torch.randint(len(split), (64,), generator=generator).numpy()]
            known, clean = given_and_clean(batch)
            loss = unmask.TimeFreeELBO(power=0.5)(network, clean, given=known, generator=generator)
            count = 16 if known is None else 8
            (loss.loss / count).backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.nelbo.mean().item() / count)
        found[name] = sum(losses[-20:]) / 20
    assert math.log(576) / 16 < found["none"], "no model can be better on squares without clues"
    assert found["clues"] < 0.7 * found["none"] and found["clues"] < math.log(576) / 16


def test_arrays_with_clues_from_a_file_to_samples(tmp_path: Path) -> None:
    squares, rng = latin_squares(), np.random.default_rng(0)
    given = rng.random(squares.shape).argsort(1) < 8
    path = write(tmp_path / "a.npz", x=squares, given=given)
    assert main(["train", "arrays", "--data.path", path, *TINY, "--out", str(tmp_path / "r")]) == 0
    assert main(["evaluate", str(tmp_path / "r"), "--draws", "1"]) == 0
    x = np.where(given[:3], squares[:3], -1)
    np.save(tmp_path / "holes.npy", x)
    out = str(tmp_path / "filled.npy")
    assert main(["infill", str(tmp_path / "r"), "--array", str(tmp_path / "holes.npy"), "--out", out]) == 0
    assert (np.load(out)[given[:3]] == squares[:3][given[:3]]).all()


def test_arrays_with_lengths_from_a_file_to_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(1, 5, 100)
    path = write(tmp_path / "a.npz", x=rng.integers(0, 3, (100, 6)), lengths=n)
    out = tmp_path / "r"
    assert main(["train", "arrays", "--data.path", path, *TINY, "--out", str(out)]) == 0
    assert main(["train", str(out), "--resume", "--trainer.max_steps", "5"]) == 0
    model = unmask.load(out, device="cpu")
    assert model.lengths == Arrays(path).lengths and model.codec == unmask.Symbols(4)
    samples = model.sample(20, generator=unmask.generators(0, 20))
    shown = model.decode(samples)
    assert [len(row) for row in shown] == [len(model.lengths.cut(row)) for row in samples]  # type: ignore[union-attr]
    assert len({len(row) for row in shown}) > 1
    split = Arrays(path).split("train")
    filled = clean_tokens(split[np.arange(5)][0])
    assert torch.isfinite(model.nelbo(filled)).all()

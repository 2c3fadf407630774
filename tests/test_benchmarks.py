"""The benchmarks run; their figures are not asserted."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from benchmarks import (
    images,
    infilling,
    learning,
    left_to_right,
    low_precision,
    sampler_quality,
    sampling,
    token_samplers,
    trainer,
    training,
)
from benchmarks.timing import alone, interleaved

import fresh
from unmask.configs import find_config


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own, without the seconds that their imports take."""

    def run(*arguments: str) -> str:
        root = Path(__file__).parents[1]
        code = arguments[0] == "-c"
        done = fresh.python(root, arguments[1]) if code else fresh.run(root, *arguments[2:])
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    for module in (images, sampling, trainer, training):
        monkeypatch.setattr(module, "alone", run)


def test_a_process_of_its_own() -> None:
    assert alone("-c", "print(1.5)") == "1.5\n"


def test_interleaved_takes_turns() -> None:
    calls: list[str] = []
    found = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3 and set(found) == {"a", "b"} and min(found.values()) > 0


def test_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["sampling", "--small", "--json", str(path)])
    sampling.main()
    written = json.loads(path.read_text())
    assert written["machine"]["threads"] >= 1 and len(written["rows"]) == 7
    assert "overhead over bare calls" in capsys.readouterr().out


def test_left_to_right(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["left_to_right", "--small"])
    left_to_right.main()
    assert "left to right, no cache, ratio" in capsys.readouterr().out


def test_low_precision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["low_precision", "--small"])
    low_precision.main()
    torch.set_num_threads(threads)
    assert "format: bf16-mixed  width: 16  total variation from float64: " in capsys.readouterr().out


def test_infilling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["infilling", "--small", "--json", str(path)])
    infilling.main()
    rows = json.loads(path.read_text())["rows"]
    assert [(row["texts"], row["score"]) for row in rows] == [
        (t, s) for t in ("one length", "filled up") for s in (0, 16)
    ]
    assert "one at a time" in capsys.readouterr().out


def test_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["training", "--size", "tiny", "--vocab", "27", "--rounds", "1"])
    monkeypatch.setattr(training, "TRICKS", training.TRICKS[:-1])  # compiling takes longer than all the rest
    monkeypatch.setattr(training, "SIDE", 128)  # bfloat16 that a processor has to imitate takes minutes
    training.main()
    assert "head at masks alone, ratio" in capsys.readouterr().out


def test_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figures = [str(tmp_path / name) for name in ("a.json", "a.png")]
    options = ["--minutes", "0.02", "--examples", "8", "--points", "2", "--json", figures[0], "--plot", figures[1]]
    monkeypatch.setattr("sys.argv", ["learning", "digits", *options])
    monkeypatch.setattr(learning, "TURN", 0.6)
    learning.main()
    shipped = yaml.safe_load(find_config("mnist").read_text())
    other = learning.plain("mnist", shipped)
    assert set(shipped["optimizer"]) - set(other["optimizer"]) == {"embedding_lr"}
    assert shipped["optimizer"]["kind"] == "Muon" and other["optimizer"]["kind"] == "AdamW"
    assert "seed 0, plain: " in capsys.readouterr().out and all(Path(name).stat().st_size for name in figures)


def test_images(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["images", "--small"])
    images.main()
    assert "bfloat16, channels last, ratio" in capsys.readouterr().out


def test_trainer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["trainer", "--small"])
    monkeypatch.setattr(trainer, "STEPS", 2)
    monkeypatch.setattr(trainer, "alone", cache(trainer.alone))  # once is enough to see that it runs
    trainer.main()
    assert "import torch and unmask, s" in capsys.readouterr().out


@pytest.mark.parametrize("module", [sampler_quality, token_samplers])
def test_quality(module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "SAMPLES", 50)
    module.main()
    assert "exact draws" in capsys.readouterr().out

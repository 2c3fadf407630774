"""The baselines that predict scores or mask nothing, in every command: trained, resumed, measured, sampled."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from test_cli import TINY, fails
from unmask.cli.main import main
from unmask.evaluation import likelihood, study_precision, study_samplers
from unmask.given import given_and_clean
from unmask.inspection import plots
from unmask.randomness import seeded
from unmask.training.optimizer import parameter_groups

KINDS: dict[str, list[str]] = {
    "sedd": ["--network.time_conditioning", "true", "--objective", "ScoreEntropy", "--objective.schedule", "Cosine"],
    "uniform": ["--network.time_conditioning", "true", "--objective", "UniformELBO", "--objective.steps", "20"],
    "gaussian": ["--network", "GaussianTransformer", "--network.self_conditioning", "true"],
}
FILLING: dict[str, dict[str, Any]] = {"uniform": {"filling": ()}}
KINDS["gaussian"] += ["--objective", "GaussianELBO", "--optimizer.schedule_lr", "0.01"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three steps; that of replaced tokens has lines that are filled up."""
    folder = tmp_path_factory.mktemp("kinds")
    os.environ["UNMASK_CACHE"] = str(folder / "cache")
    (folder / "words.txt").write_text("the cat sat on the mat and the dog ran to it\n" * 300)
    (folder / "lines.txt").write_text("the cat sat\na dog\nit ran to the mat\nthe end\n" * 60)
    for name in KINDS:
        assert main(command(folder, name)) == 0
    return folder


def command(folder: Path, name: str, out: str | None = None) -> list[str]:
    data = "lines" if name == "uniform" else "words"
    text = ["--data.path", str(folder / f"{data}.txt"), "--data.length", "18", "--out", str(folder / (out or name))]
    text += ["--data.packing", "padded"] if name == "uniform" else []
    return ["train", "lines" if name == "uniform" else "textfile", *TINY, *KINDS[name], *text]


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(runs: Path) -> None:
    assert main([*command(runs, "gaussian", "again"), "--trainer.max_steps", "2"]) == 0
    assert main([*command(runs, "gaussian", "again"), "--resume", "--trainer.max_steps", "3"]) == 0
    assert unmask.load(runs / "again").weights_sha256 == unmask.load(runs / "gaussian").weights_sha256


@pytest.mark.parametrize("name", KINDS)
def test_what_is_saved_is_measured_and_sampled(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = unmask.load(runs / name)
    own = {
        "sedd": (unmask.ScoreEntropy(unmask.Cosine()), unmask.Tweedie(unmask.Cosine())),
        "uniform": (unmask.UniformELBO(steps=20), unmask.UniformAncestral(unmask.CosineSignal(), 20)),
        "gaussian": (unmask.GaussianELBO(), unmask.GaussianAncestral()),
    }[name]
    assert (model.fit_objective(), replace(model.fit_sampler(), **FILLING.get(name, {}))) == own
    report = likelihood(model, draws=2, limit=6, batch_size=3)
    assert report.rows[0]["network_calls"] == 6 * 2 * (2 if name == "gaussian" else 1)
    assert report.protocol["objective"]["class"] == type(own[0]).__name__
    assert main(["evaluate", str(runs / name), "--limit", "4", "--draws", "2", "--json", "out.json"]) == 0
    assert json.loads(Path("out.json").read_text())["rows"][0]["nats_per_example"][0] > 0
    few = ["--sampler", type(own[1]).__name__, "--sampler.steps", "5"]
    capsys.readouterr()
    assert main(["sample", str(runs / name), "-n", "2", "--top_k", "3", *few]) == 0
    shown = capsys.readouterr().out
    assert len(shown) <= 2 * 18 + 3 and (name == "uniform" or len(shown) == 2 * 18 + 3)
    assert main(["info", str(runs / name)]) == 0 and type(own[0]).__name__ in capsys.readouterr().out


def test_bounds_of_steps(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sedd", "uniform"):
        model = unmask.load(runs / name)
        found = [row["nats_per_example"].value for row in likelihood(model, steps=[1, 20], draws=2, limit=4).rows]
        assert len(set(found)) == 2
    error = fails(capsys, "evaluate", str(runs / "uniform"), "--steps", "4,inf")
    assert error.startswith("of replaced tokens there is no bound of infinitely many steps")
    assert "a bound of so many steps is not for this model: its tokens are vectors" in fails(
        capsys, "evaluate", str(runs / "gaussian"), "--steps", "4"
    )


def test_texts_that_are_filled_up(runs: Path) -> None:
    """What fills them is neither replaced nor counted, and is kept by the sampler."""
    model = unmask.load(runs / "uniform")
    assert model.lengths is not None
    from unmask.evaluation.data import measured_data

    x, _ = next(measured_data(model, None).split("train").batches(8))
    given, clean = given_and_clean(x)
    assert given is not None
    assert (unmask.UniformELBO(steps=20)(model.network, clean, given=given).parts[given] == 0).all()
    drawn = model.sample(20, generator=seeded(0))
    lengths = model.lengths.measure(torch.where(model.lengths.filled(drawn), -1 - drawn, drawn))
    assert len(set(lengths.tolist())) > 1 and all(len(text) <= 18 for text in model.decode(drawn))


def test_prompts(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of scores they are as of every masked model; of the others they are refused in one line."""
    assert main(["infill", str(runs / "sedd"), "the c[4] on"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("the c") and shown.endswith(" on\n")
    for name in ("uniform", "gaussian"):
        model = unmask.load(runs / name)
        for text in ("the c[4] on it", "the cat[2]"):
            error = fails(capsys, "infill", str(runs / name), text)
            assert "not for this model" in error or "known, but the model draws whole examples" in error
        error = fails(capsys, "infill", str(runs / name), "the c[1-4]t on")
        assert "a hole of unknown length is not for" in error or "known, but the model draws whole examples" in error
        assert "not the 18 of its training, is not for" in fails(capsys, "sample", str(runs / name), "--length", "9")
        Path("in.jsonl").write_text('{"text": "the ca[8] it"}\n')
        with pytest.raises(ValueError, match=r"in.jsonl, line 1: position 0 is known"):
            unmask.infill_file(model, "in.jsonl", "out.jsonl")


def test_what_is_of_masked_models_alone_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unmask.evaluation.harness import Harness

    for name, what in (("uniform", "its tokens are replaced by random ones"), ("gaussian", "its tokens are vectors")):
        model = unmask.load(runs / name)
        calls: list[Any] = [
            lambda model=model: study_precision(model, samples=2),
            lambda model=model: plots.plot_trajectory(model),
            lambda model=model: Harness(model),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=f"is not for this model: {what}"):
                call()
        assert f"not a masked one, {what}" in fails(capsys, "sample", str(runs / name), "--sampler", "InOrder")
        assert f"not a masked one, {what}" in fails(
            capsys, "evaluate", str(runs / name), "--objective", "ContinuousELBO"
        )
    words = ["--data.path", str(runs / "words.txt"), "--out", "none"]
    assert (
        "such as GaussianTransformer" in fails(capsys, "train", "textfile", *words, "--objective", "GaussianELBO")
        or not Path("none").exists()
    )
    error = fails(capsys, "train", "textfile", *words, "--network", "GaussianTransformer")
    assert error.endswith("its objective is GaussianELBO, got TimeFreeELBO")


def test_samplers_are_studied(runs: Path) -> None:
    for name, first in (("sedd", "FirstHitting"), ("gaussian", "GaussianAncestral")):
        model = unmask.load(runs / name)
        rows = study_samplers(model, samples=2).rows
        assert rows[0]["sampler"].startswith(first) and len(rows) >= 3


def test_the_learned_noise_has_a_rate_of_its_own(runs: Path) -> None:
    model = unmask.load(runs / "gaussian")
    *_, last = parameter_groups(model, unmask.Optimizer(schedule_lr=0.5))
    assert last["lr"] == 0.5 and {id(p) for p in last["params"]} == {id(p) for p in model.network.noise.parameters()}
    everything = [id(p) for group in parameter_groups(model, unmask.Optimizer()) for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())

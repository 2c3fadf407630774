"""unmask.load: models, runs that finished or did not, and what is none of these; and unmask info on the same."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import unmask
from unmask.cli.main import main
from unmask.inspection import doctor, info

TINY = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
TINY += ["--precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TINY += ["--trainer.max_steps", "4", "--checkpoint_every", "2", "--evaluate_examples", "8", "--ema", "0.5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture
def unfinished(run: Path, tmp_path: Path) -> Path:
    """The same run, as it is before its model is written."""
    shutil.copytree(run, tmp_path / "unfinished")
    shutil.rmtree(tmp_path / "unfinished" / "model")
    return tmp_path / "unfinished"


def same(a: unmask.MaskedDiffusion, b: unmask.MaskedDiffusion) -> bool:
    there, here = a.state_dict(), b.state_dict()
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in there)


def test_a_run_and_its_model_are_one(run: Path) -> None:
    model = unmask.load(run / "model")
    assert same(unmask.load(run), model) and same(unmask.MaskedDiffusion.from_pretrained(run), model)
    assert model.folder == run / "model" and unmask.load(run).folder == run / "model"
    assert not model.training and model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert unmask.load(run, dtype=torch.bfloat16, device="cpu").network.embed.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


def test_a_run_that_did_not_finish_is_its_last_checkpoint(
    run: Path, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = unmask.load(unfinished)
    assert f"{unfinished} did not finish: these are its averaged weights at step 4" in capsys.readouterr().err
    assert same(model, unmask.load(run)), "the averages of the last step are those of the model"
    assert model.about["steps"] == 4 and model.folder is None
    out = unfinished / "s.npy"
    assert main(["sample", str(unfinished), "-n", "2", "--out", str(out)]) == 0 and np.load(out).shape == (2, 8, 8, 1)
    assert main(["evaluate", str(unfinished), "--draws", "1", "--limit", "8"]) == 0
    assert main(["evaluate", str(unfinished), "--draws", "1", "--limit", "8", "--record"]) == 1
    assert "is a run that did not finish" in capsys.readouterr().err


def test_what_is_no_model_is_said_in_a_line(run: Path, unfinished: Path, tmp_path: Path) -> None:
    shutil.rmtree(unfinished / "checkpoints")
    with pytest.raises(FileNotFoundError, match="a run that has neither a model nor a checkpoint yet"):
        unmask.load(unfinished)
    with pytest.raises(ValueError, match="is a file; a model is a folder"):
        unmask.load(run / "run.json")
    with pytest.raises(FileNotFoundError, match=r"no such folder \(did you mean 'digits'\?\)"):
        unmask.load(run.parent / "digit")
    with pytest.raises(FileNotFoundError, match="nowhere/at/all: no such folder"):
        unmask.load("nowhere/at/all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file"):
        unmask.load(tmp_path / "empty")
    with pytest.raises(ValueError, match="unknown device 'tpu9'"):
        unmask.load(run, device="tpu9")
    with pytest.raises(ValueError, match=r"device 'mps': cpu and cuda are supported \(exact draws need float64\)"):
        unmask.load(run, device="mps")
    (unfinished / "run.json").write_text("{")
    with pytest.raises((ValueError, FileNotFoundError), match="run.json|checkpoint"):
        unmask.load(unfinished)


def test_info_says_what_a_model_a_run_and_a_corpus_are(
    run: Path, unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = unmask.load(run)
    (facts,) = info(run).rows
    assert facts["parameters"] == model.parameter_count and facts["vocabulary"] == 17 and facts["shape"] == "8x8x1"
    parts = dict(part.rsplit(" ", 1) for part in facts["parameters_by_part"].split(", "))
    assert int(parts["embed"].replace(",", "")) == model.network.embed.weight.numel()  # type: ignore[union-attr]
    assert facts["state"] == "finished" and facts["checkpoint"] == "step 4 of 4" and facts["steps"] == 4
    assert "Digits" in facts["trained_on"]
    (facts,) = info(unfinished).rows
    assert facts["state"].startswith("not finished") and facts["checkpoint"] == "step 4 of 4"
    shutil.copytree(run / "model", tmp_path / "m")
    assert main(["evaluate", str(tmp_path / "m"), "--draws", "1", "--limit", "8", "--record"]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "m")]) == 0
    shown = capsys.readouterr().out
    assert "bits per dimension" in shown and "±" in shown and "draws per example" in shown
    assert main(["info", str(tmp_path / "m"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["parameters"] == model.parameter_count
    assert main(["info", str(tmp_path)]) == 1
    assert "neither a model, a run nor a corpus" in capsys.readouterr().err


def test_the_doctor_says_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.modules["unmask.inspection.doctor"], "SIZE", 64)  # bfloat16 may have to be imitated
    rows = {row["check"]: row for row in doctor().rows}
    assert rows["torch"]["found"] == torch.__version__ and "GFLOP/s" in rows["products"]["found"]
    assert rows["lightning"]["found"][0].isdigit()
    assert main(["doctor"]) == 0 and "bfloat16" in capsys.readouterr().out


def test_labels_are_given_by_name_or_number(run: Path) -> None:
    model = unmask.load(run, device="cpu")
    assert model.labels(None, 3) is None and model.labels("3", 2).tolist() == model.labels(3, 2).tolist() == [3, 3]  # type: ignore[union-attr]
    assert model.labels("all", 20).tolist() == [i // 2 for i in range(20)]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="label must be in 0..9, or `all`; got ten"):
        model.labels("ten", 2)


def test_bounds_of_many_examples_take_them_some_at_a_time(run: Path) -> None:
    model = unmask.load(run, device="cpu")
    x = torch.randint(0, 17, (10, 8, 8, 1))
    sizes: list[int] = []
    forward = model.network.forward

    def watched(x_t: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        sizes.append(len(x_t))
        return forward(x_t, *rest, **named)  # type: ignore[arg-type]

    model.network.forward = watched  # type: ignore[method-assign]
    model.network.features, features = (  # type: ignore[union-attr]
        lambda x_t, *rest, **named: (sizes.append(len(x_t)), features(x_t, *rest, **named))[1],
        model.network.features,  # type: ignore[union-attr]
    )
    seeds = [unmask.generators(0, 40)] * 2
    few = model.nelbo(x, draws=4, generator=unmask.generators(0, 40), batch_size=3)
    assert max(sizes) == 12
    whole = model.nelbo(x, draws=4, generator=seeds[0], batch_size=10)
    assert torch.allclose(few, whole, rtol=1e-5), "with a generator for each draw, batches change nothing"

"""Reports, and that the library's measures are what the commands write."""

import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unmask import evaluation
from unmask.checkpoints import WEIGHT_FILES
from unmask.cli.main import main
from unmask.codecs.pixels import Pixels
from unmask.codecs.text import Characters
from unmask.data.digits import Digits
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.report import Figure, Report
from unmask.storage.description import describe

ROWS = ({"sampler": "a", "calls": 4, "bits": Figure(3.5, 0.25)}, {"sampler": "bcd", "bits": Figure(1.0, None)})
REPORT = Report(ROWS, {"data": "Digits", "objective": {"class": "TimeFreeELBO", "power": 1.0}, "limit": None})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "model"
    torch.manual_seed(0)
    network = Transformer(17, (8, 8, 1), 10, width=16, depth=1, heads=2)
    MaskedDiffusion(network, Pixels(17), about={"data": describe(Digits())}).save_pretrained(path)
    return path


def test_printing() -> None:
    assert str(REPORT).splitlines() == [
        "sampler  calls              bits",
        "a            4   3.5000 ± 0.2500",
        "bcd             1.0000 ± unknown",
        "",
        "data                     Digits",
        "objective                TimeFreeELBO(power=1.0000)",
        "limit                    None",
    ]
    assert Report(ROWS[:1], {}).table().splitlines()[2] == "bits                     3.5000 ± 0.2500"
    assert str(Figure.of((0.00123456, math.nan))) == "0.00123 ± unknown"
    for value, error, shown in (  # both have the decimals of the value
        (34851.8, 778.3809, "34851.8 ± 778.4"),
        (4.8466, 0.00542, "4.8466 ± 0.0054"),
        (4.8466, 0.00001, "4.8466 ± 1e-05"),
        (0.00123456, 0.0004, "0.00123 ± 0.0004"),
        (0.0, 0.0, "0.0000 ± 0.0000"),
    ):
        assert str(Figure(value, error)) == shown


def test_json_is_strict() -> None:
    report = Report(({"bits": Figure(1.5, math.nan), "worst": math.inf},), {"x": (1, math.nan)})
    found = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert found == {"rows": [{"bits": [1.5, None], "worst": None}], "protocol": {"x": [1, None]}}
    with pytest.raises(ValueError, match="a Report has no figure"):
        report.figure()


def test_recording(folder: Path, tmp_path: Path) -> None:
    model = MaskedDiffusion.from_pretrained(folder)
    model.save_pretrained(tmp_path / "run" / "model")
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    REPORT.record(tmp_path / "run")  # a run's folder: its model's
    REPORT.record(tmp_path / "run" / "model")
    again = MaskedDiffusion.from_pretrained(tmp_path / "run" / "model")
    assert again.about["measured"] == [json.loads(REPORT.to_json())] * 2
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert card == str(again.generate_model_card(name="model")) and card.count("3.5 ± 0.25") == 2
    assert sorted(p.name for p in (tmp_path / "run" / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_recording_refuses(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone is not a model's folder on this machine: it has no config.json"):
        REPORT.record(tmp_path / "gone")
    config = tmp_path / "config.json"
    for content, message in (
        ("{", "config.json: not valid JSON"),
        ('{"model": {"length": 8}}', "is as it was published; unmask import"),
        ('{"network": {}, "codec": {}, "schedule": {}, "about": {"measured": 3}}', "about.measured a list of reports"),
    ):
        config.write_text(content)
        with pytest.raises(ValueError, match=message):
            REPORT.record(tmp_path)
        assert config.read_text() == content
    config.write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=f"{WEIGHT_FILES[0]}: missing, damaged"):
        REPORT.record(tmp_path)


def test_the_command_writes_what_the_library_returns(folder: Path, tmp_path: Path) -> None:
    model, out = MaskedDiffusion.from_pretrained(folder), tmp_path / "r.json"
    report = evaluation.likelihood(model, draws=2, limit=20, breakdown=True)
    assert main(["evaluate", str(folder), "--draws", "2", "--limit", "20", "--json", str(out)]) == 0
    assert json.loads(out.read_text()) == json.loads(report.to_json())
    assert report.rows[0]["bits_per_dimension"].value == report.rows[0]["nats_per_example"].value / 64 / math.log(2)
    assert len(report.figure().axes) == 4
    with pytest.raises(ValueError, match="measured with breakdown=True"):
        evaluation.likelihood(model, draws=1, limit=2).figure()
    found = evaluation.frechet(model, features=str(folder), samples=4, steps=[1], batch_size=4)
    arguments = ["-n", "4", "--steps", "1", "--features", str(folder), "--batch_size", "4", "--json", str(out)]
    assert main(["evaluate", "frechet", str(folder), *arguments]) == 0
    assert json.loads(out.read_text()) == json.loads(found.to_json()) and found.figure().axes


def test_settings_are_checked_first(folder: Path) -> None:
    model = MaskedDiffusion.from_pretrained(folder)
    text = MaskedDiffusion(Transformer(3, (8,), width=8, depth=1, heads=1), Characters("abc"))
    for measure, settings, message in (
        (evaluation.likelihood, {"draws": 0}, "draws must be a whole number of at least 1, got 0"),
        (evaluation.likelihood, {"split": "some"}, "split must be one of train, valid, test, all, got 'some'"),
        (evaluation.likelihood, {"steps": [0.5]}, "steps must be whole numbers of at least 1, or infinity; got 0.5"),
        (evaluation.likelihood, {"steps": [3], "breakdown": True}, "give neither objective, breakdown nor per_example"),
        (evaluation.zeroshot, {}, "zero-shot perplexity is for models of a tokenizer's tokens"),
        (evaluation.generative, {}, "generative perplexity is for models of texts"),
        (evaluation.generative, {"samples": 1}, "samples must be a whole number of at least 2, got 1"),
        (evaluation.frechet, {"steps": [0]}, r"steps\[0\] must be a whole number of at least 1, got 0"),
        (evaluation.study_samplers, {"guidance": 2.0}, "guidance 2 needs a label"),
        (evaluation.study_precision, {"samples": 1}, "samples must be a whole number of at least 2, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            inspect.unwrap(measure)(model, **settings)  # without the tests' checks of types
    with pytest.raises(ValueError, match="does not say what it was trained with: name the data"):
        evaluation.likelihood(text)


def test_the_library_knows_no_command() -> None:
    code = (
        "import sys, unmask, unmask.evaluation, unmask.evaluation.study; "
        "names = ('lightning', 'matplotlib', 'jsonargparse'); "
        "print([name for name in sys.modules if name.startswith('unmask.cli') or name in names])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    for path in Path(evaluation.__file__).parent.glob("*.py"):
        assert "unmask.cli" not in path.read_text(), path

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from unmask import MaskedDiffusion, TokenPolynomial
from unmask.canvas import cut_holes
from unmask.cli.main import main
from unmask.cli.train import shipped
from unmask.data.digits import Digits
from unmask.networks.transformer import Transformer

TINY = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
TINY += ["--precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TINY += ["--trainer.max_steps", "3", "--evaluate_every", "2", "--evaluate_examples", "8", "--ema", "0.5"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no folder `runs`, as `make demo` leaves one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three steps: digits, text and plain symbols."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "words.txt").write_text("the cat sat on the mat and the dog ran to it\n" * 300)
    np.save(folder / "x.npy", np.random.default_rng(0).integers(0, 5, (60, 3, 2)))
    os.environ["UNMASK_CACHE"] = str(folder / "cache")
    assert main(["train", "digits", *TINY, "--out", str(folder / "digits")]) == 0
    text = ["--data.path", str(folder / "words.txt"), "--data.length", "24"]
    assert main(["train", "textfile", *TINY, *text, "--out", str(folder / "text")]) == 0
    arrays = ["--data.path", str(folder / "x.npy"), "--objective", "ContinuousELBO", "--objective.schedule", "Cosine"]
    assert main(["train", "arrays", *TINY, *arrays, "--out", str(folder / "arrays")]) == 0
    learned = ["--objective", "TokenELBO", "--objective.schedule.power", "1.5", "--network.time_conditioning", "true"]
    assert main(["train", "textfile", *TINY, *text, *learned, "--out", str(folder / "learned")]) == 0
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    """Run a command that must fail with one line; return it."""
    capsys.readouterr()
    assert main(arguments) == status
    error = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in error if line.startswith("unmask: error: ")]
    assert len(errors) == 1 and errors[0] == error[-1], error
    return errors[0].removeprefix("unmask: error: ")


def test_a_run_leaves_what_it_should(runs: Path) -> None:
    names = {path.name for path in (runs / "digits").iterdir()}
    assert names == {"run.json", "checkpoints", "logs", "tensorboard", "model", "loss.png"}
    model = MaskedDiffusion.from_pretrained(runs / "digits" / "model")
    assert model.about["data"] == {"class": "Digits", "labels": True}
    assert model.about["run"]["ema"] == 0.5 and model.about["steps"] == 3
    arrays = MaskedDiffusion.from_pretrained(runs / "arrays" / "model")
    assert arrays.about["objective"] == {"class": "ContinuousELBO", "schedule": {"class": "Cosine"}}
    assert type(arrays.schedule).__name__ == "Cosine"


@pytest.mark.parametrize("name", shipped())
def test_shipped_configurations_explain_themselves(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", name, "--help-all"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--network.width", "--trainer.max_steps", "--objective", "--optimizer.lr", "--batch_size"):
        assert option in shown


def test_evaluate(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = runs / "metrics.json"
    arguments = ["evaluate", str(runs / "digits"), "--draws", "2", "--limit", "50", "--json", str(target)]
    assert main(arguments) == 0
    report = json.loads(target.read_text())
    shown = capsys.readouterr().out
    (row,), protocol = report["rows"], report["protocol"]
    bits, error = row["bits_per_dimension"]
    assert f"{bits:.4f} ± {error:.4f}" in shown
    assert 3 < bits < 4.2 and 0 < error < 0.1
    assert (row["examples"], row["tokens_per_example"], row["network_calls"]) == (50, 64, 100)
    assert protocol["data_sha256"] == Digits().split("test").checksum and protocol["split"] == "test"
    assert (
        protocol["objective"] == {"class": "TimeFreeELBO", "power": 1.0}
        and protocol["weights"] == "moving average, decay 0.5"
    )
    before = target.read_text()
    assert main(arguments) == 0 and target.read_text() == before  # the same again, to the last digit
    assert main(["evaluate", str(runs / "text" / "model"), "--draws", "1", "--json", str(target)]) == 0
    assert {"bits_per_character", "perplexity_per_character"} < set(json.loads(target.read_text())["rows"][0])
    (runs / "other.txt").write_text("the rat and the hen met at noon\n".replace("p", "") * 200)
    other = ["--data.path", str(runs / "other.txt"), "--split", "train", "--limit", "5"]
    assert main(["evaluate", str(runs / "text"), *other]) == 0  # read with the model's alphabet
    assert "other.txt" in capsys.readouterr().out


def test_sample_images(runs: Path, tmp_path: Path) -> None:
    out, gif = tmp_path / "s.png", tmp_path / "s.gif"
    settings = ["-n", "20", "--label", "all", "--seed", "3", "--out", str(out), "--gif", str(gif)]
    assert main(["sample", str(runs / "digits"), *settings]) == 0
    grid, film = Image.open(out), Image.open(gif)
    assert grid.size == film.size == (28 + 2 * 50 + 2, 10 * 50 + 2)
    assert film.n_frames > 10  # type: ignore[attr-defined]
    film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
    last = np.asarray(film.convert("RGB")).astype(int)
    assert np.abs(last - np.asarray(grid).astype(int)).max() < 40  # a GIF has 256 colours
    for name in ("a", "b"):
        assert (
            main(["sample", str(runs / "digits"), "-n", "3", "--seed", "5", "--out", str(tmp_path / f"{name}.npy")])
            == 0
        )
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_sample_with_each_sampler(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.npy"
    for settings in (
        ["--sampler", "Ancestral", "--sampler.steps", "4", "--sampler.grid", "uniform"],
        ["--sampler", "Ancestral", "--sampler.schedule", "Polynomial", "--sampler.schedule.power", "3"],
        ["--sampler", "FirstHitting", "--temperature", "0.7", "--label", "3"],
    ):
        assert main(["sample", str(runs / "digits"), "-n", "2", "--out", str(out), *settings]) == 0
        assert np.load(out).shape == (2, 8, 8, 1) and np.load(out).max() <= 16


def test_sample_text(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    assert main(["sample", str(runs / "text"), "-n", "2", "--gif", str(tmp_path / "t.gif")]) == 0
    shown = capsys.readouterr().out
    assert main(["sample", str(runs / "text"), "-n", "2", "--out", str(tmp_path / "t.txt")]) == 0
    written = (tmp_path / "t.txt").read_text()
    assert written in shown and set(written) <= set("the cat sat on the mat and the dog ran to it\n")
    assert Image.open(tmp_path / "t.gif").n_frames == 25  # type: ignore[attr-defined]


def test_infill_keeps_what_is_given(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    plain = ["--score", "0"]
    assert main(["infill", str(runs / "text"), "the _at and #", "-n", "3", "--placeholder", "#"]) == 1  # no "_" known
    assert main(["infill", str(runs / "text"), "the #at a## the", "-n", "3", "--placeholder", "#", *plain]) == 0
    for line in capsys.readouterr().out.strip().split("\n\n"):
        assert len(line) == 15 and line[:4] + line[5:9] + line[11:] == "the at a the"
    tokens = Digits().split("test")[np.array([0])][0][0]
    model = MaskedDiffusion.from_pretrained(runs / "digits" / "model")
    Image.fromarray(model.codec.decode(tokens.unsqueeze(0))[0, :, :, 0]).save(tmp_path / "image.png")
    unknown = np.zeros((8, 8), np.uint8)
    unknown[4:] = 255
    Image.fromarray(unknown).save(tmp_path / "mask.png")
    image = ["--image", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png"), "--label", "1"]
    assert main(["infill", str(runs / "digits"), *image, "-n", "4", "--out", str(tmp_path / "i.npy")]) == 0
    filled = np.load(tmp_path / "i.npy")
    assert filled.shape == (4, 8, 8, 1) and (filled[:, :4] == tokens[:4].numpy()).all()
    array = np.array([[0, -1], [-1, 3], [4, -1]])
    np.save(tmp_path / "a.npy", array)
    out = str(tmp_path / "filled.npy")
    assert main(["infill", str(runs / "arrays"), "--array", str(tmp_path / "a.npy"), "-n", "2", "--out", out]) == 0
    assert (np.load(out)[:, array >= 0] == array[array >= 0]).all() and np.load(out).min() >= 0


def test_a_learned_schedule(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs / "learned")
    model = MaskedDiffusion.from_pretrained(runs / "learned" / "model")
    assert isinstance(model.schedule, TokenPolynomial) and model.schedule.power == 1.5
    w = model.schedule.powers
    assert (w - 1.5).abs().max() > 1e-5 and w.unique().numel() > 3, "nothing was learned"
    assert main(["evaluate", run, "--draws", "2", "--limit", "4", "--json", str(tmp_path / "m.json")]) == 0
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["protocol"]["objective"]["class"] == "TokenELBO" and report["rows"][0]["network_calls"] == 8
    assert main(["evaluate", run, "--draws", "2", "--limit", "4", "--objective", "TokenELBO"]) == 0  # with two masks
    assert "network calls            16" in capsys.readouterr().out
    for sampler in (["TokenAncestral", "--sampler.steps", "3"], ["TokenFirstHitting", "--sampler.form", "frozen"]):
        assert main(["sample", run, "-n", "1", "--sampler", *sampler]) == 0
    capsys.readouterr()
    assert main(["infill", run, "the ___ sat"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("the ") and shown.rstrip("\n").endswith(" sat")
    assert main(["plot", "schedules", run, "--out", str(tmp_path / "w.png")]) == 0
    assert main(["plot", "schedules", str(runs / "arrays"), "--out", str(tmp_path / "c.png")]) == 0
    for model in (run, str(runs / "text"), str(runs / "arrays")):
        assert main(["plot", "trajectory", model, "-n", "3", "--out", str(tmp_path / "t.png")]) == 0
    assert main(["plot", "steps", "--steps", "9", "--out", str(tmp_path / "s.png")]) == 0
    assert "only schedules and trajectory take a model" in fails(capsys, "plot", str(runs / "text"), run)
    assert "plot trajectory needs a model" in fails(capsys, "plot", "trajectory")


def test_a_learned_schedule_and_a_scalar_one_do_not_mix(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned, text = str(runs / "learned"), str(runs / "text")
    message = fails(capsys, "sample", learned, "--sampler", "Ancestral")
    assert "sample it with TokenFirstHitting or TokenAncestral, not Ancestral" in message
    assert "its bound is TokenELBO" in fails(capsys, "evaluate", learned, "--objective", "TimeFreeELBO")
    message = fails(capsys, "sample", text, "--sampler", "TokenAncestral")
    assert "TokenAncestral is for state-dependent schedules, the model has Linear()" in message
    assert "the model has Linear()" in fails(capsys, "evaluate", text, "--objective", "TokenELBO")
    message = fails(
        capsys, "train", "digits", *TINY, "--objective", "TokenELBO", "--objective.masks", "1", "--out", "x"
    )
    assert "objective.masks must be at least 2, got 1" in message
    assert not Path("x").exists()
    message = fails(capsys, "train", "digits", *TINY, "--objective", "TokenELBO", "--objective.schedule.power", "0")
    assert "power must be in [1e-6, 1e6], got 0.0" in message


def test_classes_are_asked_for_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        path = tmp_path / "images" / ("goat" if i % 2 else "ship") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 255 * (i % 2)).save(path)
    out = str(tmp_path / "run")
    small = ["--network.widths", "[8]", "--network.middle_depth", "1", "--network.middle_width", "12", "--out", out]
    data = ["--data.path", str(tmp_path / "images"), "--data.labels", "true"]
    assert main(["train", "images", *data, *small, *TINY[TINY.index("--batch_size") :]]) == 0
    x = [str(tmp_path / f"{name}.npy") for name in ("goat", "0")]
    assert main(["sample", out, "--label", "goat", "-n", "2", "--out", x[0]]) == 0
    assert main(["sample", out, "--label", "0", "-n", "2", "--out", x[1]]) == 0
    assert np.array_equal(np.load(x[0]), np.load(x[1]))
    for i in range(40):
        path = tmp_path / "others" / ("goat" if i % 2 else "cow") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 255 * (i % 2)).save(path)
    other = ["--data", "Images", "--data.path", str(tmp_path / "others"), "--data.labels"]
    found = fails(capsys, "evaluate", out, *other, "true")
    assert "others has other classes (cow, goat) than the model was trained on (goat, ship)" in found
    assert main(["evaluate", out, *other, "false", "--draws", "1"]) == 0
    assert "the model knows classes, but is not told those of others" in capsys.readouterr().err
    wrong = fails(capsys, "sample", out, "--label", "sheep")
    assert "must be one of goat, ship, or `all`; got sheep (did you mean 'ship'?)" in wrong


def test_infill_of_counted_tokens(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(runs / "text")
    assert main(["infill", text, "the [3] and_the", "-n", "4", "--seed", "2"]) == 0
    shown = capsys.readouterr().out
    found = re.findall(r"log p >= (-[\d.]+) ± [\d.]+ nats\n(the .{3} and.the)\n\n", shown, re.DOTALL)
    bounds = [float(bound) for bound, _ in found]
    symbols = MaskedDiffusion.from_pretrained(runs / "text" / "model").codec.vocab_size
    assert len(found) == 4 and bounds == sorted(bounds, reverse=True)
    assert bounds[0] == pytest.approx(-4 * np.log(symbols), rel=0.1)  # it has hardly learned
    (tmp_path / "t.txt").write_text("the [3] and_the\n")
    assert main(["infill", text, "--text_file", str(tmp_path / "t.txt"), "-n", "4", "--seed", "2"]) == 0
    assert capsys.readouterr().out == shown
    around = ["--prefix", "the ", "--suffix", " and", "--unknown", "3", "--score", "0"]
    assert main(["infill", text, *around, "-n", "2"]) == 0
    assert re.fullmatch(r"the .{3} and\n\nthe .{3} and\n", capsys.readouterr().out, re.DOTALL)


def test_what_was_measured_is_on_the_card(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shutil.copytree(runs / "digits" / "model", tmp_path / "digits")
    weights = (tmp_path / "digits" / "model.safetensors").read_bytes()
    model = str(tmp_path / "digits")
    few = ["--draws", "1", "--limit", "20", "--json", str(tmp_path / "e.json")]
    assert main(["evaluate", model, *few, "--record"]) == 0
    report = json.loads((tmp_path / "e.json").read_text())
    assert MaskedDiffusion.from_pretrained(model).about["measured"] == [report]
    assert (tmp_path / "digits" / "model.safetensors").read_bytes() == weights
    card = (tmp_path / "digits" / "README.md").read_text()
    value, error = report["rows"][0]["bits_per_dimension"]
    assert f"{value:.4g} ± {error:.2g}" in card and "draws per example: 1" in card and "data: Digits" in card
    sent = {}

    def upload(_: Any, folder_path: Path, repo_id: str, **__: Any) -> str:
        sent.update({entry.name: entry.read_text(errors="replace") for entry in Path(folder_path).iterdir()})
        return f"there/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    made = type("Repo", (), {"repo_id": "me/digits"})()
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: made)
    capsys.readouterr()
    assert main(["push", model, "me/digits"]) == 0
    assert "there/me/digits" in capsys.readouterr().out
    assert "# me/digits" in sent["README.md"] and f"{value:.4g} ± {error:.2g}" in sent["README.md"]
    assert sorted(sent) == ["README.md", "config.json", "model.safetensors"]


def test_publishing_that_fails_is_one_line(runs: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no way")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    assert "me/x: cannot be published: no way" in fails(capsys, "push", str(runs / "digits"), "me/x")
    assert "nowhere: no such folder" in fails(capsys, "push", "nowhere", "me/x")


def test_holes() -> None:
    assert cut_holes("a[2]b_c", "_", counted=True) == [("a", 2), ("b", 1), ("c", 0)]
    assert cut_holes("a[2]b_c", "_", counted=False) == [("a[2]b", 1), ("c", 0)]
    assert cut_holes("[12]", "", counted=True) == [("", 12), ("", 0)]
    assert cut_holes("[x] [1", "", counted=True) == [("[x] [1", 0)]
    assert cut_holes("a.b", ".", counted=False) == [("a", 1), ("b", 0)]


def test_evaluate_says_where_the_bits_go(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("digits", "text", "arrays"):
        out = tmp_path / f"{model}.png"
        few = ["--draws", "1", "--limit", "5", "--precision", "bf16-mixed", "--json", str(tmp_path / "m.json")]
        assert main(["evaluate", str(runs / model), "--breakdown", str(out), *few]) == 0
        assert Image.open(out).width > 1000
        assert json.loads((tmp_path / "m.json").read_text())["protocol"]["precision"] == "bf16-mixed"
    assert "--breakdown" in fails(capsys, "evaluate", str(runs / "text"), "--breakdown", str(tmp_path))


def test_an_error_of_the_data_keeps_its_own_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unmask.data.mnist.HOME", "http://127.0.0.1:9")
    message = fails(capsys, "train", "mnist", "--out", str(tmp_path / "run"))
    assert "cannot download http://127.0.0.1:9/train-images-idx3-ubyte.gz" in message and "--data.path" in message
    damaged = tmp_path / "x.npz"
    damaged.write_bytes(b"PK\x03\x04 no archive")
    assert f"{damaged}: damaged" in fails(capsys, "train", "arrays", "--data.path", str(damaged))


def test_infill_refuses_images_that_hide_something(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, clear = tmp_path / "plain.png", tmp_path / "clear.png"
    Image.new("L", (8, 8)).save(plain)
    Image.new("RGBA", (8, 8)).save(clear)
    for image, mask in ((plain, clear), (clear, plain)):
        message = fails(capsys, "infill", str(runs / "digits"), "--image", str(image), "--mask", str(mask))
        assert "clear.png: the image has transparency (mode RGBA)" in message


def test_frechet_distances(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits, target = str(runs / "digits"), tmp_path / "fid.json"
    settings = ["-n", "30", "--steps", "2,4", "--features", digits, "--batch_size", "20"]
    figure = tmp_path / "fid.png"
    assert main(["evaluate", "frechet", digits, *settings, "--json", str(target), "--figure", str(figure)]) == 0
    first = json.loads(target.read_text())
    names = [row["sampler"] for row in first["rows"]]
    assert len(names) == 10 and names[0] == "test images" and names[1] == "Linear, uniform grid, 2 steps"
    assert all(row["distance"][0] >= 0 and row["images"] == 30 for row in first["rows"])
    assert first["rows"][0]["distance"][1] > 0 and first["rows"][1]["distance"][1] is None  # too few of each class
    assert "1297 training images of Digits" in first["protocol"]["reference"]
    assert Image.open(figure).width > 500
    assert main(["evaluate", "frechet", digits, *settings, "--json", str(target)]) == 0  # with kept statistics
    assert json.loads(target.read_text()) == first
    for arguments, message in (
        (["frechet", digits, "-n", "1"], "--samples must be at least 2, got 1"),
        (["frechet", digits, "--steps", "x"], "--steps must be whole numbers"),
        (["frechet", digits, "--features", str(runs / "text")], "is no model of images: its tokens are"),
        (["frechet", digits, "--features", "nowhere"], "nowhere: no such folder"),
        (["frechet", str(runs / "text")], "Fréchet distances are for models of images"),
        (["frechet", digits, "-n", "20"], "the Inception network needs torch-fidelity: pip install"),
        ([digits, "--breakdown", "x.xyz"], "--breakdown x.xyz: the file must end in .png, .pdf or .svg"),
        (["frechet", str(runs / "arrays"), "--guidance", "2"], "Fréchet distances are for models of images"),
    ):
        assert message in fails(capsys, "evaluate", *arguments)
    for arguments, message in (
        (["frechet", digits, "--breakdown", "x.png"], "unknown option --breakdown of evaluate frechet: it belongs to"),
        ([digits, "--figure", "x.png"], "it belongs to unmask evaluate generate or unmask evaluate frechet"),
        ([digits, "--fid"], "unknown option --fid"),
    ):
        assert message in fails(capsys, "evaluate", *arguments, status=2)
    for more, message in (
        ("two", "too many arguments: two (a text with spaces needs quotes around it)"),
        ("--nosuch", "unknown option --nosuch"),
    ):
        assert message in fails(capsys, "infill", str(runs / "text"), "one", more, status=2)


def test_the_live_view_leaves_the_output_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(runs / "text"), "-n", "1"]) == 0
    plain = capsys.readouterr().out
    assert main(["sample", str(runs / "text"), "-n", "1", "--live"]) == 0
    shown = capsys.readouterr()
    assert shown.out == plain and "\x1b[38;2;" in shown.err
    assert "no view of plain symbols" in fails(capsys, "sample", str(runs / "arrays"), "--live")


def test_plot(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "schedules", "--out", str(tmp_path / "s.png")]) == 0
    assert Image.open(tmp_path / "s.png").width > 1000
    assert main(["plot", str(runs / "digits"), "--out", str(tmp_path / "l.png")]) == 0
    assert "no losses found" in fails(capsys, "plot", str(tmp_path))


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == main(["--version"]) == 0
    assert "unmask train digits" in capsys.readouterr().out
    assert "unknown command 'trian' (did you mean 'train'?)" in fails(capsys, "trian", status=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "no configuration 'digit' (did you mean 'digits'?); shipped are arrays, categories, cifar10"),
        (["digits", "--network.widht", "3"], "unknown option 'widht' (did you mean 'width'?)"),
        (["digits", "--network.width", "wide"], "network.width: expected 'int', got 'wide'"),
        (["digits", "--network.hidden", "wide"], "network.hidden: expected 'int' or null, got 'wide'"),
        (["digits", "--optimizer.embedding_lr", "x"], "optimizer.embedding_lr: expected 'float' or null, got 'x'"),
        (["digits", "--objectve", "DiscreteELBO"], "unknown option --objectve (did you mean '--objective'?)"),
        (["digits", "--objective", "ContinousELBO"], "'ContinousELBO' (did you mean 'ContinuousELBO'?)"),
        (["digits", "--data", "Digit"], "'Digit' (did you mean 'Digits'?)"),
        (["digits", "--trainer.max_step", "3"], "did you mean '--trainer.max_steps'?"),
        (["digits", "--optimizer.lr", "fast"], "optimizer.lr"),
    ],
)
def test_train_refuses_words(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in fails(capsys, "train", *arguments, "--out", str(tmp_path / "run"), status=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--trainer.max_steps", "0"], "trainer.max_steps must be at least 1, got 0"),
        (["digits", "--batch_size", "0"], "batch_size must be at least 1, got 0"),
        (["digits", "--batch_size", "5000"], "batch_size 5000 on 1 process(es) needs more than the 1297"),
        (["digits", "--optimizer.lr", "-1"], "optimizer.lr must be positive, got -1"),
        (["digits", "--network.heads", "5"], "width must be a multiple of 2 * heads"),
        (
            ["digits", "--objective", "DiscreteELBO", "--objective.steps", "0"],
            "steps must be a whole number of at least 1, got 0",
        ),
        (["digits", "--ema", "2"], "ema must be in [0, 1), got 2"),
        (["digits", "--resume"], "nothing to resume"),
        (["textfile"], "no text was named: give --data.path FILE"),
        (["arrays"], "no arrays were named: give --data.path FILE.npy"),
        (["textfile", "--data.path", "gone.txt"], "gone.txt: no such file"),
        (["text8", "--data.path", "gone.zip"], "gone.zip: no such file"),
        (["arrays", "--data.path", "gone.npy"], "gone.npy: no such file"),
    ],
)
def test_train_refuses_values(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in fails(capsys, "train", *arguments, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_configuration_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(shipped()["digits"].read_text().replace("  lr:", "  lrr:"))
    assert "lrr" in fails(capsys, "train", str(own), "--out", str(tmp_path / "run"), status=2)
    own.write_text("network: [")
    assert "mine.yaml" in fails(capsys, "train", str(own), "--out", str(tmp_path / "run"), status=2)
    own.write_text(shipped()["digits"].read_text())
    assert main(["train", str(own), *TINY, "--out", str(tmp_path / "run")]) == 0


def test_a_run_in_the_way_is_kept(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    shutil.copytree(runs / "digits", out)
    weights = Path(out, "model", "model.safetensors").read_bytes()
    assert f"{out} holds a run" in fails(capsys, "train", "digits", *TINY, "--out", out)
    message = fails(capsys, "train", "digits", *TINY, "--out", out, "--resume", "--seed", "1")
    assert "cannot resume with other settings" in message and "seed was 0, is 1" in message
    assert "exclude each other" in fails(capsys, "train", "digits", *TINY, "--out", out, "--resume", "--overwrite")
    assert Path(out, "model", "model.safetensors").read_bytes() == weights
    assert main(["train", "digits", *TINY, "--out", out, "--resume"]) == 0  # nothing is left to do
    assert Path(out, "model", "model.safetensors").read_bytes() == weights
    capsys.readouterr()
    shown = ["--trainer.max_steps", "5", "--trainer.enable_progress_bar", "true"]
    assert main(["train", "digits", *TINY, "--out", out, "--resume", *shown]) == 0
    assert re.search(r"training: +100%.* 5/5 ", capsys.readouterr().out), "the bar counts all steps"
    assert MaskedDiffusion.from_pretrained(Path(out, "model")).about["steps"] == 5
    assert main(["train", "digits", *TINY, "--out", out, "--overwrite", "--seed", "1"]) == 0
    assert Path(out, "model", "model.safetensors").read_bytes() != weights


def test_a_loss_that_is_not_finite_stops_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    cross_entropy = Transformer.cross_entropy
    calls = iter(range(1000))

    def poison(*arguments: object, **settings: object) -> tuple[Tensor, Tensor]:
        loss, nll = cross_entropy(*arguments, **settings)
        return loss * (float("nan") if next(calls) >= 5 else 1), nll

    monkeypatch.setattr(Transformer, "cross_entropy", poison)
    settings = ["--trainer.max_steps", "9", "--checkpoint_every", "2", "--evaluate_every", "100", "--out", str(out)]
    message = fails(capsys, "train", "digits", *TINY, *settings)
    assert "step 6: the loss is nan; training stops" in message
    from unmask.storage.checkpoint import load_tree

    kept = load_tree(out / "checkpoints" / "last.safetensors")
    assert kept["global_step"] == 4
    assert all(value.isfinite().all() for value in kept["current_model_state"].values())
    monkeypatch.undo()
    assert main(["train", "digits", *TINY, *settings, "--resume"]) == 0


def test_a_full_disk_keeps_the_last_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    from unmask.storage import checkpoint

    save = checkpoint.save_file
    calls = iter(range(1000))

    def full(tensors: object, path: Path, **settings: object) -> None:
        if next(calls) == 1:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, path, **settings)

    monkeypatch.setattr(checkpoint, "save_file", full)
    settings = ["--trainer.max_steps", "9", "--checkpoint_every", "2", "--out", str(out)]
    assert "No space left on device" in fails(capsys, "train", "digits", *TINY, *settings)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["last.safetensors"]
    assert checkpoint.load_tree(out / "checkpoints" / "last.safetensors")["global_step"] == 2
    assert main(["train", "digits", *TINY, *settings, "--resume"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "{digits}", "-n", "0"], "--samples must be at least 1, got 0"),
        (["sample", "{digits}", "--label", "10"], "label must be in 0..9, or `all`; got 10"),
        (["sample", "{digits}", "--label", "-1"], "label must be in 0..9"),
        (
            ["sample", "{digits}", "--label", "all", "-n", "7"],
            "label all: the number of examples must be a multiple of the 10 classes, got 7",
        ),
        (["sample", "{text}", "--label", "1"], "the model was trained without labels"),
        (["sample", "{digits}", "--temperature", "0"], "finite, got 0.0; top_k=1 draws the most likely token"),
        (
            ["sample", "{digits}", "--sampler", "Ancestral", "--sampler.steps", "0"],
            "steps must be a whole number of at least 1, got 0",
        ),
        (["sample", "{digits}", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["sample", "{digits}", "--out", "x.jpg"], "the file must end in .txt, .jsonl, .csv, .png or .npy"),
        (["sample", "{digits}", "--out", "x.txt"], "the samples are no text"),
        (["sample", "{digits}", "--device", "tpu9"], "device"),
        (["sample", "{arrays}", "--gif", "x.gif"], "no picture of plain symbols"),
        (["sample", "{none}"], "no such folder"),
        (["evaluate", "{none}"], "no such folder"),
        (["evaluate", "{digits}", "--draws", "0"], "--draws must be at least 1, got 0"),
        (["evaluate", "{digits}", "--data", "PyDocs"], "but the model was trained on Pixels(levels=17)"),
        (["evaluate", "{text}", "--data.path", "gone.txt"], "gone.txt: no such file"),
        (["infill", "{text}", "the cat"], "nothing is unknown in the text"),
        (
            ["infill", "{text}"],
            "or --chat; got none",
        ),
        (["infill", "{text}", "CAT_"], "character 'C' (U+0043) at offset 0"),
        (["infill", "{text}", "the cat [2] sat Q"], "character 'Q' (U+0051) at offset 16 (line 1, column 17)"),
        (["infill", "{text}", "_" * 25], "the text has 25 tokens, the model's sequences have 24"),
        (["infill", "{text}", "the [0]"], "[0] at offset 4 stands for no token"),
        (["infill", "{text}", "--prefix", "the"], "give the number of unknown tokens (--unknown"),
        (["infill", "{text}", "--prefix", "the", "--length", "3-x"], "a range such as 20-60"),
        (["infill", "{text}", "the [2]", "--length", "3"], "--length is for a prefix or a conversation"),
        (["infill", "{text}", "the [2]", "--unknown", "2"], "--prefix and --suffix, or --chat, go with --unknown"),
        (["infill", "{text}", "--prefix", "the", "--unknown", "0"], "--unknown must be at least 1, got 0"),
        (["infill", "{text}", "--text_file", "gone.txt"], "gone.txt: no such file"),
        (["infill", "{text}", "a", "--placeholder", "__"], "placeholder must be one character"),
        (["infill", "{digits}", "a_"], "a text was given, but the model's tokens are Pixels(levels=17)"),
        (["infill", "{digits}", "--image", "gone.png", "--mask", "gone.png"], "gone.png: no such file"),
        (["infill", "{digits}", "--image", "gone.png"], "--image needs --mask"),
        (["infill", "{arrays}", "--array", "gone.npy"], "gone.npy: no such file"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {name: str(runs / name) for name in ("digits", "text", "arrays")} | {"none": "no/such/place"}
    assert message in fails(capsys, *(argument.format(**names) for argument in arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_leaves_the_old_run(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(runs / "digits", out)
    weights = (out / "model" / "model.safetensors").read_bytes()
    again = ["train", "digits", *TINY, "--out", str(out), "--overwrite"]
    for wrong, message in (
        (["--optimizer.beta1", "2"], r"optimizer.beta1 must be in [0, 1), got 2.0"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches must be at least 1, got 0"),
        (["--trainer.devices", "0"], "trainer: "),
        (
            ["--optimizer.lr", "1e38", "--trainer.max_steps", "30"],
            "the loss is",
        ),  # after a few steps, no checkpoint yet
    ):
        assert message in fails(capsys, *again, *wrong)
        assert (out / "model" / "model.safetensors").read_bytes() == weights
        assert not (out / ".old").exists()
    fresh = tmp_path / "fresh"
    assert "the loss is" in fails(
        capsys, *again[:-3], "--out", str(fresh), "--optimizer.lr", "1e38", "--trainer.max_steps", "30"
    )
    assert not fresh.exists(), "a failed start stands in the way of the next one"


def test_resume_takes_the_settings_of_the_run_and_wants_its_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, out = tmp_path / "t.txt", str(tmp_path / "run")
    text.write_text("the cat sat on the mat\n" * 300)
    settings = ["--data.path", str(text), "--data.length", "16"]
    assert main(["train", "textfile", *TINY, *settings, "--out", out]) == 0
    assert main(["train", "textfile", "--out", out, "--resume", "--trainer.max_steps", "4"]) == 0
    assert MaskedDiffusion.from_pretrained(Path(out, "model")).about["steps"] == 4
    text.write_text("the dog sat on the mat\n" * 300)
    assert "cannot resume on other data" in fails(capsys, "train", "textfile", "--out", out, "--resume")
    text.write_text("on the mat the cat sat\n" * 300)  # the same alphabet
    assert "cannot resume on other data" in fails(capsys, "train", "textfile", "--out", out, "--resume")
    assert main(["evaluate", out, "--draws", "1", "--limit", "3"]) == 0
    assert "is not what the model was trained on" in capsys.readouterr().err
    Path(out, "run.json").write_text("{")
    assert "run.json: not valid JSON" in fails(capsys, "train", "textfile", "--out", out, "--resume")
    Path(out, "run.json").write_text("{}")
    assert "run.json: is empty or damaged" in fails(capsys, "train", "textfile", "--out", out, "--resume")


def test_a_run_that_ends_by_the_clock_can_go_on(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    long = ["--trainer.max_steps", "1000000", "--trainer.max_time", "00:00:00:01"]
    assert main(["train", "digits", *TINY, *long, "--out", out]) == 0
    done = MaskedDiffusion.from_pretrained(Path(out, "model")).about["steps"]
    assert 0 < done < 1_000_000
    more = ["--trainer.max_steps", str(done + 2), "--trainer.max_time", "00:01:00:00"]
    assert main(["train", "digits", "--out", out, "--resume", *more]) == 0
    assert MaskedDiffusion.from_pretrained(Path(out, "model")).about["steps"] == done + 2


def test_resume_without_a_checkpoint_is_refused(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copytree(runs / "digits", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.safetensors").unlink()
    assert "nothing to resume: " in fails(capsys, "train", "digits", "--out", str(tmp_path / "run"), "--resume")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "textfile"], "no text was named: give --data.path FILE"),
        (["train", "textfile", "--data.path", "nofile"], "nofile: no such file"),
        (["train", "digits", "--network.width", "15"], "width must be a multiple of 2 * heads, got width=15, heads=4"),
        (["train", "digits", "--network.hidden", "0"], "hidden must be at least 1, got 0"),
        (["train", "digits", "--out", ""], "out must name a folder"),
        (["sample", "{arrays}", "--out", "x.png"], "there is no picture of plain symbols"),
        (["sample", "{text}", "--out", "."], "the file must end in"),
        (["sample", "{text}", "--out", "{digits}/no.txt/x.txt"], "--out "),
        (["sample", "{digi}"], "digi: no such folder (did you mean 'digits'?)"),
        (["sample", "{text}", "--sampler.steps", "3"], "'steps' belongs to"),
        (["evaluate", "{digits}", "--json", "{digits}"], "is a folder, not a file"),
        (["evaluate", "{digits}/run.json"], "is a file; a model is a folder"),
        (["infill", "{arrays}", "--array", "x.npy", "--mask", "m.png"], "--mask belongs to --image"),
    ],
)
def test_what_a_newcomer_mistypes(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (runs / "digits" / "no.txt").write_text("a file where a folder is wanted")
    places = {name: str(runs / name) for name in ("digits", "text", "arrays", "digi")}
    arguments = [argument.format(**places) for argument in arguments]
    capsys.readouterr()
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and error.startswith("unmask: error: ")


@pytest.mark.parametrize("about", ['"x"', '{"data": "Digits"}', '{"run": null}'])
def test_a_damaged_about_names_the_file(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, about: str
) -> None:
    shutil.copytree(runs / "digits" / "model", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text()) | {"about": json.loads(about)}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert "config.json: about" in fails(capsys, "evaluate", str(tmp_path / "m"))

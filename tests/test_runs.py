"""The folder of a run: one writer, nothing lost, and what is written of it."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.loggers import Logger
from safetensors.torch import load_file

import unmask
from kill import killed_at
from unmask.cli.main import main
from unmask.data.digits import Digits
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.objectives.scalar import TimeFreeELBO
from unmask.storage.checkpoint import averaged_weights, checkpoint_step, load_tree
from unmask.storage.files import HOLDER, locked
from unmask.storage.run_folder import contents, held, new_run
from unmask.training import Optimizer, Run, TrainerSettings, dry_run, train
from unmask.training import precision as rule
from unmask.training.loggers import new_loggers
from unmask.training.precision import decide
from unmask.training.run import COMPARED, find_checkpoint, read_record

PLAIN = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1, "logger": False}


def small() -> Transformer:
    torch.manual_seed(0)
    return Transformer(17, (8, 8, 1), classes=10, width=16, depth=1, heads=2, dropout=0.1)


def trained(out: Path, steps: int = 6, network: Transformer | None = None, **settings: Any) -> MaskedDiffusion:
    where = {"resume", "overwrite"} & settings.keys()
    chosen = {name: settings.pop(name) for name in where}
    optimizer = settings.pop("optimizer", Optimizer(decay="constant", warmup_steps=2))
    trainer = PLAIN | {"max_steps": steps} | settings.pop("trainer", {})
    run = Run(**{"out": str(out), "batch_size": 4, "evaluate_examples": 4, "checkpoint_every": 2} | settings)
    return train(network or small(), Digits(), optimizer=optimizer, run=run, trainer=trainer, **chosen)


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "logs" / "version_0" / "metrics.csv", newline="") as file:
        found = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name != "tokens/s"} for row in found]


def test_training_from_python_resumes_bitwise_with_the_same_logs(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    model = trained(whole, evaluate_every=2, checkpoint_every=4)
    assert model.about["steps"] == 6 and not model.training
    trained(cut, 4, evaluate_every=2, checkpoint_every=4)  # its checkpoint comes after a validation
    with open(cut / "logs" / "version_0" / "metrics.csv", "a") as file:
        file.write("4,9.0,9.0,1.0,\n5,9.0,9.0,1.0,\n6,9.")  # rows of steps that are trained again, and half a row
    again = trained(cut, evaluate_every=2, checkpoint_every=4, resume=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert rows(whole) == rows(cut) and [row["step"] for row in rows(cut) if row["valid_bits"]] == ["1", "3", "5"]
    trees = [load_tree(out / "checkpoints" / "last.safetensors") for out in (whole, cut)]
    assert trees[0]["lr_schedulers"] == trees[1]["lr_schedulers"]
    saved = load_file(cut / "model" / "model.safetensors")
    weights, step = averaged_weights(cut / "checkpoints" / "last.safetensors")
    assert step == 6 and weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved)


def test_a_run_records_what_it_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", 2, seed=3)
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["network"]["class"] == "Transformer" and record["network"]["shape"] == [8, 8, 1]
    assert record["codec"] == {"class": "Pixels", "levels": 17} and record["schedule"] == {"class": "Linear"}
    assert record["data"] == {"class": "Digits", "labels": True} and len(record["data_sha256"]) == 64
    assert record["run"]["seed"] == 3 and record["trainer"]["max_steps"] == 2
    assert record["optimizer"]["decay"] == "constant" and record["objective"]["class"] == "TimeFreeELBO"
    assert record["precision"]["choice"] == record["run"]["precision"] == decide(small(), "cpu").precision
    assert record["versions"]["torch"] == torch.__version__
    first = capsys.readouterr().out.splitlines()[0]
    assert f"{record['precision']['choice']} ({record['precision']['reason']})" in first
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoints", "logs", "loss.png", "model", "run.json"]


def test_resume_refuses_other_settings_and_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing to resume: .*run.json does not exist"):
        trained(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    out = tmp_path / "run"
    trained(out, 2)
    before = (out / "run.json").read_bytes()
    for changed, said in (
        ({"seed": 1}, "seed was 0, is 1"),
        ({"optimizer": Optimizer(lr=1e-5)}, "optimizer.decay was 'constant', is 'cosine'"),
        ({"trainer": {"gradient_clip_val": 1.0}}, "trainer.gradient_clip_val was None, is 1.0"),
        ({"precision": "bf16-mixed"}, "precision was '32-true', is 'bf16-mixed'"),
    ):
        with pytest.raises(ValueError, match="cannot resume with other settings than") as error:
            trained(out, 4, resume=True, **changed)
        assert said in str(error.value)
    assert (out / "run.json").read_bytes() == before
    with pytest.raises(ValueError, match="holds a run .* give --resume, --overwrite"):
        trained(out, 2)


def test_a_run_goes_on_twice_with_another_number_of_processes(tmp_path: Path) -> None:
    """The script says each time what it said at the beginning."""
    out = tmp_path / "run"
    trained(out, 2)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"processes": 2}))  # as if two had trained together
    trained(out, 4, resume=True)
    once = read_record(out)
    assert (once["processes"], once["run"]["batch_size"], once["trainer"]["accumulate_grad_batches"]) == (1, 4, 2)
    assert once["begun"] == {"processes": 2, "batch_size": 4, "passes": 1}
    trained(out, 6, resume=True)
    trained(out, 8, resume=True, trainer={"accumulate_grad_batches": 2})  # or what run.json says now
    again = read_record(out)
    assert [again[name] for name in ("processes", "begun")] == [1, once["begun"]]
    assert checkpoint_step(out / "checkpoints/last.safetensors") == 8
    with pytest.raises(ValueError, match=r"cannot resume with other settings than .*batch_size was 4, is 3"):
        trained(out, 10, resume=True, batch_size=3)


def test_resume_keeps_the_precision_whatever_the_rule_says_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "run", 2)
    monkeypatch.setattr(rule, "has_bfloat16", lambda: True)
    monkeypatch.setattr(rule, "VOCAB", 1)
    assert decide(small(), "cpu").precision == "bf16-mixed"
    trained(tmp_path / "run", 4, resume=True)
    assert read_record(tmp_path / "run")["precision"]["choice"] == "32-true"
    assert "32-true" in capsys.readouterr().out.splitlines()[-5]


def test_the_rule_of_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = (Transformer(5, (4,), width=width, depth=1, heads=2) for width in (64, 32))
    many = Transformer(4096, (4,), width=16, depth=1, heads=2)
    monkeypatch.setattr(rule, "has_bfloat16", lambda: False)
    assert {decide(network, "cpu").precision for network in (wide, narrow, many)} == {"32-true"}
    monkeypatch.setattr(rule, "has_bfloat16", lambda: True)
    assert [decide(network, "cpu").precision for network in (wide, narrow, many)] == [
        "bf16-mixed",
        "32-true",
        "bf16-mixed",
    ]
    assert "width 32 is less than the 64" in decide(narrow, "cpu").reason
    assert "all 2 processes" in decide(wide, "cpu", 2).reason


def files_of(out: Path) -> dict[str, bytes]:
    """Return the content of every file of the run that is in a folder."""
    found = {}
    for name in contents(out):
        paths = [out / name, *(out / name).rglob("*")]
        found |= {str(path.relative_to(out)): path.read_bytes() for path in paths if path.is_file()}
    return found


def run_by_hand(out: Path, text: str, checkpoint: bool) -> None:
    """Write what a run leaves."""
    (out / "run.json").write_text(json.dumps({"codec_files": ["tokenizer.json"], "which": text}))
    for name in ("tokenizer.json", "model/config.json", "model/model.safetensors", "logs/version_0/metrics.csv"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    if checkpoint:
        (out / "checkpoints").mkdir(exist_ok=True)
        (out / "checkpoints" / "last.safetensors").write_text(text)


@pytest.mark.parametrize("name", ["..", ".", "../mine", "a/b", "..\\mine", "C:x", "mine", "", "\0", 5])
def test_a_crafted_record_moves_and_removes_nothing_else(name: Any, tmp_path: Path) -> None:
    """With files that it calls its codec's; `mine` is a folder."""
    out = tmp_path / "shared" / "run"
    for folder in (tmp_path / "mine", tmp_path / "shared" / "mine", out / "mine"):
        folder.mkdir(parents=True)
        (folder / "thesis.txt").write_text("precious")
    (out / "run.json").write_text(json.dumps({"codec_files": [name]}))
    (out / ".old").mkdir()
    assert contents(out) == ["run.json"]
    with held(out), new_run(out):
        pass
    for folder in (tmp_path / "mine", tmp_path / "shared" / "mine", out / "mine"):
        assert (folder / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("name", [".old", ".moving", ".trash", ".copied"])
def test_what_a_link_leads_to_is_no_part_of_a_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for checkpoint in (False, True):
        out = tmp_path / f"run{checkpoint}"
        out.mkdir()
        run_by_hand(out, "whole", checkpoint)
        before = files_of(out)
        (out / name).symlink_to(tmp_path / "mine")
        with held(out):
            assert files_of(out) == before and not os.path.lexists(out / name)
        assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_a_run_does_not_lie_in_what_another_writes(tmp_path: Path) -> None:
    run_by_hand(tmp_path, "whole", True)
    (tmp_path / "run.json").write_text(json.dumps({name: {} for name in COMPARED}))
    for inside in ("model", "checkpoints/x"):
        with pytest.raises(ValueError, match="lies in what the run .* writes: give another --out"):
            trained(tmp_path / inside, 1)
    assert (tmp_path / "model" / "config.json").read_text() == "whole"


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_kill_at_any_move_leaves_one_run_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: bool
) -> None:
    """Of an --overwrite that ends before or after its first checkpoint."""
    template = tmp_path / "template"
    (template / "notes").mkdir(parents=True)
    run_by_hand(template, "old", True)
    (template / "notes" / "mine.txt").write_text("kept")
    old = files_of(template)
    (tmp_path / "new").mkdir()
    run_by_hand(tmp_path / "new", "new", True)
    new = files_of(tmp_path / "new")
    seen: set[str] = set()
    for k in range(1, 1000):
        out = tmp_path / f"run{k}"
        shutil.copytree(template, out)

        def overwrite(out: Path = out) -> None:
            with held(out), new_run(out):
                run_by_hand(out, "new", checkpoint)

        killed = killed_at(k, monkeypatch, overwrite)
        with held(out):  # the next start
            found = files_of(out)
        assert found == old or (checkpoint and found == new), f"a mixture after a kill at move {k}"
        seen.add("old" if found == old else "new")
        assert (out / "notes" / "mine.txt").read_text() == "kept"
        left = {name for name in os.listdir(out) if name.startswith(".")}
        assert not left, left
        shutil.rmtree(out)
        if not killed:
            break
    assert k > 20, "the hooks saw nothing"
    assert seen == ({"old", "new"} if checkpoint else {"old"})


def test_a_recovery_that_is_killed_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    out.mkdir()
    run_by_hand(out, "old", True)
    old = files_of(out)
    start = held(out)
    start.__enter__()
    new = new_run(out)
    new.__enter__()
    run_by_hand(out, "new", False)
    assert killed_at(2, monkeypatch, lambda: new.__exit__(None, None, None))
    start.__exit__(None, None, None)

    def begin() -> None:
        with held(out):
            pass

    assert sum(killed_at(k, monkeypatch, begin) for k in (1, 2, 3, 4, 1, 2, 3)) >= 4
    begin()
    assert files_of(out) == old


def test_a_folder_that_cannot_be_moved_keeps_the_old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    out.mkdir()
    run_by_hand(out, "old", True)
    old, rename, calls = files_of(out), os.rename, iter(range(100))

    def stubborn(*paths: Any) -> None:
        if next(calls) == 2:
            raise PermissionError(13, "Permission denied")
        rename(*paths)

    monkeypatch.setattr(os, "rename", stubborn)
    with pytest.raises(PermissionError), held(out), new_run(out):
        raise AssertionError("began")
    assert files_of(out) == old


HOLD = """
import sys
from contextlib import suppress
from pathlib import Path
from unmask.storage.run_folder import held, new_run
with held(Path(sys.argv[1])), new_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has just begun to overwrite the run in tmp_path/run."""
    trained(tmp_path / "run", 2)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_live_run_is_left_alone_and_a_dead_one_is_taken_over(
    tmp_path: Path, live: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    before = sorted((str(path), path.stat().st_mtime_ns) for path in out.rglob("*"))
    for choice in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(BlockingIOError) as error:
            trained(out, 4, **choice)
        assert f"process {live.pid} on {socket.gethostname()} since 20" in str(error.value)
        assert "nothing was changed" in str(error.value)
    assert main(["train", "digits", "--out", str(out), "--overwrite"]) == 1
    assert f"process {live.pid}" in capsys.readouterr().err
    assert sorted((str(path), path.stat().st_mtime_ns) for path in out.rglob("*")) == before
    live.kill()
    live.wait()
    assert (out / ".old").is_dir() and (out / HOLDER).exists(), "the kill left nothing to recover from"
    assert trained(out, 4, resume=True).about["steps"] == 4


def test_who_reads_a_run_that_was_being_replaced_finds_the_old_one_once_the_process_is_dead(
    tmp_path: Path, live: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    before = sorted((str(path), path.stat().st_mtime_ns) for path in out.rglob("*"))
    with pytest.raises(FileNotFoundError):
        unmask.load(out)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in out.rglob("*")) == before
    live.kill()
    live.wait()
    assert unmask.load(out).about["steps"] == 2
    assert not (out / ".old").exists() and not (out / HOLDER).exists() and (out / "run.json").is_file()
    (out / ".moving").mkdir()  # as a kill between two of the moves leaves it
    for name in ("model", "checkpoints"):
        os.rename(out / name, out / ".moving" / name)
    assert main(["info", str(out)]) == 0
    assert "model" in capsys.readouterr().out and not (out / ".moving").exists()


def test_who_reads_a_folder_moves_nothing_else(tmp_path: Path) -> None:
    """A new run that has got to a checkpoint, and a model beside which something is called as an old run is."""
    out = tmp_path / "run"
    trained(out, 2)
    (out / ".old").mkdir()
    shutil.copy(out / "run.json", out / ".old")
    files = files_of(out)
    assert unmask.load(out).about["steps"] == 2 and files_of(out) == files
    shutil.rmtree(out / "checkpoints")  # the model is all that is left of the new run
    files = files_of(out)
    assert unmask.load(out).about["steps"] == 2 and files_of(out) == files
    shutil.rmtree(out / ".old")
    (out / "run.json").unlink()
    (out / ".moving").mkdir()
    files = files_of(out)
    assert unmask.load(out).about["steps"] == 2 and files_of(out) == files and (out / ".moving").is_dir()


def test_litter_of_killed_processes_goes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / "model" / ".savingabc").mkdir(parents=True)
    litter = [out / ".run.123.json", out / ".loss.77.png", out / "checkpoints" / ".last.4242.safetensors"]
    kept = [out / ".hidden", out / "checkpoints" / "last.safetensors", out / "model" / "config.json"]
    for path in (*litter, *kept):
        path.write_text("x")
    with held(out):
        pass
    assert not any(path.exists() for path in (*litter, out / "model" / ".savingabc"))
    assert all(path.exists() for path in kept)


def test_a_lock_leaves_no_empty_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "a", "it"):
        assert json.loads((tmp_path / "a" / HOLDER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "a").exists()


class Poisoned(Transformer):
    """A network whose loss is NaN from some call on."""

    good = 5

    def cross_entropy(self, *arguments: Any, **settings: Any) -> Any:
        Poisoned.good -= 1
        loss, nll = super().cross_entropy(*arguments, **settings)
        return (loss if Poisoned.good >= 0 else loss * float("nan")), nll


def poisoned(good: int) -> Poisoned:
    torch.manual_seed(0)
    Poisoned.good = good
    return Poisoned(17, (8, 8, 1), classes=10, width=16, depth=1, heads=2, dropout=0.1)


def test_after_a_loss_that_is_not_finite_the_learning_rate_may_change(tmp_path: Path) -> None:
    out, optimizer = tmp_path / "run", Optimizer(lr=1e-3, decay="constant", warmup_steps=0)
    with pytest.raises(FloatingPointError, match="There is no checkpoint yet: start again .*gradient_clip_val 1$"):
        trained(out, 8, poisoned(1), optimizer=optimizer, trainer={"gradient_clip_val": 0.0})  # which clips nothing
    assert not out.exists()
    advice = r"go on from it with --resume and a lower --optimizer\.lr or --trainer\.gradient_clip_val 1$"
    with pytest.raises(FloatingPointError, match="The checkpoint of step 4 is kept: " + advice):
        trained(out, 8, poisoned(5), optimizer=optimizer)
    assert read_record(out)["stopped"]["step"] == 4
    slower = Optimizer(lr=1e-5, decay="constant", warmup_steps=0)
    with pytest.raises(FloatingPointError, match="The checkpoint of step 4 has led there before: start"):
        trained(out, 8, poisoned(1), optimizer=slower, resume=True)
    with pytest.raises(ValueError, match="optimizer.beta1 was 0.9, is 0.5"):
        trained(
            out, 8, poisoned(99), optimizer=Optimizer(lr=1e-5, decay="constant", warmup_steps=0, beta1=0.5), resume=True
        )
    with pytest.raises(ValueError, match="optimizer.embedding_lr was None, is 1e-05"):  # it would need other groups
        trained(out, 8, poisoned(99), optimizer=replace(slower, embedding_lr=1e-5), resume=True)
    trained(out, 8, poisoned(99), optimizer=slower, trainer={"gradient_clip_val": 1.0}, resume=True)
    record = read_record(out)
    assert record["optimizer"]["lr"] == 1e-5 and record["changes"] == [
        {"step": 4, "optimizer.lr": [1e-3, 1e-5]},
        {"step": 4, "trainer.gradient_clip_val": [None, 1.0]},
    ]
    tree = load_tree(find_checkpoint(out) or "")
    assert {group["lr"] for group in tree["optimizer_states"][0]["param_groups"]} == {1e-5}
    with pytest.raises(ValueError, match="optimizer.lr was 1e-05, is 0.001"):
        trained(out, 10, poisoned(99), optimizer=optimizer, trainer={"gradient_clip_val": 1.0}, resume=True)


def test_after_a_loss_that_is_not_finite_all_rates_may_change(tmp_path: Path) -> None:
    out, optimizer = tmp_path / "run", Optimizer("Muon", matrix_lr=0.01, embedding_lr=0.1, warmup_steps=0)
    advice = r"a lower --optimizer\.lr, --optimizer\.matrix_lr, --optimizer\.embedding_lr or "
    advice += r"--trainer\.gradient_clip_val 0\.1$"
    with pytest.raises(FloatingPointError, match=advice):
        trained(out, 8, poisoned(5), optimizer=optimizer, trainer={"gradient_clip_val": 1.0})
    calmer = replace(optimizer, lr=1e-4, matrix_lr=1e-3, embedding_lr=1e-2)
    trained(out, 8, poisoned(99), optimizer=calmer, trainer={"gradient_clip_val": 0.1}, resume=True)
    changed = {name for change in read_record(out)["changes"] for name in change}
    assert {"optimizer.lr", "optimizer.matrix_lr", "optimizer.embedding_lr"} < changed


class Remembers(Logger):
    """A logger of one's own."""

    seen: ClassVar[list[tuple[int, dict[str, float]]]] = []

    def __init__(self, save_dir: str, label: str = "") -> None:
        super().__init__()
        self.save_dir_given, self.label = save_dir, label

    @property
    def name(self) -> str:
        return "remembers"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        Remembers.seen.append((step or 0, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


def test_a_logger_of_ones_own(tmp_path: Path) -> None:
    name = f"{Remembers.__module__}.Remembers"
    Remembers.seen.clear()
    logger = [{"class_path": name, "init_args": {"label": "x"}}]
    trained(tmp_path / "run", 2, trainer={"logger": logger})
    assert [step for step, metrics in Remembers.seen if "loss" in metrics] == [0, 1]
    trained(tmp_path / "run", 4, trainer={"logger": logger}, resume=True)
    assert [step for step, metrics in Remembers.seen if "loss" in metrics] == [0, 1, 2, 3]
    assert not (tmp_path / "run" / "tensorboard").exists() and rows(tmp_path / "run")
    (built,) = new_loggers(logger, "here")
    assert isinstance(built, Remembers) and (built.save_dir_given, built.label) == ("here", "x")
    own = Remembers("there")
    assert new_loggers(TrainerSettings(logger=[own]).logger, "here") == [own]


def test_loggers_are_known_classes_and_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_logger.py").write_text("open('ran', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for wanted in ("evil_logger.X", {"class_path": "evil_logger.X"}, "os.system", {"class_path": "Trainer"}):
        with pytest.raises(ValueError, match="trainer.logger: unknown logger"):
            new_loggers(wanted, str(tmp_path))
    assert not Path("ran").exists() and "evil_logger" not in sys.modules
    with pytest.raises(ValueError, match="trainer.logger: expected a name or"):
        new_loggers(3, str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match="MLFlowLogger needs a package that is not installed: pip install mlflow"):
        new_loggers("MLFlowLogger", str(tmp_path))


def test_trainer_settings_refuse() -> None:
    for settings, message in (
        ({"max_steps": 0}, "trainer.max_steps must be at least 1, got 0"),
        ({"gradient_clip_val": -1.0}, "trainer.gradient_clip_val must be at least 0, got -1"),
        ({"max_time": "99999999999:00:00:00"}, "trainer.max_time must be DD:HH:MM:SS, such as 00:08:00:00, got '999"),
        ({"max_time": "8:00"}, "trainer.max_time must be DD:HH:MM:SS"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainerSettings(**settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"strategy": "evil.Strategy"}, "trainer.strategy must be one of auto, fsdp2, .*; got 'evil.Strategy'"),
        ({"strategy": "deepspeed"}, "trainer.strategy must be one of"),
        ({"profiler": "evil.P"}, "trainer.profiler must be one of simple, advanced, pytorch; got 'evil.P'"),
        ({"accelerator": "abacus"}, "trainer.accelerator must be one of auto, cpu, gpu"),
        ({"accelerator": "mps"}, "trainer.accelerator must be one of auto, cpu, gpu, cuda; got 'mps'"),
        ({"accelerator": "gpu"}, "trainer.accelerator 'gpu': no GPU that torch can use is here"),
    ],
)
def test_what_lightning_is_told_is_checked_first(
    tmp_path: Path, setting: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        trained(tmp_path / "run", trainer=setting)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("profiler", "report"),
    [
        ("simple", "fit-profile.txt"),
        ("advanced", "fit-profile.txt"),
        ("pytorch", "tensorboard/version_0/*.pt.trace.json"),
    ],
)
def test_a_profiler_reports_into_the_folder_of_the_run(profiler: str, report: str, tmp_path: Path) -> None:
    trained(tmp_path / "run", 2, evaluate_every=2, trainer={"profiler": profiler, "logger": None})
    (written,) = (tmp_path / "run").glob(report)
    assert "validation_step" in written.read_text()


def test_a_dry_run_writes_nothing_and_leaves_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = small()
    weights, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    run = Run("run", batch_size=4, precision="32-true")
    report = dry_run(network, Digits(), run=run, trainer={**PLAIN, "max_steps": 50, "accumulate_grad_batches": 2})
    (row,) = report.rows
    assert row["parameters"] == sum(p.numel() for p in network.parameters())
    assert row["tokens_per_step"] == 4 * 2 * 64 and row["steps"] == 50
    assert row["estimated_hours"] == pytest.approx(row["seconds_per_step"] * 50 / 3600) and row["seconds_per_step"] > 0
    assert report.protocol["precision"].startswith("32-true") and "parameters" in str(report)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in network.parameters())
    tiny = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "4"]
    assert main(["train", "digits", "--dry-run", *tiny, "--trainer.accelerator", "cpu"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_loss_curve_replaces_a_link(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (tmp_path / "precious").write_text("kept")
    trained(out, 2)
    (out / "loss.png").unlink()
    (out / "loss.png").symlink_to(tmp_path / "precious")
    trained(out, 3, resume=True)
    assert (tmp_path / "precious").read_text() == "kept" and not (out / "loss.png").is_symlink()


def test_the_end_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", 5000, poisoned(10**6), trainer={"max_time": "00:00:00:01"}, checkpoint_every=10**6)
    said = capsys.readouterr().out
    assert re.search(
        r"stopped by trainer.max_time after [\d,]+ of 5,000 steps: the learning rate had not decayed", said
    )
    assert f"unmask evaluate {tmp_path}/run --import {Poisoned.__module__}" in said
    assert checkpoint_step(tmp_path / "run" / "checkpoints" / "last.safetensors") > 0
    trained(tmp_path / "plain", 1)
    assert "--import" not in capsys.readouterr().out


def test_help_explains_a_class_and_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    for option, shown in (
        ("--data.help", "Arrays("),
        ("--network.help=UNet", "UNet("),
        ("--objective.help", "TokenELBO("),
    ):
        arguments = [option] if "=" in option else [option, shown[:-1]]
        with pytest.raises(SystemExit):
            main(["train", *arguments])
        assert capsys.readouterr().out.startswith(shown)
    assert main(["train", "--data.help", "Arays"]) == 2
    assert "did you mean 'Arrays'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "digits", "--help"])
    short = capsys.readouterr().out
    options = set(re.findall(r"^  (--[\w.-]+)", short, re.MULTILINE))
    assert {"--batch_size", "--dry-run", "--network"} <= options
    assert not {"--optimizer.lr", "--network.width", "--trainer.max_steps"} & options


def test_a_run_is_resumed_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    plain = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    tiny = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
    assert main(["train", "digits", *plain, *tiny, "--trainer.max_steps", "2", "--out", str(out)]) == 0
    assert main(["train", str(out), "--trainer.max_steps", "3"]) == 2
    assert "is the folder of a run: give --resume" in capsys.readouterr().err
    moved = tmp_path / "moved[1]"
    out.rename(moved)
    assert main(["train", str(moved), "--resume", "--trainer.max_steps", "3"]) == 0
    assert MaskedDiffusion.from_pretrained(moved / "model").about["steps"] == 3
    assert TimeFreeELBO.__name__ == read_record(moved)["objective"]["class"]

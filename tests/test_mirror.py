"""A run has a copy elsewhere, from which it goes on."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

import unmask
from unmask.cli.main import main
from unmask.storage.checkpoint import load_tree
from unmask.training.mirror import Mirror

URL = "memory://bucket/run"
TINY = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
TINY += ["--trainer.enable_progress_bar", "false", "--checkpoint_every", "2", "--evaluate_every", "100"]


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is elsewhere, and nothing in the cache."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    yield
    memory = fsspec.filesystem("memory")
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


def train(out: Path, *more: str, steps: int = 4) -> int:
    return main(["train", "digits", *TINY, "--out", str(out), "--trainer.max_steps", str(steps), *more])


def there() -> dict[str, bytes]:
    """Return the files elsewhere."""
    memory = fsspec.filesystem("memory")
    return {name.removeprefix("/bucket/run/"): memory.cat_file(name) for name in memory.find("/bucket/run")}


def here(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_the_copy_is_the_run_and_can_be_used_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(out, "--mirror", URL) == 0
    assert there() == here(out) and "checkpoints/last.safetensors" in there()
    assert main(["evaluate", URL, "--draws", "1", "--limit", "4"]) == 0
    shutil.rmtree(out)
    assert train(out, "--mirror", URL, "--resume", steps=6) == 0
    whole = tmp_path / "whole"
    assert train(whole, steps=6) == 0
    ours, theirs = (load_tree(folder / "checkpoints" / "last.safetensors") for folder in (out, whole))
    assert ours["global_step"] == 6
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name
    assert there() == here(out)
    capsys.readouterr()


def test_another_start_of_the_command_goes_on_from_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a new machine, whose disk is empty."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    out = tmp_path / "run"
    assert train(out, "--mirror", URL, steps=2) == 0  # there was nothing yet: it begins
    shutil.rmtree(out)
    assert train(out, "--mirror", URL, steps=4) == 0
    assert load_tree(out / "checkpoints" / "last.safetensors")["global_step"] == 4
    assert len((out / "logs" / "version_0" / "metrics.csv").read_text().splitlines()) > 1


def test_a_run_that_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of the old run go, others stay; without --overwrite nothing is touched."""
    fsspec.filesystem("memory").pipe_file("/bucket/run/notes.txt", b"mine")
    assert train(tmp_path / "a", "--mirror", URL, "--keep_best", "true", "--evaluate_every", "2") == 0
    before = there()
    assert "checkpoints/best.safetensors" in before
    assert train(tmp_path / "b", "--mirror", URL) == 1
    assert f"{URL} holds a run: give --resume, --overwrite, or another --mirror" in capsys.readouterr().err
    assert there() == before
    assert train(tmp_path / "b", "--mirror", URL, "--overwrite") == 0
    assert there() == {**here(tmp_path / "b"), "notes.txt": b"mine"}
    assert train(tmp_path / "c", "--network.width", "8") == 0
    assert train(tmp_path / "c", "--resume", "--mirror", URL, "--network.width", "8", steps=6) == 1
    assert f"{URL} holds another run, whose network differs" in capsys.readouterr().err


def test_training_does_not_wait_and_goes_on_over_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy that takes long is not queued behind; one that fails is said, and made up for at the end."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("run.json", "checkpoints/last.safetensors"):
        (tmp_path / name).write_text("{}")
    mirror, free, put = Mirror(tmp_path, URL), threading.Event(), []
    original = mirror.fs.put_file

    def slow(source: str, target: str, **more: Any) -> None:
        free.wait(30)
        put.append(target)
        original(source, target, **more)

    monkeypatch.setattr(mirror.fs, "put_file", slow)
    mirror.copy()
    (tmp_path / "checkpoints" / "last.safetensors").unlink()
    (tmp_path / "checkpoints" / "last.safetensors").write_text("[1]")
    mirror.copy()  # the first is still under way
    free.set()
    assert mirror.thread is not None
    mirror.thread.join()
    assert len(put) == 2 and there()["checkpoints/last.safetensors"] == b"{}"  # as it was at that checkpoint
    monkeypatch.setattr(mirror.fs, "put_file", lambda *_: (_ for _ in ()).throw(OSError("no route")))
    mirror.copy()
    mirror.thread.join()
    mirror.copy()
    assert f"warning: {URL}: cannot be written: no route" in capsys.readouterr().err
    with pytest.raises(ConnectionError, match=f"{URL}: cannot be written: no route.*The run is whole in {tmp_path}"):
        mirror.finish()
    monkeypatch.setattr(mirror.fs, "put_file", original)
    mirror.finish()
    assert there()["checkpoints/last.safetensors"] == b"[1]"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_interrupted_run_is_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a loss that is not finite leaves is the last checkpoint, and a note in run.json: also in the copy."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        calls, original = iter(range(100)), unmask.Transformer.cross_entropy

        def poor(self: Any, *args: Any, **more: Any) -> Any:
            loss, nll = original(self, *args, **more)
            return loss * (float("nan") if next(calls) == 3 else 1.0), nll

        patch.setattr(unmask.Transformer, "cross_entropy", poor)
        assert train(out, "--mirror", URL, steps=8) == 1
    assert "the loss is nan" in capsys.readouterr().err
    assert json.loads(there()["run.json"])["stopped"]["step"] == 2 and there() == here(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mirror", "elsewhere"], "mirror must be a place elsewhere, such as s3://bucket/run; got 'elsewhere'"),
        (["--mirror", "nowhere://a"], "nowhere"),
        (["--out", "s3://bucket/run"], "--mirror s3://bucket/run keeps a copy there"),
    ],
)
def test_refusals(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", *options) != 0
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()

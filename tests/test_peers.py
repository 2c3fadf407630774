"""Training in several processes: one model, and one line where a process is missing."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch.utilities import rank_zero_only

import fresh
from unmask.cli.main import main
from unmask.model import MaskedDiffusion
from unmask.storage import mirror
from unmask.storage.checkpoint import checkpoint_step
from unmask.training.peers import _announce_ends

TWO = ["train", "digits", "--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
TWO += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--evaluate_examples", "8"]
TWO += ["--evaluate_every", "2", "--checkpoint_every", "2", "--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.mark.slow
def test_two_processes_train_one_model_and_one_that_is_killed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On CPUs, as GPUs would: one run, one model, and it goes on from its checkpoint."""
    out = tmp_path / "run"
    checkpoint = out / "checkpoints" / "last.safetensors"
    command = [*TWO, "--out", str(out)]
    first = fresh.start_command(tmp_path, *command, "--trainer.max_steps", "1000000", shown=tmp_path)
    while not checkpoint.exists() and first.is_alive():
        time.sleep(0.02)
    (other,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(other), signal.SIGKILL)
    first.join(60)
    shown, error = ((tmp_path / name).read_text() for name in ("out", "err"))
    assert first.exitcode == 1 and shown.count("parameters, 32-true") == 1
    line = r"process 0 of 2: process 1 \(status -9\) ended early, at step \d+ \(.+\); go on with --resume"
    assert re.fullmatch(f"unmask: error: {line}", error.strip()), error
    steps = checkpoint_step(checkpoint) + 2
    done = fresh.run(tmp_path, *command, "--resume", "--trainer.max_steps", str(steps))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("holds the model") == 1 and done.stdout.count("parameters, 32-true") == 1
    assert MaskedDiffusion.from_pretrained(out / "model").about["steps"] == steps
    assert main([*TWO, "--out", str(out)]) == 1
    assert "holds a run" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_to_two_processes_leaves_a_whole_copy(tmp_path: Path) -> None:
    """Also one that takes longer than lightning waits before it kills this process."""
    out, copy = tmp_path / "run", tmp_path / "copy"
    checkpoint = out / "checkpoints" / "last.safetensors"
    command = [*TWO, "--trainer.max_steps", "1000000", "--mirror", f"file://{copy}", "--out", str(out)]
    first = fresh.start(_train_with_slow_copies, command, folder=tmp_path, shown=tmp_path)
    while not checkpoint.exists() and first.is_alive():
        time.sleep(0.02)
    (other,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    for process in (int(other), first.pid):
        os.kill(process, signal.SIGINT)  # type: ignore[arg-type]
    first.join(120)
    error = (tmp_path / "err").read_text()
    assert first.exitcode == 130 and "Ctrl-C leaves it as it is" in error, error
    there = mirror.read_mirror(f"file://{copy}")
    assert there is not None and there.step == checkpoint_step(checkpoint)
    assert not Path(f"/proc/{other}").exists()


def _train_with_slow_copies(command: list[str]) -> None:
    original = mirror.put
    subprocess_script._ChildProcessObserver.__init__.__defaults__ = (1,)  # it looks every second, not every five

    def slow(path: Path, url: str) -> None:
        if "last-" in url:
            time.sleep(3)
        original(path, url)

    mirror.put = slow
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts with & ignore it
    fresh._command(tuple(command), Path())


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (0, r"process 0 of 2: the others did not come within 1 s \(.*1/2 clients joined\); start all processes"),
        (1, r"process 1 of 2: process 0 did not come to 127.0.0.1:\d+ within 1 s; start all processes"),
    ],
)
def test_a_process_that_never_comes_is_named(
    rank: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
    place = {"WORLD_SIZE": 2, "LOCAL_RANK": rank, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    start = time.monotonic()
    assert main([*TWO, "--peer_timeout", "1", "--out", str(tmp_path / "run")]) == 1
    assert time.monotonic() - start < 60
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert re.match(f"unmask: error: {said}.*--peer_timeout; there is no checkpoint yet$", line), line
    assert not (tmp_path / "run").exists()


def test_lightning_says_in_one_line_that_it_stops_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a process that ends while the first is not waiting for it."""
    ended = subprocess.Popen(["false"])
    ended.wait()
    observer = subprocess_script._ChildProcessObserver(os.getpid(), [ended])
    stopped: list[bool] = []
    monkeypatch.setattr(observer, "_terminate_all", lambda: stopped.append(True))
    _announce_ends()
    assert observer._run() and stopped
    said = rf"unmask: error: all processes are stopped, since one ended: .*PID {ended.pid} terminated with code 1\.\n"
    assert re.fullmatch(said, capsys.readouterr().err)

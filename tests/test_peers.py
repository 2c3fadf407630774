"""Training in several processes: one model, and one line where a process is missing."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch.utilities import rank_zero_only

import fresh
from unmask.cli.main import main
from unmask.model import MaskedDiffusion
from unmask.storage.checkpoint import checkpoint_step
from unmask.training.peers import _announce_ends

TWO = ["train", "digits", "--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
TWO += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--evaluate_examples", "8"]
TWO += ["--evaluate_every", "2", "--checkpoint_every", "2", "--trainer.devices", "2", "--trainer.strategy", "ddp"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def of_rank(rank: int, arguments: list[str]) -> int:
    rank_zero_only.rank = rank  # lightning reads it when it is imported, which is long ago in such a process
    return main(arguments)


@pytest.mark.slow
def test_two_processes_train_one_model_and_one_that_is_killed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On CPUs, as GPUs would: one run, one model, and it goes on from its checkpoint.

    Lightning starts the second process of the first run; those of the second run are started as torchrun does.
    """
    out = tmp_path / "run"
    checkpoint = out / "checkpoints" / "last.safetensors"
    command = [sys.executable, "-m", "unmask.cli.main", *TWO, "--out", str(out)]
    endless = [*command, "--trainer.max_steps", "1000000"]
    first = subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    while not checkpoint.exists() and first.poll() is None:
        time.sleep(0.02)
    (other,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(other), signal.SIGKILL)
    shown, error = first.communicate(timeout=60)
    assert first.returncode == 1 and shown.count("parameters, 32-true") == 1
    line = (
        r"unmask: error: process 0 of 2: process 1 \(status -9\) ended early, at step \d+ \(.*\); go on with --resume"
    )
    assert re.fullmatch(line, error.strip()), error
    steps = checkpoint_step(checkpoint) + 2
    resumed = [*TWO, "--resume", "--trainer.max_steps", str(steps), "--out", str(out)]
    place = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        for name, value in (place | {"LOCAL_RANK": str(rank)}).items():
            monkeypatch.setenv(name, value)
        both.append(fresh.start(of_rank, rank, resumed, folder=tmp_path, shown=tmp_path / str(rank)))
    for rank, process in enumerate(both):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / str(rank) / "err").read_text()
    for name in [*place, "LOCAL_RANK"]:
        monkeypatch.delenv(name)
    shown = "".join((tmp_path / str(rank) / "out").read_text() for rank in range(2))
    assert shown.count("holds the model") == 1 and shown.count("parameters, 32-true") == 1
    assert MaskedDiffusion.from_pretrained(out / "model").about["steps"] == steps
    assert main([*TWO, "--out", str(out)]) == 1
    assert "holds a run" in capsys.readouterr().err


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
    port = free_port()
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

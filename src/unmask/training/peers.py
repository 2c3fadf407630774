"""Several processes that train together: one that never comes, or ends early, is one line, not a hang."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from unmask.training.heartbeat import EVERY, LOST, SILENT, Heartbeat
from unmask.training.stopping import unhurried

OBSERVER = "lightning.fabric.strategies.launchers.subprocess_script"
"""The logger of lightning's that says that a process has ended, before it kills all others."""
SAY = 3.0
"""Seconds that another process has to say why it ends."""
HOW = "; start all processes within that time, or raise --peer_timeout"


@contextmanager
def peers_named(trainer: Trainer, seconds: int, kept: str = "") -> Iterator[None]:
    """Wait no longer than some seconds for another process, and say which one is missing.

    Args:
        trainer: of the processes.
        seconds: that are waited at the start, and in each step.
        kept: what is said of how to go on where one gives no sign of life any more.

    Raises:
        ConnectionError: one did not come, does not answer, or has ended.
    """
    if trainer.world_size == 1:
        yield
        return
    me = f"process {trainer.global_rank} of {trainer.world_size}"
    strategy: Any = trainer.strategy
    others = _Others()
    if isinstance(strategy, DDPStrategy | ModelParallelStrategy):
        strategy._timeout = timedelta(seconds=seconds)  # lightning sets it for strategies that are objects alone
    _announce_ends()
    environment = strategy.cluster_environment
    if trainer.global_rank and environment is not None:
        address = (environment.main_address, environment.main_port)
        if not _answers(address, seconds):
            where = f"{address[0]}:{address[1]}"
            raise ConnectionError(f"{me}: process 0 did not come to {where} within {seconds} s{HOW}")
    heart = Heartbeat(trainer.global_rank, trainer.world_size, max(3 * EVERY, min(SILENT, seconds)), kept)
    trainer.callbacks[:0] = [others, _Beats(heart)]  # type: ignore[attr-defined]
    with others.ended():
        try:
            yield
            heart.stop()
        except RuntimeError as error:
            heart.stop(LOST)
            said = " ".join(str(error).split())
            if isinstance(error, torch.distributed.DistStoreError) and "clients joined" in said:
                raise ConnectionError(
                    f"{me}: the others did not come within {seconds} s ({said.rstrip('.')}){HOW}"
                ) from error
            if not isinstance(error, torch.distributed.DistError) and "gloo/transport" not in said:
                heart.stop(said)
                raise
            gone = others.failed()
            with unhurried():
                lost = f"{', '.join(gone)} ended early" if gone else heart.ended()
            lost = lost or "another one ended early, or does not answer"
            said = said.partition("] ")[2].partition(". ")[0] or said
            raise ConnectionError(f"{me}: {lost}, at step {trainer.global_step} ({said})") from error
        except BaseException as error:
            heart.stop(" ".join(f"{error}".split()) or type(error).__name__)
            raise


class _Beats(Callback):
    """Begin to give signs of life once the processes have found each other."""

    def __init__(self, heart: Heartbeat) -> None:
        self.heart = heart

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.heart.start()


class _Others(Callback):
    """The processes that this one started by lightning, which kills this one if it sees that one of them has failed.

    Where training fails here, it is kept from that: there may be a checkpoint to copy elsewhere.
    """

    def __init__(self) -> None:
        self.left: list[subprocess.Popen] = []

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        started = getattr(trainer.strategy.launcher, "procs", [])
        self.left += started
        started.clear()  # the list that lightning looks at
        if isinstance(exception, KeyboardInterrupt):
            for process in self.left:
                process.kill()  # as lightning would do later: until then this process may wait for them

    def failed(self) -> list[str]:
        """Return which have failed."""
        for process in self.left:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        return [f"process {i} (status {one.returncode})" for i, one in enumerate(self.left, 1) if one.returncode]

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Where training fails here, end those that do not end by themselves."""
        try:
            yield
        except BaseException:
            for process in self.left:
                try:
                    process.wait(SAY)
                except subprocess.TimeoutExpired:
                    process.kill()
            raise


def _answers(address: tuple[str, int], seconds: int) -> bool:
    """Return whether somebody listens at an address, within some seconds; torch's own wait fills the screen."""
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection(address, timeout=max(0.1, end - time.monotonic())):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def _announce_ends() -> None:
    """Have lightning say in one line that a process has ended: it kills this one then."""
    logger = logging.getLogger(OBSERVER)
    if not logger.handlers:
        logger.addHandler(_OneLine())
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _OneLine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage().partition(" Forcefully")[0]
        print(f"unmask: error: all processes are stopped, since one ended: {said}", file=sys.stderr, flush=True)

"""A signal that ends training: the step is finished, a checkpoint written, and the work goes on another time."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal, after a checkpoint."""

    status = 143
    """What the command ends with: 128 + SIGTERM."""


class Stop(Callback):
    """On SIGTERM or SIGUSR1 to any process, stop all at the same step, after its checkpoint.

    SIGTERM is what schedulers send before they take a machine away. SIGUSR1 is for the end of a job's time
    (`sbatch --signal=SIGUSR1@120`): under SLURM the job is then queued again.

    Attributes:
        received: the name of the signal; None before one came.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take over from lightning's handlers, which end without a checkpoint, or write one that nothing reads."""
        if threading.current_thread() is not threading.main_thread():
            return

        def note(number: int, frame: Any) -> None:
            pl_module.stop_wanted = number

        self._before = {number: signal.signal(number, note) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and (number := pl_module.stops_now()):
            self.received = signal.Signals(number).name
            trainer.should_stop = True
            every = trainer.val_check_batch
            if not every or (batch_idx + 1) % every:  # lightning would evaluate, and a run that goes on does not
                trainer.limit_val_batches = 0

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._restore()
        if self.received == "SIGUSR1" and trainer.is_global_zero:
            requeue()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextmanager
def unhurried() -> Iterator[None]:
    """Ignore SIGTERM for a while: torchrun sends it to the others once a process has ended, which are to say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def requeue() -> None:
    """Queue this job of SLURM again, if it is one."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if os.environ.get("SLURM_ARRAY_JOB_ID") and task else job
    try:
        subprocess.run(["scontrol", "requeue", name], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = " ".join((getattr(error, "stderr", None) or str(error)).split())
        print(f"unmask: warning: scontrol requeue {name}: {why}; go on with --resume", file=sys.stderr)

"""What happens around the steps: checkpoints and progress."""

import math
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.plugins.io import CheckpointIO

from unmask.model import MaskedDiffusion
from unmask.storage.checkpoint import find_rows, load_tree, remove_unused_shards, save_tree
from unmask.training.averages import MovingAverage
from unmask.training.loggers import Metrics
from unmask.training.mirroring import Mirroring
from unmask.training.sharding import save_shards


class Keep(Checkpoint):
    """Write the whole state of training to one file, every so many steps and at the last.

    Where a validation is due at the same step, it comes first, so that its row is in metrics.csv by then.

    Args:
        path: of the file.
        every: steps between two checkpoints.
        evaluate_every: steps between two validations; None where there are none.
        metrics: is brought to the disk before.
        mirroring: copies the run elsewhere after each checkpoint; None: this process does not.
        mirrored: whether some process does.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        evaluate_every: int | None,
        metrics: Metrics,
        mirroring: Mirroring | None = None,
        mirrored: bool = False,
    ) -> None:
        self.path, self.every, self.evaluate_every, self.metrics = path, every, evaluate_every, metrics
        self.mirroring, self.mirrored = mirroring, mirrored

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if self._due(trainer) and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            pl_module.check_finite()
            if not self.evaluate_every or step % self.evaluate_every:
                self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._due(trainer):
            self._save(trainer)

    def _due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        return step % self.every == 0 or step == trainer.max_steps or trainer.should_stop  # by trainer.max_time

    def _save(self, trainer: Trainer) -> None:
        self.metrics.flush()
        trainer.save_checkpoint(self.path)
        last = trainer.global_step == trainer.max_steps or trainer.should_stop
        if self.mirrored and last:
            self._wait(trainer)
        if self.mirroring is not None:
            self.mirroring.begin(trainer.global_step)
        if self.mirrored and last:  # no process ends before: a launcher would take the one that copies with it
            self._wait(trainer)

    def _wait(self, trainer: Trainer) -> None:
        """Wait, in all processes, until nothing is being copied any more; no collective operation takes long."""
        while not trainer.strategy.broadcast(self.mirroring is None or self.mirroring.done()):
            pass


class Best(Callback):
    """Keep the averaged weights of the best evaluation, and end training where none has been better for long.

    Args:
        averages: of the weights.
        path: of the file; None keeps none.
        patience: evaluations without a better one after which training ends; None: it goes on.
    """

    def __init__(self, averages: MovingAverage, path: Path | None, patience: int | None) -> None:
        self.averages, self.path, self.patience = averages, path, patience
        self.bits, self.step, self.since = math.inf, 0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"bits": self.bits, "step": self.step, "since": self.since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.bits, self.step, self.since = (state_dict[name] for name in ("bits", "step", "since"))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.path is not None and not trainer.strategy.broadcast(self.path.is_file()):
            self.bits, self.since = math.inf, 0  # the best until now was not kept
        self._stop_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        bits = float(trainer.callback_metrics["valid_bits"])
        if bits < self.bits:
            self.bits, self.step, self.since = bits, trainer.global_step, 0
            if self.path is not None:
                own = {f"model.{name}" for name in pl_module.model.own_tensors()}
                state = {name: value for name, value in self.averages.averaged(pl_module).items() if name in own}
                write({"global_step": self.step, "state_dict": state}, self.path, trainer.is_global_zero)
        else:
            self.since += 1
        self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: Trainer) -> None:
        if self.patience is not None and self.since >= self.patience:
            trainer.should_stop = True


def write(tree: dict[str, Any], path: Path, first: bool) -> None:
    """Write a checkpoint: the first process alone or, where weights are sharded, all of them together."""
    if find_rows(tree):
        save_shards(tree, path)
    elif first:
        save_tree(tree, path)
        remove_unused_shards(path.parent)


class SafetensorsIO(CheckpointIO):
    """Checkpoints without pickle; see `unmask.storage.checkpoint`.

    Args:
        model: that is trained. Of one with an adapter, the weights that the adapter is put on are not written.
    """

    def __init__(self, model: MaskedDiffusion) -> None:
        self.model = model

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        kept = {f"model.{name}" for name in self.model.own_tensors()}
        parts = {name: checkpoint[name] for name in ("state_dict", "current_model_state") if name in checkpoint}
        small = {key: {name: value for name, value in part.items() if name in kept} for key, part in parts.items()}
        write(checkpoint | small, Path(path), first=True)  # lightning calls this in the first process alone

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        tree = load_tree(path)
        whole = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        own = {f"model.{name}" for name in self.model.own_tensors()}
        for part in ("state_dict", "current_model_state"):
            if part in tree:
                tree[part] |= {name: tensor for name, tensor in whole.items() if name not in own}
        return tree

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


SHOWN = ("loss", "bits", "tokens/s", "mfu", "valid_bits")


class Bar(TQDMProgressBar):
    """A progress bar over all steps of the run; a line now and then where nobody watches.

    Args:
        max_steps: of the run.
        every: steps between two lines where somebody watches: its figures are read, for which a GPU is waited for.
    """

    def __init__(self, max_steps: int, every: int = 1) -> None:
        super().__init__(refresh_rate=every if sys.stderr.isatty() else max(1, max_steps // 20))

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        super().on_train_start(trainer, *_)
        bar = self.train_progress_bar  # a run that goes on is inside its only epoch, whose start is not told again
        bar.total = self.total_train_batches
        bar.initial = bar.n = trainer.global_step * trainer.accumulate_grad_batches
        bar.set_description("training")

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description("training")

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        found = trainer.callback_metrics
        return {name: float(found[name]) for name in SHOWN if name in found}

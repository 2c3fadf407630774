"""Where the figures of a run go: metrics.csv always, and whatever loggers of lightning's the user names."""

import csv
import os
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer, loggers
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from unmask.storage.files import replacing
from unmask.training.settings import LOGGERS

COLUMNS = ("step", "loss", "bits", "tokens/s", "valid_bits")


def metrics_file(out: Path | str) -> Path:
    """Return the file of a run's losses."""
    return Path(out, "logs", "version_0", "metrics.csv")


def logs_now(trainer: Any, later: int = 0) -> bool:
    """Whether this step's figures, or those of some steps later, are written to the logs."""
    return (trainer.global_step + later) % trainer.log_every_n_steps == 0


class Metrics(Callback):
    """Write metrics.csv: a row for the losses of every so many steps, and one for every validation.

    The rows of the steps up to a checkpoint are on the disk before it is written. A run that goes on from a checkpoint
    drops those of later steps, so that the file is in the end what an uninterrupted run writes, but for tokens/s, which
    is measured. Steps are counted from 0, as lightning does.
    """

    def __init__(self, out: Path | str) -> None:
        self.path = metrics_file(out)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_rank:
            return
        rows: list[dict[str, str]] = []
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = [
                    row for row in csv.DictReader(file) if _is_whole(row) and int(row["step"]) < trainer.global_step
                ]
        with replacing(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if logs_now(trainer) and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._write(trainer, ("loss", "bits", "tokens/s"))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer, ("valid_bits",))

    def flush(self) -> None:
        """Have the operating system write what it holds of the file to the disk."""
        if self.path.is_file():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())

    def _write(self, trainer: Trainer, names: tuple[str, ...]) -> None:
        if trainer.global_rank:
            return
        figures = {name: trainer.callback_metrics[name].item() for name in names if name in trainer.callback_metrics}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({"step": trainer.global_step - 1} | figures)


def _is_whole(row: dict[str, Any]) -> bool:
    """Return whether a row was written to its end."""
    return str(row.get("step")).isdigit() and all(row.get(name) is not None for name in COLUMNS)


def new_loggers(wanted: Any, out: str) -> list[Logger]:
    """Build the loggers that `trainer.logger` names (`unmask.training.settings.TrainerSettings`).

    A class is looked up among lightning's own loggers and, as "module.Class", among those that are imported already;
    nothing is imported because a setting names it.

    Args:
        wanted: None, a bool, a name, {"class_path": name, "init_args": {...}}, a logger, or a list of these.
        out: folder of the run, where a logger writes unless it is told another.

    Raises:
        ValueError: no such logger, or arguments that it refuses.
        ImportError: the package that it needs is not installed; names it.
    """
    if wanted is None or wanted is True:
        return [TensorBoardLogger(out, name="tensorboard")]
    if wanted is False:
        return []
    return [_new_logger(one, out) for one in (wanted if isinstance(wanted, list) else [wanted])]


def _new_logger(wanted: Any, out: str) -> Logger:
    if isinstance(wanted, Logger):
        return wanted
    described = {"class_path": wanted} if isinstance(wanted, str) else wanted
    if not isinstance(described, dict) or not isinstance(described.get("class_path"), str):
        raise ValueError(f"trainer.logger: expected a name or {{class_path, init_args}}, got {wanted!r:.100}")
    name, arguments = described["class_path"], described.get("init_args") or {}
    if extra := described.keys() - {"class_path", "init_args"}:
        raise ValueError(f"trainer.logger: unknown key {sorted(extra)[0]!r}; expected class_path and init_args")
    found = known_loggers()
    if name not in found:
        hint = f"; its module must be imported first: --import {name.rpartition('.')[0]}" if "." in name else ""
        raise ValueError(f"trainer.logger: unknown logger {name!r}; known are {', '.join(sorted(found))}{hint}")
    places = {"save_dir": out, "root_dir": out}
    accepted = signature(found[name]).parameters
    try:
        return found[name](**{key: value for key, value in places.items() if key in accepted} | arguments)
    except ModuleNotFoundError as error:
        package = LOGGERS.get(name) or error.name or str(error).split()[0]
        raise ImportError(
            f"trainer.logger: {name} needs a package that is not installed: pip install {package}"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"trainer.logger: {name}: {' '.join(str(error).split())}") from None


def known_loggers() -> dict[str, Any]:
    """Return lightning's loggers by their names, and imported ones from elsewhere as "module.Class"."""
    own = {name: getattr(import_module(loggers.__name__), name) for name in loggers.__all__ if name != "Logger"}
    found: dict[str, Any] = {}
    waiting: list[Any] = [Logger]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if not cls.__module__.startswith("lightning."):
            found[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return own | found

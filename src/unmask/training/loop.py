"""The loop around the training steps: lightning's, with what a run needs."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import StrategyRegistry
from torch.utils.data import DataLoader

from unmask.data.base import DataSet
from unmask.data.order import Order
from unmask.model import MaskedDiffusion
from unmask.objectives.base import Objective
from unmask.storage.checkpoint import averaged_weights, checkpoint_step
from unmask.training.callbacks import Bar, Best, Keep, MovingAverage, SafetensorsIO, Speed
from unmask.training.loggers import Metrics, new_loggers
from unmask.training.optimizer import parameter_groups
from unmask.training.peers import peers_named
from unmask.training.settings import Optimizer, Run, TrainerSettings
from unmask.training.trainee import Trainee

PROFILERS = ("simple", "advanced", "pytorch")
OTHERS = ("deepspeed", "xla", "single", "fsdp")
"""Strategies of lightning's that this loop cannot use: they keep their own checkpoints, or parts of the weights."""


def plan_training(
    model: MaskedDiffusion,
    data: DataSet,
    objective: Objective,
    optimizer: Optimizer,
    run: Run,
    trainer: TrainerSettings | dict[str, Any],
) -> Callable[[], int]:
    """Check everything that can be checked before training; return what then does it and says at which step it ended.

    Training goes on from `run.checkpoint` where that exists, and leaves the model with its averaged weights.

    Args:
        model: with initial weights.
        data: its train and valid parts are used.
        objective: what is minimised.
        optimizer: how.
        run: where, how long, how often.
        trainer: settings of lightning's Trainer.

    Raises:
        ValueError: settings that do not fit the data.
        FloatingPointError: (from what is returned) the loss is not finite; the last checkpoint is kept.
        ConnectionError: (from what is returned) of several processes, another one is missing.
        KeyboardInterrupt: (from what is returned) says how to go on.
    """
    _quieten()
    settings = TrainerSettings(**trainer) if isinstance(trainer, dict) else trainer
    check_names(settings)
    every = settings.accumulate_grad_batches
    held_out: Any = list(data.split("valid").batches(run.batch_size, run.evaluate_examples))
    metrics = Metrics(run.out)
    keep = Keep(run.checkpoint, run.checkpoint_every, run.evaluate_every if held_out else None, metrics)
    averages = MovingAverage(run.ema)
    callbacks: list[Callback] = [averages, Speed(run.compile), metrics]
    if run.keep_best or run.patience is not None:
        if not held_out:
            raise ValueError("keep_best and patience need a validation part, and the data have none")
        callbacks.append(Best(averages, run.best if run.keep_best else None, run.patience))
    callbacks.append(keep)  # the last of them, so that the others' state is in it
    if settings.enable_progress_bar:
        callbacks.append(Bar(settings.max_steps))
    passed = {name: value for name, value in vars(settings).items() if name != "logger"}
    loop = _new_trainer(
        **passed | {"log_every_n_steps": settings.rows_every},
        precision=run.precision,
        callbacks=callbacks,
        logger=new_loggers(settings.logger, run.out),
        plugins=[SafetensorsIO(model)],
        default_root_dir=run.out,
        max_epochs=-1,
        val_check_interval=run.evaluate_every * every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        inference_mode=False,
    )
    train_split = data.split("train")
    order = Order(
        len(train_split), run.batch_size, run.seed, lambda: loop.global_step * every, loop.global_rank, loop.world_size
    )
    on_gpu = loop.strategy.root_device.type == "cuda"
    loading: dict[str, Any] = {"batch_size": None, "collate_fn": _as_it_is, "pin_memory": on_gpu}
    batches = DataLoader(train_split, sampler=order, num_workers=run.workers, **loading)
    valid: DataLoader = DataLoader(held_out, **loading)
    parameter_groups(model, optimizer)  # raises for settings that do not fit the model
    trainee = Trainee(model, objective, optimizer, run.seed, run.label_dropout, data.has_given, data.lengths)

    def go() -> int:
        if run.compile:
            model.network.compile_body()
        begun = run.checkpoint.exists()
        if begun and (step := checkpoint_step(run.checkpoint)) >= settings.max_steps:
            take_weights(model, run.checkpoint)  # nothing is left to do
            model.eval()
            return step
        try:
            with peers_named(loop, run.peer_timeout):
                loop.fit(trainee, batches, valid, ckpt_path=run.checkpoint if begun else None)
        except (SystemExit, ConnectionError) as error:  # lightning makes the first of Ctrl-C
            kept = "go on with --resume" if run.checkpoint.exists() else "there is no checkpoint yet"
            if isinstance(error, ConnectionError):
                raise ConnectionError(f"{error}; {kept}") from error
            raise KeyboardInterrupt(f"interrupted at step {loop.global_step}; {kept}") from None
        model.eval()
        return loop.global_step

    return go


def take_weights(model: MaskedDiffusion, path: Path) -> int:
    """Give a model the averaged weights of a checkpoint, and return the step that they are of."""
    weights, step = averaged_weights(path)
    model.load_own_tensors(weights)
    return step


def check_names(settings: TrainerSettings) -> None:
    """Raise a ValueError for a strategy or a profiler that is none of lightning's.

    Names alone are looked at: an object is one that the caller made.
    """
    known = ["auto", *(name for name in StrategyRegistry.available_strategies() if not name.startswith(OTHERS))]
    for name, names in (("strategy", known), ("profiler", PROFILERS)):
        value = getattr(settings, name)
        if isinstance(value, str) and value not in names:
            raise ValueError(f"trainer.{name} must be one of {', '.join(names)}; got {value!r}")


def _new_trainer(**settings: Any) -> Trainer:
    try:
        return Trainer(**settings)
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _quieten() -> None:
    """Keep lightning's remarks about choices that are made here on purpose off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*isinstance.*LeafSpec.*", ".*litlogger.*"):
        warnings.filterwarnings("ignore", message)


def trained_on(settings: TrainerSettings) -> torch.device:
    """Return the kind of device that the settings train on."""
    on_gpu = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def processes_of(settings: TrainerSettings) -> int:
    """Return how many processes train together."""
    here = settings.devices
    if here == "auto" or str(here) == "-1":
        count = torch.cuda.device_count() if trained_on(settings).type == "cuda" else 1
    else:
        count = len(here) if isinstance(here, list) else int(here) if str(here).isdigit() else 1
    return max(count * settings.num_nodes, int(os.environ.get("WORLD_SIZE", 1)))

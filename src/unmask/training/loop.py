"""The loop around the training steps: lightning's, with what a run needs."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from lightning.pytorch.strategies import StrategyRegistry
from torch.utils.data import DataLoader

from unmask.data.base import DataSet
from unmask.data.order import Division, Order
from unmask.model import MaskedDiffusion
from unmask.objectives.base import Objective
from unmask.storage.checkpoint import averaged_weights, checkpoint_step
from unmask.training.agreement import Agree, weights_sum
from unmask.training.averages import MovingAverage
from unmask.training.callbacks import Bar, Best, Keep, SafetensorsIO
from unmask.training.cost import step_flops
from unmask.training.held_out import held_out
from unmask.training.loggers import Metrics, new_loggers
from unmask.training.mirroring import Mirroring
from unmask.training.optimizer import parameter_groups
from unmask.training.peers import peers_named
from unmask.training.placing import trained_on
from unmask.training.run import shared_settings
from unmask.training.settings import Optimizer, Run, TrainerSettings
from unmask.training.sharding import NAMES, Sharded, emptied
from unmask.training.stopping import Stop, Stopped
from unmask.training.trainee import Trainee
from unmask.training.watching import Loader, Watch

REPORTS: dict[Any, Any] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
PROFILERS = (*REPORTS, "pytorch")
OTHERS = ("deepspeed", "xla", "single", "fsdp")
"""Strategies of lightning's that this loop cannot use: they keep their own checkpoints. FSDP2 is ours."""


def plan_training(
    model: MaskedDiffusion,
    data: DataSet,
    objective: Objective,
    optimizer: Optimizer,
    run: Run,
    trainer: TrainerSettings | dict[str, Any],
    mirroring: Mirroring | None = None,
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
        mirroring: copies the run elsewhere after each checkpoint, where this process does.

    Raises:
        ValueError: settings that do not fit the data.
        FloatingPointError: (from what is returned) the loss is not finite; the last checkpoint is kept.
        ConnectionError: (from what is returned) of several processes, another one is missing.
        KeyboardInterrupt: (from what is returned) says how to go on.
    """
    _quieten()
    settings = TrainerSettings(**trainer) if isinstance(trainer, dict) else trainer
    check_names(settings)
    sharded, stop = settings.strategy in NAMES, Stop()
    callbacks = _new_callbacks(model, data, objective, run, settings, stop, mirroring)
    loop = _new_trainer(model, run, settings, callbacks)
    division = Division(run.batch_size, loop.world_size, settings.accumulate_grad_batches, loop.global_rank)
    batches, valid = _new_loaders(data, run, division, loop)
    parameter_groups(model, optimizer)  # raises for settings that do not fit the model
    if loop.world_size > 1:
        shared = shared_settings(model.network, objective, optimizer, run, settings)
        loop.callbacks.insert(0, _new_agreement(model, data, run, shared))  # type: ignore[attr-defined]
    trained, objective = copy.deepcopy((model, objective)) if sharded else (model, objective)
    given, lengths = data.has_given, data.lengths
    trainee = Trainee(trained, objective, optimizer, run.seed, run.label_dropout, given, lengths, division)

    def go() -> int:
        if run.compile:
            trained.network.compile_body()
        begun = run.checkpoint.exists()
        if begun and (step := checkpoint_step(run.checkpoint)) >= settings.max_steps:
            take_weights(model, run.checkpoint)  # nothing is left to do
            model.eval()
            return step
        with _ends_said(loop, run), emptied(model) if sharded else nullcontext():
            loop.fit(trainee, batches, valid, ckpt_path=run.checkpoint if begun else None)
        if stop.received:
            kept = "after a checkpoint; go on with --resume"
            raise Stopped(f"stopped by {stop.received} at step {loop.global_step}, {kept}")
        if sharded:
            model.load_state_dict(trainee.whole)
        model.eval()
        return loop.global_step

    return go


@contextmanager
def _ends_said(loop: Trainer, run: Run) -> Iterator[None]:
    """Say how to go on where training is interrupted, or another process ends."""
    try:
        with peers_named(loop, run.peer_timeout, "; go on from the last checkpoint with --resume"):
            yield
    except (SystemExit, ConnectionError) as error:  # lightning makes the first of Ctrl-C
        kept = "go on with --resume" if run.checkpoint.exists() else "there is no checkpoint yet"
        if isinstance(error, ConnectionError):
            raise ConnectionError(f"{error}; {kept}") from error
        raise KeyboardInterrupt(f"interrupted at step {loop.global_step}; {kept}") from None


def _new_callbacks(
    model: MaskedDiffusion,
    data: DataSet,
    objective: Objective,
    run: Run,
    settings: TrainerSettings,
    stop: Stop,
    mirroring: Mirroring | None,
) -> list[Callback]:
    metrics, evaluated = Metrics(run.out), len(data.split("valid")) > 0
    averages = MovingAverage(run.ema)
    callbacks = [averages, stop, Watch(step_flops(model.network, objective.calls), run.compile), metrics]
    if run.keep_best or run.patience is not None:
        if not evaluated:
            raise ValueError("keep_best and patience need a validation part, and the data have none")
        callbacks.append(Best(averages, run.best if run.keep_best else None, run.patience))
    evaluate_every = run.evaluate_every if evaluated else None
    mirrored = run.mirror is not None
    callbacks.append(Keep(run.checkpoint, run.checkpoint_every, evaluate_every, metrics, mirroring, mirrored))
    if settings.enable_progress_bar:  # checkpoints come last of the others, so that these' state is in them
        every = settings.rows_every if trained_on(settings).type == "cuda" else 1
        callbacks.append(Bar(settings.max_steps, every))
    return callbacks


def _new_trainer(model: MaskedDiffusion, run: Run, settings: TrainerSettings, callbacks: list[Callback]) -> Trainer:
    passed: dict[str, Any] = {name: value for name, value in vars(settings).items() if name != "logger"}
    if settings.strategy in NAMES:
        passed["strategy"] = Sharded(hybrid=settings.strategy == "fsdp2_hybrid")
    if isinstance(settings.accelerator, str):  # lightning would take Apple's GPUs, which have no float64
        passed["accelerator"] = trained_on(settings).type
    if settings.profiler in REPORTS:
        passed["profiler"] = REPORTS[settings.profiler](dirpath=run.out, filename="profile")
    loggers = new_loggers(settings.logger, run.out)
    try:
        return Trainer(
            **passed | {"log_every_n_steps": settings.rows_every, "precision": run.precision},
            callbacks=callbacks,
            logger=loggers,
            plugins=[SafetensorsIO(model)],
            default_root_dir=run.out,
            max_epochs=-1,
            val_check_interval=run.evaluate_every * settings.accumulate_grad_batches,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            inference_mode=False,
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error


def _new_loaders(data: DataSet, run: Run, division: Division, loop: Trainer) -> tuple[DataLoader, DataLoader]:
    """Return what is trained on, and what is evaluated."""
    on_gpu = loop.strategy.root_device.type == "cuda"
    loading: dict[str, Any] = {"batch_size": None, "collate_fn": _as_it_is, "pin_memory": on_gpu}
    train, valid = data.split("train"), data.split("valid")
    order = Order(train, division, run.seed, lambda: loop.global_step)
    shares: Any = held_out(valid, division, run.evaluate_examples)
    return Loader(train, sampler=order, num_workers=run.workers, **loading), DataLoader(shares, **loading)


def _new_agreement(model: MaskedDiffusion, data: DataSet, run: Run, shared: dict[str, str]) -> Agree:
    """Return what compares the processes at the start: their settings, data, checkpoint or first weights."""
    step = str(checkpoint_step(run.checkpoint)) if run.checkpoint.is_file() else "none"
    facts = {"training data": data.split("train").checksum, "checkpoint": step}
    facts["copies elsewhere"] = str(run.mirror is not None)
    facts |= shared
    if step == "none":
        facts["initial weights"] = weights_sum(model)
    return Agree(facts)


def take_weights(model: MaskedDiffusion, path: Path) -> int:
    """Give a model the averaged weights of a checkpoint, and return the step that they are of."""
    weights, step = averaged_weights(path)
    model.load_own_tensors(weights)
    return step


def check_names(settings: TrainerSettings) -> None:
    """Raise a ValueError for a strategy or a profiler that is none of lightning's, or a GPU that is not here.

    Names alone are looked at: an object is one that the caller made.
    """
    known = ["auto", *NAMES, *(name for name in StrategyRegistry.available_strategies() if not name.startswith(OTHERS))]
    for name, names in (("strategy", known), ("profiler", PROFILERS)):
        value = getattr(settings, name)
        if isinstance(value, str) and value not in names:
            raise ValueError(f"trainer.{name} must be one of {', '.join(names)}; got {value!r}")
    if settings.accelerator in ("gpu", "cuda") and trained_on(settings).type != "cuda":
        raise ValueError(f"trainer.accelerator {settings.accelerator!r}: no GPU that torch can use is here")


def _as_it_is(batch: Any) -> Any:
    return batch


def _quieten() -> None:
    """Keep lightning's remarks about choices that are made here on purpose off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*isinstance.*LeafSpec.*", ".*litlogger.*"):
        warnings.filterwarnings("ignore", message)

"""unmask train CONFIG: train a model, or go on with a run that was cut off."""

import shutil
import sys
from argparse import ArgumentError
from dataclasses import fields, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer

from unmask.cli.common import first, nearest, new_parser, parse
from unmask.data.base import DataSet
from unmask.description import describe
from unmask.files import replacing
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.objectives import Objective, TokenELBO
from unmask.pictures import loss_curve
from unmask.precision import fastest_precision
from unmask.schedules import Linear, TokenPolynomial
from unmask.training import Optimizer, Run, plan_training

SET_HERE = {"logger", "callbacks", "plugins", "default_root_dir", "precision", "val_check_interval", "max_epochs"}
SET_HERE |= {"min_epochs", "check_val_every_n_epoch", "num_sanity_val_steps", "use_distributed_sampler", "barebones"}
SET_HERE |= {"enable_model_summary", "inference_mode", "enable_checkpointing", "reload_dataloaders_every_n_epochs"}
SET_HERE |= {"limit_test_batches", "limit_predict_batches", "limit_val_batches", "overfit_batches", "fast_dev_run"}
SET_HERE |= {"limit_train_batches", "enable_autolog_hparams", "model_registry", "sync_batchnorm"}
MAY_CHANGE = {"out", "workers", "evaluate_every", "evaluate_examples", "checkpoint_every", "trainer.max_steps"}
MAY_CHANGE |= {"trainer.max_time", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.profiler"}
RUN_FILES = ("config.yaml", "checkpoints", "logs", "tensorboard", "model", "loss.png")


def shipped() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    folder = files("unmask") / "configs"
    return {Path(str(entry)).stem: Path(str(entry)) for entry in sorted(folder.iterdir(), key=str)}


def find_config(name: str) -> Path:
    """Return the file of a shipped configuration or a path to one's own.

    Raises:
        ArgumentError: neither; suggests the nearest shipped name.
    """
    if name in shipped():
        return shipped()[name]
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(shipped())
    raise ArgumentError(
        None, f"no configuration {name!r}{nearest(name, shipped())}; shipped are {known}; or give a file"
    )


def train_parser(config: Path | None) -> ArgumentParser:
    """Return the parser of all fields of an experiment, its defaults read from a configuration."""
    parser = new_parser(
        "train",
        description="Train a model. CONFIG is a shipped name or a YAML file; every field below overrides it.",
        epilog="Example: unmask train digits --objective ContinuousELBO --objective.schedule Cosine "
        "--network.width 192 --trainer.max_steps 2000 --out runs/cosine",
        default_config_files=[str(config)] if config else [],
    )
    parser.add_argument("config", metavar="CONFIG", help=f"one of {', '.join(shipped())}; or a YAML file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this run, exactly")
    parser.add_argument("--overwrite", action="store_true", help="delete a run that is in the way")
    parser.add_class_arguments(Run, default={"out": f"runs/{config.stem}"} if config else None)
    parser.add_subclass_arguments(DataSet, "data", required=True, help="what is learned: class and settings")
    parser.add_subclass_arguments(Network, "network", required=True, help="what learns it: class and settings")
    parser.add_subclass_arguments(
        Objective, "objective", default={"class_path": "TimeFreeELBO"}, help="what is minimised"
    )
    parser.add_class_arguments(Optimizer, "optimizer")
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, skip=SET_HERE)
    for field, source in {"vocab_size": lambda d: d.codec.vocab_size, "shape": lambda d: d.shape}.items():
        parser.link_arguments("data", f"network.init_args.{field}", compute_fn=source, apply_on="instantiate")
    target = "objective.init_args.schedule.init_args.vocab_size"
    parser.link_arguments("data", target, compute_fn=lambda d: d.codec.vocab_size, apply_on="instantiate")
    parser.link_arguments("data", "network.init_args.classes", compute_fn=lambda d: d.classes, apply_on="instantiate")
    return parser


def run(arguments: list[str]) -> None:
    """Run `unmask train`."""
    name = first(arguments, "CONFIG")
    config = find_config(name) if name else None
    parser = train_parser(config)
    settings = parse(parser, arguments, config)
    check_folder(parser, settings)
    torch.manual_seed(settings.seed)
    made = parser.instantiate(settings)
    made.objective = with_schedule(made.objective, made.network)
    task = Run(**{field.name: settings[field.name] for field in fields(Run)})
    if task.precision == "auto":
        settings.precision = _measure_precision(made, settings)
        task = replace(task, precision=settings.precision)
    model = MaskedDiffusion(made.network, made.data.codec, getattr(made.objective, "schedule", Linear()))
    print(f"{made.data.name}: {sum(p.numel() for p in model.parameters()):,} parameters, {task.precision}, {task.out}/")
    go = plan_training(model, made.data, made.objective, made.optimizer, task, settings.trainer.as_dict())
    if not settings.resume:
        start_folder(Path(task.out), _dump(parser, settings))
    go()
    model.about = {
        "data": describe(made.data.settled()),
        "objective": describe(made.objective),
        "steps": settings.trainer.max_steps,
        "run": {field.name: settings[field.name] for field in fields(Run)},
        "unmask": version("unmask"),
    }
    model.save_pretrained(Path(task.out, "model"))
    loss_curve(task.out).savefig(Path(task.out, "loss.png"))
    print(f"{task.out}/model holds the model, {task.out}/loss.png its loss curve. Next:")
    print(f"  unmask evaluate {task.out}\n  unmask sample {task.out}")


def with_schedule(objective: Objective, network: Network) -> Objective:
    """Give a state-dependent objective the schedule to learn, if none was described, and check that it can learn it."""
    if not isinstance(objective, TokenELBO):
        return objective
    objective = objective if objective.schedule else replace(objective, schedule=TokenPolynomial(network.vocab_size))
    if objective.masks < 2 and objective.schedule.learned:  # type: ignore[union-attr]
        raise ValueError(f"to learn a schedule, objective.masks must be at least 2, got {objective.masks}")
    if not getattr(network, "time_conditioning", True):
        print(
            "unmask: note: under a state-dependent schedule the best prediction depends on the time; "
            "the network cannot see it without --network.time_conditioning true",
            file=sys.stderr,
        )
    return objective


def _measure_precision(made: Namespace, settings: Namespace) -> str:
    accelerator = settings.trainer.accelerator
    device = "cuda" if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    train = made.data.split("train")
    x, label = train[np.arange(min(settings.batch_size, len(train)))]
    return fastest_precision(made.network, made.objective, x.to(device), None if label is None else label.to(device))


def check_folder(parser: ArgumentParser, settings: Namespace) -> None:
    """Raise a ValueError where a run is in the way, or there is none to go on with, or one with other settings."""
    out = Path(settings.out)
    there = [name for name in RUN_FILES if (out / name).exists()]
    if settings.resume and settings.overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if there and not (settings.resume or settings.overwrite):
        raise ValueError(f"{out} holds a run ({', '.join(there)}): give --resume, --overwrite, or another --out")
    if settings.resume:
        _check_same(parser, settings, out / "config.yaml")


def start_folder(out: Path, settings: str) -> None:
    """Clear the folder of an old run, of what a run writes and nothing else, and write the settings of a new one."""
    for name in RUN_FILES:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    with replacing(out / "config.yaml") as path:
        path.write_text(settings)


def _check_same(parser: ArgumentParser, settings: Namespace, path: Path) -> None:
    """Raise a ValueError where settings that decide the outcome differ from those that a run was started with."""
    if not path.is_file():
        raise ValueError(f"nothing to resume: {path} does not exist")
    old = yaml.safe_load(path.read_text())
    if settings.precision == "auto":
        settings.precision = old.get("precision", "auto")
    new = yaml.safe_load(_dump(parser, settings))
    before, now = _leaves(old), _leaves(new)
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    changed = [key for key in changed if key not in MAY_CHANGE]
    if changed:
        key = changed[0]
        raise ValueError(
            f"cannot resume with other settings than {path}: {key} was {before.get(key)!r}, is {now.get(key)!r}"
            + (f" (and {len(changed) - 1} more: {', '.join(changed[1:])})" if len(changed) > 1 else "")
        )


def _dump(parser: ArgumentParser, settings: Namespace) -> str:
    plain = settings.clone()
    for name in ("config", "resume", "overwrite"):
        plain.pop(name, None)
    return parser.dump(plain, skip_unset=False, skip_validation=True)


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves

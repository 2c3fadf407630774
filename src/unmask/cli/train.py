"""unmask train CONFIG: train a model, or go on with a run that was cut off."""

import json
import os
import shutil
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
from lightning.pytorch.utilities import rank_zero_only

from unmask.cli.common import first, instantiate, nearest, new_parser, parse
from unmask.data.base import DataSet
from unmask.display.figures import loss_curve
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.objectives.token import TokenELBO
from unmask.schedules import Linear, TokenPolynomial
from unmask.storage.description import describe
from unmask.storage.files import replacing
from unmask.training import Optimizer, Run, plan_training
from unmask.training.precision import fastest_precision

SET_HERE = {"logger", "callbacks", "plugins", "default_root_dir", "precision", "val_check_interval", "max_epochs"}
SET_HERE |= {
    "min_steps",
    "min_epochs",
    "check_val_every_n_epoch",
    "num_sanity_val_steps",
    "use_distributed_sampler",
    "barebones",
}
SET_HERE |= {"enable_model_summary", "inference_mode", "enable_checkpointing", "reload_dataloaders_every_n_epochs"}
SET_HERE |= {"limit_test_batches", "limit_predict_batches", "limit_val_batches", "overfit_batches", "fast_dev_run"}
SET_HERE |= {"limit_train_batches", "enable_autolog_hparams", "model_registry", "sync_batchnorm"}
MAY_CHANGE = {"out", "workers", "evaluate_every", "evaluate_examples", "checkpoint_every", "trainer.max_steps"}
MAY_CHANGE |= {"trainer.max_time", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.profiler"}
LINKED = ("network.vocab_size", "network.shape", "network.classes", "objective.schedule.vocab_size")
RUN_FILES = ("config.yaml", "data.json", "checkpoints", "logs", "tensorboard", "model", "loss.png")
OLD = ".old"


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


def train_parser(config: Path | None, source: Path | None = None) -> ArgumentParser:
    """Return the parser of all fields of an experiment, its defaults read from a configuration, or from a run's own."""
    parser = new_parser(
        "train",
        description="Train a model. CONFIG is a shipped name or a YAML file; every field below overrides it.",
        epilog="Example: unmask train digits --objective ContinuousELBO --objective.schedule Cosine "
        "--network.width 192 --trainer.max_steps 2000 --out runs/cosine",
        default_config_files=[str(source or config)] if config else [],
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
    for field, find in {"vocab_size": lambda d: d.codec.vocab_size, "shape": lambda d: d.shape}.items():
        parser.link_arguments("data", f"network.init_args.{field}", compute_fn=find, apply_on="instantiate")
    target = "objective.init_args.schedule.init_args.vocab_size"
    parser.link_arguments("data", target, compute_fn=lambda d: d.codec.vocab_size, apply_on="instantiate")
    parser.link_arguments("data", "network.init_args.classes", compute_fn=lambda d: d.classes, apply_on="instantiate")
    return parser


def run(arguments: list[str]) -> None:
    """Run `unmask train`."""
    name = first(arguments, "CONFIG")
    config = find_config(name) if name else None
    source = _resumed(arguments, config) or config
    for field in LINKED:
        if any(argument.partition("=")[0] == f"--{field}" for argument in arguments):
            raise ArgumentError(None, f"--{field} cannot be chosen: the data decide it")
    parser = train_parser(config, source)
    settings = parse(parser, arguments, source)
    leads = getattr(rank_zero_only, "rank", 0) == 0  # of several processes one looks after the folder
    if leads:
        check_folder(parser, settings)
    torch.manual_seed(settings.seed)
    made = instantiate(parser, settings)
    made.objective = with_schedule(made.objective, made.network)
    task = Run(**{field.name: settings[field.name] for field in fields(Run)})
    origin = {"name": made.data.name, "sha256": made.data.split("train").checksum}
    if settings.resume and leads:
        _check_data(Path(task.out, "data.json"), origin)
    if task.precision == "auto":
        settings.precision = _measure_precision(made, settings)
        task = replace(task, precision=settings.precision)
    model = MaskedDiffusion(made.network, made.data.codec, getattr(made.objective, "schedule", Linear()))
    go = plan_training(model, made.data, made.objective, made.optimizer, task, settings.trainer.as_dict())
    if leads:
        count = sum(p.numel() for p in model.parameters())
        print(f"{made.data.name}: {count:,} parameters, {task.precision}, {task.out}/", flush=True)
    with new_run(task, _dump(parser, settings), origin) if leads and not settings.resume else nullcontext():
        steps = go()
    if not leads:
        return
    model.about = {
        "data": describe(made.data.resolved()),
        "class_names": made.data.class_names and list(made.data.class_names),
        "train_sha256": origin["sha256"],
        "objective": describe(made.objective),
        "steps": steps,
        "run": {field.name: settings[field.name] for field in fields(Run)},
        "unmask": version("unmask"),
    }
    model.save_pretrained(Path(task.out, "model"))
    loss_curve(task.out).savefig(Path(task.out, "loss.png"))
    print(f"{task.out}/model holds the model, {task.out}/loss.png its loss curve. Next:")
    print(f"  unmask evaluate {task.out}\n  unmask sample {task.out}")


def _resumed(arguments: list[str], config: Path | None) -> Path | None:
    """Return the settings of the run that --resume is to go on with: they are the defaults then."""
    if "--resume" not in arguments or config is None:
        return None
    out = f"runs/{config.stem}"
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        out = value if option == "--out" else option.removeprefix("--out=") if option.startswith("--out=") else out
    source = Path(out, "config.yaml")
    if not source.is_file():
        return None
    _read(source, yaml.safe_load)
    return source


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
    """Return the faster precision; where several processes must agree, bfloat16 if the GPUs have it."""
    accelerator = settings.trainer.accelerator
    device = "cuda" if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    devices = settings.trainer.devices
    alone = str(devices) in ("1", "[0]", "0,") or (
        devices == "auto" and (device == "cpu" or torch.cuda.device_count() == 1)
    )
    if not alone or settings.trainer.num_nodes > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
    train = made.data.split("train")
    x, label = train[np.arange(min(settings.batch_size, len(train)))]
    return fastest_precision(made.network, made.objective, x.to(device), None if label is None else label.to(device))


def check_folder(parser: ArgumentParser, settings: Namespace) -> None:
    """Raise a ValueError where a run is in the way, or there is none to go on with, or one with other settings."""
    out = Path(settings.out)
    _put_back(out)
    there = [name for name in RUN_FILES if (out / name).exists()]
    if settings.resume and settings.overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if there and not (settings.resume or settings.overwrite):
        raise ValueError(f"{out} holds a run ({', '.join(there)}): give --resume, --overwrite, or another --out")
    if settings.overwrite and there and "config.yaml" not in there:
        raise ValueError(f"{out} holds {', '.join(there)} but no config.yaml: not a run, so nothing is overwritten")
    if settings.resume:
        _check_same(parser, settings, out / "config.yaml")
        checkpoint = out / "checkpoints" / "last.safetensors"
        if not checkpoint.is_file():
            raise ValueError(f"nothing to resume: {checkpoint} does not exist; start again with --overwrite")


@contextmanager
def new_run(task: Run, settings: str, origin: dict[str, Any]) -> Iterator[None]:
    """Write the settings of a new run; an old one is set aside, and comes back unless this one gets to a checkpoint."""
    out = Path(task.out)
    (out / OLD).mkdir(parents=True, exist_ok=True)
    for name in RUN_FILES:
        if (out / name).exists():
            os.replace(out / name, out / OLD / name)
    try:
        with replacing(out / "config.yaml") as path:
            path.write_text(settings)
        with replacing(out / "data.json") as path:
            path.write_text(json.dumps(origin) + "\n")
        yield
    finally:
        _put_back(out)


def _put_back(out: Path) -> None:
    """Drop what was set aside if the new run has a checkpoint; else put it back in place of the new run's files."""
    old = out / OLD
    if not old.is_dir():
        return
    if not (out / "checkpoints" / "last.safetensors").is_file():
        for name in RUN_FILES:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
        for entry in old.iterdir():
            os.replace(entry, out / entry.name)
    shutil.rmtree(old)
    if not any(out.iterdir()):
        out.rmdir()


def _check_data(path: Path, now: dict[str, Any]) -> None:
    """Raise a ValueError where the training data are not those that a run was started with."""
    before = _read(path, json.loads)
    if before != now:
        raise ValueError(f"cannot resume on other data: {now['name']} is not what it was when the run began ({path})")


def _read(path: Path, load: Callable[[str], Any]) -> dict[str, Any]:
    """Read a JSON or YAML file that must hold an object."""
    try:
        content = load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is empty or damaged")
    return content


def _check_same(parser: ArgumentParser, settings: Namespace, path: Path) -> None:
    """Raise a ValueError where settings that decide the outcome differ from those that a run was started with."""
    if not path.is_file():
        raise ValueError(f"nothing to resume: {path} does not exist")
    old = _read(path, yaml.safe_load)
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

"""run.json: what a run was told and what it runs on, written before the first step.

    network, codec, schedule    descriptions (`unmask.storage.description`)
    codec_files                 names of the files beside run.json that the codec needs
    data                        description of the data set, with what was found from the data
    class_names                 what each class is called, or null
    lengths                     how long the training examples are, or null (`unmask.lengths`)
    data_sha256                 of the training part's tokens and labels
    objective, optimizer        descriptions
    run, trainer                settings; run.precision is the one that was chosen
    processes                   that the run was begun on, or went on with last
    begun                       {"processes", "batch_size", "passes"} of the beginning, if these have changed
    precision                   {"choice", "reason"}
    versions                    {"unmask", "torch"}
    start                       {"name", "sha256"} of the model whose weights training began with, if there is one
    adapter                     settings of the adapter that is trained (`unmask.networks.adapters`), if there is one
    stopped                     {"step", "why"}, after a loss that was not finite
    id                          of the run: what tells it from another one whose copy lies elsewhere
    mirror                      URL of its copy, if it has one
    changes                     [{"step", name: [before, after]}], made by a `--resume` after that

With `unmask.storage.checkpoint.averaged_weights` that is enough to build the model of a run that has not ended.
"""

import json
import os
import re
import secrets
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from unmask.data.base import DataSet
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.storage.description import describe
from unmask.storage.files import replacing
from unmask.storage.folders import CHECKPOINT, RUN
from unmask.storage.limits import check_size
from unmask.storage.objects import MOST_JSON
from unmask.storage.run_folder import CODEC
from unmask.training.placing import processes_of
from unmask.training.precision import Choice
from unmask.training.settings import Optimizer, Run, TrainerSettings

MAY_CHANGE = {"run.out", "run.workers", "run.evaluate_every", "run.evaluate_examples", "run.checkpoint_every"}
MAY_CHANGE |= {"trainer.max_steps", "trainer.max_time", "trainer.enable_progress_bar", "trainer.log_every_n_steps"}
MAY_CHANGE |= {"trainer.profiler", "trainer.logger", "run.peer_timeout", "run.keep_best", "run.patience"}
MAY_CHANGE |= {"trainer.strategy", "trainer.devices", "trainer.num_nodes"}
A_STEP = {"run.batch_size", "trainer.accumulate_grad_batches"}
"""What may change with the number of processes, as long as a step has as many examples."""
RATES = ("lr", "matrix_lr", "embedding_lr", "schedule_lr")
MAY_CHANGE_AFTER_NAN = {"trainer.gradient_clip_val", *(f"optimizer.{name}" for name in RATES)}
MAY_DIFFER = {"run.out", "run.workers", "run.peer_timeout", "run.mirror", "trainer.devices", "trainer.logger"}
MAY_DIFFER |= {"trainer.enable_progress_bar", "trainer.profiler"}
"""Settings that processes which train one model need not have in common."""
COMPARED = ("network", "schedule", "data", "objective", "optimizer", "run", "trainer")


def find_checkpoint(folder: Path | str) -> Path | None:
    """Return the file of a run's folder that holds the whole state of training; None if there is none yet."""
    path = Path(folder) / CHECKPOINT
    return path if path.is_file() else None


def plain_settings(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass of settings as JSON has them; an object of lightning's by its class."""
    return {field.name: _plain(getattr(settings, field.name)) for field in fields(settings)}


def new_record(
    model: MaskedDiffusion,
    data: DataSet,
    objective: Objective,
    optimizer: Optimizer,
    run: Run,
    trainer: TrainerSettings,
    choice: Choice,
) -> dict[str, Any]:
    """Return what run.json is to hold; its codec is that of the model, without files."""
    return {
        "network": describe(model.network),
        "codec": describe(model.codec),
        "schedule": describe(model.schedule),
        "data": describe(data.resolved()),
        "class_names": data.class_names and list(data.class_names),
        "lengths": data.lengths and data.lengths.describe(),
        "data_sha256": data.split("train").checksum,
        **{name: model.about[name] for name in ("start", "adapter") if name in model.about},
        "objective": describe(objective),
        "optimizer": describe(optimizer),
        "run": plain_settings(replace(run, mirror=None)),
        "trainer": plain_settings(trainer),
        "id": secrets.token_hex(8),
        **({"mirror": re.sub("//[^/]*@", "//", run.mirror)} if run.mirror else {}),  # without a password
        "processes": processes_of(trainer),
        "precision": {"choice": choice.precision, "reason": choice.reason},
        "versions": {"unmask": version("unmask"), "torch": torch.__version__},
    }


def write_record(out: Path, record: dict[str, Any], model: MaskedDiffusion | None = None) -> None:
    """Write run.json, and with a model what its codec needs: first its names, so that nothing is left over."""
    if model is not None:
        (out / CODEC).mkdir()
        record["codec"] = describe(model.codec.saved(out / CODEC))
        record["codec_files"] = sorted(path.name for path in (out / CODEC).iterdir())
    with replacing(out / RUN) as path:
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if model is not None:
        for name in record["codec_files"]:
            os.replace(out / CODEC / name, out / name)
        (out / CODEC).rmdir()


def read_record(out: Path) -> dict[str, Any]:
    """Read run.json.

    Raises:
        ValueError: it is not there, far too large, or damaged.
    """
    path = out / RUN
    if not path.is_file():
        raise ValueError(f"nothing to resume: {path} does not exist")
    check_size(path.stat().st_size, path, MOST_JSON)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(record, dict) or not all(isinstance(record.get(name), dict) for name in COMPARED):
        raise ValueError(f"{path}: is empty or damaged")
    return record


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run."""
    try:
        return bool(read_record(folder))
    except (ValueError, OSError):
        return False


def shared_settings(
    network: Network, objective: Objective, optimizer: Optimizer, run: Run, trainer: TrainerSettings
) -> dict[str, str]:
    """Return the settings that processes which train one model must have in common, by name."""
    parts = {"network": describe(network), "objective": describe(objective)}
    parts |= {"optimizer": plain_settings(optimizer), "run": plain_settings(run), "trainer": plain_settings(trainer)}
    return {name.removeprefix("run."): str(value) for name, value in _leaves(parts).items() if name not in MAY_DIFFER}


def check_same(before: dict[str, Any], now: dict[str, Any], where: Path, step: int) -> dict[str, list[Any]]:
    """Compare the settings that decide the outcome with those that a run was started with.

    Args:
        before: run.json as it is.
        now: what it would be.
        where: it lies, for the errors.
        step: of the checkpoint. If a loss that was not finite stopped the run after it, what may help may change.

    Returns:
        {name: [before, now]} of what was changed because the loss was not finite.

    Raises:
        ValueError: others differ, or the data do; says which.
    """
    old, new = (_leaves({name: record[name] for name in COMPARED}) for record in (before, now))
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    changed = [key for key in changed if key not in MAY_CHANGE]
    if "processes" in before and examples_per_step(before) == examples_per_step(now):
        changed = [key for key in changed if key not in A_STEP]
    if _same_tokens(before.get("codec"), now.get("codec")) and "data.tokenizer" in changed:
        changed.remove("data.tokenizer")  # another name for it
    stopped = before.get("stopped") or {}
    allowed = MAY_CHANGE_AFTER_NAN if step <= stopped.get("step", -1) else set()
    if None in (old.get("optimizer.embedding_lr"), new.get("optimizer.embedding_lr")):
        allowed = allowed - {"optimizer.embedding_lr"}  # other groups of parameters, whose state is not there
    refused = [key.removeprefix("run.") for key in changed if key not in allowed]
    if refused:
        key = next(key for key in changed if key not in allowed)
        more = f" (and {len(refused) - 1} more: {', '.join(refused[1:])})" if len(refused) > 1 else ""
        said = f"{refused[0]} was {old.get(key)!r}, is {new.get(key)!r}{more}"
        raise ValueError(f"cannot resume with other settings than {where}: {said}")
    for part in ("start", "adapter"):
        if before.get(part) != now.get(part):
            what = "; ".join(
                f"{name} was {(before.get(part) or {}).get(name)}, is {(now.get(part) or {}).get(name)}"
                for name in sorted((before.get(part) or {}).keys() | (now.get(part) or {}).keys())
                if (before.get(part) or {}).get(name) != (now.get(part) or {}).get(name)
            )
            raise ValueError(f"cannot resume from another {part} than {where} names: {what}")
    if before.get("data_sha256") != now["data_sha256"]:
        name = now["data"]["class"]
        raise ValueError(f"cannot resume on other data: {name} is not what it was when the run began ({where})")
    return {key: [old.get(key), new.get(key)] for key in changed}


def examples_per_step(record: dict[str, Any]) -> int:
    """Return how many examples a step of a run has, over all its processes."""
    return record["processes"] * record["run"]["batch_size"] * record["trainer"]["accumulate_grad_batches"]


def _same_tokens(before: Any, now: Any) -> bool:
    """Return whether two descriptions are of one codec, wherever its files lie; the checksum of the data decides."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return before == now
    left_out = {"source", "sha256"} if before.get("class") == now.get("class") == "Tokenizer" else set()
    names = (before.keys() | now.keys()) - left_out
    return all(_same_tokens(before.get(name), now.get(name)) for name in names)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves

"""What all measures share: which weights were measured, with what, and in which state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from importlib.metadata import version
from typing import Any, Literal

import torch

from unmask.checkpoints import WEIGHT_FILES
from unmask.model import MaskedDiffusion
from unmask.processes import check_same, several
from unmask.samplers.base import Sampler
from unmask.storage.files import checksum

Precision = Literal["32-true", "bf16-mixed"]


def weights(model: MaskedDiffusion) -> dict[str, str | None]:
    """Return which weights a figure is of."""
    names = [] if model.folder is None else [model.folder / name for name in WEIGHT_FILES]
    path = next((path for path in names if path.is_file()), None)
    ema = model.about.get("run", {}).get("ema")
    averaged = f"moving average, decay {ema}" if ema else "as published" if "layout" in model.about else "not averaged"
    if model.about.get("unfinished"):
        averaged += f", of step {model.about.get('steps')} of a run that did not finish"
    return {
        "weights": averaged,
        "weights_sha256": checksum(path) if path else f"of the tensors: {model.weights_sha256}",
    }


def versions(model: MaskedDiffusion) -> dict[str, str]:
    """Return what a figure was computed on and with."""
    return {"device": str(model.device), "torch": torch.__version__, "unmask": version("unmask")}


def sampled_in(model: MaskedDiffusion) -> str:
    """Return the number format that a model is sampled in, and whether it is compiled."""
    return str(*model.accelerated) or str(next(model.network.parameters()).dtype).removeprefix("torch.")


def check_processes(model: MaskedDiffusion, **found: Callable[[], Any]) -> None:
    """Raise a ValueError on all processes that share a call, unless they have the same model and other things."""
    if several():
        check_same(**weights(model), **{name: find() for name, find in found.items()})


@contextmanager
def evaluation_mode(model: MaskedDiffusion) -> Iterator[None]:
    """Put a model into evaluation mode for as long as the block lasts."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def short_name(sampler: Sampler) -> str:
    """Name a sampler and those of its settings that are not as by default; `precision` always, a schedule never."""
    parts = [
        f"{field.name}={getattr(sampler, field.name)}"
        for field in fields(sampler)
        if field.name == "precision" or (field.name != "schedule" and getattr(sampler, field.name) != _default(field))
    ]
    return f"{type(sampler).__name__}({', '.join(parts)})"


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()

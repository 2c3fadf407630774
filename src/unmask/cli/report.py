"""What the measures of `unmask evaluate` share: writing a report, and saying what it was made with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import Namespace

from unmask.checkpoints.ddit import WEIGHT_FILES
from unmask.cli.common import find_model
from unmask.model import MaskedDiffusion
from unmask.storage.files import check_writable, checksum, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(report: dict[str, Any], settings: Namespace, model: MaskedDiffusion) -> None:
    """Write a report where it is wanted."""
    report = finite(report)
    if settings.record:
        model.record(find_model(settings.model), report)
    if settings.json:
        with replacing(settings.json) as target:
            target.write_text(json.dumps(report, indent=2) + "\n")


def finite(value: Any) -> Any:
    """Return plain values with None in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def check_picture(settings: Namespace, option: str) -> None:
    """Raise an error for a file that no picture can be written to."""
    if settings[option]:
        if Path(settings[option]).suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--{option} {settings[option]}: the file must end in .png, .pdf or .svg")
        check_writable(Path(settings[option]), f"--{option}")


def draw(make: Callable[[], Figure], path: str) -> None:
    """Write a figure."""
    with replacing(path) as target:
        make().savefig(target, dpi=150)
    print(path)


def weights(settings: Namespace, model: MaskedDiffusion) -> dict[str, str | None]:
    """Return which weights a figure is of."""
    folder = Path(find_model(settings.model))
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    ema = model.about.get("run", {}).get("ema")
    averaged = f"moving average, decay {ema}" if ema else "as published" if "layout" in model.about else "not averaged"
    return {
        "weights": averaged,
        "weights_sha256": checksum(path) if path else None,
    }


def versions(model: MaskedDiffusion) -> dict[str, str]:
    """Return what a figure was computed on and with."""
    return {"device": str(model.device), "torch": torch.__version__, "unmask": version("unmask")}

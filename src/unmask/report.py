"""A report: what was measured, with standard errors, and everything needed to measure it again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from unmask.storage.card import model_card
from unmask.storage.files import replacing
from unmask.storage.folders import CARD, CONFIG, WEIGHTS
from unmask.storage.recording import recordable

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


class Figure(NamedTuple):
    """A measured value and its standard error.

    Attributes:
        value: what was measured.
        error: its standard error; None where it is not known.

    Examples:
        >>> print(unmask.Figure(3.51234, 0.0123), unmask.Figure(3.5))
        3.5123 ± 0.0123 3.5000 ± unknown
    """

    value: float
    error: float | None = None

    @classmethod
    def of(cls, pair: tuple[float, float | None]) -> Figure:
        """Make a figure of a value and an error, in which NaN stands for unknown."""
        value, error = pair
        return cls(value, None if error is None or math.isnan(error) else error)

    def __str__(self) -> str:
        """Lay the figure out: `3.5123 ± 0.0123`."""
        error = "unknown" if self.error is None else _number(self.error, self.value)
        return f"{_number(self.value)} ± {error}"


@dataclass(frozen=True)
class Report:
    """What was measured, and its protocol. `print` shows it as a table.

    Args:
        rows: of the table; each maps names to a `Figure` or to a plain value.
        protocol: everything that another person needs to get the same figures, as plain values.

    Examples:
        >>> report = unmask.Report(({"nats_per_example": unmask.Figure(12.5, 0.25)},), {"seed": 0})
        >>> print(report.table())
        nats per example         12.5000 ± 0.2500
    """

    rows: tuple[dict[str, Any], ...]
    protocol: dict[str, Any]

    def __str__(self) -> str:
        """Lay out the table, and the protocol below it."""
        return "\n".join((self.table(), *(["", *_lines(self.protocol)] if self.protocol else [])))

    def table(self) -> str:
        """Lay out the rows: one as a column of names and values, several as a table with the figures last."""
        rows = self.shown()
        return "\n".join(_lines(rows[0])) if len(rows) == 1 else _grid(rows)

    def shown(self) -> Sequence[dict[str, Any]]:
        """Return the rows as the table shows them."""
        return self.rows

    def to_json(self) -> str:
        """Return `{"rows": [...], "protocol": {...}}` as JSON; a figure is [value, error], an unknown error null."""
        content = finite({"rows": self.rows, "protocol": self.protocol})
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def figure(self) -> Picture:
        """Draw the report.

        Raises:
            ValueError: this kind of report has no figure.
        """
        raise ValueError(f"a {type(self).__name__} has no figure; print(report) shows it as a table")

    def write_examples(self, path: Path | str) -> None:
        """Write what was measured of each example as a line of JSON.

        Raises:
            ValueError: this kind of report does not hold that.
        """
        raise ValueError(f"a {type(self).__name__} does not hold what was measured of each example")

    def record(self, folder: Path | str) -> None:
        """Add the report to the config.json and the model card of a model's folder, or of a run's.

        Raises:
            ValueError: no folder of a model, a public checkpoint, or a damaged file; names it.
        """
        folder, config = recordable(folder)
        about = config.setdefault("about", {})
        about.setdefault("measured", []).append(json.loads(self.to_json()))
        count = count_parameters(folder / WEIGHTS)
        parts = {name: dict(config[name]) for name in ("network", "codec", "schedule")}
        parts["codec"].pop("source", None)  # where a tokenizer lies on this machine
        card = model_card(folder.resolve().name, parts, count, about)
        with replacing(folder / CONFIG) as target:
            target.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        with replacing(folder / CARD) as target:
            card.save(target)


def count_parameters(path: Path) -> int:
    """Return the number of parameters in a safetensors file, from its header alone.

    Raises:
        ValueError: no such file, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: missing, damaged or truncated safetensors file: {error}") from None


def finite(value: Any) -> Any:
    """Return plain values, with None for those that JSON does not have: NaN and infinities."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def brief(row: dict[str, Any]) -> str:
    """Lay a row out in one line: what it is of, then numbers and figures by name."""
    subject = next((value for value in row.values() if isinstance(value, str)), "")
    numbers = [f"{_title(name)} {_plain(v)}" for name, v in row.items() if isinstance(v, Figure | int | float)]
    return f"{subject}: {', '.join(numbers)}"


def _lines(values: dict[str, Any]) -> list[str]:
    """Lay values out one a line, with their names before them; a dict of dicts as lines of their own."""
    width = max([24, *(len(name) for name in values)])
    lines = []
    for name, value in values.items():
        if isinstance(value, dict) and value and all(isinstance(part, dict) for part in value.values()):
            lines += [_title(name), *(f"  {key}: {_plain(part)}" for key, part in value.items())]
        else:
            lines.append(f"{_title(name):{width}} {_plain(value)}")
    return lines


def _grid(rows: Sequence[dict[str, Any]]) -> str:
    """Lay rows out as aligned columns: names to the left, numbers to the right, figures last."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    figures = [name for name in names if any(isinstance(row.get(name), Figure) for row in rows)]
    columns = []
    for name in [name for name in names if name not in figures] + figures:
        values = [row.get(name) for row in rows]
        cells = ["" if value is None else _plain(value) for value in values]
        width = max(len(cell) for cell in (_title(name), *cells))
        left = any(isinstance(value, str | dict) for value in values)
        columns.append([cell.ljust(width) if left else cell.rjust(width) for cell in (_title(name), *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _title(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> str:
    """Lay out a plain value; the description of an object as its constructor's call."""
    if isinstance(value, dict) and "class" in value:
        inside = ", ".join(f"{key}={_plain(part)}" for key, part in value.items() if key != "class")
        return f"{value['class']}({inside})"
    if isinstance(value, dict):
        return ", ".join(f"{_title(key)} {_plain(part)}" for key, part in value.items())
    if isinstance(value, float):
        return _number(value)
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _number(value: float, beside: float | None = None) -> str:
    """Lay out a number with four decimals, or with four digits where those would be too few or too many.

    An error has the decimals of the value beside it, unless these are all 0.
    """
    size = abs(value if beside is None else beside)
    decimals = 4 if size == 0 or 0.01 <= size < 1000 else 1
    shown = f"{value:.3g}" if 0 < size < 0.01 else f"{value:.{decimals}f}"
    return f"{value:.3g}" if value and not float(shown) else shown

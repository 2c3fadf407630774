"""What is asked for of `reproduce`, checked. Light: the command line checks it before anything heavy is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.checks import check_whole
from unmask.processes import world
from unmask.reproduction.table import SCALES, Row, Scale
from unmask.reproduction.tables import TABLES
from unmask.storage.folders import RUN
from unmask.storage.hub import check_model
from unmask.storage.remote import is_remote
from unmask.storage.signatures import nearest

DEFAULT_MINUTES = 10.0
"""At the scale "cpu"."""


@dataclass(frozen=True)
class Request:
    """What is asked for; see `reproduce`.

    Raises:
        ValueError: an unknown table, scale or row, or a number out of range; in one line.
        FileNotFoundError: there are no such data or no such model.
        FileExistsError: `out` is a file, or a run.
    """

    table: str
    scale: str = "cpu"
    minutes: int | float | None = None
    steps: int | None = None
    seeds: int = 3
    data: Any = None
    rows: Sequence[str] | None = None
    models: Mapping[str, Any] = field(default_factory=dict)
    draws: int = 4
    limit: int | None = 512
    root: Path | str | None = None
    judge: Any = None
    out: Path | str | None = None

    def __post_init__(self) -> None:
        if world() > 1:
            raise ValueError("reproduce trains on one device: start it without torchrun")
        _check_name("table", self.table, TABLES)
        _check_name("scale", self.scale, SCALES)
        for name in [*(self.rows or ()), *self.models]:
            _check_name(f"row of {self.table} at scale {self.scale}", name, TABLES[self.table].at(self.scale))
        if self.rows is not None and not self.rows:
            raise ValueError("rows must name at least one row, or be left out for all")
        if self.minutes is not None and self.steps is not None:
            raise ValueError("give minutes or steps: rows have equal time, or equal steps")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes must be positive, got {self.minutes:g}")
        check_whole(1, steps=self.steps, seeds=self.seeds, draws=self.draws, limit=self.limit)
        if self.data is None and self.settings.needed:
            raise ValueError(f"{self.table} at scale {self.scale} needs --data.path: {self.settings.needed}")
        if self.root is not None and not TABLES[self.table].sets:
            raise ValueError(f"root is for zeroshot, where its sets' files are; {self.table} has none")
        if self.judge is not None and not TABLES[self.table].judged:
            raise ValueError(f"judge is for generative and fid, whose samples it looks at; {self.table} has none")
        if TABLES[self.table].judged and self.limit is None:
            raise ValueError(f"{self.table} needs a limit: how many samples are drawn with each sampler")
        if self.root is not None and not Path(self.root).is_dir():
            raise FileNotFoundError(f"root: {self.root}: no such folder")
        if isinstance(self.data, str | Path):
            if not self.settings.path:
                what = self.settings.data["class"]
                raise ValueError(f"{self.table} at scale {self.scale} is of {what}: leave out data ({self.data})")
            if not is_remote(self.data) and not Path(self.data).exists():
                raise FileNotFoundError(f"data: {self.data}: no such file or folder")
        for model in self.models.values():
            if isinstance(model, str | Path):
                check_model(str(model))
        if self.out is not None and not str(self.out):
            raise ValueError("out must name a folder, got ''")
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"out: {self.folder}: is a file, and must be a folder")
        if (self.folder / RUN).is_file():
            raise FileExistsError(f"out: {self.folder}: holds a run of `unmask train`: give another")

    @property
    def folder(self) -> Path:
        """Of all that is written."""
        return Path(f"runs/reproduce-{self.table}" if self.out is None else self.out)

    @property
    def settings(self) -> Scale:
        """What all rows have in common."""
        return TABLES[self.table].scales[self.scale]

    @property
    def chosen(self) -> dict[str, Row]:
        """The rows that are wanted, in the order of the table; those that models are given for are among them."""
        rows = TABLES[self.table].at(self.scale)
        return {name: row for name, row in rows.items() if self.rows is None or name in {*self.rows, *self.models}}

    @property
    def budget(self) -> tuple[int | float | None, int | None]:
        """Minutes, or else steps, of each row and seed."""
        if self.steps is None and self.minutes is None:
            return (DEFAULT_MINUTES, None) if self.scale == "cpu" else (None, self.settings.steps)
        return self.minutes, self.steps


def _check_name(what: str, name: str, known: Any) -> None:
    if name not in known:
        raise ValueError(f"unknown {what}: {name!r}{nearest(name, known)}; there are {', '.join(known)}")

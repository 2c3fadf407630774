"""One row of a table with one seed: its budget, its training or the rest of it, and what is measured of it."""

import csv
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch

import unmask.networks
import unmask.objectives  # noqa: F401  (all their classes can then be named)
from unmask.data.base import DataSet
from unmask.data.benchmarks import BENCHMARKS, find_file
from unmask.devices import find_device
from unmask.evaluation.likelihood import likelihood
from unmask.evaluation.zeroshot import zeroshot
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.noise import Scored
from unmask.objectives.base import Objective
from unmask.opening import load
from unmask.report import Report
from unmask.reproduction.request import Request
from unmask.reproduction.sampling import measure_samples
from unmask.reproduction.table import Row, Table, network_of
from unmask.reproduction.tables import TABLES
from unmask.schedules import TokenPolynomial
from unmask.storage.description import build
from unmask.storage.files import replacing
from unmask.storage.folders import CONFIG, MODEL, RUN
from unmask.training.run import find_checkpoint
from unmask.training.settings import Optimizer, Run, TrainerSettings
from unmask.training.start import train

PILOT_STEPS = 40
"""Steps of the short run that measures the seconds of a step; it has at most a tenth of a row's time."""
NUMBER = (int, float, NoneType)
SPARE = 0.95
"""Part of a row's time that its steps are planned for; the rest is for evaluations on the way."""
EVALUATIONS = 10
"""Of each run, on the validation part, for its curve."""


@dataclass(frozen=True)
class Plan:
    """How long each run of a row is trained.

    Attributes:
        max_steps: steps over which the learning rate falls.
        step_seconds: of the short run; None where steps are asked for.
        minutes: after which a run ends in any case; None: never.
    """

    max_steps: int
    step_seconds: int | float | None = None
    minutes: int | float | None = None


@dataclass(frozen=True)
class Work:
    """What a row is trained with, the same for all seeds.

    Attributes:
        name: short name of the row.
        row: of the table.
        request: what is asked for.
        data: the data set.
        out: folder of the row.
        judge: of samples, for a table of these (`unmask.reproduction.sampling.find_judge`).
    """

    name: str
    row: Row
    request: Request
    data: DataSet
    out: Path
    judge: Any = None

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        scale = self.request.settings
        examples = (scale.run | self.row.run)["batch_size"] * scale.trainer.get("accumulate_grad_batches", 1)
        return examples * math.prod(self.data.shape)

    def plan(self) -> Plan:
        """Return how long to train: as it was decided before or, of minutes, from the speed of a short run."""
        path = self.out / "plan.json"
        if path.is_file():
            return read_plan(path)
        minutes, steps = self.request.budget
        if minutes is None:
            plan = Plan(steps or 1)
        else:
            seconds = self.step_seconds(60 * minutes)
            plan = Plan(max(1, int(60 * minutes * SPARE / seconds)), seconds, minutes)
        write(path, vars(plan))
        return plan

    def step_seconds(self, most: int | float) -> float:
        """Return the seconds of a step: the median of a short run, which takes at most a tenth of `most` seconds."""
        folder = self.out / "pilot"
        start = time.perf_counter()
        model = self.train(folder, 0, Plan(PILOT_STEPS, minutes=most / 600), pilot=True)
        each = (time.perf_counter() - start) / model.about["steps"]
        with open(folder / "logs" / "version_0" / "metrics.csv", newline="", encoding="utf-8") as file:
            speeds = [float(row["tokens/s"]) for row in csv.DictReader(file) if row.get("tokens/s")]
        shutil.rmtree(folder)
        return self.tokens / statistics.median(speeds[1:] or speeds) if speeds else each

    def parts(self) -> tuple[Network, Objective]:
        """Return a new network and the objective."""
        made = {"vocab_size": self.data.codec.vocab_size, "shape": self.data.shape, "classes": self.data.classes}
        described = network_of(self.row, self.request.settings, self.request.scale) | made
        return build(Network, described, self.name), build(Objective, self.row.objective, self.name)

    def train(self, folder: Path, seed: int, plan: Plan, pilot: bool = False) -> MaskedDiffusion:
        """Train a run, or what is left of it."""
        scale, every = self.request.settings, max(1, plan.max_steps // EVALUATIONS)
        torch.manual_seed(seed)
        network, objective = self.parts()
        rates = scale.optimizer | self.row.optimizer
        warmup = min(rates["warmup_steps"], plan.max_steps // 10)
        often = {"evaluate_every": 10**9, "checkpoint_every": 10**9, "evaluate_examples": 1} if pilot else {}
        run = scale.run | self.row.run | {"evaluate_every": every, "checkpoint_every": every} | often
        begun = find_checkpoint(folder) is not None
        settings: dict[str, Any] = {"max_steps": plan.max_steps, "max_time": clock(plan.minutes)}
        with redirect_stdout(sys.stderr), _ends_said():
            return train(
                network,
                self.data,
                objective=objective,
                optimizer=Optimizer(**rates | {"warmup_steps": warmup}),
                run=Run(out=str(folder), seed=seed, **run),
                trainer=TrainerSettings(**scale.trainer | settings, devices=1, gradient_clip_val=1.0, logger=False),
                resume=begun,
                overwrite=not begun and (folder / RUN).is_file(),
            )

    def result(self, seed: int) -> dict[str, Any]:
        """Return what is found of a seed: what was found before, or what it is trained and measured for now."""
        path, folder = self.out / f"seed-{seed}.json", self.out / f"seed-{seed}"
        if path.is_file():
            kinds = {"protocol": dict, "parameters": int, "steps": int, "seconds": NUMBER}
            return read(path, kinds | figures_of(TABLES[self.request.table])) | {"run": str(folder)}  # perhaps moved
        begun, start = find_checkpoint(folder) is not None, time.perf_counter()
        if (folder / MODEL / CONFIG).is_file():  # trained, and not measured yet
            model, seconds = load(folder), None
        else:
            model = self.train(folder, seed, self.plan()).to(find_device())  # lightning leaves it on the CPU
            seconds = None if begun else time.perf_counter() - start
        found = {"seed": seed, "run": str(folder), "steps": model.about["steps"], "seconds": seconds}
        found |= measure(model, self.row, self.request, self.data, self.judge)
        write(path, found)
        return found


def figures_of(table: Table) -> dict[str, Any]:
    """Return the types of what is measured of a model, by name."""
    if table.judged:
        return {"samples": list, "real": dict}
    if table.sets:
        return {"sets": dict}
    return {"steps_of_bound": dict} if table.steps else {"value": float, "error": NUMBER}


def measure(model: MaskedDiffusion, row: Row, request: Request, data: DataSet, judge: Any = None) -> dict[str, Any]:
    """Return the figures of a model on the test part, or of its samples."""
    table = TABLES[request.table]
    count = sum(parameter.numel() for parameter in model.parameters())
    if table.judged:
        return {"parameters": count} | measure_samples(model, row, request, data, judge)
    if table.sets:
        root = None if request.root is None else str(request.root)
        chosen = sets_there(request)
        report: Report = zeroshot(model, root=root, sets=chosen, draws=request.draws, limit=request.limit)
        ours = {row["set"]: list(row[table.figure]) for row in report.rows if not row["published"]}
        each = {name: ours[name] for name in table.sets if name in ours}
        return {"parameters": count, "protocol": report.protocol, "sets": each}
    report = likelihood(model, data, draws=request.draws, limit=request.limit, steps=table.steps or None)
    found: dict[str, Any] = {"parameters": count, "protocol": report.protocol}
    if table.steps:
        return found | {"steps_of_bound": {row["steps"]: list(row[table.figure]) for row in report.rows}}
    value, error = report.rows[0][table.figure]
    return found | {"value": value, "error": error}


def sets_there(request: Request) -> list[str] | None:
    """Return the sets of a table that are in the folder that was named; None: whatever the Hub has.

    Raises:
        FileNotFoundError: none is there.
    """
    sets = TABLES[request.table].sets
    if request.root is None or not sets:
        return None
    found = [name for name in sets if find_file(Path(request.root), BENCHMARKS[name]) is not None]
    if not found:
        raise FileNotFoundError(f"root: {request.root}: holds none of {', '.join(sets)}")
    return found


def kind_of_model(model: MaskedDiffusion) -> str:
    """Return the kind of a model, in the words of `Row`."""
    if model.kind != "masked":
        return model.kind
    if isinstance(model.schedule, Scored):
        return "scores"
    return "learned schedule" if isinstance(model.schedule, TokenPolynomial) else "masked"


@contextmanager
def _ends_said() -> Iterator[None]:
    """Say how to go on where training is interrupted: not as `unmask train` does."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)(str(error).replace("--resume", "the same command")) from None


def clock(minutes: int | float | None) -> str | None:
    """Write minutes as DD:HH:MM:SS, rounded up to seconds."""
    if minutes is None:
        return None
    seconds = max(1, math.ceil(60 * minutes))
    days, hours = divmod(seconds, 86400)
    return f"{days:02}:{hours // 3600:02}:{hours % 3600 // 60:02}:{seconds % 60:02}"


def read(path: Path, kinds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a file of JSON.

    Args:
        path: of the file.
        kinds: the types of what it must hold, by name.

    Raises:
        ValueError: it is damaged; says what to do.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read: {error}; delete it, and it is made again") from None
    kinds = kinds or {}
    if not isinstance(found, dict) or not all(n in found and isinstance(found[n], kind) for n, kind in kinds.items()):
        raise ValueError(f"{path}: is damaged; delete it, and it is made again")
    return found


def read_plan(path: Path) -> Plan:
    """Read the plan of a row.

    Raises:
        ValueError: it is damaged; says what to do.
    """
    found = read(path, {"max_steps": int, "step_seconds": NUMBER, "minutes": NUMBER})
    if found["max_steps"] < 1:
        raise ValueError(f"{path}: is damaged; delete it, and it is made again")
    return Plan(**found)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a file of JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as target:
        target.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

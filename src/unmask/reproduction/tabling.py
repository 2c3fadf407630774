"""reproduce: a table of a paper with rows of our own, trained under one protocol."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import unmask.data  # noqa: F401  (all its classes can then be named)
from unmask.data.base import DataSet
from unmask.evaluation.data import check_fits
from unmask.model import MaskedDiffusion
from unmask.opening import load
from unmask.report import brief
from unmask.reproduction.published import FLOAT32_SOURCE, SOURCE
from unmask.reproduction.report import Curve, Reproduction, curve_of, table_rows
from unmask.reproduction.request import Request
from unmask.reproduction.running import Work, kind_of_model, measure, read, read_plan, sets_there, write
from unmask.reproduction.sampling import find_judge, sample_points, sample_rows
from unmask.reproduction.table import Row
from unmask.reproduction.tables import TABLES
from unmask.storage.description import build, describe
from unmask.storage.files import replacing

ASKED = "reproduce.json"


def reproduce(
    table: str,
    *,
    scale: str = "cpu",
    minutes: int | float | None = None,
    steps: int | None = None,
    seeds: int = 3,
    data: DataSet | Path | str | None = None,
    rows: Sequence[str] | None = None,
    models: Mapping[str, MaskedDiffusion | Path | str] | None = None,
    draws: int = 4,
    limit: int | None = 512,
    root: Path | str | None = None,
    judge: Any = None,
    out: Path | str | None = None,
) -> Reproduction:
    """Train the rows of a paper's table at equal wall-clock or equal steps, and put them beside the published ones.

    It can be interrupted, and called again with more rows or seeds: what is finished is not done again, and a run that
    is not goes on from its last checkpoint. `out` then holds TABLE.json, TABLE.png with the validation curves, both of
    the rows of the last call, and the folder of each run, ROW/seed-0 and so on.

    Of minutes, a short run of each row measures the seconds of a step; the steps over which the learning rate falls
    follow from these. A run ends when its minutes are over in any case.

    Args:
        table: "text8", "openwebtext", "zeroshot", "cifar10", "imagenet64", "finite-steps", "generative" or "fid"; see
            `TABLES`.
        scale: "cpu", a small complete setting (text of 27 characters, or of any corpus; digits, or CIFAR-10), or
            "paper", the full size.
        minutes: of training of each run; 10 at the scale "cpu" if neither these nor `steps` are given, and the steps of
            the shipped configuration at the scale "paper".
        steps: of each run, in place of minutes.
        seeds: runs of each row, with the seeds 0, 1, ...
        data: a data set, or the file that the table's data set is read from; None: that of the scale, which is
            downloaded if it does not come with the package. "openwebtext", "zeroshot" and "generative" need the folder
            of a corpus that `unmask prepare` made.
        rows: names of those that are wanted; None: all.
        models: that are measured in place of trained ones, by row.
        draws: masks per test example, where the likelihood is not exact.
        limit: test examples, evenly spread, None: all; or samples of each sampler.
        root: of "zeroshot", folder with the sets' files; None: the Hub. Sets that cannot be had are left out.
        judge: of samples: of "generative" a left-to-right model of `transformers`, a folder or a name on the Hub, or a
            `Judge` (None: GPT-2 large); of "fid" the folder of another model of such images, or an `Extractor` (None:
            Inception).
        out: folder; runs/reproduce-TABLE if None.

    Raises:
        ValueError: an unknown table, scale or row; a number out of range; a model of another kind than its row, or of
            other data; or `out` holds what was asked for otherwise.
        FileNotFoundError: no such data, or no such model or judge.
        FileExistsError: `out` is a file, or a run.
        ConnectionError, ImportError: the judge cannot be had.
    """
    request = Request(table, scale, minutes, steps, seeds, data, rows, models or {}, draws, limit, root, judge, out)
    folder = request.folder
    opened = {name: _open(name, request.chosen[name], model) for name, model in request.models.items()}
    used = find_data(request)
    for model in opened.values():
        check_fits(model, used)
    looking = find_judge(request, used)
    _check_same(folder, request, used, looking)
    results: dict[str, list[dict[str, Any]]] = {}
    for name, row in request.chosen.items():
        if name in opened:
            found = [{"given": str(opened[name].folder or "a model in memory"), "steps": None, "seconds": None}]
            found[0] |= {"steps": opened[name].about.get("steps")} | measure(opened[name], row, request, used, looking)
        else:
            work = Work(name, row, request, used, folder / name, looking)
            found = [work.result(seed) for seed in range(request.seeds)]
        results[name] = found
        report = _report(request, results, folder, used)
        if not TABLES[table].judged:  # what is measured of samples was said as it was found
            print(brief(report.rows[-1]), file=sys.stderr)
        _write(report, folder / table)
    return report


def find_data(request: Request) -> DataSet:
    """Return the data that all rows are trained and measured on."""
    if isinstance(request.data, DataSet):
        return request.data
    path = {} if request.data is None else {"path": str(request.data)}
    return build(DataSet, request.settings.data | path, f"table {request.table}")


def _open(name: str, row: Row, model: MaskedDiffusion | Path | str) -> MaskedDiffusion:
    """Return the model that is given for a row.

    Raises:
        ValueError: it is of another kind.
    """
    opened = model if isinstance(model, MaskedDiffusion) else load(model)
    if (kind := kind_of_model(opened)) != row.kind:
        what = f"{opened.folder or 'the model'}: is a model of the kind {kind!r}, the row {name} is of {row.kind!r}"
        raise ValueError(f"{what}: give another model, or none to train one")
    return opened


def _check_same(folder: Path, request: Request, data: DataSet, judge: Any) -> None:
    """Raise a ValueError where the folder holds the rows of another protocol; else note this one.

    What may change: rows, seeds and models.
    """
    minutes, steps = request.budget
    now: dict[str, Any] = {"table": request.table, "scale": request.scale, "minutes": minutes, "steps": steps}
    told = {name: value for name, value in describe(data).items() if name != "path"}
    now |= {"draws": request.draws, "limit": request.limit, "data": told}
    now |= {"data_sha256": data.split("train").checksum}
    if TABLES[request.table].sets:
        now["sets"] = sets_there(request)
    if judge is not None:
        now["judge"] = judge.name
    if (folder / ASKED).is_file():
        before = read(folder / ASKED, {"table": str, "scale": str, "draws": int, "data": dict})
        changed = [name for name in now if before.get(name) != json.loads(json.dumps(now[name]))]
        if changed:
            said = ", ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
            raise ValueError(f"{folder} holds rows of another protocol ({said}): give another out")
    write(folder / ASKED, now)


def _report(request: Request, results: dict[str, list[dict[str, Any]]], folder: Path, data: DataSet) -> Reproduction:
    table, chosen = TABLES[request.table], request.chosen
    minutes, steps = request.budget
    curves: dict[str, list[Curve]] = {}
    trained = {name: found for name, found in results.items() if "given" not in found[0]}
    paths = {name: folder / name / "plan.json" for name in trained}
    plans = {name: read_plan(path) for name, path in paths.items() if path.is_file()}
    for name, found in trained.items():
        tokens = Work(name, chosen[name], request, data, folder).tokens if minutes else None
        runs = (curve_of(result["run"], tokens) for result in found)
        curves[chosen[name].title] = [curve for curve in runs if curve is not None]
    protocol = {
        "table": table.about,
        "published": f"{FLOAT32_SOURCE if table.judged == 'texts' else SOURCE}; ≤ marks a bound; of the paper's own "
        "models, data and budget",
        "scale": request.scale,
        "data": data.name,
        "budget": f"{minutes:g} minutes of training a run" if minutes else f"{steps:,} steps a run",
        "planned_steps": {name: plan.max_steps for name, plan in plans.items()},
        "seconds_a_step": {name: plan.step_seconds for name, plan in plans.items() if plan.step_seconds},
        "seeds": request.seeds,
        "error": "±: standard error of the mean over seeds, of one model that of the measurement; test error: "
        "standard error over test examples, which all rows have in common",
        "given": {name: found[0]["given"] for name, found in results.items() if "given" in found[0]},
        **_in_common([result["protocol"] for found in results.values() for result in found]),
    }
    unused = set() if trained else {"budget", "seeds"}
    protocol = {name: value for name, value in protocol.items() if value != {} and name not in unused}
    ours = [(chosen[name], found) for name, found in results.items()]
    rows = sample_rows(table, ours) if table.judged else table_rows(table, ours)
    of_seeds = {name: [*found] for name, found in results.items()}
    points = sample_points(ours) if table.judged else []
    return Reproduction(tuple(rows), protocol, curves, minutes is not None, of_seeds, tuple(points))


def _in_common(protocols: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the protocols of all measurements say alike; the draws are those of the rows that have some."""
    drawn = {name: value for one in protocols for name, value in one.items() if name == "draws_per_example"}
    same = {name: value for name, value in protocols[0].items() if all(one.get(name) == value for one in protocols)}
    return {name: value for name, value in (same | drawn).items() if name not in ("data", "published", "error")}


def _write(report: Reproduction, stem: Path) -> None:
    with replacing(stem.with_suffix(".json")) as target:
        target.write_text(report.to_json(), encoding="utf-8")
    picture = stem.with_suffix(".png")
    if report.points or any(report.curves.values()):
        with replacing(picture) as target:
            report.figure().savefig(target, dpi=150, format="png")
    else:
        picture.unlink(missing_ok=True)  # that of other rows

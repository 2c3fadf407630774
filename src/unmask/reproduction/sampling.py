"""Tables of samples: which samplers draw them from which kind of model, what judges them, and the rows."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.data.base import DataSet
from unmask.devices import find_device
from unmask.evaluation.frechet import find_features, frechet
from unmask.evaluation.generative import generative
from unmask.evaluation.judge import Judge
from unmask.model import MaskedDiffusion
from unmask.report import Figure
from unmask.reproduction.published import DISTANCES, FLOAT32
from unmask.reproduction.report import mean_of, told
from unmask.reproduction.request import Request
from unmask.reproduction.table import Row, Table
from unmask.reproduction.tables import TABLES
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.gumbel import GumbelAncestral, GumbelLeftToRight
from unmask.samplers.left_to_right import LeftToRight
from unmask.samplers.score import Tweedie
from unmask.samplers.token import TokenAncestral, TokenFirstHitting

JUDGES = {"texts": "openai-community/gpt2-large", "images": "inception"}
"""What published figures use."""
EXACT, FLOAT = "exact", "float32"
"""How tokens are drawn: as `unmask.categorical` does, or by Gumbel-max in float32, as published samplers do."""


def find_judge(request: Request, data: DataSet) -> Any:
    """Return what looks at samples; None for a table without samples.

    Raises:
        FileNotFoundError, ConnectionError, ImportError: it cannot be had.
        ValueError: it is no judge of such data.
    """
    kind = TABLES[request.table].judged
    if kind is None:
        return None
    judge = JUDGES[kind] if request.judge is None else request.judge
    if kind == "texts":
        return judge if isinstance(judge, Judge) else Judge(str(judge), device=find_device())
    return find_features(data.codec, data.shape, str(judge) if isinstance(judge, Path) else judge, find_device())


def samplers_of(kind: str, steps: Sequence[int]) -> list[tuple[str, str, int | None, Sampler]]:
    """Return the samplers of a kind of model: what each is called, how it draws, its steps if it has some, and itself.

    Examples:
        >>> from unmask.reproduction.sampling import samplers_of
        >>> [(name, draws, steps) for name, draws, steps, _ in samplers_of("left-to-right", (16, 64))]
        [('left to right', 'exact', None), ('left to right', 'float32', None)]
    """
    found: list[tuple[str, str, int | None, Sampler]] = []
    if kind == "left-to-right":
        found = [("left to right", EXACT, None, LeftToRight()), ("left to right", FLOAT, None, GumbelLeftToRight())]
    elif kind == "scores":
        found = [("Tweedie", EXACT, count, Tweedie(steps=count)) for count in steps]  # Euler's are the same steps here
    elif kind == "learned schedule":
        found = [("ancestral", EXACT, count, TokenAncestral(steps=count)) for count in steps]
        found += [("first hitting", EXACT, None, TokenFirstHitting())]
    else:
        found = [("ancestral", EXACT, count, Ancestral(steps=count, grid="uniform")) for count in steps]
        found += [("first hitting", EXACT, None, FirstHitting())]
        found += [("ancestral", FLOAT, count, GumbelAncestral(steps=count)) for count in steps]
    return found


def measure_samples(model: MaskedDiffusion, row: Row, request: Request, data: DataSet, judge: Any) -> dict[str, Any]:
    """Return what a judge says of samples of a model: a list of {"sampler", "draws", "steps", "calls", figures}."""
    table, count = TABLES[request.table], request.limit or 0
    if table.judged == "images":
        report: Any = frechet(model, data, features=judge, samples=count, steps=table.sampling_steps)
        samples: list[dict[str, Any]] = [
            {"sampler": found["line"], "draws": EXACT, "steps": found["steps"], "calls": found["calls"]}
            | {"distance": [*found["distance"]]}
            for found in report.rows[1:]
        ]
        real = {"distance": [*report.rows[0]["distance"]]}
        return {"protocol": report.protocol, "samples": samples, "real": real}
    chosen = samplers_of(row.kind, table.sampling_steps)
    report = generative(model, judge=judge, samples=count, sampler=[one for *_, one in chosen], data=data)
    figures = ("perplexity_micro", "entropy")
    samples = [
        {"sampler": name, "draws": draws, "steps": steps, "calls": found["calls"]}
        | {figure: [*found[figure]] for figure in figures}
        for (name, draws, steps, _), found in zip(chosen, report.rows[:-1], strict=True)
    ]
    return {
        "protocol": report.protocol,
        "samples": samples,
        "real": {figure: [*report.rows[-1][figure]] for figure in figures},
    }


def sample_rows(table: Table, rows: Sequence[tuple[Row, Sequence[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return the published rows, that of real data, and ours: one for each model, sampler and number T of steps.

    Args:
        table: of samples.
        rows: of the table, with what was found of each seed.
    """
    texts = table.judged == "texts"
    names = {"perplexity_micro": "perplexity", "entropy": "entropy"} if texts else {"distance": "distance"}
    published = FLOAT32 if texts else ()
    found: list[dict[str, Any]] = [{name: str(value) for name, value in one.items()} for one in published]
    real = rows[0][1][0]["real"]
    found.append({"model": "test data"} | {shown: Figure(*real[name]) for name, shown in names.items()})
    for row, results in rows:
        for i, one in enumerate(results[0]["samples"]):
            figures = {shown: mean_of([each["samples"][i][name] for each in results]) for name, shown in names.items()}
            calls = statistics.mean(each["samples"][i]["calls"] for each in results)
            line = {"model": row.title, "sampler": one["sampler"], "draws": one["draws"], "T": one["steps"]}
            line |= {"calls": f"{calls:.1f}"} | figures
            if not texts:
                known = DISTANCES.get(one["sampler"], {}).get(one["steps"])
                line |= {"published": None if known is None else f"{known:.2f}"}
                del line["draws"]
            found.append(line | ({f"trained_{k}": told(results)[k] for k in ("steps", "seeds")} if i == 0 else {}))
    return found


def sample_points(rows: Sequence[tuple[Row, Sequence[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return the points of a figure of samples, that of real data first.

    They are as `unmask.display.measured` takes them: for `frontier_figure`, or for `distance_figure`.
    """
    real = rows[0][1][0]["real"]
    found: list[dict[str, Any]] = [{"line": "test data", "name": "test data", "calls": None} | real]
    for row, results in rows:
        for i, one in enumerate(results[0]["samples"]):
            each = [result["samples"][i] for result in results]
            figures = {name: [*mean_of([sample[name] for sample in each])] for name in real}
            draws = f", {one['draws']}" if "entropy" in real else ""
            point = {"line": f"{row.title}, {one['sampler']}{draws}", "calls": one["calls"]}
            found.append(point | {"point": "" if one["steps"] is None else f"T = {one['steps']}"} | figures)
    return found

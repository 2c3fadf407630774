"""What a model, a run or a corpus is, from its files alone: nothing is built, and no weights are loaded."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.checkpoints import WEIGHT_FILES, bodies, is_layout, is_public
from unmask.data.index import Index
from unmask.report import Figure, Report
from unmask.storage.card import is_figure
from unmask.storage.folders import CHECKPOINT, CONFIG, INDEX, MODEL, RUN, WEIGHTS, find_folder
from unmask.storage.hub import download_model
from unmask.storage.model_files import read_config
from unmask.storage.replacing import is_there, settle


@dataclass(frozen=True)
class Info(Report):
    """What `info` found: one row of facts, and what was measured before.

    Attributes:
        measured: the reports that `Report.record` kept with the model.
    """

    measured: tuple[Report, ...] = ()

    def __str__(self) -> str:
        text = "\n\n".join((super().__str__(), *map(str, self.measured)))
        return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)  # it may be a stranger's

    def to_json(self) -> str:
        """Return the row of facts, and under "measured" the reports."""
        content = json.loads(super().to_json()) | {"measured": [json.loads(one.to_json()) for one in self.measured]}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def info(name: Path | str) -> Report:
    """Describe a model's, a run's or a prepared corpus' folder, or a model on the Hub.

    Args:
        name: see `unmask.load`; or the folder of a corpus that `unmask prepare` made.

    Returns:
        one row: what it is, how many parameters each part has, vocabulary, shape, what it was trained on and how, and
        the step of a run's last checkpoint; or documents and tokens of a corpus. Reports that were recorded follow.

    Raises:
        FileNotFoundError: no such folder, or nothing in it that is known.
        ValueError: a file is damaged; names it.
    """
    try:
        return _describe(name)
    except (TypeError, AttributeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise ValueError(f"{name}: a file in it is damaged: {type(error).__name__}: {error}") from error


def _describe(name: Path | str) -> Report:
    path = Path(name)
    if not path.exists() and is_there(path):
        settle(path, seconds=60.0)
    if (path / INDEX).is_file():
        return Report((_corpus(path),), {})
    found = find_folder(str(name))
    folder = download_model(str(name), WEIGHT_FILES) if found is None else found
    facts: dict[str, Any] = {}
    run = folder.parent if folder.name == MODEL else folder
    if (run / RUN).is_file():
        facts |= {"run": str(run), **_run(run, read_config(run / RUN))}
    if (folder / CONFIG).is_file():
        description = read_config(folder / CONFIG)
        facts = {"model": str(name), **(_public if is_public(description) else _model)(description, folder), **facts}
    elif not facts:
        raise FileNotFoundError(f"{path}: neither a model, a run nor a corpus: no {CONFIG}, {RUN} or {INDEX} there")
    else:
        description = {}
    measured = description.get("about", {}).get("measured", [])
    return Info((facts,), {}, measured=tuple(_recorded(one, folder) for one in measured))


def _recorded(content: Any, folder: Path) -> Report:
    """Return a report that was recorded as JSON, its figures as figures."""
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f"{folder / CONFIG}: about.measured holds something that is no report")
    rows = [{name: Figure(*v) if is_figure(v) else v for name, v in row.items()} for row in content["rows"]]
    return Report(tuple(rows), content.get("protocol", {}))


def _corpus(path: Path) -> dict[str, Any]:
    index = Index.read(path)
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return {
        "corpus": str(path),
        "state": "complete" if index.complete else "not finished: the same unmask prepare command goes on",
        "documents": index.documents,
        "empty_documents_left_out": index.empty,
        "tokens": index.tokens,
        "shards": len(index.shards),
        "bytes": size,
        "source": _plain(index.key.get("source")),
        "tokenizer_sha256": index.key.get("tokenizer"),
    }


def _model(description: dict[str, Any], folder: Path) -> dict[str, Any]:
    network, codec, about = description.get("network", {}), description.get("codec", {}), description.get("about", {})
    facts = {
        "network": _plain(network),
        **_parameters(folder / WEIGHTS),
        "vocabulary": network.get("vocab_size"),
        "shape": "x".join(map(str, network.get("shape", []))),
        "codec": _plain({key: value for key, value in codec.items() if key != "source"}),
        "schedule": _plain(description.get("schedule")),
    }
    known = {"trained_on": "data", "objective": "objective", "steps": "steps", "weights_of_step": "weights_of_step"}
    known |= {"made_with": "unmask"}
    facts |= {title: _plain(about[key]) for title, key in known.items() if about.get(key) is not None}
    if run := about.get("run"):
        facts["settings"] = _plain({key: value for key, value in run.items() if key != "out"})
    for title, key in (("adapter_of", "adapter"), ("started_from", "start")):
        if isinstance(origin := about.get(key), dict):
            facts[title] = origin.get("base") or origin.get("name")
    if about.get("layout"):
        facts["converted_from"] = f"{about.get('source')} (layout {about['layout']})"
    return facts


def _public(description: dict[str, Any], folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": "public checkpoint, as it was published"}
    if not is_layout(description):
        try:
            return facts | bodies.facts(folder, description, folder / CONFIG)
        except (ValueError, ImportError) as error:
            facts["cannot_be_loaded"] = str(error)
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), folder / WEIGHTS)
    facts["weights"] = path.name
    return facts | (_parameters(path) if path.suffix == ".safetensors" and path.is_file() else {})


def _run(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a run."""
    most = settings.get("trainer", {}).get("max_steps")
    checkpoint, done = path / CHECKPOINT, (path / MODEL / CONFIG).is_file()
    facts: dict[str, Any] = {"state": "finished" if done else "not finished: unmask train goes on with --resume"}
    if not done:
        facts |= {part: _plain(settings.get(part)) for part in ("network", "data", "objective", "codec")}
    if checkpoint.is_file():
        facts["checkpoint"] = f"step {_checkpoint_step(checkpoint)} of {most}"
    else:
        facts["checkpoint"] = "none yet"
    return facts


def _checkpoint_step(path: Path) -> Any:
    """Return the step that a checkpoint was written at."""
    structure = json.loads(_header(path).get("__metadata__", {}).get("structure", "{}"))
    facts = {key: value for key, value in structure.get("tree", structure).get("dict", []) if isinstance(key, str)}
    return facts.get("global_step", "?")


def _parameters(path: Path) -> dict[str, Any]:
    """Return the number of parameters, in all and by part, from the header of a file of weights."""
    parts: dict[str, int] = {}
    for name, tensor in _header(path).items():
        if name != "__metadata__":
            part = name.removeprefix("network.").removeprefix("backbone.").split(".")[0]
            parts[part] = parts.get(part, 0) + math.prod(tensor["shape"])
    shares = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    return {"parameters": sum(parts.values()), "parameters_by_part": shares}


def _header(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file: 8 bytes with its length, then JSON."""
    if not path.is_file():  # nor a pipe, which would be waited for
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
    except (ValueError, struct.error, OSError) as error:
        raise ValueError(f"{path}: damaged or truncated safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: damaged safetensors file")
    return header


def _plain(value: Any) -> Any:
    """Write a description as it would be called: Transformer(width=96, depth=4)."""
    if isinstance(value, dict):
        inside = ", ".join(f"{key}={_plain(item)}" for key, item in value.items() if key != "class")
        return f"{value['class']}({inside})" if "class" in value else inside
    return value

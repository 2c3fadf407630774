"""Which folders a report can be recorded in."""

from pathlib import Path
from typing import Any

from unmask.storage.folders import CONFIG, MODEL, RUN
from unmask.storage.objects import read_object


def recordable(folder: Path | str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a model that a report can be recorded in, and what its config.json holds.

    Args:
        folder: of a model, or of a run, whose model is meant.

    Raises:
        ValueError: no folder of a model, a public checkpoint, or a damaged config.json; names it.
    """
    inner = Path(folder, MODEL)
    place = inner if not Path(folder, CONFIG).exists() and inner.is_dir() else Path(folder)
    path = place / CONFIG
    if not path.is_file():
        if (place / RUN).is_file():
            raise ValueError(f"{folder} is a run that did not finish: it has no model yet that a report belongs to")
        raise ValueError(f"{folder} is not a model's folder on this machine: it has no {CONFIG}")
    config = read_object(path)
    if not {"network", "codec"} & config.keys():
        raise ValueError(f"{folder} is as it was published; unmask import makes a model of your own")
    if not all(isinstance(config.get(name), dict) for name in ("network", "codec", "schedule")):
        raise ValueError(f"{path}: network, codec and schedule must be JSON objects")
    about = config.get("about", {})
    if not isinstance(about, dict) or not isinstance(about.get("measured", []), list):
        raise ValueError(f"{path}: about must be a JSON object, and about.measured a list of reports")
    return place, config

"""JSON objects in files."""

import json
from pathlib import Path
from typing import Any

from unmask.storage.limits import check_size

MOST_JSON = 64 << 20
"""Bytes of a file."""


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        ValueError: it holds something else, or far too much; names the file.
    """
    check_size(path.stat().st_size, path, MOST_JSON)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content

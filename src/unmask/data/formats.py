"""Which format a file has: what its suffix says, and what its content says."""

import codecs
import json
import zipfile
from pathlib import Path
from typing import Literal, get_args

from unmask.data.reading import COMPRESSED, HEAD, compression, only_member, open_text

Format = Literal["text", "json", "csv", "tsv", "parquet"]
FORMATS: dict[str, Format] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson", ".jsonlines"), "json"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".txt", ".text", ".md"), "text"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
}


def find_format(path: Path) -> Format:
    """Return the format of a file by its suffix and its content; neither depends on upper or lower case.

    Raises:
        ValueError: suffix and content contradict each other; says which option decides.
    """
    if compression(path) is None:
        with open(path, "rb") as plain:
            if plain.read(4) == b"PAR1":
                return "parquet"
    with open_text(path) as file:
        head = file.read(HEAD)
    named = FORMATS.get(Path(inner_name(path)).suffix.lower())
    if head.startswith(b"PAR1"):
        raise ValueError(f"{path}: a compressed Parquet file; unpack it (Parquet is compressed inside)")
    if _holds_rows_of_json(head):
        if named in (None, "json"):
            return "json"
        if named != "parquet":
            raise ValueError(
                f"{path}: named as {named}, but it looks like JSON: --format json reads rows, --format {named} {named}"
            )
    return named or "text"


def _holds_rows_of_json(head: bytes) -> bool:
    """Return whether a file that begins like this holds JSON objects: in lines, or in a list."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if start[:1] == b"[":
        return start[1:].lstrip()[:1] == b"{"
    whole = start.split(b"\n")
    if len(head) == HEAD:
        whole.pop()  # perhaps not all of it
        if not whole:
            return start[:1] == b"{" and start[1:].lstrip()[:1] == b'"'
    whole = [line for line in whole if line.strip()][:3]
    return bool(whole) and all(map(_is_object, whole))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def inner_name(path: Path) -> str:
    """Return the name of a file without the suffix of its compression; for a zip archive that of the file in it."""
    kind = compression(path)
    if kind is None:
        return path.name
    own = path.stem if path.suffix.lower() in COMPRESSED else path.name
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            inside = Path(only_member(path, archive)).name
        return inside if Path(inside).suffix.lower() in FORMATS else own
    return own


def check_format(value: str | None) -> None:
    """Raise a ValueError unless a format is known, or None."""
    if value is not None and value not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {value!r}")

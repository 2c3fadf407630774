"""What is done so far: a file that grows with every batch, so that the same command goes on after it was killed."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BATCH = "batch"
"""Of the line before each batch, which says of how many lines it is."""


def as_line(content: Mapping[str, Any]) -> bytes:
    """Return an object as a line of JSON; half of a surrogate pair is escaped, a number that is not finite is null."""
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _finite(content: Any) -> Any:
    """Return plain values with None for each number that is not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


class Journal:
    """The results of finished batches, in the file `out`.part, until all are there.

    Its first line holds the settings. A batch that was not written to its end counts as not begun.

    Args:
        out: the file that is written at the end.
        settings: plain values that the results depend on.
        overwrite: whether to begin anew where it was begun with other settings.

    Raises:
        ValueError: what is there was begun with other settings, or is no file; says which.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.part = out.with_name(f"{out.name}.part")
        if os.path.lexists(self.part) and (self.part.is_symlink() or not self.part.is_file()):
            raise ValueError(f"{self.part}: not a regular file, but a link, a folder or a pipe; move it away")
        self.places: dict[int, tuple[int, int]] = {}
        plain = json.loads(as_line(settings))
        end = 0
        if self.part.is_file():
            known = self._settings()
            if known == plain:
                end = self._read()
            elif known is not None and not overwrite:
                raise ValueError(f"{self.part}: {self._difference(known, plain)}")
        with open(self.part, "r+b" if end else "wb") as file:
            file.truncate(end)
            if not end:
                file.write(as_line(plain))

    def __contains__(self, number: int) -> bool:
        """Return whether the result of an input is there."""
        return number in self.places

    def add(self, results: Mapping[int, Mapping[str, Any]]) -> None:
        """Write the results of a batch, by the numbers of its inputs."""
        lines = {number: as_line(result) for number, result in results.items()}
        with open(self.part, "ab") as file:
            at = file.tell() + file.write(as_line({BATCH: len(lines)}))
            for number, line in lines.items():
                self.places[number] = (at, len(line))
                at += file.write(line)

    def lines(self, numbers: Iterator[int]) -> Iterator[bytes | None]:
        """Yield the results of some inputs as lines; None for one that is not there."""
        with open(self.part, "rb") as file:
            for number in numbers:
                at, length = self.places.get(number, (0, 0))
                file.seek(at)
                yield file.read(length) if length else None

    def _settings(self) -> Any:
        """Return the settings of what is there; None if even these were not written to their end."""
        with open(self.part, "rb") as file:
            line = file.readline()
        return None if not line.endswith(b"\n") else _parsed(line) or False

    def _read(self) -> int:
        """Find the results that are there; return where the last finished batch ends."""
        with open(self.part, "rb") as file:
            file.readline()
            end = file.tell()
            while isinstance(marker := _parsed(file.readline()), dict) and isinstance(marker.get(BATCH), int):
                found = {}
                for _ in range(marker[BATCH]):
                    at = file.tell()
                    line = file.readline()
                    result = _parsed(line)
                    if not isinstance(result, dict) or not isinstance(result.get("line"), int):
                        return end
                    found[result["line"]] = (at, len(line))
                self.places |= found
                end = file.tell()
            return end

    def _difference(self, known: Any, settings: dict[str, Any]) -> str:
        how = "give the same settings to go on, or --overwrite (overwrite=True) to begin anew"
        if not isinstance(known, dict):
            return f"is of another kind; {how.partition(', or ')[2]}"
        name, was, now = _first_difference(known, settings)
        return f"was begun with another {name} ({was!s:.80}, not {now!s:.80}); {how}"


def _first_difference(known: dict[str, Any], settings: dict[str, Any]) -> tuple[str, Any, Any]:
    """Return the name of the first setting that differs, as in sampler.temperature, and both values."""
    name = next(key for key in {**settings, **known} if known.get(key) != settings.get(key))
    was, now = known.get(name), settings.get(name)
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return name, was, now
    inner, was, now = _first_difference(was, now)
    return f"{name}.{inner}", was, now


def _parsed(line: bytes) -> Any:
    """Return what a line holds; None if it is not JSON, or does not end."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None

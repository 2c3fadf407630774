"""Documents: the texts that a corpus is made of, read one after another from files or from the Hub."""

import gzip
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unmask.data.text import characters, open_text
from unmask.storage.files import checksum

PIECE = 1 << 20
"""Characters of a document that are cut into tokens by themselves."""
BETWEEN = re.compile(r"\r?\n(?:[ \t\r]*\n)+")
SAFE = re.compile(r"(?<=\S)(?: |\n)(?=\S)")
Boundary = Literal["file", "blank_line", "line"]


class Piece(NamedTuple):
    """A document, or a part of one that is too long to be held.

    Attributes:
        text: as it stands in the source.
        last: whether the document ends with it.
    """

    text: str
    last: bool


@dataclass(frozen=True)
class Files:
    """Documents in files, read in the order given.

    Lines of JSON (.jsonl, .ndjson) and Parquet hold one document a row; any other file is text. All but Parquet may be
    compressed (.gz, .bz2, .xz).

    Args:
        paths: of the files.
        field: of a row that holds the text.
        boundary: what ends a document in a text: the file, a blank line, or every line.
    """

    paths: tuple[str, ...]
    field: str = "text"
    boundary: Boundary = "file"

    def identity(self) -> dict[str, Any]:
        """Return what decides which documents there are: plain values."""
        files = [{"name": Path(path).name, "sha256": checksum(path)} for path in self.paths]
        return {"files": files, "field": self.field, "boundary": self.boundary}

    def __iter__(self) -> Iterator[Piece]:
        """Yield the documents.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file is damaged, or a row is not as it should be; names the file and the line.
        """
        for name in self.paths:
            path = Path(name)
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file")
            inner = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz") else path
            if inner.suffix in (".jsonl", ".ndjson"):
                yield from _from_json(path, self.field)
            elif inner.suffix == ".parquet":
                yield from _from_parquet(path, self.field)
            else:
                yield from cut_documents(characters(path), self.boundary)


@dataclass(frozen=True)
class Hub:
    """Documents of a data set on the Hugging Face Hub, or in a folder that `datasets` can read; they are streamed.

    Args:
        name: such as HuggingFaceFW/fineweb-edu.
        config: which of its configurations, such as sample-10BT.
        revision: a commit, a tag, or refs/convert/parquet for data sets that were a script once, as
            Skylion007/openwebtext.
        part: which of its splits.
        field: that holds the text.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    part: str = "train"
    field: str = "text"

    def identity(self) -> dict[str, Any]:
        """Return what decides which documents there are: plain values; the commit, where the data are on the Hub."""
        found = {name: getattr(self, name) for name in ("name", "config", "part", "field")}
        if Path(self.name).is_dir():
            files = sorted(path for path in Path(self.name).rglob("*") if path.is_file())
            return found | {"files": [[str(path.relative_to(self.name)), checksum(path)] for path in files]}
        return found | {"commit": self.commit}

    @cached_property
    def commit(self) -> str | None:
        """The commit that the revision is at; None for a folder.

        Raises:
            ConnectionError: the Hub cannot be reached, or has no such data set.
        """
        if Path(self.name).is_dir():
            return None
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            return HfApi().dataset_info(self.name, revision=self.revision).sha
        except HFValidationError:
            raise ValueError(f"{self.name}: not the name of a data set, such as HuggingFaceFW/fineweb-edu") from None
        except (HfHubHTTPError, OSError) as error:
            raise ConnectionError(self._unreachable(error)) from None

    def _unreachable(self, error: Exception) -> str:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return (
            f"{self.name}: the Hub cannot be reached or has no such data set ({reason}); without a network name files "
            "instead (.jsonl, .parquet, .txt)"
        )

    def __iter__(self) -> Iterator[Piece]:
        """Yield the documents.

        Raises:
            ConnectionError: the data cannot be had.
            ValueError: no such split, configuration or field; says which there are.
        """
        try:
            from datasets import load_dataset
        except ImportError:
            raise ImportError("data sets of the Hub need the package datasets: pip install 'unmask[text]'") from None
        commit = self.commit
        try:
            rows = load_dataset(self.name, self.config, split=self.part, revision=commit, streaming=True)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        except (OSError, RuntimeError) as error:
            raise ConnectionError(self._unreachable(error)) from None
        for number, row in enumerate(rows):
            yield from _row(row, self.field, f"{self.name}, row {number}")


def cut_documents(texts: Iterable[str], boundary: Boundary) -> Iterator[Piece]:
    """Cut a text that comes in pieces into documents. What parts them belongs to none."""
    held = ""
    for text in texts:
        held += text
        whole, held = _whole_ones(held, boundary)
        yield from (Piece(document, True) for document in whole)
        while len(held) > PIECE:
            at = safe_cut(held)
            yield Piece(held[:at], False)
            held = held[at:]
    if boundary == "file":
        yield Piece(held, True)
    elif held.rstrip("\r\n"):
        yield Piece(held.rstrip("\r\n"), True)


def _whole_ones(text: str, boundary: Boundary) -> tuple[list[str], str]:
    """Return the documents that end in a text, and what is left."""
    if boundary == "file":
        return [], text
    if boundary == "line":
        *whole, left = text.split("\n")
        return [line.removesuffix("\r") for line in whole], left
    *whole, left = BETWEEN.split(text)
    if whole and not left.strip():  # perhaps more blank lines come
        left = whole.pop() + "\n\n" + left
    return whole, left


def safe_cut(text: str) -> int:
    """Return where below `PIECE` to cut: before a single space or line break, which changes no token of GPT-2's."""
    for start in (PIECE - 4096, 0):
        if places := [match.start() for match in SAFE.finditer(text, start, PIECE)]:
            return places[-1]
    return PIECE


def _from_json(path: Path, field: str) -> Iterator[Piece]:
    """Read lines of JSON."""
    with open_text(path) as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                where = f"{path}, line {number}"
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{where}: not valid JSON: {error}") from None
                yield from _row(row, field, where)
        except (OSError, EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise ValueError(f"{path}: damaged or truncated after line {number}: {error}") from None


def _from_parquet(path: Path, field: str) -> Iterator[Piece]:
    """Read one column of a Parquet file."""
    from unmask.data.parquet import open_parquet

    file = open_parquet(path)
    names = file.schema_arrow.names
    if field not in names:
        raise ValueError(
            f"{path}: has no column {field!r}, but {', '.join(names)}; --field names the one with the text"
        )
    number = 0
    try:
        for batch in file.iter_batches(256, columns=[field]):
            for text in batch.column(field).to_pylist():
                yield from _row({field: text}, field, f"{path}, row {number}")
                number += 1
    except OSError as error:
        raise ValueError(f"{path}: damaged after row {number}: {error}") from None


def _row(row: Any, field: str, where: str) -> Iterator[Piece]:
    if not isinstance(row, dict) or field not in row:
        has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where}: has no field {field!r}, but {has}; --field names the one with the text")
    if not isinstance(row[field], str):
        raise ValueError(f"{where}: the field {field!r} must be a text, got {type(row[field]).__name__}")
    text = row[field]
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
        raise ValueError(f"{where}: not valid Unicode: {error.reason} at character {error.start}") from None
    while len(text) > PIECE:
        at = safe_cut(text)
        yield Piece(text[:at], False)
        text = text[at:]
    yield Piece(text, True)

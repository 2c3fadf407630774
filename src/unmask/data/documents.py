"""Documents: the texts that a corpus is made of, read one after another from files or from the Hub."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as attribute
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unmask.data.formats import Format, check_format, find_format
from unmask.data.reading import characters, check_file, visible_files
from unmask.data.rows import BadRowError, Row, rows_of, text_of
from unmask.storage.files import checksum

PIECE = 1 << 20
"""Characters of a document that are cut into tokens by themselves."""
BETWEEN = re.compile(r"\r?\n(?:[ \t\r]*\n)+")
SAFE = re.compile(r"(?<=\S)(?: |\n)(?=\S)")
Boundary = Literal["file", "blank_line", "line"]
READER = 2
"""Of what files are read as: part of what identifies a corpus."""


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

    JSON (one object a line, or a list of them), CSV, TSV and Parquet hold one document a row; any other file is text.
    What a file holds is decided by its content and its suffix. All but Parquet may be compressed (.gz, .bz2, .xz, .zst,
    or .zip of one file).

    Args:
        paths: of the files; a folder stands for all files in it and in its folders, in the order of their paths.
        field: of a row that holds the text; `a.b` is the field b of the field a.
        boundary: what ends a document in a text: the file, a blank line, or every line.
        format: of all files; found out if None.
        skip_bad: leave out rows without a text, and list them in `skipped`, in place of an error.

    Attributes:
        skipped: what was left out since reading last began, one line each.
    """

    paths: tuple[str, ...]
    field: str = "text"
    boundary: Boundary = "file"
    format: Format | None = None
    skip_bad: bool = False
    skipped: list[str] = attribute(default_factory=list, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_format(self.format)

    @cached_property
    def files(self) -> list[tuple[str, Path, Format]]:
        """Each file: its name, its path, and the format that it is read as.

        Raises:
            FileNotFoundError: no such file or folder.
            ValueError: a folder without files, or with text among rows; a file whose format is ambiguous.
        """
        return [file for name in self.paths for file in self._found(Path(name))]

    def _found(self, path: Path) -> list[tuple[str, Path, Format]]:
        if not path.is_dir():
            check_file(path)
            return [(path.name, path, self.format or find_format(path))]
        inside = [(str(file.relative_to(path)), file, self.format or find_format(file)) for file in visible_files(path)]
        if not inside:
            raise ValueError(f"{path}: no files in it")
        text = [name for name, _, format in inside if format == "text"]
        if text and len(text) < len(inside):
            rows = next(name for name, _, format in inside if format != "text")
            raise ValueError(
                f"{path}: holds both rows ({rows}) and text ({text[0]}); name the files that are meant, or --format"
            )
        return inside

    def identity(self) -> dict[str, Any]:
        """Return what decides which documents there are: plain values."""
        files = [{"name": name, "sha256": checksum(path), "format": format} for name, path, format in self.files]
        return {"files": files, "field": self.field, "boundary": self.boundary, "reader": READER}

    def __iter__(self) -> Iterator[Piece]:
        """Yield the documents.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file is damaged, or a row is not as it should be; names the file and the line.
        """
        self.skipped.clear()
        for _, path, format in self.files:
            yield from self._read(path, format)

    def files_apart(self, count: int) -> list[Iterator[Piece]] | None:
        """Return the documents of each file; None where there are fewer files than `count`."""
        return None if len(self.files) < count else [self._read(path, format) for _, path, format in self.files]

    def _read(self, path: Path, format: Format) -> Iterator[Piece]:
        if format == "text":
            yield from cut_documents(characters(path), self.boundary)
        else:
            rows = rows_of(path, format, (self.field,))
            yield from texts_of(rows, self.field, self.skipped if self.skip_bad else None)


def texts_of(rows: Iterable[Row], field: str, skipped: list[str] | None) -> Iterator[Piece]:
    """Yield the texts in a field of rows; a row without one is listed in `skipped`, or an error if that is None."""
    for row in rows:
        try:
            text = text_of(row, field)
        except BadRowError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            continue
        yield from in_pieces(text)


def in_pieces(text: str) -> Iterator[Piece]:
    """Yield a document, in pieces where it is too long to be held."""
    while len(text) > PIECE:
        at = safe_cut(text)
        yield Piece(text[:at], False)
        text = text[at:]
    yield Piece(text, True)


@dataclass(frozen=True)
class Hub:
    """Documents of a data set on the Hugging Face Hub, or in a folder that `datasets` can read; they are streamed.

    Args:
        name: such as HuggingFaceFW/fineweb-edu.
        config: which of its configurations, such as sample-10BT.
        revision: a commit, a tag, or refs/convert/parquet for data sets that were a script once, as
            Skylion007/openwebtext.
        part: which of its splits.
        field: that holds the text; `a.b` is the field b of the field a.
        skip_bad: leave out rows without a text, and list them in `skipped`, in place of an error.

    Attributes:
        skipped: what was left out since reading last began, one line each.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    part: str = "train"
    field: str = "text"
    skip_bad: bool = False
    skipped: list[str] = attribute(default_factory=list, init=False, compare=False, repr=False)

    def identity(self) -> dict[str, Any]:
        """Return what decides which documents there are: plain values; the commit, where the data are on the Hub."""
        found = {name: getattr(self, name) for name in ("name", "config", "part", "field")}
        if Path(self.name).is_dir():
            files = visible_files(Path(self.name))
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
        rows = self._rows()
        self.skipped.clear()
        yield from self._read(rows, self.name)

    def files_apart(self, count: int) -> list[Iterator[Piece]] | None:
        """Return the documents of each file; None where there are fewer files than `count`, or rows are left out."""
        rows = self._rows()
        if self.skip_bad or rows.num_shards < count:
            return None
        numbers = range(rows.num_shards)
        return [
            self._read(rows.shard(len(numbers), u), f"{self.name}, file {u + 1} of {len(numbers)}") for u in numbers
        ]

    def _read(self, rows: Any, name: str) -> Iterator[Piece]:
        numbered = (Row(f"{name}, row {number}", row) for number, row in enumerate(rows))
        yield from texts_of(numbered, self.field, self.skipped if self.skip_bad else None)

    def _rows(self) -> Any:
        try:
            from datasets import load_dataset
        except ImportError:
            raise ImportError("data sets of the Hub need the package datasets: pip install 'unmask[text]'") from None
        commit = self.commit
        try:
            return load_dataset(self.name, self.config, split=self.part, revision=commit, streaming=True)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        except (OSError, RuntimeError) as error:
            raise ConnectionError(self._unreachable(error)) from None


def cut_documents(texts: Iterable[str], boundary: Boundary) -> Iterator[Piece]:
    """Cut a text that comes in pieces into documents. What separates them belongs to none."""
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

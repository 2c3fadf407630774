"""A corpus that is prepared in parts, on machines that do not talk to each other, and put together afterwards.

Documents come in units: files where there are as many as parts, else runs of documents. Unit u belongs to part u mod n.
Beside the folder X of the corpus, X.parts/00002-of-00008 holds the second part of eight:

    part.json          what it was made of, and its chunks: their units and checksums
    00000.bin          tokens of the first chunk, without ends of texts
    00000.pieces.npy   how many of them each piece of a document has, n; ~n where the document goes on
"""

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from unmask.codecs.tokenizer import Tokenizer
from unmask.data.documents import Piece
from unmask.data.index import ROLES
from unmask.data.prepare import BATCH, LOCK, Source, Unknown, cut_pieces, dtype_of
from unmask.storage.files import checksum, remove_temporary, replacing
from unmask.storage.objects import read_object

PART = "part.json"
FORMAT = 1
SUFFIXES = (".bin", ".pieces.npy")
Order = tuple[str, int]
"""Where a unit stands among all: units are put together in this order."""


class Unit(NamedTuple):
    """Whole documents that one part cuts into tokens.

    Attributes:
        order: see `Order`.
        pieces: of the documents.
        skipped: what was left out on the way; it may grow until the last piece has been read.
    """

    order: Order
    pieces: Iterable[Piece]
    skipped: list[str]


class Done(NamedTuple):
    """A unit that was cut: its order, how many pieces it has, and what was left out of it."""

    order: Order
    pieces: int
    skipped: list[str]


@dataclass(frozen=True)
class Chunk:
    """Units that lie in one file.

    Attributes:
        name: of its files.
        units: in order.
        documents: how many, empty ones not counted.
        tokens: how many, ends of texts not counted.
        sha256: of its files.
    """

    name: str
    units: tuple[Done, ...]
    documents: int
    tokens: int
    sha256: tuple[str, str]


@dataclass(frozen=True)
class Part:
    """What the folder of a part says of itself.

    Attributes:
        number: of the part, from 1.
        of: how many parts there are.
        key: what the tokens depend on; see `unmask.data.index.Index`.
        dtype: of the tokens.
        end: the token that ends a text.
        roles: special tokens of the tokenizer.
        chunks: those that are complete.
        complete: whether all units of the part are there.
    """

    number: int
    of: int
    key: dict[str, Any]
    dtype: str
    end: int
    roles: dict[str, Any]
    chunks: tuple[Chunk, ...] = ()
    complete: bool = False

    @property
    def documents(self) -> int:
        """Documents of all chunks."""
        return sum(chunk.documents for chunk in self.chunks)

    def summary(self, folder: Path) -> str:
        """Say what a part holds."""
        tokens = sum(chunk.tokens for chunk in self.chunks)
        place = part_folder(folder, self.number, self.of)
        return f"{place}: part {self.number}/{self.of}, {self.documents:,} documents, {tokens:,} tokens"

    def write(self, folder: Path) -> None:
        """Write what the folder says of itself."""
        with replacing(folder / PART) as path:
            path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Part":
        """Read what a folder says of itself.

        Raises:
            ValueError: damaged, or of another format; names the file.
        """
        content = read_object(folder / PART)
        try:
            if content.pop("format") != FORMAT:
                raise ValueError("of another format")
            chunks = tuple(
                Chunk(
                    **chunk
                    | {"units": tuple(Done((str(a), int(b)), int(n), [*said]) for (a, b), n, said in chunk["units"])}
                    | {"sha256": tuple(chunk["sha256"])}
                )
                for chunk in content.pop("chunks")
            )
            return cls(**content, chunks=chunks)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder / PART}: damaged: {error}; prepare this part anew with --overwrite") from None


def parts_folder(folder: Path) -> Path:
    """Return where the parts of a corpus lie."""
    return folder.with_name(f"{folder.name}.parts")


def part_folder(folder: Path, number: int, of: int) -> Path:
    """Return where a part of a corpus lies."""
    return parts_folder(folder) / f"{number:05}-of-{of:05}"


def read_shard(text: str) -> tuple[int, int]:
    """Read which of how many parts is meant: 2/8 is the second of eight.

    Raises:
        ValueError: no such part.
    """
    number, slash, of = text.partition("/")
    if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        last = f"1/{of} to {of}/{of}" if slash and of.isdigit() and int(of) else "1/8 to 8/8, say"
        raise ValueError(f"--shard {text}: there is no such part; the parts are {last}")
    return int(number), int(of)


def new_part(source: dict[str, Any], codec: Tokenizer, shard_tokens: int, number: int, of: int) -> Part:
    """Return a part that holds nothing yet; `source` identifies the documents."""
    key = {"source": source, "tokenizer": codec.checksum, "shard_tokens": shard_tokens}
    plain = json.loads(json.dumps([key, {name: getattr(codec, name) for name in ROLES}]))
    return Part(number, of, plain[0], dtype_of(codec), codec.end, plain[1])


def prepare_part(
    source: Source, codec: Tokenizer, folder: Path, shard_tokens: int, number: int, of: int, overwrite: bool = False
) -> Part:
    """Cut the documents of one part into tokens. What was interrupted goes on after its last chunk.

    Args:
        source: of all documents.
        codec: cuts them.
        folder: of the corpus; the part lies beside it.
        shard_tokens: of the corpus.
        number: of the part, from 1.
        of: how many parts there are.
        overwrite: whether to replace what is there of this part.

    Raises:
        ValueError: the part was begun with other settings, another process is at it, or the source is damaged.
    """
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens must be at least 1, got {shard_tokens}")
    part = new_part(source.identity(), codec, shard_tokens, number, of)
    return write_part(units_of(source, number, of), codec, part_folder(folder, number, of), part, overwrite)


def write_part(units: Iterable[Unit], codec: Tokenizer, place: Path, part: Part, overwrite: bool = False) -> Part:
    """Write units that are not there yet, as chunks of about as many tokens as a shard has; see `prepare_part`."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place / LOCK, timeout=0):
            if (place / PART).is_file() and not overwrite:
                found = Part.read(place)
                if changed := difference(found, part):
                    raise ValueError(
                        f"{place}: was prepared with another {changed}; give --overwrite, or another --out"
                    )
                part = found
            else:
                for path in place.iterdir():
                    if path.name != LOCK:
                        path.unlink()
            if not part.complete:
                part.write(place)
                codec.saved(place)
                remove_temporary(place)
                done = {unit.order for chunk in part.chunks for unit in chunk.units}
                part = _write_chunks((unit for unit in units if unit.order not in done), codec, place, part)
            (place / LOCK).unlink(missing_ok=True)
    except Timeout:
        raise ValueError(f"{place}: another process is preparing it") from None
    return part


def difference(one: Part, other: Part) -> str | None:
    """Name a setting that two parts do not share; None if they share all."""
    names = [name for name in one.key if one.key[name] != other.key.get(name)]
    names += [name for name in ("dtype", "end", "roles", "of") if getattr(one, name) != getattr(other, name)]
    return (
        {"end": "end token", "roles": "special tokens", "of": "number of parts"}.get(names[0], names[0])
        if names
        else None
    )


def _write_chunks(units: Iterator[Unit], codec: Tokenizer, place: Path, part: Part) -> Part:
    unknown = Unknown(codec)
    for first in units:
        name = f"{len(part.chunks):05}"
        done: list[Done] = []
        counts = array("q")
        documents = tokens = 0
        with replacing(place / f"{name}.bin") as tokens_path, replacing(place / f"{name}.pieces.npy") as pieces_path:
            with open(tokens_path, "wb") as file:
                unit: Unit | None = first
                while unit is not None:
                    before, begun = len(counts), 0
                    for found, last in unknown.counted(cut_pieces(iter(unit.pieces), codec)):
                        file.write(np.array(found, dtype=part.dtype).tobytes())
                        counts.append(len(found) if last else ~len(found))
                        begun, tokens = begun + len(found), tokens + len(found)
                        documents, begun = (documents + (begun > 0), 0) if last else (documents, begun)
                    done.append(Done(unit.order, len(counts) - before, [*unit.skipped]))
                    unit = next(units, None) if tokens < part.key["shard_tokens"] else None
            with open(pieces_path, "wb") as file:
                np.save(file, np.array(counts, dtype=np.int64))
            sums = (checksum(tokens_path), checksum(pieces_path))
        part = replace(part, chunks=(*part.chunks, Chunk(name, tuple(done), documents, tokens, sums)))
        part.write(place)
    unknown.note()
    part = replace(part, complete=True)
    part.write(place)
    return part


def units_of(source: Source, number: int, of: int) -> Iterator[Unit]:
    """Yield the units of one part, in order.

    A source that has `files_apart(of)`, one iterator of pieces for each of its files, is read file by file where there
    are as many files as parts; else every part reads all documents, and cuts its own.
    """
    apart = getattr(source, "files_apart", None)
    files = apart(of) if apart is not None else None
    if files is not None:
        for u, pieces in enumerate(files):
            if u % of == number - 1:
                skipped: list[str] = []
                yield Unit(("", u), _noting(source, pieces, skipped), skipped)
        return
    for u, unit in enumerate(_runs(source)):
        if u % of == number - 1:
            yield Unit(("", u), *unit)


def _noting(source: Source, pieces: Iterable[Piece], skipped: list[str]) -> Iterator[Piece]:
    """Yield pieces, and add to `skipped` what the source leaves out between them."""
    own: list[str] = getattr(source, "skipped", [])
    before = len(own)
    yield from pieces
    skipped += own[before:]


def _runs(source: Source) -> Iterator[tuple[list[Piece], list[str]]]:
    """Yield runs of whole documents of about `BATCH` characters, with what was left out among them."""
    left_out: list[str] = getattr(source, "skipped", [])
    pieces: list[Piece] = []
    size, before = 0, 0
    for piece in source:
        pieces.append(piece)
        size += len(piece.text)
        if size >= BATCH and piece.last:
            yield pieces, left_out[before:]
            pieces, size, before = [], 0, len(left_out)
    if pieces or len(left_out) > before:
        yield pieces, left_out[before:]

"""Prepare a corpus: documents become tokens, once, in shards that are memory-mapped from then on."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from unmask.codecs.tokenizer import TOKENIZER, Tokenizer
from unmask.data.documents import Piece
from unmask.data.index import ROLES, SKIPPED, SUFFIXES, Index, Shard, check_sizes, verify
from unmask.storage.files import checksum, replacing
from unmask.storage.folders import INDEX, TEMPLATE
from unmask.storage.replacing import finish_replacing, new_folder, old_folder, replacing_lock, settle

__all__ = ["LOCK", "SKIPPED", "Index", "prepare", "replace_corpus", "verify"]
LOCK = ".lock"
HALF = re.compile(r"\.(index|tokenizer|chat_template|skipped|\d{5,})\.[\w.]+")
NAMED = "|".join(re.escape(name) for name in (INDEX, TOKENIZER, TEMPLATE, SKIPPED, LOCK))
OWN = re.compile(rf"{NAMED}|\d{{5,}}(\.bin|\.ends\.npy)|{HALF.pattern}")
"""Names of what a prepared folder holds."""
BATCH = 1 << 22
"""Characters that are cut into tokens at a time, on all cores."""


@runtime_checkable
class Source(Protocol):
    """Documents, and what identifies them."""

    def identity(self) -> dict[str, Any]:
        """Return what decides which documents there are: plain values."""

    def __iter__(self) -> Iterator[Piece]:
        """Yield the documents."""


@runtime_checkable
class CutSource(Protocol):
    """Documents that have been cut into tokens, and what identifies them."""

    def identity(self) -> dict[str, Any]:
        """See `Source.identity`."""

    def cut(self) -> Iterator[tuple[Any, bool]]:
        """Yield the tokens of each piece, and whether a document ends with it."""


def dtype_of(codec: Tokenizer) -> str:
    """Return the type that the tokens of a corpus are written in."""
    return "<u2" if codec.vocab_size <= 1 << 16 else "<u4"


def prepare(
    source: Source | CutSource, codec: Tokenizer, folder: Path, shard_tokens: int = 1 << 26, *, wait: bool = False
) -> Index:
    """Cut all documents into tokens, and write them as shards. What was interrupted goes on after its last shard.

    Args:
        source: of the documents; empty ones are left out.
        codec: cuts them.
        folder: for the shards, an index and the tokenizer.
        shard_tokens: a shard ends with the first document that brings it to as many.
        wait: for another process that is preparing this folder, in place of an error.

    Raises:
        ValueError: the folder holds something else, another process is at it, or the source is damaged or empty.
    """
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens must be at least 1, got {shard_tokens}")
    key = {"source": source.identity(), "tokenizer": codec.checksum, "shard_tokens": shard_tokens}
    settle(folder)
    _begun(folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=-1 if wait else 0):
            index = _prepare(source, codec, folder, key)
            (folder / LOCK).unlink(missing_ok=True)
    except Timeout:
        raise ValueError(f"{folder}: another process is preparing it") from None
    except ValueError:
        if not any(path.name != LOCK for path in folder.iterdir()):
            shutil.rmtree(folder)
        raise
    return index


def _prepare(source: Source | CutSource, codec: Tokenizer, folder: Path, key: dict[str, Any]) -> Index:
    dtype = dtype_of(codec)
    roles = json.loads(json.dumps({name: getattr(codec, name) for name in ROLES}))
    index = _begun(folder, key) or Index(key, dtype, codec.end, (), False, 0, roles=roles)
    if index.end != codec.end:
        raise ValueError(f"{folder}: holds a corpus whose texts end with another token; name another --out")
    if index.roles not in (None, roles):
        raise ValueError(
            f"{folder}: holds a corpus whose tokenizer has other special tokens; name another --out, or --overwrite"
        )
    if index.complete:
        return index
    index.write(folder)  # first: a folder with it is known as a corpus
    codec.saved(folder)
    index = replace(index, tokenizer_sha256=checksum(folder / TOKENIZER))
    for path in folder.iterdir():  # what a run that was killed was writing
        if HALF.fullmatch(path.name):
            path.unlink()
    done = sum(shard.pieces for shard in index.shards)
    with tqdm(desc="cutting into tokens", unit="char", unit_scale=True, delay=2) as bar:
        unknown = Unknown(codec)
        cut: Iterator[tuple[Any, bool]]
        if isinstance(source, CutSource):
            cut = islice(source.cut(), done, None)
        else:
            cut = unknown.counted(cut_pieces(islice(_shown(source, bar), done, None), codec))
        while not index.complete:
            index = _add_shard(index, folder, cut)
            if index.complete and not index.shards:
                for name in (INDEX, TOKENIZER, TEMPLATE):
                    (folder / name).unlink(missing_ok=True)
                skipped = len(getattr(source, "skipped", ()))
                raise ValueError(
                    "there is no document that is not empty" + (f"; {skipped} rows hold no text" if skipped else "")
                )
            if index.complete and (left_out := list(getattr(source, "skipped", ()))):
                with replacing(folder / SKIPPED) as path:
                    path.write_text("".join(f"{line}\n" for line in left_out), encoding="utf-8")
                index = replace(index, skipped=len(left_out))
            index.write(folder)
    unknown.note()
    return index


class Unknown:
    """How many tokens stand for what a tokenizer does not know."""

    def __init__(self, codec: Tokenizer) -> None:
        self.name = codec.unknown_token
        self.token = None if self.name is None else codec.tokenizer.token_to_id(self.name)
        self.found = self.total = 0

    def counted(self, cut: Iterator[tuple[list[int], bool]]) -> Iterator[tuple[list[int], bool]]:
        """Count the tokens of pieces on their way."""
        for tokens, last in cut:
            self.total += len(tokens)
            self.found += tokens.count(self.token) if self.token is not None else 0
            yield tokens, last

    def note(self) -> None:
        """Say how many there were, if any."""
        if self.found:
            print(
                f"unmask: note: {self.found:,} of {self.total:,} tokens are {self.name}, what the tokenizer does not "
                "know; a masked language model neither learns nor counts them",
                file=sys.stderr,
            )


def _add_shard(index: Index, folder: Path, cut: Iterator[tuple[list[int], bool]]) -> Index:
    """Write one more shard; return the index with it."""
    name = f"{len(index.shards):05}"
    with (
        replacing(folder / f"{name}.bin") as tokens_path,
        replacing(folder / f"{name}.ends.npy") as ends_path,
    ):
        with open(tokens_path, "wb") as file:
            ends, read, empty, more = _fill(file, cut, index.end, np.dtype(index.dtype), index.key["shard_tokens"])
        np.save(ends_path, np.array(ends, dtype=np.int64))
        sums = (checksum(tokens_path), checksum(ends_path))
    shards = index.shards
    if ends:
        shards = (*shards, Shard(name, len(ends), ends[-1], read, sums))
    else:  # nothing was left for this one
        for suffix in SUFFIXES:
            (folder / f"{name}{suffix}").unlink()
    return replace(index, shards=shards, complete=not more, empty=index.empty + empty)


def replace_corpus(source: Source | CutSource, codec: Tokenizer, folder: Path, shard_tokens: int) -> Index:
    """Prepare a corpus beside one that is there, which it takes the place of when it is complete.

    Whatever ends it, the folder holds the old corpus or the new one, whole; see `unmask.storage.replacing`.

    Raises:
        ValueError: the folder holds something that is no part of a corpus, another process is at it, or what `prepare`
            refuses.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    settle(folder)
    if not folder.exists():
        return prepare(source, codec, folder, shard_tokens)
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file, not a folder")
    if foreign := sorted(path.name for path in folder.iterdir() if not OWN.fullmatch(path.name)):
        raise ValueError(f"{folder}: holds {foreign[0]}, which is no part of a corpus, so nothing is deleted")
    with replacing_lock(folder):
        try:
            with FileLock(folder / LOCK, timeout=0):
                try:
                    index = prepare(source, codec, new_folder(folder), shard_tokens)
                finally:
                    (folder / LOCK).unlink(missing_ok=True)
                os.rename(folder, old_folder(folder))
        except Timeout:
            raise ValueError(f"{folder}: another process is preparing it") from None
        finally:
            finish_replacing(folder)
    return index


def _begun(folder: Path, key: dict[str, Any]) -> Index | None:
    """Return the index of an earlier preparation of the same, None where nothing is there."""
    if not folder.exists() or (folder.is_dir() and not any(path.name[0] != "." for path in folder.iterdir())):
        return None
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: holds something else, not a corpus; name another --out")
    index = Index.read(folder)
    before, now = index.key, json.loads(json.dumps(key))
    if changed := [name for name in now if before.get(name) != now[name]]:
        raise ValueError(
            f"{folder}: holds a corpus that was prepared with another {' and '.join(changed)}; name another --out, or "
            "give --overwrite"
        )
    check_sizes(folder, index)
    return index


def _shown(pieces: Iterable[Piece], bar: tqdm) -> Iterator[Piece]:
    for piece in pieces:
        bar.update(len(piece.text))
        yield piece


def cut_pieces(pieces: Iterator[Piece], codec: Tokenizer) -> Iterator[tuple[list[int], bool]]:
    """Yield the tokens of each piece, and whether a document ends with it."""
    batch: list[Piece] = []
    size, begins = 0, True  # pieces start where a document does
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH:
            yield from _tokens(batch, codec, begins)
            batch, size, begins = [], 0, piece.last
    yield from _tokens(batch, codec, begins)


def _tokens(batch: list[Piece], codec: Tokenizer, begins: bool) -> Iterator[tuple[list[int], bool]]:
    """Yield the tokens of pieces; `begins`: whether a document begins with the first of them."""
    cut = codec.encode_many([piece.text for piece in batch])
    for piece, tokens in zip(batch, cut, strict=True):
        yield tokens if begins else codec.continued(piece.text, tokens), piece.last
        begins = piece.last


def _fill(
    file: BinaryIO, cut: Iterator[tuple[list[int], bool]], end: int, dtype: np.dtype, wanted: int
) -> tuple[list[int], int, int, bool]:
    """Write documents until there are `wanted` tokens; return ends, pieces read, documents left out, whether more."""
    ends: list[int] = []
    count, begun, read, empty = 0, 0, 0, 0
    for tokens, last in cut:
        read += 1
        file.write(np.array(tokens, dtype=dtype).tobytes())
        begun += len(tokens)
        if not last:
            continue
        if not begun:
            empty += 1
            continue
        file.write(np.array([end], dtype=dtype).tobytes())
        count, begun = count + begun + 1, 0
        ends.append(count)
        if count >= wanted:
            return ends, read, empty, True
    return ends, read, empty, False

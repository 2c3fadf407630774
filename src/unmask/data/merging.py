"""The parts of a corpus, put together: what one machine would have prepared; see `unmask.data.parts`."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmask.codecs.tokenizer import TOKENIZER, Tokenizer
from unmask.data.parts import PART, SUFFIXES, Chunk, Done, Part, difference, part_folder, parts_folder
from unmask.storage.sums import verify_file


class Merged:
    """The documents of all parts of a corpus, cut into tokens, in their order: a source for `unmask.data.prepare`.

    Args:
        folder: of the corpus, beside which the parts lie.

    Attributes:
        parts: by number.
        skipped: what was left out.

    Raises:
        FileNotFoundError: there are no parts, or one is missing.
        ValueError: one is unfinished or damaged, or parts were prepared with different settings.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        place = parts_folder(folder)
        found = sorted(path for path in place.iterdir() if (path / PART).is_file()) if place.is_dir() else []
        if not found:
            raise FileNotFoundError(f"{place}: no parts of a corpus there; unmask prepare ... --shard 1/8 makes one")
        self.parts = [Part.read(path) for path in found]
        first = self.parts[0]
        for path, part in zip(found, self.parts, strict=True):
            if changed := difference(first, part):
                raise ValueError(f"{path}: was prepared with another {changed} than {found[0].name}; prepare it anew")
            if path != part_folder(folder, part.number, part.of):
                raise ValueError(f"{path}: holds part {part.number}/{part.of}; name it as it was")
        numbers = [part.number for part in self.parts]
        if missing := [n for n in range(1, first.of + 1) if n not in numbers]:
            raise FileNotFoundError(
                f"{place}: part {missing[0]}/{first.of} is missing; the same unmask prepare with --shard "
                f"{missing[0]}/{first.of} makes it"
            )
        for path, part in zip(found, self.parts, strict=True):
            if not part.complete:
                raise ValueError(f"{path}: its preparation was interrupted; the same unmask prepare goes on with it")
        self.units = self._units()
        self.skipped = [line for unit in self.units for line in unit.done.skipped]

    def _units(self) -> list["_Place"]:
        """Return all units in order, each with its place; raise a ValueError for one that is there twice or missing."""
        found = []
        for number, part in enumerate(self.parts):
            for chunk in part.chunks:
                at = 0
                for done in chunk.units:
                    found.append(_Place(done, number, chunk, at))
                    at += done.pieces
        found.sort(key=lambda place: place.done.order)
        for before, after in pairwise(found):
            if before.done.order == after.done.order:
                both = " and ".join(str(self.parts[place.part].number) for place in (before, after))
                raise ValueError(f"{parts_folder(self.folder)}: parts {both} hold the same documents")
        own = [place.done.order[1] for place in found if not place.done.order[0]]
        if own != list(range(len(own))):
            gap = next(u for u, v in enumerate(own) if u != v)
            raise ValueError(
                f"{parts_folder(self.folder)}: unit {gap} of the documents is in no part; prepare them anew"
            )
        return found

    @property
    def codec(self) -> Tokenizer:
        """The tokenizer that cut the documents."""
        first = self.parts[0]
        path = part_folder(self.folder, first.number, first.of) / TOKENIZER
        roles: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in first.roles.items()
        }
        codec = Tokenizer(str(path), first.key["tokenizer"], **roles)
        return replace(codec, end_token=codec.tokenizer.id_to_token(first.end))

    def identity(self) -> dict[str, Any]:
        """Return what identifies the documents."""
        return self.parts[0].key["source"]

    def cut(self) -> Iterator[tuple[Any, bool]]:
        """Yield the tokens of each piece, and whether a document ends with it.

        Raises:
            ValueError: a chunk is not what it was when it was written; names the file.
        """
        opened: dict[int, tuple[str, _Open]] = {}
        for unit in self.units:
            name, chunk = opened.get(unit.part, ("", None))
            if chunk is None or name != unit.chunk.name:
                chunk = self._open(unit)
                opened[unit.part] = (unit.chunk.name, chunk)
            for i in range(unit.first, unit.first + unit.done.pieces):
                yield chunk.tokens[chunk.starts[i] : chunk.starts[i + 1]], bool(chunk.counts[i] >= 0)

    def _open(self, unit: "_Place") -> "_Open":
        part = self.parts[unit.part]
        place = part_folder(self.folder, part.number, part.of)
        paths = [place / f"{unit.chunk.name}{suffix}" for suffix in SUFFIXES]
        for path, expected in zip(paths, unit.chunk.sha256, strict=True):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; prepare this part anew with --overwrite")
            try:
                verify_file(path, expected, PART)
            except ValueError as error:
                raise ValueError(f"{error}; prepare this part anew with --overwrite") from None
        counts = np.load(paths[1], allow_pickle=False)
        sizes = np.where(counts < 0, ~counts, counts)
        tokens = np.memmap(paths[0], part.dtype, "r") if sizes.sum() else np.empty(0, part.dtype)
        return _Open(tokens, counts, np.concatenate(([0], sizes.cumsum())))


class _Place(NamedTuple):
    """Where a unit lies: in which part, in which chunk, from which piece on."""

    done: Done
    part: int
    chunk: Chunk
    first: int


class _Open(NamedTuple):
    """A chunk: its tokens, how many each piece has, and where each starts."""

    tokens: np.ndarray
    counts: np.ndarray
    starts: np.ndarray

"""Separate texts of different length, each in a row by itself: what `Lines`, `Pairs` and others have in common."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int64

from unmask.codecs.base import Codec
from unmask.codecs.ended import Ended, find_end
from unmask.codecs.named import FROM_TEXTS, named_codec, written_name
from unmask.codecs.text import Bytes, NoTextError, Text
from unmask.data.base import DataSet, Part, Split, named_part, shuffled_parts, whole_of
from unmask.data.encoding import EncodedExamples, Example, encoded_examples
from unmask.data.ragged import DIGEST, Layout, Ragged, sizes
from unmask.data.reading import check_file
from unmask.data.text import check_lengths
from unmask.lengths import Lengths

Packing = Literal["padded", "filled"]
Long = Literal["drop", "cut", "error"]
PARTS = ("train", "valid", "test")
FEWEST = 20
"""Examples that a file must have to be cut into parts."""


@dataclass(frozen=True)
class Sequences(DataSet):
    """Separate texts of different length, filled up to one length; 90 % train, 5 % validate, 5 % test.

    A subclass says what the examples of a file are (`examples`); further fields of it are settings of that.

    Args:
        path: the file.
        length: L, of the rows, in tokens: the most that an example can have, with what the tokenizer puts around it.
        packing: what fills examples up. `padded`: a token that is given, neither learned nor counted; the model holds
            the distribution of lengths beside that of texts of a length. `filled`: tokens that end a text, which are
            learned like others; a sample ends at the first of them.
        tokenizer: how texts are cut into tokens; see `unmask.codecs.named.named_codec`. None: the characters of the
            file if there are at most 256 different ones, else bytes.
        valid_path: a file to validate on; None: 5 % of `path`, chosen at random, always in the same way.
        test_path: a file to test on; None: as for `valid_path`.
        long: what becomes of an example that is longer than a row: it is left out, which a warning says; it is cut off;
            or it is an error.
    """

    path: str
    length: int = 128
    packing: Packing = "padded"
    tokenizer: str | None = None
    valid_path: str | None = None
    test_path: str | None = None
    long: Long = "drop"

    def __post_init__(self) -> None:
        check_lengths(self.length, None)
        for name, value, known in (("packing", self.packing, Packing), ("long", self.long, Long)):
            if value not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
        if not self.path:
            raise ValueError("no file was named: give --data.path FILE")

    @abstractmethod
    def examples(self, path: Path) -> Iterator[Example]:
        """Yield the examples of a file, empty ones too.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is not as it should be; names the file and the place.
        """

    @property
    def conditional(self) -> bool:
        """Whether a part of each example is given, so that it is the other part that has a length and an end."""
        return False

    def find_codec(self, name: str | None) -> tuple[Text, bool]:
        """Return the codec that a name stands for, and whether it is that of a model (`named_codec`)."""
        try:
            return named_codec(name, lambda: self._texts(Path(self.path)))
        except NoTextError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _texts(self, path: Path) -> Iterator[str]:
        """Yield all texts of a file."""
        for example in self.examples(path):
            yield example.text
            if isinstance(example.given, str):
                yield example.given

    @cached_property
    def _chosen(self) -> tuple[Text, bool] | None:
        """What `tokenizer` names, where that does not depend on the file."""
        return None if self.tokenizer in FROM_TEXTS else self.find_codec(self.tokenizer)

    @property
    def reading(self) -> list[Any]:
        """Plain values that decide what the examples of a file are: the class, and the fields that are its own."""
        own = [field.name for field in fields(self) if field.name not in {one.name for one in fields(Sequences)}]
        return [type(self).__name__, {name: getattr(self, name) for name in own}]

    @cached_property
    def _files(self) -> dict[str, EncodedExamples]:
        """The files as tokens, by the first of the parts that each is for."""
        found: dict[str, EncodedExamples] = {}
        for part, name in (("train", self.path), ("valid", self.valid_path), ("test", self.test_path)):
            if name is None:
                continue
            known = found["train"].codec if found else _plain(self._chosen[0]) if self._chosen else None
            path = Path(name)
            check_file(path)
            found[part] = encoded_examples(
                path,
                self.reading,
                lambda path=path: self.examples(path),  # type: ignore[misc]
                known or (lambda: self.find_codec(self.tokenizer)[0]),
                self.tokenizer,
            )
        if self.tokenizer is None and isinstance(found["train"].codec, Bytes):
            warnings.warn(
                f"{self.path}: has more than 256 different characters, so its tokens are UTF-8 bytes, not characters; "
                "--data.tokenizer bytes, or a tokenizer, decides it",
                stacklevel=2,
            )
        return found

    @cached_property
    def codec(self) -> Codec:
        """The codec that `tokenizer` names; with a token that ends texts, if it has none and is not that of a model.

        Raises:
            ValueError: ends are to be learned, and it is a model's without a token that ends a text.
        """
        codec, fixed = self._chosen or (self._files["train"].codec, False)
        end = find_end(codec)
        if self.packing == "filled" and end is None and fixed:
            raise ValueError(
                f"{self.tokenizer}: the model has no token that ends a text, which packing filled learns; "
                "--data.packing padded needs none"
            )
        lacks = end is None and (self.packing == "filled" or codec.padding is None)
        return Ended(codec) if lacks and not fixed else codec

    @cached_property
    def layout(self) -> Layout:
        """How an example becomes a row."""
        codec = self.codec
        before, after = codec.wrap
        end = find_end(codec)
        fill = next((token for token in (codec.padding, end) if token is not None), None)
        if self.packing == "filled" and end is not None:
            return Layout(self.length, end, learned_fill=True, before=before, after=after)
        fill = _spare(codec) if fill is None else fill
        if after == (fill,):  # what ends every example cannot be told from what fills it up, unless it is learned
            return Layout(self.length, fill, end=fill, before=before)
        follows = end if self.conditional and end not in after else None
        return Layout(self.length, fill, end=follows, before=before, after=after)

    @cached_property
    def _parts(self) -> dict[str, Ragged]:
        found: dict[str, Ragged] = {}
        for part, file in self._files.items():
            kept = self._kept(file)
            if part != "train":
                found[part] = self._ragged(file, np.flatnonzero(kept))
                continue
            found["whole"] = self._ragged(file, np.flatnonzero(kept))
            order = shuffled_parts(len(kept), 0, 0)["train"]
            order = order[kept[order]]  # so that a part hardly depends on what fits
            held = [0 if other in self._files else len(order) // FEWEST for other in PARTS[1:]]
            if len(order) < FEWEST and len(self._files) < 3:
                continue
            stops = np.cumsum(held)
            pieces = {"valid": order[: stops[0]], "test": order[stops[0] : stops[1]], "train": order[stops[1] :]}
            chosen = {name: rows for name, rows in pieces.items() if name not in self._files or name == "train"}
            self._warn_repeated(file, chosen)
            found |= {name: self._ragged(file, rows) for name, rows in chosen.items()}
        return found

    def _ragged(self, file: EncodedExamples, chosen: Int64[np.ndarray, " chosen"]) -> Ragged:
        return Ragged(file.tokens, file.table, chosen, self.layout, file.path, file.unit)

    def _kept(self, file: EncodedExamples) -> np.ndarray:
        """Return which examples of a file become rows, and say how many do not."""
        if file.empty:
            what = "1 empty example is" if file.empty == 1 else f"{file.empty:,} empty examples are"
            warnings.warn(f"{file.path}: {what} left out", stacklevel=2)
        layout, table = self.layout, file.table
        fits = layout.fits(table)
        kept = fits | layout.can_be_cut(table) if self.long == "cut" else fits
        if fits.all():
            return kept
        tokens = sizes(table) + layout.extra
        first, longest = int(np.flatnonzero(~kept if not kept.all() else ~fits)[0]), int(tokens.max())
        where = f"{file.unit} {table[first, 2]} ({tokens[first]:,} tokens"
        where += f", {table[first, 1]:,} of them given)" if table[first, 1] else ")"
        room = f"{layout.room} tokens that a row of length {self.length} has room for"
        holds = f"--data.length {longest + self.length - layout.room} holds all"
        if self.long == "error":
            cut = ", --data.long cut cuts it off" if layout.can_be_cut(table)[first] else ""
            raise ValueError(f"{file.path}, {where} is longer than the {room}; {holds}{cut}")
        if not kept.any():
            raise ValueError(f"{file.path}: every example is longer than the {room}, the first in {where}; {holds}")
        if not kept.all():
            some = self.long != "cut" and layout.can_be_cut(table)[~kept].any()
            how = ", --data.long cut cuts them off" if some else ""
            what = f"are left out, since they are longer than the {room}, the first in {where}; {holds}{how}"
        else:
            what = f"are longer than a row and cut off; {holds}"
        warnings.warn(
            f"{file.path}: {(~fits if kept.all() else ~kept).sum():,} of {len(fits):,} examples {what}", stacklevel=2
        )
        return kept

    def _warn_repeated(self, file: EncodedExamples, chosen: dict[str, np.ndarray]) -> None:
        """Warn of examples of one part that are in another, too."""
        digests = [np.unique(file.table[rows, DIGEST]) for rows in chosen.values()]
        values, counts = np.unique(np.concatenate(digests), return_counts=True)
        if (counts > 1).any():
            rows = np.concatenate(list(chosen.values()))
            repeated = int(np.isin(file.table[rows, DIGEST], values[counts > 1]).sum())
            warnings.warn(
                f"{file.path}: {repeated:,} of {len(rows):,} examples are in more than one part of the random split; "
                "remove what is there twice, or give parts of their own (--data.valid_path, --data.test_path)",
                stacklevel=2,
            )

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def has_given(self) -> bool:
        return self.packing == "padded" or self.conditional or any(self.codec.wrap)

    @cached_property
    def lengths(self) -> Lengths | None:
        if self.packing != "padded":
            return None
        part = self._part("train")
        n = part.learned() if self.conditional else part.inside()
        fill, ended = self.layout.fill, self.layout.end == self.layout.fill
        apart = not ended and fill in (self.codec.padding, find_end(self.codec))
        return Lengths.of(n, self.length, fill, targets=self.conditional, ended=ended, apart=apart)

    def split(self, part: Part) -> Split:
        return whole_of(self._parts, self._files) if part == "all" else self._part(part)

    def _part(self, part: str) -> Ragged:
        return named_part(self._parts, part, self.path, FEWEST, "examples")

    def resolved(self) -> "Sequences":
        return replace(self, tokenizer=written_name(self.codec) or self.tokenizer)


def _plain(codec: Any) -> Text:
    """Return a codec of texts without the token that was added to end them: what cuts texts."""
    return codec.codec if isinstance(codec, Ended) else codec


def _spare(codec: Codec) -> int:
    """Return a token that fills texts up, of a codec that has none for that: a line end, or else the first token."""
    try:
        tokens = codec.encode("\n").tolist()
    except ValueError:
        return 0
    return tokens[0] if len(tokens) == 1 else 0

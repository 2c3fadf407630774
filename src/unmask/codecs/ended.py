"""Texts with one more token, which ends them; for codecs that have none, such as characters and bytes."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.codecs.base import Codec, check_batch
from unmask.codecs.text import Text
from unmask.types import Tokens


@dataclass(frozen=True)
class Ended(Text):
    """A codec of texts with one more token: it ends a text, or fills it up, and stands for no character.

    Args:
        codec: of the texts, whose tokens keep their values.

    Raises:
        ValueError: it is not one of texts.
    """

    codec: Text

    def __post_init__(self) -> None:
        _text(self.codec)
        object.__setattr__(self, "unit", self.codec.unit)

    @property
    def vocab_size(self) -> int:
        return self.codec.vocab_size + 1

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return self.codec.vocab_size

    @property
    def padding(self) -> int:
        """The token that fills examples up: that which ends a text."""
        return self.end

    @property
    def wrap(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.codec.wrap

    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return the tokens of a text; none is added at its end."""
        return self.codec.encode(data)

    def encode_pieces(self, pieces: Any) -> list[Tensor]:
        return self.codec.encode_pieces(pieces)

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example, in which a token that ends a text is nothing, and a mask is `unknown`."""
        rows = [row[row != self.end] for row in check_batch(x, self.vocab_size)]
        rows = [torch.where(row == self.vocab_size, self.codec.vocab_size, row) for row in rows]
        return ["".join(self.codec.decode(row.unsqueeze(0), unknown)) if len(row) else "" for row in rows]

    def saved(self, folder: Path) -> "Ended":
        return type(self)(_text(self.codec.saved(folder)))

    def opened(self, folder: Path) -> "Ended":
        return type(self)(_text(self.codec.opened(folder)))


def _text(codec: Codec) -> Text:
    """Return a codec as it is; raise a ValueError unless it is one of texts."""
    if not isinstance(codec, Text):
        raise ValueError(f"codec must be one of texts, got {codec!r:.60}")
    return codec


def find_end(codec: Codec) -> int | None:
    """Return the token that ends a text; None for a codec that has none."""
    with suppress(ValueError):  # a tokenizer without one of a known name
        return getattr(codec, "end", None)
    return None


def until_end(codec: Codec, row: Int[Tensor, " length"]) -> Int[Tensor, " shorter"]:
    """Return an example up to the first token that ends a text."""
    end = find_end(codec)
    found = (row == end).nonzero() if end is not None else row[:0]
    return row[: int(found[0])] if len(found) else row

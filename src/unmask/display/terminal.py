"""A live view of the unmasking in a terminal: text coloured by when it appeared, images in half blocks."""

import os
import shutil
import time
from typing import Any

import numpy as np
import torch

from unmask.codecs.base import Codec
from unmask.codecs.pixels import Pixels
from unmask.codecs.text import Text
from unmask.types import Tokens

EARLY, LATE, MASKED = (90, 140, 255), (255, 190, 60), (70, 110, 190)
RAMP = " \N{LIGHT SHADE}\N{MEDIUM SHADE}\N{DARK SHADE}\N{FULL BLOCK}"  # where there are no colours
LETTERS = 5
"""About as many has a token that is no single character."""
PAUSE = 0.05
"""Least seconds between two frames."""


class Live:
    """Show the first examples of a batch as they are revealed, in place.

    Args:
        codec: of text or images.
        canvas: what is shown first; tokens of value `codec.vocab_size` are masks.
        stream: a terminal; to anything else only the last frame is written, and with NO_COLOR set without colours.

    Raises:
        ValueError: a codec that has no picture.
    """

    def __init__(self, codec: Codec, canvas: Tokens, stream: Any) -> None:
        if not isinstance(codec, Text | Pixels):
            raise ValueError("there is no live view of plain symbols; the model's data are neither text nor images")
        self.codec, self.stream, self.moving = codec, stream, stream.isatty()
        self.colours = not os.environ.get("NO_COLOR")
        self.columns, self.lines = shutil.get_terminal_size()
        canvas = canvas[: self._fitting(tuple(canvas.shape[1:]), self.lines)]
        self.count, self.height, self.last = len(canvas), 0, 0.0
        self.symbols: dict[int, str] = {}
        self.total = (canvas == codec.vocab_size).flatten(1).sum(1).clamp(min=1)
        self.when = torch.full(canvas.shape, -1.0)  # below 0: given, or not there yet

    def _fitting(self, shape: tuple[int, ...], lines: int) -> int:
        """Return how many examples fit on the screen, at least one."""
        if isinstance(self.codec, Pixels):
            return max(1, self.columns // (shape[1] + 1))
        letters = shape[0] * (LETTERS if self.codec.unit == "token" else 1)
        return max(1, (lines - 2) // (-(-letters // (self.columns - 1)) + 1))

    def show(self, before: Tokens, x: Tokens, last: bool = False) -> None:
        """Draw a state that follows another one, unless the frame before is too recent."""
        before, x = before[: self.count].cpu(), x[: self.count].cpu()
        mask = self.codec.vocab_size
        share = 1 - (x == mask).flatten(1).sum(1) / self.total
        new = (before == mask) & (x != mask)
        self.when = torch.where(new, share.view(-1, *[1] * (x.dim() - 1)), self.when)
        self.when = torch.where(x == mask, -1.0, self.when)
        if not last and (not self.moving or time.monotonic() - self.last < PAUSE):
            return
        self.last = time.monotonic()
        lines = self._image(x) if isinstance(self.codec, Pixels) else self._text(x)
        lines = lines[: self.lines - 2] if self.moving else lines  # the cursor cannot go above the screen
        up = f"\x1b[{self.height}F\x1b[J" if self.height and self.moving else ""
        self.stream.write(up + "\n".join(lines) + "\n")
        self.stream.flush()
        self.height = len(lines)

    def _pixels(self, above: tuple[int, ...], below: tuple[int, ...]) -> str:
        """Draw one pixel above another in a cell."""
        if self.colours:
            return self._paint("\N{UPPER HALF BLOCK}", above, below)
        return "?" if MASKED in (tuple(above), tuple(below)) else RAMP[sum((*above, *below)) * len(RAMP) // (6 * 256)]

    def _paint(self, text: str, colour: tuple[int, ...] | None, background: tuple[int, ...] | None = None) -> str:
        if not self.colours or colour is None:
            return text
        behind = "" if background is None else f"\x1b[48;2;{';'.join(map(str, background))}m"
        return f"\x1b[38;2;{';'.join(map(str, colour))}m{behind}{text}\x1b[0m"

    def _text(self, x: Tokens) -> list[str]:
        lines: list[str] = []
        width = self.columns - 1
        for row, when in zip(x.tolist(), self.when.tolist(), strict=True):
            line, room = "", width
            for token, moment in zip(row, when, strict=True):
                text, colour = self._cell(token, moment)
                while text:
                    line, room, text = line + self._paint(text[:room], colour), room - len(text[:room]), text[room:]
                    if not room:
                        lines, line, room = [*lines, line], "", width
            lines += [line, ""] if line else [""]
        return lines[:-1]

    def _cell(self, token: int, when: float) -> tuple[str, tuple[int, ...] | None]:
        """Return what a token looks like, and its colour; none for one that was given."""
        if token == self.codec.vocab_size:
            return "\N{LIGHT SHADE}", MASKED
        text = "".join(c if c.isprintable() and c != "\N{REPLACEMENT CHARACTER}" else " " for c in self._symbol(token))
        if when < 0:
            return text, None
        return text, tuple(round(a + when * (b - a)) for a, b in zip(EARLY, LATE, strict=True))

    def _symbol(self, token: int) -> str:
        if token not in self.symbols:
            self.symbols[token] = self.codec.symbol(token)  # type: ignore[union-attr]  # only texts come here
        return self.symbols[token]

    def _image(self, x: Tokens) -> list[str]:
        """Draw two rows of pixels a line, the images side by side."""
        images = np.asarray(self.codec.decode(x)).astype(int)
        colour = np.where((x == self.codec.vocab_size).numpy().any(-1, keepdims=True), MASKED, images[..., :3])
        if colour.shape[1] % 2:
            colour = np.concatenate((colour, np.zeros_like(colour[:, :1])), 1)
        return [
            " ".join(
                "".join(
                    self._pixels(tuple(above), tuple(below))
                    for above, below in zip(image[row], image[row + 1], strict=True)
                )
                for image in colour.tolist()
            )
            for row in range(0, colour.shape[1], 2)
        ]

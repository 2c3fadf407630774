"""Samples as files: text, pictures, arrays, and films of how they were unmasked."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.codecs.base import Codec
from unmask.codecs.pixels import Pixels
from unmask.codecs.table import Table
from unmask.codecs.text import Text
from unmask.display.pictures import image_grid, save_animation, text_page
from unmask.display.terminal import Live
from unmask.samplers.base import State
from unmask.storage.files import check_writable, replacing
from unmask.types import Tokens

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".txt", ".jsonl", ".csv", ".png", ".npy", ".gif")
FRAMES = 60
"""Most frames in an animation."""


def check_output(codec: Codec, path: Path | str, what: str) -> None:
    """Raise an error, which names `what` was asked for, unless samples can be written to such a file.

    Raises:
        ValueError: the ending is not one of `ENDINGS`, or not one for such data.
        OSError: the file cannot be written.
    """
    ending = Path(path).suffix
    if ending not in ENDINGS:
        raise ValueError(f"{what} {path}: the file must end in one of {', '.join(ENDINGS)}")
    if isinstance(codec, Table) and ending not in (".csv", ".jsonl", ".npy"):
        raise ValueError(f"{what} {path}: the samples are rows of a table; write a .csv, .jsonl or .npy")
    if ending == ".csv" and not isinstance(codec, Table):
        raise ValueError(f"{what} {path}: the samples are no rows of a table")
    plain = not isinstance(codec, Text | Pixels)
    if ending in (".png", ".gif") and plain:
        raise ValueError(f"{what} {path}: there is no picture of plain symbols; write a .npy")
    if ending in (".txt", ".jsonl") and not isinstance(codec, Text | Table):
        raise ValueError(f"{what} {path}: the samples are no text; write a .npy" + " or .png" * (not plain))
    check_writable(Path(path), what)


def default_output(codec: Codec) -> str | None:
    """Return the file that samples are written to where none is named: a picture, an array; None: they are printed."""
    if isinstance(codec, Text | Table):
        return None
    return f"samples.{'png' if isinstance(codec, Pixels) else 'npy'}"


def printed(codec: Codec, samples: Sequence[Any]) -> str:
    """Return samples, decoded, as they are printed: texts with an empty line between them, rows as lines of JSON."""
    if isinstance(codec, Table):
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in samples)
    return "\n\n".join(samples)


def save_samples(
    codec: Codec,
    x: Tokens,
    path: Path | str,
    rows: int | None = None,
    names: Sequence[str] | None = None,
    decode: Callable[[Tokens], Sequence[str]] | None = None,
) -> None:
    """Write samples as the ending of the file says.

    Texts as .txt, with an empty line between them, or as .jsonl, a line of JSON for each, which keeps empty lines in
    a text apart from those between texts; rows of a table as .csv or .jsonl; pictures as .png; the tokens themselves as
    .npy.

    Args:
        codec: of the model.
        x: (n, *dims).
        path: of the file.
        rows: rows of a grid of images, one for each class; None: ten images in a row.
        names: of the rows.
        decode: turns the samples into texts; that of the codec if None.
    """
    decode = decode or codec.decode
    with replacing(path) as target:
        if target.suffix == ".npy":
            np.save(target, x.cpu().numpy())
        elif target.suffix == ".png":
            picture(codec, x, rows, names).save(target)
        elif isinstance(codec, Table) and target.suffix == ".csv":
            with open(target, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, codec.columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(codec.decode(x))
        elif target.suffix == ".jsonl":
            rows_of_json = (one if isinstance(one, dict) else {"text": one} for one in decode(x))
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of_json)
            target.write_text("".join(lines), encoding="utf-8")
        else:
            target.write_text("\n\n".join(decode(x)) + "\n", encoding="utf-8")


def save_film(
    codec: Codec,
    states: Sequence[Tokens],
    path: Path | str,
    rows: int | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write the states of a trajectory as an animated GIF of at most `FRAMES` frames."""
    chosen = np.unique(np.linspace(0, len(states) - 1, min(FRAMES, len(states))).round().astype(int)).tolist()
    with replacing(path) as target:
        save_animation([picture(codec, states[i], rows, names) for i in chosen], target)


def picture(codec: Codec, x: Tokens, rows: int | None = None, names: Sequence[str] | None = None) -> Image:
    """Draw tokens, masks among them, as one picture; see `save_samples`."""
    if not isinstance(codec, Pixels):
        return text_page(codec.decode(x))
    in_rows = rows is not None and len(x) % rows == 0
    columns = len(x) // rows if rows and in_rows else min(len(x), 10)
    labels = (names or [str(i) for i in range(rows)]) if rows and in_rows else None
    return image_grid(codec.decode(x), (x == codec.vocab_size).cpu().numpy(), columns, labels)


class Film:
    """What happens to the first batch that `unmask.samplers.draw.draw` draws: its `watch`.

    Args:
        keep: whether to keep the states, for `save_film`.
        live: shows each state in a terminal, if given.
    """

    def __init__(self, keep: bool = True, live: Live | None = None) -> None:
        self.keep, self.live = keep, live
        self.states: list[Tokens] = []
        self.last: Tokens | None = None

    def __call__(self, batch: int, state: State) -> None:
        """Take a state."""
        if batch:
            self.finish()
            return
        if self.live is not None:
            self.live.show(state.x if self.last is None else self.last, state.x)
        self.last = state.x
        if self.keep:
            self.states.append(state.x.cpu())

    def finish(self) -> None:
        """Show the end of the first batch."""
        if self.live is not None and self.last is not None:
            self.live.show(self.last, self.last, last=True)
        self.live = None

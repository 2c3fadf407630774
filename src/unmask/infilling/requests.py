"""What is to be completed: the fields of a line, checked, and the canvas that they describe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from unmask.canvas import Canvas, answer, known_tokens, make_canvas
from unmask.model import MaskedDiffusion
from unmask.types import Tokens

FORMS: dict[str, tuple[str, ...]] = {
    "text": (),
    "prefix": ("suffix", "unknown"),
    "suffix": ("prefix", "unknown"),
    "chat": ("system", "unknown"),
    "image": ("mask",),
    "array": (),
}
"""Fields that say what is to be completed, and those that belong to each."""
RESULTS = ("line", "completions", "error")
"""Fields that come with the result."""
STEP = 16
"""Lengths that texts are filled up to, where the network has a token for that, are multiples of it."""


@dataclass(frozen=True)
class Request:
    """What is to be completed.

    Attributes:
        form: the field that it is given by; see `FORMS`.
        kept: the fields that come back with the result.
        canvas: tokens, V where unknown.
        label: number of the class, if any.
        unknown: number of unknown tokens.
    """

    form: str
    kept: dict[str, Any]
    canvas: Canvas
    label: int | None
    unknown: int


@dataclass(frozen=True)
class Reader:
    """Reads the fields of lines.

    Args:
        model: that completes them.
        folder: that the paths of images are relative to.
        label: class of those that name none.
        placeholder: see `unmask.canvas.text_canvas`.
        labelled: whether each must have a class, as for guidance.
        pictures: the folder that images are written to, in which none may be read.
    """

    model: MaskedDiffusion
    folder: Path
    label: str | None
    placeholder: str | None
    labelled: bool
    pictures: Path

    def read(self, fields: Mapping[str, Any]) -> Request:
        """Check the fields of a line, and make its canvas.

        Raises:
            ValueError: a field that is missing, empty, of another kind or not of this form, or what does not fit the
                model.
            OSError: an image cannot be read.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        form = find_form(given)
        if taken := [name for name in RESULTS if name in fields]:
            raise ValueError(f"the field {taken[0]!r} is for the result; rename it")
        kept = {name: value for name, value in fields.items() if not isinstance(value, np.ndarray)}
        canvas = self._canvas(form, given)
        unknown = int((canvas == self.model.network.mask_id).sum())
        if self.model.network.causal:
            self.model.fit_sampler().check(self.model.network, canvas.unsqueeze(0), None)
        return Request(form, kept, canvas, self._label(given.get("label", self.label)), unknown)

    def _canvas(self, form: str, given: Mapping[str, Any]) -> Canvas:
        codec, shape = self.model.codec, self.model.shape
        if form == "array":
            tokens = known_tokens(codec, as_array(given["array"]))
            if tuple(tokens.shape) != shape:
                raise ValueError(f"the array must be of shape {shape}, got {tuple(tokens.shape)}")
            return tokens
        values = {name: given[name] for name in (form, *FORMS[form]) if name in given}
        for name, value in values.items():
            check_value(name, value)
        if form == "image":
            if "mask" not in values:
                raise ValueError('"image" needs "mask": an image of the same size, white where unknown')
            values = {name: self.folder / value for name, value in values.items()}
            if self.pictures.resolve() in {path.resolve().parent for path in values.values()}:
                raise ValueError(f"{self.pictures} is the folder that results are written to; choose another --out")
        elif form != "text" and "unknown" not in values:
            raise ValueError(f'"{form}" needs "unknown": the number of tokens to draw')
        return make_canvas(codec, shape, placeholder=self.placeholder if form == "text" else None, **values)[0]

    def _label(self, name: Any) -> int | None:
        if name is None:
            if self.labelled:
                raise ValueError("guidance needs a label")
            return None
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "all":
            raise ValueError(f"label must be the name or the number of a class, got {name!r}")
        found = self.model.labels(name, 1)
        return None if found is None else int(found)


def find_form(given: Mapping[str, Any]) -> str:
    """Return the field that says what is to be completed.

    Raises:
        ValueError: there is none, there are several, or one that does not go with it.
    """
    found = [name for name in FORMS if name in given]
    if "prefix" in found and "suffix" in found:
        found.remove("suffix")
    if len(found) != 1:
        known = '"text", "prefix" or "suffix", "chat", "image" or "array"'
        raise ValueError(f"give one of {known}; got {', '.join(found) or ', '.join(given) or 'nothing'}")
    own = {name for names in FORMS.values() for name in names} - {found[0], *FORMS[found[0]]}
    if wrong := sorted(own & given.keys()):
        raise ValueError(f'"{wrong[0]}" does not go with "{found[0]}"')
    return found[0]


def check_value(name: str, value: Any) -> None:
    """Raise a ValueError for the value of a field of another kind."""
    if name == "unknown":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f'"unknown" must be a number of tokens, at least 1, got {value!r:.40}')
    elif name == "chat" and isinstance(value, list):
        for message in value:
            if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in MESSAGE):
                raise ValueError(
                    f'"chat" must be a text or a list of {{"role": ..., "content": ...}}, got {value!r:.60}'
                )
        if not value:
            raise ValueError('"chat" is empty')
    elif not isinstance(value, str):
        raise ValueError(f'"{name}" must be a text, got {type(value).__name__}')
    else:
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
            raise ValueError(f'"{name}": not valid Unicode: {error.reason} at character {error.start}') from None


MESSAGE = ("role", "content")


def as_array(value: Any) -> np.ndarray:
    """Return nested lists, or an array, as an array; raise a ValueError for lists of different lengths."""
    try:
        return np.asarray(value)
    except (ValueError, OverflowError):
        raise ValueError('"array" must be lists of integers, nested as the dims of an example') from None


def filled_up(model: MaskedDiffusion, canvas: Canvas) -> Int[Tensor, "*longer"]:
    """Return a canvas with what is put at its end so that texts of several lengths make a batch.

    For a network with a token that is hidden from the others, that, up to a multiple of `STEP`; for a model whose
    examples are filled up to one length, what they are filled up with; else the canvas alone.
    """
    network, lengths = model.network, model.lengths
    if canvas.dim() != 1:
        return canvas
    most, count = model.shape[0], len(canvas)
    hidden = getattr(network, "padding", None)
    if isinstance(hidden, int) and hidden < network.vocab_size:
        return F.pad(canvas, (0, min(-(-count // STEP) * STEP, most) - count), value=hidden)
    return canvas if lengths is None else F.pad(canvas, (0, most - count), value=lengths.fill)


def result_of(model: MaskedDiffusion, request: Request, x: Tokens) -> Any:
    """Return one completion, x (1, *dims), as JSON holds it; of an image, its pixels."""
    if x.dim() == 2:
        x = x[:, : len(request.canvas)]
    if request.form == "chat":
        return answer(model.codec, x[0, -request.unknown :])
    if request.form == "array":
        return x[0].tolist()
    return model.codec.decode(x)[0] if request.form == "image" else model.decode(x)[0]

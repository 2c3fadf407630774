"""What is to be completed: the fields of a line, checked, and the canvas that they describe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from unmask.canvas import Canvas, answer, as_messages, known_tokens, make_canvas
from unmask.checks import check_unicode
from unmask.codecs.classes import allowed_tokens
from unmask.evaluation.unknown_length import Prior, is_open, longest_canvas
from unmask.kinds import OWN
from unmask.model import MaskedDiffusion
from unmask.prompts import Prompt, prompt_canvas
from unmask.types import Allowed

FORMS: dict[str, tuple[str, ...]] = {
    "text": (),
    "prefix": ("suffix", "unknown"),
    "suffix": ("prefix", "unknown"),
    "chat": ("system", "unknown"),
    "image": ("mask",),
    "array": (),
    "row": (),
}
"""Fields that say what is to be completed, and those that belong to each."""
CONSTRAINTS = ("allow", "forbid")
"""Fields that say which tokens may be drawn."""
RESULTS = ("line", "completions", "error", "lengths")
"""Fields that come with the result."""
STEP = 16
"""Lengths that texts are filled up to, where the network has a token for that, are multiples of it."""


class Rule(NamedTuple):
    """What is common to inputs that share a batch, besides their shape.

    Attributes:
        labelled: whether they have a class.
        allow, forbid: see `unmask.codecs.allowed_tokens`.
        special: whether special tokens are among those that are allowed.
        stops: whether the example means nothing after the first token that ends a text.
    """

    labelled: bool = False
    allow: str | None = None
    forbid: str | None = None
    special: bool = False
    stops: bool = False


NO_RULE = Rule()


@dataclass(frozen=True)
class Request:
    """What is to be completed.

    Attributes:
        form: the field that it is given by; see `FORMS`.
        kept: the fields that come back with the result.
        canvas: tokens, V where unknown; the longest, where the length is unknown.
        label: number of the class, if any.
        rule: see `Rule`.
        holes: the text, where it has holes of unknown length.
        prompt: the prompt, where the number of unknown tokens after it is not given.
    """

    form: str
    kept: dict[str, Any]
    canvas: Canvas
    label: int | None = None
    rule: Rule = NO_RULE
    holes: str | None = None
    prompt: Prompt | None = None


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
        allow, forbid: see `unmask.codecs.allowed_tokens`; of those that name none.
        prior: see `unmask.evaluation.length_posterior`.
        length: see `unmask.prompts.prompt_canvas`.
    """

    model: MaskedDiffusion
    folder: Path = Path()
    label: str | int | None = None
    placeholder: str | None = None
    labelled: bool = False
    pictures: Path | None = None
    allow: str | None = None
    forbid: str | None = None
    prior: Prior | None = None
    length: int | tuple[int, int] | None = None
    known: dict[Rule, Allowed] = field(default_factory=dict, repr=False)

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
        values = {name: given[name] for name in (form, *FORMS[form], *CONSTRAINTS) if name in given}
        if form != "array":
            for name, value in values.items():
                check_value(name, value)
        placeholder = self.placeholder if form == "text" else None
        holes = values["text"] if form == "text" and placeholder is None and is_open(values["text"]) else None
        prompt = None if form not in ("prefix", "chat") or "unknown" in values else find_prompt(values)
        if holes is not None:
            canvas = longest_canvas(self.model, holes, self.prior)
        elif prompt is not None:
            canvas = prompt_canvas(self.model, prompt, 1, 0, length=self.length).canvas[0].cpu()
        else:
            canvas = self._canvas(form, {name: value for name, value in values.items() if name not in CONSTRAINTS})
        if self.model.network.causal or self.model.kind in OWN:
            self.model.fit_sampler().check(self.model.network, canvas.unsqueeze(0), None)
        label = self.number(given.get("label", self.label))
        rule = self.rule(form, values)._replace(labelled=label is not None)
        self.allowed(rule)
        return Request(form, kept, canvas, label, rule, holes, prompt)

    def rule(self, form: str, values: Mapping[str, Any]) -> Rule:
        """Return how an input is drawn: with which constraint, and whether it ends where a text does."""
        model, goes_on = self.model, form == "prefix" and not values.get("suffix")
        stops = form == "chat" or (goes_on and model.ends)
        ends = stops or (goes_on and model.lengths is not None and model.lengths.ended)
        allow, forbid = (values.get(name, getattr(self, name)) for name in CONSTRAINTS)
        return Rule(False, allow, forbid, ends, stops)

    def allowed(self, rule: Rule) -> Allowed | None:
        """Return which tokens may be drawn, (V,); None: all.

        Raises:
            ValueError: what `allowed_tokens` refuses.
        """
        if rule.allow is None and rule.forbid is None:
            return None
        key = rule._replace(labelled=False, stops=False)
        if key not in self.known:
            self.known[key] = allowed_tokens(self.model.codec, rule.allow, rule.forbid, special=rule.special)
        return self.known[key]

    def _canvas(self, form: str, values: dict[str, Any]) -> Canvas:
        codec, shape = self.model.codec, self.model.shape
        if form == "array":
            tokens = known_tokens(codec, as_array(values["array"]))
            if tuple(tokens.shape) != shape:
                raise ValueError(f"the array must be of shape {shape}, got {tuple(tokens.shape)}")
            return tokens
        if form == "image":
            if "mask" not in values:
                raise ValueError('"image" needs "mask": an image of the same size, white where unknown')
            values = {name: self.folder / value for name, value in values.items()}
            if self.pictures and self.pictures.resolve() in {path.resolve().parent for path in values.values()}:
                raise ValueError(f"{self.pictures} is the folder that results are written to; choose another --out")
        elif form not in ("text", "row") and "unknown" not in values:
            raise ValueError(f'"{form}" needs "unknown": the number of tokens to draw')
        return make_canvas(codec, shape, placeholder=self.placeholder if form == "text" else None, **values)[0]

    def number(self, name: Any) -> int | None:
        """Return the number of a class; raise a ValueError if it is none, or there is none where there must be."""
        if name is None:
            if self.labelled:
                raise ValueError("guidance needs a label")
            return None
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "all":
            raise ValueError(f"label must be the name or the number of a class, got {name!r}")
        found = self.model.labels(name, 1)
        return None if found is None else int(found)


def find_prompt(values: Mapping[str, Any]) -> Prompt:
    """Return the prompt of fields without a number of unknown tokens."""
    if "chat" in values:
        return as_messages(values["chat"], values.get("system"))
    if values.get("suffix"):
        raise ValueError("a suffix needs a number of unknown tokens before it, or a text with a hole such as [1-6]")
    return values["prefix"]


def find_form(given: Mapping[str, Any]) -> str:
    """Return the field that says what is to be completed.

    Raises:
        ValueError: there is none, there are several, or one that does not go with it.
    """
    found = [name for name in FORMS if name in given]
    if "prefix" in found and "suffix" in found:
        found.remove("suffix")
    if len(found) != 1:
        known = '"text", "prefix" or "suffix", "chat", "image", "array" or "row"'
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
            for key in MESSAGE:
                check_unicode(message[key], '"chat"')
        if not value:
            raise ValueError('"chat" is empty')
    elif name == "row" and isinstance(value, dict):
        return
    elif not isinstance(value, str):
        raise ValueError(f'"{name}" must be a text, got {type(value).__name__}')
    else:
        check_unicode(value, f'"{name}"')


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


def result_of(model: MaskedDiffusion, form: str, canvas: Canvas, x: Int[Tensor, "*longer"]) -> Any:
    """Return one completion of a canvas, which may be filled up, as JSON holds it; of an image, its pixels."""
    if x.dim() == 1:
        x = x[: len(canvas)]
    if form == "chat":
        return answer(model.codec, x[canvas == model.network.mask_id])
    if form == "array":
        return x.tolist()
    x = x.unsqueeze(0)
    return model.codec.decode(x)[0] if form == "image" else model.decode(x)[0]

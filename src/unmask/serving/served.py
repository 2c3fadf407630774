"""A model that is served: what it is, and how its tokens look."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from unmask.codecs.base import Codec
from unmask.codecs.ended import find_end
from unmask.codecs.pixels import Pixels
from unmask.codecs.text import Text
from unmask.codecs.tokenizer import Tokenizer
from unmask.infilling.requests import Reader
from unmask.model import MaskedDiffusion
from unmask.serving.settings import explain_settings, sampler_text, samplers_of, schedule_text

Kind = Literal["text", "image", "other"]
OTHER = (
    "the model's data are neither texts nor images: its tokens are shown as numbers. /sample, /infill, /score and "
    '/alternatives take and return "tokens"'
)


@dataclass(frozen=True, eq=False)
class Served:
    """A model with its name.

    Args:
        name: by which requests choose it.
        model: in evaluation mode.
    """

    name: str
    model: MaskedDiffusion

    @cached_property
    def kind(self) -> Kind:
        """What the model is of."""
        if isinstance(self.model.codec, Pixels) and len(self.model.shape) == 3:
            return "image"
        return "text" if isinstance(self.model.codec, Text) and len(self.model.shape) == 1 else "other"

    @cached_property
    def reader(self) -> Reader:
        """Reads the fields of requests."""
        return Reader(self.model)

    @property
    def size(self) -> int:
        """Number of tokens of an example."""
        return math.prod(self.model.shape)

    def symbols(self, tokens: set[int]) -> dict[str, str]:
        """Return what tokens look like, for JSON; nothing for images, whose tokens are levels."""
        if self.kind == "image":
            return {}
        return {str(token): token_text(self.model.codec, token) for token in sorted(tokens)}

    def describe(self) -> dict[str, Any]:
        """Return what a client has to know of the model, as plain values."""
        model, names = self.model, samplers_of(self.model)
        classes = model.network.classes
        labels = model.about.get("class_names") or (None if classes is None else [str(i) for i in range(classes)])
        return {
            "name": self.name,
            "kind": self.kind,
            "note": OTHER if self.kind == "other" else None,
            "shape": list(model.shape),
            "vocab_size": model.network.vocab_size,
            "unit": model.codec.unit,
            "codec": type(model.codec).__name__,
            "labels": labels,
            "left_to_right": model.network.causal,
            "schedule": schedule_text(model),
            "finds_length": model.lengths is not None or model.filled,
            "answers": model.conditional,
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            "sampler": sampler_text(model.fit_sampler()),
            "samplers": {name: explain_settings(make) for name, make in names.items()},
        }


def token_text(codec: Codec, token: int) -> str:
    """Return what a single token looks like: its text, its name, its byte, or its number."""
    if not isinstance(codec, Text):
        return str(token)
    if token == find_end(codec) and not isinstance(codec, Tokenizer):
        return "\N{BLACK SQUARE}"
    text = codec.symbol(token)
    if isinstance(codec, Tokenizer) and (not text or "\N{REPLACEMENT CHARACTER}" in text):
        return codec.tokenizer.id_to_token(token) or f"[{token}]"
    if text == "\N{REPLACEMENT CHARACTER}":
        return f"\\x{token:02x}"
    return text

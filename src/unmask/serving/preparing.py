"""From what a client asks for to a job, with everything checked before it waits."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unmask.canvas import kept_notes
from unmask.checks import read_length
from unmask.codecs.text import Text
from unmask.infilling.choosing import HowLong, find_alternatives
from unmask.infilling.requests import Request, Rule, filled_up
from unmask.kinds import require_masked
from unmask.model import MaskedDiffusion
from unmask.networks.base import check_tokens
from unmask.prompts import prompt_tokens
from unmask.randomness import seeded
from unmask.samplers.base import Sampler
from unmask.samplers.stopping import stop_early
from unmask.serving.drawing import Drawing
from unmask.serving.jobs import Job
from unmask.serving.limits import Limits
from unmask.serving.measuring import Ranking, Scoring, given_tokens, masked_rows
from unmask.serving.requests import AlternativesRequest, Common, Draw, InfillRequest, SampleRequest, ScoreRequest
from unmask.serving.served import Served
from unmask.serving.settings import read_sampler
from unmask.types import Tokens

FORMS = ("text", "prefix", "suffix", "unknown", "chat", "system", "row")
"""Fields that `unmask.infilling` reads."""
GIVEN = ("text", "prefix", "suffix", "chat", "row", "tokens", "pixels")
"""Fields that say what is to be completed: one of them, or prefix and suffix."""


def nobody(event: dict[str, Any]) -> None:
    """Take an event, and do nothing."""


@dataclass(frozen=True)
class Preparer:
    """Makes jobs of requests.

    Args:
        models: by name.
        limits: of a request.
    """

    models: Mapping[str, Served]
    limits: Limits

    def prepare(self, asked: Common) -> Job:
        """Check a request, and return its job, which sends its events to nobody yet.

        Raises:
            ValueError: what does not fit the model, or is more than is served.
            LookupError: no such model.
        """
        served = self.find(asked.model)
        with kept_notes() as notes:
            if isinstance(asked, SampleRequest):
                job = self._sample(served, asked)
            elif isinstance(asked, InfillRequest):
                job = self._infill(served, asked)
            elif isinstance(asked, ScoreRequest):
                job = self._score(served, asked)
            elif isinstance(asked, AlternativesRequest):
                job = self._alternatives(served, asked)
            else:
                raise TypeError(f"no work is known for a {type(asked).__name__}")
        job.extra |= {"note": notes[0]} if notes else {}
        job.deadline = time.monotonic() + self.limits.seconds
        return job

    def find(self, name: str | None) -> Served:
        """Return the model of a name, the first for None."""
        if name is not None and name not in self.models:
            raise LookupError(f"there is no model {name!r:.60}; there are {', '.join(self.models)}")
        return self.models[name] if name is not None else next(iter(self.models.values()))

    def _sample(self, served: Served, asked: SampleRequest) -> Job:
        model = served.model
        if model.conditional:
            raise ValueError("the model answers prompts: ask /infill, with a prefix or a chat")
        entropy = self._entropy(asked)
        self._check_size(asked.n, served.size)
        sampler = read_sampler(model, asked.sampler, self.limits.steps)
        label = model.labels(asked.label, asked.n)
        generator = [seeded(*numbers, 1) for numbers in entropy]  # as `empty_canvas` has it for a seed
        canvas = model.empty_canvas(asked.n, generator, length=_length(asked.length), label=label)
        rule = Rule(label is not None, asked.allow, asked.forbid, special=True)
        return self._drawing(served, sampler, rule, canvas.cpu(), label, asked, "text")

    def _infill(self, served: Served, asked: InfillRequest) -> Job:
        model, form = served.model, "text"
        entropy = self._entropy(asked)
        check_one_given(asked)
        length = _length(asked.length)
        reader = type(served.reader)(model, label=asked.label, placeholder=asked.placeholder, length=length)
        sampler = read_sampler(model, asked.sampler, self.limits.steps)
        fields = {name: value for name in FORMS if (value := getattr(asked, name)) is not None}
        if asked.unknown == "rest":
            fields["unknown"] = room_after(model, fields)
        known = None
        if asked.tokens is not None or asked.pixels is not None:
            known = known_example(served, asked.tokens, asked.pixels, asked.mask)
        constraints = {name: value for name in ("allow", "forbid") if (value := getattr(asked, name)) is not None}
        if known is not None and fields:
            raise ValueError(f"{', '.join(fields)} does not go with tokens or pixels, whose unknown ones are masked")
        if known is not None:
            if not (known == model.network.mask_id).any():
                raise ValueError("nothing is unknown: -1 stands for an unknown token, true in the mask for one")
            number = reader.number(asked.label)
            rule = reader.rule("array", constraints)._replace(labelled=number is not None)
            request = Request("array", {}, known, number, rule)
        else:
            if asked.mask is not None:
                raise ValueError("a mask goes with tokens or pixels; [4] in a text stands for four unknown tokens")
            request = reader.read(fields | constraints)
            form = request.form
        if request.holes is not None:
            raise ValueError("holes of unknown length, such as [1-6], are not served: `unmask infill` takes them")
        if length is not None and request.prompt is None:
            raise ValueError("length is for a prefix or a chat without `unknown`, the number of unknown tokens")
        self._check_size(asked.n, request.canvas.numel())
        numbers, how = [one[1:] for one in entropy], HowLong(length=length)
        found = find_alternatives(model, request, numbers, how, seed=asked.seed, batch_size=self.limits.batch)
        canvas = torch.stack(found.canvases)
        label = None if request.label is None else torch.full((asked.n,), request.label)
        sampler = stop_early(sampler, model.codec) if request.rule.stops else sampler
        return self._drawing(served, sampler, request.rule, canvas, label, asked, form)

    def _drawing(
        self,
        served: Served,
        sampler: Sampler,
        rule: Rule,
        canvas: Tokens,
        label: Tensor | None,
        asked: Draw,
        form: str,
    ) -> Job:
        """Return the job of drawing what is masked of some canvases."""
        model = served.model
        x = torch.stack([filled_up(model, one) for one in canvas])
        served.reader.allowed(rule)
        device = model.device
        sampler.check(model.network_for(x[:1]), x.to(device), None if label is None else label.to(device))
        work = Drawing(served, sampler, rule, tuple(x.shape[1:]))
        own: dict[str, Any] = {"entropy": self._entropy(asked), "form": form, "canvas": canvas, "stream": asked.stream}
        return Job(work, x, nobody, label, **own)

    def _score(self, served: Served, asked: ScoreRequest) -> Job:
        model = served.model
        if asked.draws > self.limits.draws:
            raise ValueError(f"draws is {asked.draws}, at most {self.limits.draws} are served")
        if asked.text is not None:
            if asked.tokens is not None or asked.pixels is not None:
                raise ValueError("give one of text, tokens or pixels")
            x: Tensor = text_example(model, asked.text)
        elif asked.tokens is not None or asked.pixels is not None:
            x = known_example(served, asked.tokens, asked.pixels, None)
        else:
            raise ValueError("give one of text, tokens or pixels")
        check_tokens(x, model.network.vocab_size)
        self._check_size(asked.draws, x.numel())
        x = x.unsqueeze(0)
        extra = {}
        label = self._label(served, asked, 1)
        if asked.given is not None:
            if len(asked.given) != x.numel():
                raise ValueError(f"given has {len(asked.given)} entries, the example {x.numel()} tokens")
            extra["given"] = torch.tensor(asked.given).view(x.shape)
        device = model.device
        given_tokens(model, x.to(device), extra.get("given"), label)
        work = Scoring(served, asked.draws, tuple(x.shape[1:]))
        return Job(work, x, nobody, None if label is None else label.cpu(), [(asked.seed, 0)], extra=extra)

    def _alternatives(self, served: Served, asked: AlternativesRequest) -> Job:
        model, mask_id = served.model, served.model.network.mask_id
        require_masked(model.kind, "/alternatives, which masks a token to ask what else could stand there,")
        canvas = known_example(served, asked.tokens, None, None)
        if wrong := [i for i in asked.positions if not 0 <= i < canvas.numel()]:
            raise ValueError(f"positions are in 0..{canvas.numel() - 1}, got {wrong[0]}")
        self._check_size(len(asked.positions), canvas.numel())
        if model.network.causal:
            hidden = (canvas.flatten() == mask_id).nonzero()
            if len(hidden) and int(hidden[0]) < max(asked.positions):
                raise ValueError(f"a left-to-right model predicts no token after an unknown one, position {hidden[0]}")
        rows = masked_rows(canvas, asked.positions, mask_id)
        label = self._label(served, asked, len(rows))
        extra = {"positions": asked.positions, "k": asked.k, "tokens": asked.tokens}
        work = Ranking(served, tuple(canvas.shape), label is not None)
        return Job(work, rows, nobody, None if label is None else label.cpu(), extra=extra)

    def _label(self, served: Served, asked: Common, count: int) -> Tensor | None:
        """Return the label of each of some rows, all of one class."""
        number = served.reader.number(asked.label)
        return None if number is None else torch.full((count,), number, device=served.model.device)

    def _check_size(self, n: int, tokens: int) -> None:
        """Raise a ValueError for more examples, or more tokens, than are served."""
        if n * tokens > self.limits.tokens:
            raise ValueError(f"{n} x {tokens} tokens are more than the {self.limits.tokens} that are served at once")

    def _entropy(self, asked: Draw) -> list[tuple[int, ...]]:
        """Return what seeds each example; raise a ValueError for more examples than are served."""
        if asked.n > self.limits.examples:
            raise ValueError(f"n is {asked.n}, at most {self.limits.examples} examples are served at once")
        return [(asked.seed, asked.first + i) for i in range(asked.n)]


def check_one_given(asked: InfillRequest) -> None:
    """Raise a ValueError unless one field, or prefix and suffix, says what is to be completed."""
    found = [name for name in GIVEN if getattr(asked, name) is not None]
    if len(found) != 1 and found != ["prefix", "suffix"]:
        said = ", ".join(found) or "none of them"
        raise ValueError(f"give one of text, prefix or suffix or both, chat, row, tokens or pixels; got {said}")


def _length(text: int | str | None) -> int | tuple[int, int] | None:
    return read_length(text) if isinstance(text, str) else text


def room_after(model: MaskedDiffusion, fields: Mapping[str, Any]) -> int:
    """Return how many unknown tokens fit after a prefix."""
    if "prefix" not in fields or "suffix" in fields:
        raise ValueError('"unknown": "rest" goes with a prefix alone')
    known = len(prompt_tokens(model.codec, fields["prefix"])) + len(model.codec.wrap[1])
    if known >= model.shape[0]:
        raise ValueError(f"the prefix has {known} tokens, which leaves no room in the model's {model.shape[0]}")
    return model.shape[0] - known


def text_example(model: MaskedDiffusion, text: str) -> Int[Tensor, " length"]:
    """Return the tokens of a text as an example of the model, filled up where those are.

    Raises:
        ValueError: the model is not of texts, or the text is empty, too long, or has a character that it cannot encode.
    """
    if not isinstance(model.codec, Text):
        raise ValueError(f"a text was given, but the model's tokens are {model.codec}")
    tokens = model.codec.wrapped(model.codec.encode(text))
    if not 0 < len(tokens) <= model.shape[0]:
        raise ValueError(f"the text has {len(tokens)} tokens, the model's sequences have {model.shape[0]}")
    lengths = model.lengths
    if lengths is None:
        return tokens
    return torch.nn.functional.pad(tokens, (0, model.shape[0] - len(tokens)), value=lengths.fill)


def known_example(
    served: Served, tokens: Sequence[int] | None, pixels: Sequence[int] | None, mask: Sequence[bool] | None
) -> Int[Tensor, "*dims"]:
    """Return an example from its tokens or its pixels, V where unknown.

    Raises:
        ValueError: both or neither are given; of another size than the model's examples; or values out of range.
    """
    if (tokens is None) == (pixels is None):
        raise ValueError("give one of tokens or pixels")
    model, name = served.model, "tokens" if tokens is not None else "pixels"
    values = tokens if tokens is not None else pixels or []
    if pixels is not None and served.kind != "image":
        raise ValueError(f"pixels were given, but the model's tokens are {model.codec}")
    shorter = len(model.shape) == 1 and 0 < len(values) <= model.shape[0]
    if len(values) != served.size and not shorter:
        what = f"{served.size} ({' x '.join(map(str, model.shape))})" if len(model.shape) > 1 else str(served.size)
        raise ValueError(f"{len(values)} {name} were given, the model's examples have {what}")
    most = model.network.vocab_size - 1 if tokens is not None else 255
    if wrong := [(i, one) for i, one in enumerate(values) if not (-1 if tokens is not None else 0) <= one <= most]:
        raise ValueError(f"{name} must be in 0..{most}, got {wrong[0][1]!r:.30} at {wrong[0][0]}")
    x = torch.tensor(values)
    if pixels is not None:
        x = model.codec.encode(np.array(values, dtype=np.uint8))
    x = torch.where(x == -1, model.network.mask_id, x)
    if mask is not None:
        if len(mask) != len(values):
            raise ValueError(f"the mask has {len(mask)} entries, there are {len(values)} {name}")
        x = x.masked_fill(torch.tensor(mask), model.network.mask_id)
    return x.view(model.shape) if len(model.shape) > 1 else x

"""Drawing the masked tokens of canvases, and telling what each step reveals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unmask.infilling.requests import Rule, result_of
from unmask.randomness import seeded
from unmask.samplers.base import Sampler, State
from unmask.samplers.left_to_right import LeftToRight
from unmask.samplers.token import TokenSampler
from unmask.samplers.unmasking import Unmasking
from unmask.serving.jobs import Event, Job, Work, joined
from unmask.serving.served import Served
from unmask.serving.settings import sampler_text
from unmask.serving.watching import Watched
from unmask.types import Tokens, Where

NEVER_AGAIN = (Unmasking, TokenSampler, LeftToRight)
"""Samplers that never change an example of which nothing is masked any more."""


class AbandonedError(Exception):
    """Nobody waits for a batch any more."""


@dataclass(frozen=True)
class Drawing(Work):
    """Draws with one sampler; requests whose canvases have one shape, and one rule, share a batch.

    Attributes:
        served: the model.
        sampler: how tokens are drawn.
        rule: which tokens may be drawn, and whether there are labels.
        shape: dims of the canvases.
    """

    served: Served
    sampler: Sampler
    rule: Rule
    shape: tuple[int, ...]

    def run(self, jobs: Sequence[Job]) -> Iterator[None]:
        """See `Work.run`."""
        model = self.served.model
        x, label = joined(jobs, model.device)
        network = model.network_for(x, self.served.reader.allowed(self.rule))
        generator = [seeded(*entropy) for job in jobs for entropy in job.entropy]
        states = self.sampler.trajectory(network, x, label, generator=generator)
        watched = Watched(network, self.sampler.evaluations, lambda: check_wanted(jobs))
        told = [Told(self.served, job, self.sampler) for job in jobs]
        with watched:
            before = next(states)  # the canvas
        for one in told:
            one.start()
        yield
        while True:
            with watched:
                state = next(states, None)
            if state is None:
                break
            self._tell(told, before, state, watched)
            before = state
            yield
        first = 0
        for one in told:
            one.end(before.x[first : first + len(one.job.x)], before.calls[first : first + len(one.job.x)])
            first += len(one.job.x)

    def _tell(self, told: "Sequence[Told]", before: State, state: State, watched: Watched) -> None:
        """Tell every request what a step has changed of its examples."""
        changed = state.x != before.x
        p = watched.probabilities(before, state, changed).cpu() if any(one.job.stream for one in told) else None
        x, masked, changed = state.x.cpu(), (state.x == watched.network.mask_id).cpu(), changed.cpu()
        first = 0
        for one in told:
            rows = slice(first, first + len(one.job.x))
            first = rows.stop
            if one.job.over:
                continue
            if one.job.stream and p is not None:
                one.step(changed[rows], x[rows], p[rows], state.t[rows], state.calls[rows])
            if isinstance(self.sampler, NEVER_AGAIN) and not masked[rows].any():
                one.end(x[rows], state.calls[rows])


def check_wanted(jobs: Sequence[Job]) -> None:
    """End requests whose time is over; raise an `AbandonedError` if none is left."""
    for job in jobs:
        job.expire()
    if all(job.over for job in jobs):
        raise AbandonedError


class Told:
    """What a request is told of its examples.

    Args:
        served: the model.
        job: the request.
        sampler: that draws.
    """

    def __init__(self, served: Served, job: Job, sampler: Sampler) -> None:
        self.served, self.job, self.sampler, self.known = served, job, sampler, set[int]()
        self.canvas = job.x if job.canvas is None else job.canvas

    def start(self) -> None:
        """Tell what there is to begin with."""
        if not self.job.stream:
            return
        served, model = self.served, self.served.model
        begin: Event = {
            "event": "start",
            "model": served.name,
            "kind": served.kind,
            "shape": list(self.canvas.shape[1:]),
            "vocab_size": model.network.vocab_size,
            "unit": model.codec.unit,
            "sampler": sampler_text(self.sampler),
            "seed": self.job.entropy[0][0],
            "label": None if self.job.label is None else self.job.label.tolist(),
            "canvas": plain(self.canvas, model.network.mask_id),
        }
        self.job.tell(begin | self._new({token for row in begin["canvas"] for token in row}))

    def step(self, changed: Where, x: Tokens, p: torch.Tensor, t: torch.Tensor, calls: torch.Tensor) -> None:
        """Tell which tokens a step has changed; nothing if it has changed none."""
        example, position = changed.flatten(1).nonzero().unbind(1)
        if not len(example):
            return
        mask_id = self.served.model.network.mask_id
        tokens = plain(x.flatten(1)[example, position].unsqueeze(0), mask_id)[0]
        known = [None if math.isnan(one) else round(one, 4) for one in p[example, position].tolist()]
        rows = [list(row) for row in zip(example.tolist(), position.tolist(), tokens, known, strict=True)]
        event: Event = {"event": "step", "t": [round(one, 6) for one in t.tolist()], "calls": calls.tolist()}
        self.job.tell(event | {"changed": rows} | self._new(set(tokens)))

    def end(self, x: Tokens, calls: torch.Tensor) -> None:
        """Tell the result."""
        if self.job.over:
            return
        results = []
        for canvas, row, count in zip(self.canvas, x.cpu(), calls.tolist(), strict=True):
            results.append(self.result(canvas, row) | {"calls": count})
        note = {"note": note} if (note := self.job.extra.get("note")) else {}
        what = {"model": self.served.name, "sampler": sampler_text(self.sampler), "seed": self.job.entropy[0][0]}
        self.job.tell({"event": "end", **what, "examples": results, **note})

    def result(self, canvas: torch.Tensor, row: torch.Tensor) -> dict[str, Any]:
        """Return a completed example: its tokens, and its text or its pixels."""
        model, row = self.served.model, row[: len(canvas)] if row.dim() == 1 else row
        found: dict[str, Any] = {"tokens": row.flatten().tolist()}
        if self.served.kind == "image":
            return found | {"pixels": model.codec.decode(row.unsqueeze(0))[0].flatten().tolist()}
        if self.served.kind == "text":
            return found | {"text": result_of(model, self.job.form, canvas, row)}
        return found | ({"row": model.decode(row.unsqueeze(0))[0]} if self.job.form == "row" else {})

    def _new(self, tokens: set[int]) -> dict[str, Any]:
        """Return the looks of tokens that were not told before."""
        new = self.served.symbols(tokens - self.known - {-1})
        self.known |= tokens
        return {"symbols": new} if new else {}


def plain(x: Tokens, mask_id: int) -> list[list[int]]:
    """Return tokens as JSON holds them: those of each example in a row, -1 where unknown."""
    flat = x.flatten(1)
    return torch.where(flat == mask_id, -1, flat).tolist()

"""Requests that wait for the worker, and what becomes of them."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unmask.types import Tokens

Event = dict[str, Any]
"""What a request is told: {"event": "start" | "step" | "end" | "error", ...}."""
LAST = ("end", "error")


class Work(ABC):
    """What is done for some requests at once; those of equal work can share it."""

    @abstractmethod
    def run(self, jobs: Sequence["Job"]) -> Iterator[None]:
        """Do it for all of these, a network call or so at a time; each is sent its events."""


@dataclass(eq=False)
class Job:
    """A request.

    Attributes:
        work: what is to be done.
        x: tokens of its examples (n, *dims), V where unknown.
        send: takes the events; called by the worker's thread.
        label: class of each example, None without.
        entropy: integers that seed the random numbers of each example.
        form: what the result is given as; see `unmask.infilling.requests.result_of`.
        canvas: the examples as they were asked for, which may be shorter than x.
        stream: whether each step is sent.
        deadline: as `time.monotonic` has it.
        over: whether its last event was sent, or nobody waits for it any more.
        extra: what else its work needs.
    """

    work: Work
    x: Tokens
    send: Callable[[Event], None]
    label: Tensor | None = None
    entropy: list[tuple[int, ...]] = field(default_factory=list)
    form: str = "text"
    canvas: Tokens | None = None
    stream: bool = False
    deadline: float = float("inf")
    over: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def tell(self, event: Event) -> None:
        """Send an event, unless the last one was sent."""
        if not self.over:
            self.over = event["event"] in LAST
            self.send(event)

    def fail(self, status: int, message: str) -> None:
        """Send an error, as the last event."""
        self.tell({"event": "error", "status": status, "message": " ".join(message.split())})

    def expire(self) -> None:
        """Send an error if the time of the request is over."""
        if not self.over and time.monotonic() > self.deadline:
            self.fail(504, "the request took longer than the server allows: ask for fewer tokens, steps or examples")


def joined(jobs: Sequence[Job], device: torch.device) -> tuple[Tokens, Tensor | None]:
    """Return the examples of all requests as one batch, and their labels."""
    label = None if jobs[0].label is None else torch.cat([job.label for job in jobs if job.label is not None])
    return torch.cat([job.x for job in jobs]).to(device), None if label is None else label.to(device)

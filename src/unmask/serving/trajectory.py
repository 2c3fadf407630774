"""Saved trajectories: how examples were unmasked, as lines of JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.infilling.requests import Rule
from unmask.model import MaskedDiffusion
from unmask.samplers.base import Sampler
from unmask.serving.drawing import Drawing
from unmask.serving.jobs import Event, Job
from unmask.serving.measuring import Scoring
from unmask.serving.served import Served
from unmask.storage.files import replacing
from unmask.types import Labels, Tokens

MOST = 2**31


@dataclass(frozen=True)
class Trajectory:
    """How some examples were unmasked, step by step, as a server streams it.

    Attributes:
        start: what there was to begin with: `shape`, `vocab_size`, `canvas` (tokens of each example, -1 where unknown),
            `symbols` (what tokens look like), `sampler`, `seed`, ...
        steps: of each its `changed` tokens, as [example, position, token, probability], with `t` and `calls`.
        end: the result.
    """

    start: Event
    steps: tuple[Event, ...]
    end: Event

    @classmethod
    def read(cls, path: Path | str) -> "list[Trajectory]":
        """Read a file of trajectories, as the page saves it, or as /sample and /infill stream it.

        Raises:
            FileNotFoundError: no such file.
            ValueError: something else; names the line.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
        found, events = [], list[Event]()
        with open(path, encoding="utf-8") as file:
            for number, line in _lines(file, path):
                try:
                    event = _checked(json.loads(line), events)
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    raise ValueError(f"{path}:{number}: no line of a trajectory: {error}") from None
                events.append(event)
                if event["event"] == "end":
                    found.append(cls(events[0], tuple(events[1:-1]), event))
                    events = []
        if events or not found:
            raise ValueError(f"{path}: {'the last trajectory has no end' if events else 'there is no trajectory'}")
        return found

    def events(self) -> Iterator[Event]:
        """Yield all events."""
        yield from (self.start, *self.steps, self.end)

    def write(self, path: Path | str) -> None:
        """Write the events as lines of JSON."""
        with replacing(path) as target, open(target, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(event) + "\n" for event in self.events())

    def states(self) -> Int[Tensor, "steps n length"]:
        """Return the canvas and the tokens after each step, V where unknown."""
        x = torch.tensor(self.start["canvas"])
        states = [x]
        for step in self.steps:
            x = x.clone()
            for example, position, token, _ in step["changed"]:
                x[example, position] = token
            states.append(x)
        stacked = torch.stack(states)
        return torch.where(stacked < 0, self.start["vocab_size"], stacked)


def _lines(file: Any, path: Path | str) -> Iterator[tuple[int, str]]:
    try:
        yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read as UTF-8: {error.reason}") from None


def _checked(event: Any, before: list[Event]) -> Event:
    """Return an event that can follow others; raise a ValueError for one that cannot."""
    if not isinstance(event, dict) or event.get("event") not in ("start", "step", "end"):
        what = event.get("message") if isinstance(event, dict) and event.get("event") == "error" else repr(event)[:60]
        raise ValueError(f"expected an event, got {what}")
    if (event["event"] == "start") == bool(before):
        raise ValueError(f"{event['event']!r} cannot stand here: a trajectory begins with start and ends with end")
    symbols = event.get("symbols", {})
    if not isinstance(symbols, dict) or not all(isinstance(text, str) for text in symbols.values()):
        raise ValueError("symbols must be texts")
    if event["event"] == "start":
        _check_start(event)
    elif event["event"] == "step":
        canvas, most = before[0]["canvas"], before[0]["vocab_size"]
        for example, position, token, p in event["changed"]:
            places = 0 <= example < len(canvas) and 0 <= position < len(canvas[example]) and -1 <= token < most
            whole = all(type(one) is int for one in (example, position, token))
            if not (places and whole and (p is None or 0 <= p <= 1)):
                raise ValueError(f"cannot change to {[example, position, token, p]!r:.60}")
    return event


def _check_start(event: Event) -> None:
    canvas, shape, most = event["canvas"], event["shape"], event["vocab_size"]
    size = 1
    for one in (*shape, most):
        if type(one) is not int or not 0 < one < MOST:
            raise ValueError(f"shape and vocab_size must be positive, got {shape!r:.60} and {most!r:.60}")
    for one in shape:
        size *= one
    good = isinstance(canvas, list) and canvas and all(isinstance(row, list) and len(row) == size for row in canvas)
    if not good or not all(type(token) is int and -1 <= token < most for row in canvas for token in row):
        raise ValueError(f"canvas must hold examples of {size} tokens in -1..{most - 1}")
    if event.get("kind") not in ("text", "image", "other"):
        raise ValueError(f"kind must be text, image or other, got {event.get('kind')!r:.60}")


@torch.no_grad()
def record(
    model: MaskedDiffusion,
    canvas: Tokens | None = None,
    label: Labels | None = None,
    *,
    n: int = 1,
    sampler: Sampler | None = None,
    seed: int = 0,
    draws: int = 0,
    name: str = "model",
) -> Trajectory:
    """Draw the masked tokens of a canvas, and keep every step; example i depends on (seed, i) alone.

    Args:
        model: that draws.
        canvas: (n, *dims), masked where tokens are wanted; None: n new examples.
        label: class of each example.
        n: number of new examples.
        sampler: the model's own if None.
        seed: of the examples.
        draws: random masks by which the bound on each example is estimated, token by token; 0: it is not.
        name: of the model.

    Raises:
        ValueError: what `MaskedDiffusion.infill` refuses.

    Example:
        export_page(record(model, n=2, draws=16), "two.html")
    """
    canvas = model.empty_canvas(n, seed, label=label) if canvas is None else canvas
    served, events = Served(name, model), list[Event]()
    sampler, count = model.fit_sampler(sampler), len(canvas)
    work = Drawing(served, sampler, Rule(label is not None), tuple(canvas.shape[1:]))
    entropy: list[tuple[int, ...]] = [(seed, i) for i in range(count)]
    job = Job(work, canvas, events.append, label, entropy, canvas=canvas.cpu(), stream=True)
    for _ in work.run([job]):
        pass
    if draws:
        x = torch.tensor([one["tokens"] for one in events[-1]["examples"]]).view(canvas.shape)
        bounds = list[Event]()
        given = canvas.cpu() != model.network.mask_id
        for i in range(count):
            here = None if label is None else label[i : i + 1]
            scoring = Scoring(served, draws, work.shape)
            extra = {"given": given[i : i + 1]}
            for _ in scoring.run([Job(scoring, x[i : i + 1], bounds.append, here, [(seed, i)], extra=extra)]):
                pass
        for one, bound in zip(events[-1]["examples"], bounds, strict=True):
            one |= {key: value for key, value in bound["examples"][0].items() if key != "tokens"}
    return Trajectory(events[0], tuple(events[1:-1]), events[-1])

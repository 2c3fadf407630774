"""What samplers share that reveal each position once: blocks, corrections, and plans made before the first call."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.categorical import categorical
from unmask.checks import check_whole
from unmask.networks.base import Network, Positions
from unmask.randomness import Generators, uniform
from unmask.samplers.base import Sampler, State, check_drawn, nth, uniform_rows
from unmask.types import Labels, Logits, Times, Tokens, Where


class Span(NamedTuple):
    """A part of the canvas that is revealed before the next is begun.

    Attributes:
        masked: what is masked in the canvas.
        wanted: the positions to reveal.
        later: how many masks the following spans hold.
        steps: how many steps were taken before.
    """

    masked: Where
    wanted: Where
    later: Float[Tensor, "batch 1"]
    steps: int

    def noise(self, rate: Float[Tensor, "batch steps"]) -> Float[Tensor, "batch steps"]:
        """Turn the mask rate within the span into that of the canvas, which began at 1."""
        return (rate * count(self.wanted) + self.later) / count(self.masked).clamp(min=1)


def count(flags: Where) -> Float[Tensor, "batch 1"]:
    """Count the flags of each example."""
    return flags.flatten(1).sum(1, keepdim=True).double()


@dataclass(frozen=True, kw_only=True)
class Unmasking(Sampler):
    """Reveal every masked position once.

    Args:
        block_length: finish each block of that many positions before the next is begun (semi-autoregressive
            sampling); positions in row-major order. None: one block.
        corrections: after each step, this many times: mask one of the revealed positions again, drawn at random, and
            draw it anew, a call each (Gibbs sampling). With an exact network it leaves the law of the tokens as it
            is; it mends what drawing many tokens from one prediction has broken.
    """

    block_length: int | None = None
    corrections: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, block_length=self.block_length)
        check_whole(0, corrections=self.corrections)

    @abstractmethod
    def reveal(
        self, network: Network, state: State, span: Span, label: Labels | None, generator: Generators
    ) -> Iterator[State]:
        """Yield the state after each step, until the wanted positions of the span are revealed."""

    def clock(self, noise: Times) -> Times:
        """Return the time at which the mask rate is `noise`."""
        return noise

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`."""
        masked = self.check(network, x, label)
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        state = State(x, one, torch.zeros_like(one, dtype=torch.long))
        yield state
        steps = 0
        for wanted, later in spans(masked, self.block_length):
            span = Span(masked, wanted, count(later), steps)
            for following in self.reveal(network, state, span, label, generator):
                yield following
                state = following
                steps += 1

    def correct(
        self,
        network: Network,
        state: State,
        span: Span,
        rows: Bool[Tensor, " batch"],
        noise: Times,
        label: Labels | None,
        generator: Generators,
        step: int,
    ) -> State:
        """Draw single revealed positions anew, in `corrections` rounds.

        Args:
            network: says what may stand there.
            state: at least one position of the `rows` is revealed.
            span: says what was masked in the canvas: the positions to choose from.
            rows: the examples to correct.
            noise: the mask rate that the network is told.
            label: class of each example.
            generator: see `unmask.randomness`.
            step: its number, for errors.
        """
        x, t, calls = state
        for _ in range(self.corrections):
            revealed = span.masked & (x != network.mask_id)
            place, u = uniform_rows((2,), rows, generator).unbind(1)
            at = nth(revealed[rows], (place * revealed[rows].flatten(1).sum(1)).long())
            here = x[rows].masked_fill(at, network.mask_id)
            token = categorical(self.law(network, here, noise[rows], None if label is None else label[rows], at), u)
            check_drawn(token, network.mask_id, step)
            x = x.index_put((rows.nonzero().squeeze(1),), here.masked_scatter(at, token))
            calls = calls + self.evaluations * rows
        return State(x, t, calls)


def spans(masked: Where, length: int | None) -> Iterator[tuple[Where, Where]]:
    """Cut a canvas into blocks of `length` positions (None: one block): what is masked in each, and after it."""
    size = masked[0].numel()
    length = length or size
    position = torch.arange(size, device=masked.device).view(masked.shape[1:])
    for start in range(0, size, length):
        yield masked & (position >= start) & (position < start + length), masked & (position >= start + length)


class Plan(NamedTuple):
    """When each position is revealed, and what the network and the clock are told.

    Attributes:
        step: the step that reveals each position; -1 where nothing is to be revealed.
        rate: the mask rate that the network is told at each step.
        after: the mask rate after each step.
        push: how far the prediction of each position is continued beyond the last one; None: not at all.
    """

    step: Int[Tensor, "batch *dims"]
    rate: Float[Tensor, "batch steps"]
    after: Float[Tensor, "batch steps"]
    push: Float[Tensor, "batch *dims"] | None = None


@dataclass(frozen=True, kw_only=True)
class Planned(Unmasking):
    """Plan which position is revealed when, then reveal.

    For schedules that treat all token values alike, *which* position is revealed when does not depend on what it
    becomes, so it is planned first, from one uniform number v per position. *What* it becomes is drawn from the network
    when its moment comes, from a second uniform number. Nothing else is random. A step that reveals nothing in an
    example costs it no network call, and no step has to wait for the device to say what there is to do.
    """

    @abstractmethod
    def plan(self, v: Float[Tensor, "batch *dims"], wanted: Where) -> Plan:
        """Turn the uniform number of each position into the step that reveals it."""

    def reveal(
        self, network: Network, state: State, span: Span, label: Labels | None, generator: Generators
    ) -> Iterator[State]:
        """See `Unmasking.reveal`."""
        x, _, calls = state
        v, u = uniform((len(x), 2, *x.shape[1:]), generator, x.device).unbind(1)
        plan = self.plan(v, span.wanted)
        noise, after = span.noise(plan.rate), span.noise(plan.after)
        earlier: Tensor | None = None
        failed = torch.zeros((), dtype=torch.long, device=x.device)
        for k, move in enumerate(moves(plan.step, noise.shape[1], ahead=plan.push is not None)):
            if move is not None:
                rows = move.rows
                law = self.law(network, x[rows], noise[rows, k], None if label is None else label[rows], move.at)
                if plan.push is not None:
                    law, earlier = push_on(law, earlier, plan.push.flatten()[move.flat], move)
                token = categorical(law, u.flatten()[move.flat])
                failed = torch.where(failed == 0, (span.steps + k + 1) * (token == network.mask_id).any(), failed)
                if x.device.type == "cpu":
                    check_failed(failed)
                x = x.flatten().index_copy(0, move.flat, token).view_as(x)
                calls = calls.index_add(0, rows, torch.full_like(rows, self.evaluations))
            state = State(x, self.clock(after[:, k]), calls)
            if self.corrections and move is not None:
                busy = torch.zeros_like(calls, dtype=torch.bool).index_fill(0, move.rows, True)
                state = self.correct(network, state, span, busy, after[:, k], label, generator, span.steps + k + 1)
                x, _, calls = state
            yield state
        check_failed(failed)


def check_failed(step: Tensor) -> None:
    """Raise a FloatingPointError if `step` is not 0: the first step whose logits were no distribution."""
    if step:
        raise FloatingPointError(f"step {int(step)}: the network's logits are NaN, infinite, or all -inf")


class Move(NamedTuple):
    """What a step works on.

    Attributes:
        rows: the examples in which it reveals something.
        at: the positions in them that it asks the network about: those it reveals and, looking `ahead`, those of the
            next step.
        flat: the positions that it reveals, in the flattened batch, in increasing order.
        now: which of the answers are for those.
        later: which are for the next step.
    """

    rows: Int[Tensor, " rows"]
    at: Positions
    flat: Int[Tensor, " n"]
    now: Int[Tensor, " n"]
    later: Int[Tensor, " m"]


def moves(step: Int[Tensor, "batch *dims"], count: int, ahead: bool) -> list[Move | None]:
    """Sort out, once and on the host, what each of `count` steps works on; None for one that has nothing to do."""
    plan, size = step.flatten(1).cpu().numpy(), step[0].numel()
    by_step = np.argsort(plan, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(plan.ravel() + 1, minlength=count + 2))
    pieces: list[np.ndarray] = []
    widths: list[int] = []
    for k in range(count):
        revealed = by_step[ends[k] : ends[k + 1]]
        if not revealed.size:
            continue
        asked = np.sort(by_step[ends[k] : ends[k + 2]]) if ahead else revealed
        example, position = np.divmod(asked, size)
        rows, first, many = np.unique(example, return_index=True, return_counts=True)
        slot, row = np.arange(len(asked)) - np.repeat(first, many), np.repeat(np.arange(len(rows)), many)
        index = np.zeros((len(rows), many.max()), dtype=np.int64)
        index[row, slot] = position
        now = plan.ravel()[asked] == k
        kept = row * index.shape[1] + slot
        pieces += [rows, row, position, index.ravel(), kept, revealed, now.nonzero()[0], (~now).nonzero()[0]]
        widths.append(index.shape[1])
    if not pieces:
        return [None] * count
    sizes = [len(piece) for piece in pieces]
    parts = torch.from_numpy(np.concatenate(pieces)).to(step.device).split(sizes)
    made: list[Move | None] = []
    busy = iter(range(0, len(parts), 8))
    for k in range(count):
        if ends[k] == ends[k + 1]:
            made.append(None)
            continue
        start = next(busy)
        rows, example, position, index, kept, flat, now, later = parts[start : start + 8]
        full = len(kept) == len(index)
        at = Positions(example, position, index.view(-1, widths[start // 8]), None if full else kept)
        made.append(Move(rows, at, flat, now, later))
    return made


def push_on(law: Logits, earlier: Tensor | None, push: Float[Tensor, " n"], move: Move) -> tuple[Tensor, Tensor]:
    """Continue the predictions p of a step beyond those of the step before: p + push (p - earlier), no less than 0.

    Returns:
        the logits (n, V) to draw from at the positions that are revealed now, and the predictions (m, V) for those of
        the next step.
    """
    p = law.softmax(-1, dtype=torch.float64 if law.dtype == torch.float64 else torch.float32)
    now = p[move.now]
    if earlier is not None:
        now = (now + push.to(p.dtype).unsqueeze(1) * (now - earlier)).clamp(min=0)
    return now.log(), p[move.later]

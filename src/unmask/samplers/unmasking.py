"""Base classes of samplers that reveal each position once: blocks, corrections, and planned reveals."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.categorical import categorical
from unmask.checks import check_whole
from unmask.devices import send
from unmask.networks.base import Network, Positions
from unmask.randomness import Generators, uniform
from unmask.samplers.base import Sampler, State, flag_of_rank
from unmask.samplers.blocks import fill_ended, split_into_blocks
from unmask.samplers.rows import Failures, Rows
from unmask.types import Labels, Logits, Times, Tokens, Where


class Span(NamedTuple):
    """A part of the canvas that is finished before the next one starts.

    Attributes:
        masked: the positions that were masked in the whole canvas.
        wanted: the positions to reveal in this span.
        masked_later: number of masked positions in later spans.
        steps_before: number of steps in earlier spans.
        failures: keeps the first step that failed.
    """

    masked: Where
    wanted: Where
    masked_later: Float[Tensor, "batch 1"]
    steps_before: int
    failures: Failures

    def noise(self, rate: Float[Tensor, "batch steps"]) -> Float[Tensor, "batch steps"]:
        """Convert mask rates within the span to mask rates of the canvas, which started at 1."""
        return (rate * count_flags(self.wanted) + self.masked_later) / count_flags(self.masked).clamp(min=1)

    def left(self, masked: Int[Tensor, " batch"], n: Int[Tensor, " batch"]) -> Times:
        """Return the mask rate of the canvas when `masked` of the n positions of the span are masked."""
        return self.noise((masked.double() / n.clamp(min=1)).unsqueeze(1)).squeeze(1)


def count_flags(flags: Where) -> Float[Tensor, "batch 1"]:
    """Return the number of set flags of each example."""
    return flags.flatten(1).sum(1, keepdim=True).double()


@dataclass(frozen=True, kw_only=True)
class Unmasking(Sampler):
    """Reveal every masked position once.

    A correction is one step of Gibbs sampling. Of the positions revealed so far, R, mask one again and redraw it:

        i ~ U(R),   x_i ~ p(x_i | x without i).

    With an exact network this leaves the distribution of every partly masked x unchanged, and it reduces the error of
    drawing several tokens from one prediction.

    Args:
        block_length: finish each block of this many positions before the next one starts (semi-autoregressive
            sampling); positions are in row-major order. None: one block.
        blocks_after_prompt: the first block starts at the first masked position of each example, not at its first
            position.
        corrections: number of corrections after each step, one network call each.
        stop_at: a token, or several, that end an example: once one of them has been drawn in a finished block, the
            positions that are left are filled with the first of them and take no network calls. What comes before is
            as without it (but for corrections, which are fewer then). Needs `block_length`; a GPU is waited for once
            between blocks. None: never.
    """

    block_length: int | None = None
    blocks_after_prompt: bool = False
    corrections: int = 0
    stop_at: tuple[int, ...] | int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, block_length=self.block_length)
        check_whole(0, corrections=self.corrections)
        if self.stop_at is not None:
            if not self.ends or not all(isinstance(token, int) and token >= 0 for token in self.ends):
                raise ValueError(f"stop_at must be a token, or several, got {self.stop_at!r}")
            if self.block_length is None:
                raise ValueError("stop_at needs block_length: examples stop between blocks")

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens of `stop_at`."""
        return (self.stop_at,) if isinstance(self.stop_at, int) else tuple(self.stop_at or ())

    @abstractmethod
    def reveal(
        self, network: Network, state: State, span: Span, label: Labels | None, generator: Generators
    ) -> Iterator[State]:
        """Yield the state after each step until all wanted positions of the span are revealed."""

    def clock(self, noise: Times) -> Times:
        """Return the time at which the mask rate is `noise`."""
        return noise

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`."""
        masked = self.check(network, x, label)
        if self.stop_at is not None and max(self.ends) >= network.vocab_size:
            raise ValueError(f"stop_at: the model's tokens are 0..{network.vocab_size - 1}, got {max(self.ends)}")
        ends = None if self.stop_at is None else torch.tensor(self.ends, device=x.device)
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        state = State(x, one, torch.zeros_like(one, dtype=torch.long))
        yield state
        steps, failures = 0, Failures(x.device)
        for wanted, later in split_into_blocks(masked, self.block_length, self.blocks_after_prompt):
            if ends is not None and steps:
                stopped = fill_ended(network, state.x, masked, ends)
                state = State(stopped.x, state.t.masked_fill(stopped.ended, 0), state.calls)
                if not stopped.masked.any():  # the one wait of a block
                    yield state
                    break
                wanted, later = wanted & stopped.masked, later & stopped.masked
            span = Span(masked, wanted, count_flags(later), steps, failures)
            for following in self.reveal(network, state, span, label, generator):
                yield following
                state = following
                steps += 1
        failures.check()

    def correct(
        self,
        network: Network,
        state: State,
        span: Span,
        rows: Rows,
        noise: Times,
        label: Labels | None,
        generator: Generators,
        step: int,
    ) -> State:
        """Redraw revealed positions one at a time, `corrections` times.

        Args:
            network: predicts the token of the position that is masked again.
            state: at least one position in each of the `rows` must be revealed.
            span: positions are chosen among `span.masked`, never among those given in the canvas.
            rows: the examples to correct, at least one.
            noise: mask rate passed to the network.
            label: class of each example.
            generator: see `unmask.randomness`.
            step: number of the step, for error messages.
        """
        x, t, calls = state
        labels = None if label is None else rows.pick(label)
        for _ in range(self.corrections):
            revealed = rows.pick(span.masked & (x != network.mask_id))
            place, u = rows.uniform((2,), generator).unbind(1)
            flags = flag_of_rank(revealed, (place * revealed.flatten(1).sum(1)).long())
            at, here = Positions.one_each(flags), rows.pick(x).masked_fill(flags, network.mask_id)
            token = categorical(self.token_logits(network, here, rows.pick(noise), labels, at), u)
            span.failures.note(token == network.mask_id, step)
            x, calls = rows.put(x, at.replace(here, token)), rows.count(calls, self.evaluations)
        return State(x, t, calls)


class Plan(NamedTuple):
    """The step that reveals each position, and the mask rates of the steps.

    Attributes:
        step: step 0, 1, ... that reveals each position; -1 where nothing is to be revealed.
        rate: mask rate passed to the network at each step.
        rate_after: mask rate after each step, for the clock.
        extrapolation: coefficient c of each position, which extrapolates its prediction p′ from that of the previous
            step, p, to p′ + c (p′ − p); None: no extrapolation.

    Examples:
        >>> rate = torch.tensor([[1.0, 0.5, 0.0]])
        >>> plan = unmask.Plan(torch.tensor([[0, 1, 0, 1]]), rate[:, :-1], rate[:, 1:])  # even positions, then odd ones
        >>> plan.step
        tensor([[0, 1, 0, 1]])
    """

    step: Int[Tensor, "batch *dims"]
    rate: Float[Tensor, "batch steps"]
    rate_after: Float[Tensor, "batch steps"]
    extrapolation: Float[Tensor, "batch *dims"] | None = None


@dataclass(frozen=True, kw_only=True)
class Planned(Unmasking):
    """Plan which step reveals each position, then reveal.

    Under a scalar schedule, when a position is revealed does not depend on its token:

        position i is masked at t  ⟺  vᵢ < 1 − α_t,   vᵢ ~ U[0, 1).

    So the steps are planned first, from one uniform number v per position. The token is drawn from the network's
    prediction in that step, from a second uniform number. An example for which a step reveals nothing takes no network
    call, and no step waits for the device in order to find out what to do.

    Examples:
        >>> class OddFirst(unmask.Planned):
        ...     def plan(self, v, wanted):
        ...         step = torch.where(wanted, (torch.arange(v.shape[1]) + 1) % 2, -1)
        ...         rate = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64).expand(len(v), -1)
        ...         return unmask.Plan(step, rate[:, :-1], rate[:, 1:])
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> [(state.x == 5).tolist() for state in OddFirst().trajectory(network, unmask.all_masked(1, (4,), 5))]
        [[[True, True, True, True]], [[True, False, True, False]], [[False, False, False, False]]]
    """

    @abstractmethod
    def plan(self, v: Float[Tensor, "batch *dims"], wanted: Where) -> Plan:
        """Map the uniform number of each position to the step that reveals it."""

    def reveal(
        self, network: Network, state: State, span: Span, label: Labels | None, generator: Generators
    ) -> Iterator[State]:
        """See `Unmasking.reveal`."""
        x, _, calls = state
        v, u = uniform((len(x), 2, *x.shape[1:]), generator, x.device).unbind(1)
        plan = self.plan(v, span.wanted)
        noise, noise_after = span.noise(plan.rate), span.noise(plan.rate_after)
        previous: Tensor | None = None
        steps = planned_steps(plan.step, noise.shape[1], look_ahead=plan.extrapolation is not None)
        for k, planned in enumerate(steps):
            if planned is not None:
                rows = planned.examples
                labels = None if label is None else rows.pick(label)
                logits = self.token_logits(network, rows.pick(x), rows.pick(noise[:, k]), labels, planned.queried)
                if plan.extrapolation is not None:
                    coefficient = plan.extrapolation.flatten()[planned.revealed]
                    logits, previous = extrapolate_predictions(logits, previous, coefficient, planned)
                token = categorical(logits, u.flatten()[planned.revealed])
                number = span.steps_before + k + 1
                span.failures.note(token == network.mask_id, number)
                x = x.flatten().index_copy(0, planned.revealed, token).view_as(x)
                calls = rows.count(calls, self.evaluations)
            state = State(x, self.clock(noise_after[:, k]), calls)
            if self.corrections and planned is not None:
                state = self.correct(network, state, span, rows, noise_after[:, k], label, generator, number)
                x, _, calls = state
            yield state


class PlannedStep(NamedTuple):
    """The positions of one step.

    Attributes:
        examples: in which the step reveals something.
        queried: the positions in these whose logits are computed: those revealed in this step and, when looking ahead,
            those of the next step.
        revealed: the n revealed positions as increasing indices into the flattened batch.
        revealed_rows: which of the logits belong to these.
        upcoming_rows: which of the logits belong to the next step.
    """

    examples: Rows
    queried: Positions
    revealed: Int[Tensor, " n"]
    revealed_rows: Int[Tensor, " n"]
    upcoming_rows: Int[Tensor, " m"]


def planned_steps(step: Int[Tensor, "batch *dims"], number_of_steps: int, look_ahead: bool) -> list[PlannedStep | None]:
    """Collect the positions of every step, all at once on the host; None for a step that reveals nothing."""
    plan, length = step.flatten(1).cpu().numpy(), step[0].numel()
    by_step = np.argsort(plan, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(plan.ravel() + 1, minlength=number_of_steps + 2))
    arrays: list[np.ndarray] = []
    known: list[tuple[tuple[int, ...], int]] = []
    for k in range(number_of_steps):
        revealed = by_step[ends[k] : ends[k + 1]]
        if revealed.size:
            queried = np.sort(by_step[ends[k] : ends[k + 2]]) if look_ahead else revealed
            now = plan.ravel()[queried] == k
            examples, packed, width = pack_positions(queried, length)
            arrays += [examples, *packed, revealed, now.nonzero()[0], (~now).nonzero()[0]]
            known.append((tuple(examples.tolist()), width))
    if not arrays:
        return [None] * number_of_steps
    tensors = send(torch.from_numpy(np.concatenate(arrays)), step.device).split([len(array) for array in arrays])
    steps: list[PlannedStep | None] = [None] * number_of_steps
    for i, k in enumerate(k for k in range(number_of_steps) if ends[k] < ends[k + 1]):
        examples, example, position, index, kept, *rows = tensors[8 * i : 8 * i + 8]
        numbers, width = known[i]
        full = len(kept) == len(index)
        at = Positions(example, position, index.view(-1, width), None if full else kept)
        steps[k] = PlannedStep(Rows(numbers, len(step), examples), at, *rows)
    return steps


def pack_positions(flat: np.ndarray, length: int) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Return the example numbers, the four flattened fields of `Positions`, and the width of its index.

    Args:
        flat: increasing indices into the flattened batch.
        length: positions per example.
    """
    example, position = np.divmod(flat, length)
    examples, first, per_example = np.unique(example, return_index=True, return_counts=True)
    row = np.repeat(np.arange(len(examples)), per_example)
    slot = np.arange(len(flat)) - np.repeat(first, per_example)
    index = np.zeros((len(examples), per_example.max()), dtype=np.int64)
    index[row, slot] = position
    return examples, [row, position, index.ravel(), row * index.shape[1] + slot], index.shape[1]


def extrapolate_predictions(
    logits: Logits, previous: Tensor | None, coefficient: Float[Tensor, " n"], step: PlannedStep
) -> tuple[Tensor, Tensor]:
    """Extrapolate the predictions p′ of a step from those of the previous step, p: max(0, p′ + c (p′ − p)).

    Args:
        logits: of p′, at the queried positions of the step.
        previous: p at the n revealed positions; None in the first step.
        coefficient: c of the n revealed positions.
        step: the positions.

    Returns:
        The logits (n, V) to draw from at the revealed positions, and the predictions (m, V) for the next step.
    """
    p = logits.softmax(-1, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
    revealed = p[step.revealed_rows]
    if previous is not None:
        revealed = (revealed + coefficient.to(p.dtype).unsqueeze(1) * (revealed - previous)).clamp(min=0)
    return revealed.log(), p[step.upcoming_rows]

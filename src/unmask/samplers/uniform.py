"""Ancestral sampling of multinomial diffusion (D3PM uniform)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from unmask.categorical import categorical
from unmask.checks import check_whole
from unmask.networks.base import Network, Positions
from unmask.randomness import Generators, uniform
from unmask.replacing import Step, reverse_logits
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import State
from unmask.samplers.redrawing import Redrawing
from unmask.samplers.rows import Failures
from unmask.schedules import Schedule, check_kind
from unmask.types import Labels, Tokens


@dataclass(frozen=True)
class UniformAncestral(Redrawing):
    """Simulate the reverse process of `UniformELBO` on a grid of times, from uniformly random tokens.

    From t to s < t every position is drawn from p(x_s | x_t) (D3PM, equation 4; see `unmask.replacing`), exactly and in
    float64. With T = `steps` and the "uniform" grid it is the model that the bound is of. Temperature, top-k, top-p and
    guidance change p̃(x_0 | x_t). What is known is refused, but where the model was trained so; see `Redrawing`.

    Args:
        schedule: gives α. None: that of the model.
        steps: number of steps. None: T of the model's bound.
        grid: see `Ancestral`.

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> canvas = unmask.all_masked(2, (16,), network.mask_id)
        >>> *_, last = unmask.UniformAncestral(unmask.CosineSignal(), steps=4).trajectory(network, canvas)
        >>> last.calls
        tensor([4, 4])
    """

    schedule: Schedule | None = None
    steps: int | None = None
    grid: Grid = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule is not None:
            check_kind(self.schedule, Schedule, "UniformAncestral")
        check_whole(1, steps=self.steps)
        check_grid(self.steps or 1, self.grid)

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`. The first state has random tokens; each step is a call for every example."""
        if self.schedule is None or self.steps is None:
            raise ValueError("UniformAncestral needs a schedule and a number of steps: the model's are filled in by it")
        unknown, vocab = self.check(network, x, label), network.vocab_size
        at, length = Positions.of(unknown), x[0].numel()
        rows = at.example * length + at.position
        times = grid_times(self.steps, self.grid, x.device)
        rate = self.schedule.mask_rate(times)
        x = torch.where(unknown, (uniform(tuple(x.shape), generator, x.device) * vocab).long(), x)
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        failures = Failures(x.device)
        yield State(x, times[:1].expand(len(x)), calls)
        for k in range(self.steps):
            u = uniform(tuple(x.shape), generator, x.device).flatten(1)
            logits = self.token_logits(network, x, rate[k].expand(len(x)), label, at)
            step = Step.of(self.schedule, times[k : k + 1], times[k + 1 : k + 2], vocab)
            logits = reverse_logits(logits.double().log_softmax(-1), at.pick(x.flatten(1)), step)
            token = categorical(logits, at.pick(u))
            failures.note(token == network.mask_id, k + 1)
            x = x.flatten().index_copy(0, rows, token.clamp(max=vocab - 1)).view_as(x)
            calls = calls + self.evaluations
            yield State(x, times[k + 1].expand(len(x)), calls)
        failures.check()

"""Ancestral sampling as public code does it: one draw over V + 1 values, at every masked position, in every step."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from unmask.gumbel import Precision, gumbel_max
from unmask.networks.base import Network
from unmask.randomness import Generators
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import Sampler, State
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Labels, Tokens


@dataclass(frozen=True)
class GumbelAncestral(Sampler):
    """`Ancestral`, but slow, and in float32 wrong: for the precision study and as the baseline of the benchmarks.

    In each step every masked position becomes token i with probability p_i (1 - r_s / r_t) or stays masked, by one
    Gumbel-max over the V + 1 values. With many steps the tokens' probabilities are small beside that of the mask, so
    float32's bound on Gumbel numbers makes the unlikely ones unlikelier still (FHS, section 5).

    Args:
        schedule: gives the mask rate at each time of the grid.
        steps: number of steps, at least 1.
        grid: see `Ancestral`.
        precision: see `unmask.gumbel.gumbel_max`.
        temperature, top_k, top_p, guidance: see `Sampler`.
    """

    schedule: Schedule = field(default_factory=Linear)
    steps: int = 256
    grid: Grid = "uniform"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.schedule, Schedule, "GumbelAncestral")
        check_grid(self.steps, self.grid)
        if self.precision not in ("float64", "float32", "truncated"):
            raise ValueError(f"precision must be float64, float32 or truncated, got {self.precision!r}")

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`; but one generator draws for the whole batch."""
        masked = self.check(network, x, label)
        if not isinstance(generator, torch.Generator | None):
            raise ValueError("GumbelAncestral draws a batch from one generator, not from one per example")
        rate = self.schedule.mask_rate(grid_times(self.steps, self.grid, x.device))
        t = self.schedule.inverse(1 - rate)
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        yield State(x, t[:1].expand(len(x)), calls)
        for k in range(self.steps):
            if masked.any():
                rows = masked.flatten(1).any(1)
                noise = rate[k].expand(int(rows.sum()))
                law = self.law(network, x[rows], noise, None if label is None else label[rows], masked[rows])
                law = law.log_softmax(-1, dtype=torch.float32 if self.precision == "float32" else torch.float64)
                if not law.amax(-1).isfinite().all():
                    raise FloatingPointError(f"step {k + 1}: the network's logits are NaN, infinite, or all -inf")
                stay = rate[k + 1] / rate[k]
                law = torch.cat((law + torch.log1p(-stay), stay.log().to(law.dtype).expand(len(law), 1)), 1)
                x = x.masked_scatter(masked, gumbel_max(law, self.precision, generator))
                masked = x == network.mask_id
                calls = calls + self.evaluations * rows
            yield State(x, t[k + 1].expand(len(x)), calls)

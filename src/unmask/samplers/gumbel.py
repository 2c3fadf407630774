"""Sampling by Gumbel-max: a number is drawn for each value at every position that may change, in every step."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.gumbel import Precision, gumbel_max
from unmask.networks.base import Network
from unmask.randomness import Generators, Share, seeded
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import Sampler, State
from unmask.samplers.left_to_right import LeftToRight
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Labels, Logits, Tokens


@dataclass(frozen=True)
class GumbelAncestral(Sampler):
    """Draw as `Ancestral`, but by Gumbel-max: a baseline for benchmarks and for the study of float32 (FHS, section 5).

    With r = 1 − α, each masked position becomes the

        argmax over v of log q_v + g_v,   q_v = p_v (1 − r_s / r_t) for tokens,   q_mask = r_s / r_t.

    With many steps the q of tokens are small compared to that of the mask, so the upper bound that float32 puts on g
    makes unlikely tokens even less likely.

    Args:
        schedule: gives α at each time of the grid.
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
        """See `Sampler.trajectory`."""
        masked = self.check(network, x, label)
        if isinstance(generator, Share):
            raise ValueError("GumbelAncestral draws a batch from one generator, or from one per example")
        one = isinstance(generator, torch.Generator | None)
        rate = self.schedule.mask_rate(grid_times(self.steps, self.grid, x.device))
        t = self.schedule.inverse(1 - rate)
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        yield State(x, t[:1].expand(len(x)), calls)
        for k in range(self.steps):
            if masked.any():
                rows = masked.flatten(1).any(1)
                noise = rate[k].expand(int(rows.sum()))
                logits = self.token_logits(
                    network, x[rows], noise, None if label is None else label[rows], masked[rows]
                )
                log_p = logits.log_softmax(-1, dtype=torch.float32 if self.precision == "float32" else torch.float64)
                if not log_p.amax(-1).isfinite().all():
                    raise FloatingPointError(f"step {k + 1}: the network's logits are NaN, infinite, or all -inf")
                stay = rate[k + 1] / rate[k]
                log_q = torch.cat((log_p + torch.log1p(-stay), stay.log().to(log_p.dtype).expand(len(log_p), 1)), 1)
                counts = None if one else masked.flatten(1).sum(1).tolist()
                x = x.masked_scatter(masked, gumbel_max(log_q, self.precision, generator, counts))
                masked = x == network.mask_id
                calls = calls + self.evaluations * rows
            yield State(x, t[k + 1].expand(len(x)), calls)


@dataclass(frozen=True)
class GumbelLeftToRight(LeftToRight):
    """Draw as `LeftToRight`, but by Gumbel-max; for the study of float32, which hardly shows token by token.

    Args:
        precision: see `unmask.gumbel.gumbel_max`.
        temperature, top_k, top_p, guidance, and others: see `LeftToRight`.
    """

    precision: Precision = "float32"

    def draw(self, logits: Logits, u: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """See `LeftToRight.draw`; the Gumbel numbers of an example follow from its uniform number."""
        log_p = logits.log_softmax(-1, dtype=torch.float32 if self.precision == "float32" else torch.float64)
        own = [seeded(int(one * 2**53)) for one in u.tolist()]
        return gumbel_max(log_p, self.precision, own, [1] * len(own))

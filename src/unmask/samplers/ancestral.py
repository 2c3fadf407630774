"""Ancestral sampling: the reverse process on a grid of times."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.checks import check_whole
from unmask.devices import send
from unmask.samplers.unmasking import Plan, Planned
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Times, Where

Grid = Literal["uniform", "cosine", "dream"]
"""Times i / steps ("uniform"), sin(π/2 · i / steps) ("cosine"), or 0 for i = 0 and 0.001 + 0.999 i / steps for the
others ("dream": the published code of Dream, arXiv:2508.15487)."""


def check_grid(steps: int, grid: str, grids: tuple[str, ...] = get_args(Grid)) -> None:
    """Raise a ValueError unless steps and grid are valid."""
    check_whole(1, steps=steps)
    if grid not in grids:
        raise ValueError(f"grid must be one of {', '.join(grids)}; got {grid!r}")


def grid_times(steps: int, grid: Grid, device: torch.device | str = "cpu") -> Float[Tensor, " times"]:
    """Return the steps + 1 times of a grid, from exactly 1 down to exactly 0."""
    if grid == "dream":  # in float32, which decides how many tokens are revealed where that is close to a whole number
        t = torch.linspace(1, 1e-3, steps + 1)
        return send(torch.cat((t[:-1], torch.zeros(1))).double(), device)
    t = torch.arange(steps, -1, -1, dtype=torch.float64, device=device) / steps
    return torch.sin(math.pi / 2 * t) if grid == "cosine" else t


@dataclass(frozen=True)
class Ancestral(Planned):
    """Simulate the reverse process on a grid of times (ancestral sampling; MD4, section 4).

    From t to s < t a masked position i becomes

        token v      with probability (α_s − α_t) / (1 − α_t) · p_v(x_t, i),
        still masked with probability (1 − α_s) / (1 − α_t).

    Tokens revealed in the same step are drawn independently from one prediction, which is the error of a finite grid.
    An example for which a step reveals nothing takes no network call. Other settings: see `Sampler` and `Unmasking`.

    Args:
        schedule: gives α at each time of the grid.
        steps: number of steps (per block), at least 1; 1 draws every token independently.
        grid: times i / steps ("uniform") or sin(π/2 · i / steps) ("cosine": the first steps are small, so that few
            tokens are drawn together while there is little context); "dream": see `dream`.

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2)
        >>> canvas = unmask.all_masked(2, (16,), network.mask_id)
        >>> *_, last = unmask.Ancestral(steps=4).trajectory(network, canvas)
        >>> bool((last.calls <= 4).all())
        True
    """

    schedule: Schedule = field(default_factory=Linear)
    steps: int = 256
    grid: Grid = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.schedule, Schedule, "Ancestral")
        check_grid(self.steps, self.grid)

    def plan(self, v: Float[Tensor, "batch *dims"], wanted: Where) -> Plan:
        """See `Planned.plan`. A position is masked while v is below the mask rate."""
        rate = self.schedule.mask_rate(grid_times(self.steps, self.grid, v.device))
        # The first step that ends at a mask rate <= v reveals the position.
        step = self.steps - torch.searchsorted(rate[1:].flip(0), v.contiguous(), right=True)
        return Plan(torch.where(wanted, step, -1), rate[:-1].expand(len(v), -1), rate[1:].expand(len(v), -1))

    def clock(self, noise: Times) -> Times:
        """See `Unmasking.clock`."""
        return self.schedule.inverse(1 - noise)

"""Ancestral sampling: the reverse process on a grid of times."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.checks import check_whole
from unmask.samplers.unmasking import Plan, Planned
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Times, Where

Grid = Literal["uniform", "cosine"]
"""Times i / steps, or sin(pi/2 i / steps)."""


def check_grid(steps: int, grid: Grid) -> None:
    """Raise a ValueError unless there is such a grid."""
    check_whole(1, steps=steps)
    if grid not in ("uniform", "cosine"):
        raise ValueError(f"grid must be uniform or cosine, got {grid!r}")


def grid_times(steps: int, grid: Grid, device: torch.device | str = "cpu") -> Float[Tensor, " times"]:
    """Return the steps + 1 times of a grid, from exactly 1 down to exactly 0."""
    t = torch.arange(steps, -1, -1, dtype=torch.float64, device=device) / steps
    return torch.sin(math.pi / 2 * t) if grid == "cosine" else t


@dataclass(frozen=True)
class Ancestral(Planned):
    """Go from t = 1 to 0 in `steps` steps, revealing in each the positions whose moment it holds (MD4, section 4).

    A masked position is revealed between t and s < t with probability `schedule.unmask_prob(t, s)`, and all that
    are revealed in one step are drawn from the same prediction, independently: the error of a finite grid. A step
    that reveals nothing in an example costs it no network call. Other settings: see `Sampler` and `Unmasking`.

    Args:
        schedule: gives the mask rate at each time of the grid.
        steps: number of steps, at least 1 (in each block); 1 draws every token independently.
        grid: times i / steps ("uniform") or sin(pi/2 i / steps) ("cosine": the first steps are small, so that few
            tokens are drawn together while the context is poor).
    """

    schedule: Schedule = field(default_factory=Linear)
    steps: int = 256
    grid: Grid = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.schedule, Schedule, "Ancestral")
        check_grid(self.steps, self.grid)

    def plan(self, v: Float[Tensor, "batch *dims"], wanted: Where) -> Plan:
        """See `Planned.plan`. A position is masked while v < the mask rate."""
        rate = self.schedule.mask_rate(grid_times(self.steps, self.grid, v.device))
        # Revealed by the first step that ends at a rate <= v.
        step = self.steps - torch.searchsorted(rate[1:].flip(0), v.contiguous(), right=True)
        return Plan(torch.where(wanted, step, -1), rate[:-1].expand(len(v), -1), rate[1:].expand(len(v), -1))

    def clock(self, noise: Times) -> Times:
        """See `Unmasking.clock`."""
        return self.schedule.inverse(1 - noise)

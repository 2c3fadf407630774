"""First-hitting sampling: jump from one reveal to the next (FHS, section 4)."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.samplers.base import Plan, Planned
from unmask.schedules import Linear, Schedule
from unmask.types import Where


@dataclass(frozen=True)
class FirstHitting(Planned):
    """Reveal one token a network call, at the exact times at which the reverse process reveals it.

    With n positions masked at mask rate r_t, the next reveal is at r_s = r_t u^(1/n), at a uniformly random one of
    them. That is the law of the largest of n uniform numbers below r_t and of the position that holds it, so the
    plan is to sort: positions are revealed in decreasing order of v, each at mask rate v. Every example has its own
    clock. The samples are those of the network's reverse process without any error of a grid.

    Args:
        schedule: only turns mask rates into times; the tokens do not depend on it.
        temperature: divides the logits; positive.
    """

    schedule: Schedule = field(default_factory=Linear)

    def plan(self, v: Float[Tensor, "batch *dims"], masked: Where) -> Plan:
        hidden = masked.flatten(1)
        rate, position = torch.where(hidden, v.flatten(1), -1).sort(dim=1, descending=True)
        order = torch.arange(v[0].numel(), device=v.device).expand_as(position)
        step = torch.full_like(position, -1).scatter(1, position, order)
        rate = rate[:, : int(hidden.sum(1).max())].clamp(min=0)  # examples with fewer masks end early, at 0
        return Plan(torch.where(masked, step.view_as(masked), -1), rate, self.schedule.inverse(1 - rate))

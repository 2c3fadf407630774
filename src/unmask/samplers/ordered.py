"""Sampling in a given order of the positions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.checks import check_whole
from unmask.samplers.first_hitting import groups, ranked
from unmask.samplers.unmasking import Plan, Planned
from unmask.types import Where


@dataclass(frozen=True)
class InOrder(Planned):
    """Reveal the masked positions in a given order, from left to right unless told otherwise.

    Every order is one factorisation of the same law, so with one token a call and an exact network this is exact.
    Other settings: see `Sampler` and `Unmasking`.

    Args:
        order: the positions 0..L-1, in row-major order of the dims, in the order in which they are revealed; None:
            from first to last.
        tokens_per_call: reveals from one network call.
    """

    order: tuple[int, ...] | None = None
    tokens_per_call: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, tokens_per_call=self.tokens_per_call)
        if self.order is not None and sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"order must be a permutation of 0..{len(self.order) - 1}, got {self.order}")

    def plan(self, v: Float[Tensor, "batch *dims"], wanted: Where) -> Plan:
        """See `Planned.plan`; v has no say here."""
        size = wanted[0].numel()
        if self.order is not None and len(self.order) != size:
            raise ValueError(f"order has {len(self.order)} positions, the canvas {size}")
        order = torch.arange(size) if self.order is None else torch.tensor(self.order)
        early = -order.argsort().to(v).view(wanted.shape[1:]).expand_as(v) + size
        rank = ranked(early, wanted)[1]
        n = wanted.flatten(1).sum(1, keepdim=True)
        left = n - torch.arange(size, device=v.device)  # what is still masked
        plan = groups(rank, torch.where(left > 0, left.double() / n, -1.0), self.tokens_per_call)
        after = plan.rate - self.tokens_per_call / n.clamp(min=1)
        return plan._replace(after=after.clamp(min=0))

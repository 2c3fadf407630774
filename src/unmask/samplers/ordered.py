"""Sampling in a given order of the positions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.checks import check_whole
from unmask.devices import send
from unmask.samplers.first_hitting import plan_by_rank, sort_descending
from unmask.samplers.unmasking import Plan, Planned
from unmask.types import Where


@dataclass(frozen=True)
class InOrder(Planned):
    """Reveal the masked positions in a fixed order, by default from left to right.

    Every order o is a factorisation of the same distribution,

        p(x) = ∏ᵢ p(x_o(i) | x_o(1), ..., x_o(i−1)),

    so with one token per call and an exact network this is exact. Other settings: see `Sampler` and `Unmasking`.

    Args:
        order: a permutation of the positions 0..L-1 (row-major), the first to be revealed first; None: 0, 1, ..., L-1.
        tokens_per_call: tokens revealed per network call.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> states = unmask.InOrder(order=(3, 1, 0, 2)).trajectory(network, unmask.all_masked(1, (4,), 5))
        >>> [(state.x == 5).long().tolist() for state in states]
        [[[1, 1, 1, 1]], [[1, 1, 1, 0]], [[1, 0, 1, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 0]]]
    """

    order: tuple[int, ...] | None = None
    tokens_per_call: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, tokens_per_call=self.tokens_per_call)
        if self.order is not None and sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"order must be a permutation of 0..{len(self.order) - 1}, got {self.order}")

    def plan(self, v: Float[Tensor, "batch *dims"], wanted: Where) -> Plan:
        """See `Planned.plan`; v is not used."""
        size = wanted[0].numel()
        if self.order is not None and len(self.order) != size:
            raise ValueError(f"order has {len(self.order)} positions, the canvas {size}")
        order = torch.arange(size, device=v.device) if self.order is None else send(torch.tensor(self.order), v.device)
        priority = -order.argsort().to(v).view(wanted.shape[1:]).expand_as(v) + size
        rank = sort_descending(priority, wanted)[1]
        n = wanted.flatten(1).sum(1, keepdim=True)
        masked = n - torch.arange(size, device=v.device)  # before each reveal
        plan = plan_by_rank(rank, torch.where(masked > 0, masked.double() / n, -1.0), self.tokens_per_call)
        after = plan.rate - self.tokens_per_call / n.clamp(min=1)
        return plan._replace(rate_after=after.clamp(min=0))

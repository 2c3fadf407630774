"""First-hitting sampling: jump from one reveal to the next (FHS, section 4)."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.checks import check_whole
from unmask.samplers.unmasking import Plan, Planned
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Times, Where


@dataclass(frozen=True)
class FirstHitting(Planned):
    """Reveal tokens at the exact times at which the reverse process reveals them, one a network call or several.

    With n positions masked at mask rate r_t, the next reveal is at r_s = r_t u^(1/n), at a uniformly random one of
    them. That is the law of the largest of n uniform numbers below r_t and of the position that holds it, so the
    plan is to sort: positions are revealed in decreasing order of v, each at mask rate v. Every example has its own
    clock. With one token a call the samples are those of the network's reverse process, without any error of a grid.

    Tokens drawn from one prediction are independent of each other, which they should not be. Second order makes up
    for it: a prediction continued beyond the last one, p + c (p - p_last), ties its tokens more closely than is due to
    those of the call before. In the mean over the random order the one pays for the other: the law of any two tokens
    is then right to first order in the strength of their tie, and the error is of its square (docs/mathematics.md).
    Other settings: see `Sampler` and `Unmasking`.

    Args:
        schedule: only turns mask rates into times; the tokens do not depend on it.
        tokens_per_call: reveals from one network call (parallel decoding); 1 is exact.
        order: 1, or 2 to continue the predictions (with one token a call there is nothing to gain, and it is the same);
            no more network calls, and memory for the probabilities of the tokens of one more call.
        form: of second order: "extrapolation" continues every prediction linearly in the number of masked tokens, from
            the call before; "predictor-corrector" takes calls in pairs and continues the second of each.
    """

    schedule: Schedule = field(default_factory=Linear)
    tokens_per_call: int = 1
    order: Literal[1, 2] = 1
    form: Literal["extrapolation", "predictor-corrector"] = "extrapolation"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.schedule, Schedule, "FirstHitting")
        check_whole(1, tokens_per_call=self.tokens_per_call)
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order}")
        if self.form not in ("extrapolation", "predictor-corrector"):
            raise ValueError(f"form must be extrapolation or predictor-corrector, got {self.form!r}")

    def plan(self, v: Float[Tensor, "batch *dims"], wanted: Where) -> Plan:
        """See `Planned.plan`. A position is revealed when the mask rate has come down to its v."""
        rate, rank = ranked(v, wanted)
        plan = groups(rank, rate, self.tokens_per_call)
        second = self.order == 2 and self.tokens_per_call > 1
        return plan._replace(push=self._push(rank, wanted)) if second else plan

    def _push(self, rank: Int[Tensor, "batch *dims"], wanted: Where) -> Float[Tensor, "batch *dims"]:
        """Return c of each position: what pays for the pairs of tokens that are drawn from one prediction."""
        k = self.tokens_per_call
        call, place = rank // k, (rank % k).double()
        if self.form == "extrapolation":
            return torch.where(call > 0, place / k + (call == 1) * (k - 1) / (2 * k), 0.0)
        n = wanted.flatten(1).sum(1).view(-1, *[1] * (rank.dim() - 1))
        here = (n - call * k).clamp(1, k).double()  # tokens of this call; those of the one before are k
        second = (k * (k - 1) + here * (here - 1)) / (2 * k * here)
        single = (call > 0) & (call == (n - 1) // k)  # a last call that has no partner
        return torch.where(call % 2 == 1, second, torch.where(single, place / k, 0.0))

    def clock(self, noise: Times) -> Times:
        """See `Unmasking.clock`."""
        return self.schedule.inverse(1 - noise)


def ranked(
    v: Float[Tensor, "batch *dims"], wanted: Where
) -> tuple[Float[Tensor, "batch length"], Int[Tensor, "batch *dims"]]:
    """Sort the wanted positions of each example by decreasing v: v in that order, then -1, and each one's rank."""
    rate, position = torch.where(wanted, v, -1.0).flatten(1).sort(dim=1, descending=True)
    order = torch.arange(position.shape[1], device=v.device).expand_as(position)
    rank = torch.empty_like(position).scatter(1, position, order).view_as(wanted)
    return rate, torch.where(wanted, rank, -1)


def groups(rank: Int[Tensor, "batch *dims"], rate: Float[Tensor, "batch length"], size: int) -> Plan:
    """Reveal `size` tokens a call in the order of their rank, at the rates `rate`, below 0 where there are none."""
    n = (rate >= 0).sum(1, keepdim=True)
    start = torch.arange(0, int(n.max()), size, device=rate.device).expand(len(rate), -1)
    after = rate.gather(1, torch.minimum(start + size, n).clamp(min=1) - 1)
    return Plan(
        torch.where(rank < 0, -1, torch.div(rank, size, rounding_mode="floor")),
        rate.gather(1, start).clamp(min=0),  # examples with fewer masks end early, at 0
        torch.where(start < n, after, 0.0),
    )

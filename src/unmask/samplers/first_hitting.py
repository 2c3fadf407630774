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
    """Reveal tokens at the exact times at which the reverse process reveals them (FHS, section 4).

    With n tokens masked at time τₙ, the next one is revealed at a uniformly random masked position at

        τₙ₋₁ = α⁻¹(1 − u^(1/n) (1 − α(τₙ))),   u ~ U[0, 1).

    This is the distribution of the largest of n uniform numbers below 1 − α(τₙ), so the plan sorts: positions are
    revealed in decreasing order of v, each at mask rate v. Every example has its own clock. With one token per call the
    samples have exactly the distribution of the network's reverse process, without the error of a time grid.

    With `tokens_per_call` = k > 1, the k tokens of a call are drawn independently, and `order=2` corrects for the
    pairwise correlation that this ignores. With p the prediction of the previous call and p′ that of this one, token
    j = 0, ..., k − 1 of call m is drawn from the normalised

        max(0, p′ + c (p′ − p)),   "extrapolation":        c = j/k + (k − 1)/(2k) · [m = 1],   c = 0 for m = 0,
                                   "predictor-corrector":  c = (k − 1)/k for odd m,            c = 0 for even m.

    On average over the random order, the distribution of every pair of tokens is then correct to first order in the
    strength of their correlation (docs/mathematics.md). Other settings: see `Sampler` and `Unmasking`.

    Args:
        schedule: only converts mask rates to times; the tokens do not depend on it.
        tokens_per_call: tokens revealed per network call (parallel decoding); 1 is exact.
        order: 1, or 2 to extrapolate the predictions: no more network calls, but memory for the probabilities of the
            next call's tokens. With one token per call both are the same.
        form: of order 2. "extrapolation" continues every prediction linearly in the number of masked tokens;
            "predictor-corrector" pairs the calls and extrapolates the second of each pair.

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2)
        >>> canvas = unmask.all_masked(2, (16,), network.mask_id)
        >>> *_, last = unmask.FirstHitting(tokens_per_call=4, order=2).trajectory(network, canvas)
        >>> last.calls
        tensor([4, 4])
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
        if self.form != "extrapolation" and self.order == 1:
            raise ValueError("form is of the second order: give order=2 with it")

    def plan(self, v: Float[Tensor, "batch *dims"], wanted: Where) -> Plan:
        """See `Planned.plan`. A position is revealed when the mask rate has fallen to its v."""
        rate, rank = sort_descending(v, wanted)
        plan = plan_by_rank(rank, rate, self.tokens_per_call)
        second = self.order == 2 and self.tokens_per_call > 1
        return plan._replace(extrapolation=self._extrapolation(rank, wanted)) if second else plan

    def _extrapolation(self, rank: Int[Tensor, "batch *dims"], wanted: Where) -> Float[Tensor, "batch *dims"]:
        """Return the coefficient c of each position (see the class).

        With "predictor-corrector", the second call of a pair makes up for the correlation that both calls lose. Of the
        pairs of tokens k(k − 1)/2 are within the first call, h(h − 1)/2 within the second, and k h between them, so

            c = (k(k − 1) + h(h − 1)) / (2 k h)    in the second call of a pair; (k − 1)/k for h = k,
            c = j/k                                in a last call without a partner.
        """
        k = self.tokens_per_call
        call, place = rank // k, (rank % k).double()
        if self.form == "extrapolation":
            return torch.where(call > 0, place / k + (call == 1) * (k - 1) / (2 * k), 0.0)
        n = wanted.flatten(1).sum(1).view(-1, *[1] * (rank.dim() - 1))
        tokens = (n - call * k).clamp(1, k).double()  # h
        second = (k * (k - 1) + tokens * (tokens - 1)) / (2 * k * tokens)
        single = (call > 0) & (call == (n - 1) // k)
        return torch.where(call % 2 == 1, second, torch.where(single, place / k, 0.0))

    def clock(self, noise: Times) -> Times:
        """See `Unmasking.clock`."""
        return self.schedule.inverse(1 - noise)


def sort_descending(
    v: Float[Tensor, "batch *dims"], wanted: Where
) -> tuple[Float[Tensor, "batch length"], Int[Tensor, "batch *dims"]]:
    """Sort the wanted positions of each example by decreasing v.

    Returns:
        v in decreasing order, followed by -1 for positions that are not wanted; and the rank of each position from 0,
        -1 where it is not wanted.
    """
    rate, position = torch.where(wanted, v, -1.0).flatten(1).sort(dim=1, descending=True)
    order = torch.arange(position.shape[1], device=v.device).expand_as(position)
    rank = torch.empty_like(position).scatter(1, position, order).view_as(wanted)
    return rate, torch.where(wanted, rank, -1)


def plan_by_rank(rank: Int[Tensor, "batch *dims"], rate: Float[Tensor, "batch length"], tokens_per_call: int) -> Plan:
    """Plan to reveal positions in the order of their rank, `tokens_per_call` in each step.

    Args:
        rank: of each position, -1 where nothing is to be revealed.
        rate: mask rate at which the position of each rank is revealed, negative beyond the last rank.
        tokens_per_call: positions per step.
    """
    n = (rate >= 0).sum(1, keepdim=True)
    start = torch.arange(0, int(n.max()), tokens_per_call, device=rate.device).expand(len(rate), -1)
    after = rate.gather(1, torch.minimum(start + tokens_per_call, n).clamp(min=1) - 1)
    return Plan(
        torch.where(rank < 0, -1, torch.div(rank, tokens_per_call, rounding_mode="floor")),
        rate.gather(1, start).clamp(min=0),  # examples with fewer masks end early, at 0
        torch.where(start < n, after, 0.0),
    )

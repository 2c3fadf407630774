"""Multinomial diffusion: tokens that are replaced by uniformly random ones, and its reverse process.

D3PM (arXiv:2107.03006) with uniform transition matrices, or multinomial diffusion (arXiv:2102.05379). For s < t,

    q(x_t | x_s) = α_{t|s} 1[x_t = x_s] + (1 − α_{t|s}) / V,   α_{t|s} = α_t / α_s,

    q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0),

    p(x_s | x_t) ∝ q(x_t | x_s) Σ_{x_0} q(x_s | x_0) p̃(x_0 | x_t)   (D3PM, equation 4).

The last is exact, for one position, where p̃(x_0,i | x_t) is the distribution given all of x_t but x_t,i: what x_t,i
says of x_0,i is in q(x_t | x_s).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.schedules import Schedule


@dataclass(frozen=True)
class Step:
    """The coefficients of a step back from t to s < t, for each of n rows, in float64.

    Attributes:
        kept_t, kept_s: α_t and α_s.
        kept: α_{t|s}.
        other_t, other_s, other: (1 − α_t) / V and so on, the probability of each token that replaces.
    """

    kept_t: Float[Tensor, " n"]
    kept_s: Float[Tensor, " n"]
    kept: Float[Tensor, " n"]
    other_t: Float[Tensor, " n"]
    other_s: Float[Tensor, " n"]
    other: Float[Tensor, " n"]

    @classmethod
    def of(cls, schedule: Schedule, t: Float[Tensor, " n"], s: Float[Tensor, " n"], vocab_size: int) -> "Step":
        """Return the coefficients of steps from the times t to the times s."""
        (kept_t, rate_t), (kept_s, rate_s) = (
            (schedule.alpha(x), schedule.mask_rate(x)) for x in (t.double(), s.double())
        )
        lost = torch.where(kept_s < 0.5, kept_s - kept_t, rate_t - rate_s)  # the difference of the two small numbers
        other = lost / (kept_s * vocab_size)
        return cls(kept_t, kept_s, kept_t / kept_s, rate_t / vocab_size, rate_s / vocab_size, other)


def reverse_logits(log_p: Float[Tensor, "n vocab"], x_t: Int[Tensor, " n"], step: Step) -> Float[Tensor, "n vocab"]:
    """Return log p(x_s | x_t) but for a constant, from log p̃(x_0 | x_t) in float64; see this module."""
    past = torch.logaddexp(log_p + step.kept_s.log().unsqueeze(1), step.other_s.log().unsqueeze(1))
    stays = torch.log1p(step.kept / step.other).expand(len(x_t))
    return past.scatter_add(1, x_t.unsqueeze(1), stays.unsqueeze(1))


def reverse_kl(
    log_p: Float[Tensor, "n vocab"], x_t: Int[Tensor, " n"], x: Int[Tensor, " n"], step: Step
) -> Float[Tensor, " n"]:
    """Return KL(q(x_s | x_t, x_0 = x) || p(x_s | x_t)) in nats, in one pass over the vocabulary.

    At s = 0 it is −log p(x_0 | x_t), the reconstruction term.

    Args:
        log_p: log p̃(x_0 | x_t), in float64.
        x_t: noised tokens.
        x: clean tokens.
        step: the coefficients.
    """
    at_x, at_x_t = (log_p.gather(1, index.unsqueeze(1)).squeeze(1) for index in (x, x_t))
    same = (x == x_t).double()
    norm_q = step.kept_t * same + step.other_t  # q(x_t | x_0)
    norm_p = step.kept_t * at_x_t.exp() + step.other_t
    q_x = (step.kept * same + step.other) * (step.kept_s + step.other_s) / norm_q
    ratio_x = (step.kept_s + step.other_s).log() - torch.logaddexp(at_x + step.kept_s.log(), step.other_s.log())
    # For j other than x: q_j = other_s (other + kept 1[j = x_t]) / norm_q, and log (q_j / p_j) = −more_j + a constant.
    some = torch.where(step.other_s > 0, step.other_s, 1)
    more = torch.log1p(log_p.exp() * (step.kept_s / some).unsqueeze(1))
    more_x, more_x_t = (more.gather(1, index.unsqueeze(1)).squeeze(1) for index in (x, x_t))
    others = step.other * (more.sum(1) - more_x) + step.kept * (1 - same) * more_x_t
    return q_x * ratio_x - step.other_s / norm_q * others + norm_p.log() - norm_q.log()

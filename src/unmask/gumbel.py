"""Gumbel-max in float32: the distribution of its draws, and their effective temperature (FHS, section 5).

For studying the error only. The library draws with `unmask.categorical`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Precision = Literal["float64", "float32", "truncated"]

LARGEST_UNIFORM = 1 - 2.0**-24
"""The largest float32 below 1, and so the largest uniform number of a float32 generator."""

LARGEST_GUMBEL = -math.log(-math.log(LARGEST_UNIFORM))
"""16.6355, the largest Gumbel number that results from it."""


def gumbel_max(
    logits: Float[Tensor, "n vocab"],
    precision: Precision,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    counts: Sequence[int] | None = None,
) -> Int[Tensor, " n"]:
    """Draw one token per row as argmax(logits + g), g = −log(−log u), with V uniform numbers u per row.

    Args:
        logits: (n, V).
        precision: "float64"; "float32", where u <= 1 − 2⁻²⁴ and so g <= 16.6355; or "truncated", float64 with u scaled
            to the same bound, which shows that only the bound matters.
        generator: draws the uniform numbers; or several, one after another.
        counts: of several generators, for how many rows each draws.

    Returns:
        (n,) tokens in 0..V-1.
    """
    dtype = torch.float32 if precision == "float32" else torch.float64
    if isinstance(generator, torch.Generator | None):
        u = torch.rand(logits.shape, dtype=dtype, generator=generator, device=logits.device)
    else:
        each = zip(generator, counts or (), strict=True)
        drawn = [torch.rand(n, logits.shape[1], dtype=dtype, generator=one, device=one.device) for one, n in each]
        u = torch.cat(drawn).to(logits.device)
    if precision == "truncated":
        u.mul_(LARGEST_UNIFORM)
    return u.log_().neg_().log_().neg_().add_(logits).argmax(-1)


def truncated_probabilities(p: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """Return the probabilities p′ with which Gumbel-max under the bound of float32 draws tokens of probabilities p.

    For p₁ ≤ ... ≤ p_V (FHS, Proposition 5.2):

        p′ₙ = pₙ Σ_{i ≤ n} β(i),
        β(i) = (exp(e (V − i + 1 − Sᵢ / pᵢ)) − exp(e (V − i + 1 − Sᵢ / pᵢ₋₁))) / Sᵢ,
        Sᵢ = pᵢ + ... + p_V,   e = −log(1 − 2⁻²⁴),   p₀ = 0.

    All β are non-negative, so likely tokens gain probability and unlikely ones lose it.

    Args:
        p: (..., V) in float64, summing to 1.
    """
    p, token = p.double().sort(dim=-1)
    e = -math.log(LARGEST_UNIFORM)
    tail = p.flip(-1).cumsum(-1).flip(-1)  # S_i
    not_smaller = torch.arange(p.shape[-1], 0, -1, dtype=p.dtype, device=p.device)  # V - i + 1
    below = torch.cat((torch.zeros_like(p[..., :1]), p[..., :-1]), -1)
    upper, lower = e * (not_smaller - tail / p), e * (not_smaller - tail / below)
    term = torch.where(p > 0, upper.exp() * -torch.expm1(lower - upper) / tail, 0.0)
    return torch.empty_like(p).scatter(-1, token, p * term.nan_to_num().cumsum(-1))


def effective_temperature(
    logits: Float[Tensor, "n vocab"], token: Int[Tensor, " n"] | Float[Tensor, "n vocab"]
) -> tuple[float, float]:
    """Return the maximum-likelihood temperature of tokens, and its standard error.

    At the maximum the average of the logits ℓ under softmax(ℓ / T) equals their average over the tokens drawn:

        Σ_n Σ_v softmax(ℓₙ / T)_v ℓₙ_v = Σ_n ℓₙ(tokenₙ).

    Args:
        logits: (n, V), what the tokens were drawn from.
        token: (n,) the tokens drawn; or (n, V), the probabilities with which they are drawn (the error is then that of
            n draws).

    Raises:
        ValueError: if no temperature in [0.001, 1000] is a maximum (if every token is the most likely one, say).
    """
    logits = logits.double().log_softmax(-1)
    if token.is_floating_point():
        target = torch.where(token > 0, token * logits, 0).sum().item()
    else:
        target = logits.gather(1, token.unsqueeze(1)).sum().item()
    finite = logits.clamp(min=-1e30)

    def moments(inverse: float) -> tuple[float, float]:
        p = (inverse * logits).softmax(-1)
        mean = (p * finite).sum(-1, keepdim=True)
        return mean.sum().item(), (p * (finite - mean) ** 2).sum().item()

    low, high = 1e-3, 1e3
    if not moments(low)[0] < target < moments(high)[0]:
        raise ValueError("no temperature between 0.001 and 1000 makes these tokens most likely")
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if moments(middle)[0] < target else (low, middle)
    return 1 / high, 1 / (high**2 * math.sqrt(moments(high)[1]))

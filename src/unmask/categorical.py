"""The only place that draws tokens from logits."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def categorical(
    logits: Float[Tensor, "n vocab"], uniform: Float[Tensor, " n"], *, temperature: float = 1.0
) -> Int[Tensor, " n"]:
    """Draw one token a row from softmax(logits / temperature) by inverting its distribution function at `uniform`.

    No tail is cut off: weights keep the relative precision of the logits' own format (at least float32), they are
    summed in float64, and `uniform` has 53 bits. (Gumbel-max on float32 uniforms cuts the tails off, which lowers the
    temperature: FHS, section 5.) It needs one random number a row, not one a vocabulary entry.

    Args:
        logits: (n, V); -inf excludes a token.
        uniform: (n,) float64 in [0, 1), see `unmask.randomness.uniform`.
        temperature: divides the logits; positive.

    Returns:
        (n,) tokens in 0..V-1; V, the mask, on a row that has no finite distribution (a NaN, an +inf, all -inf).
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    weights = ((logits - logits.amax(-1, keepdim=True)) / temperature).exp()
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    token = torch.searchsorted(cumulative, uniform.unsqueeze(-1) * total, right=True).squeeze(-1)
    return torch.where(total.squeeze(-1).isfinite(), token, logits.shape[-1])


def check_temperature(temperature: float) -> None:
    """Raise a ValueError unless 1e-6 <= temperature < inf; at 1e-6 a draw is the most likely token."""
    if not 1e-6 <= temperature < math.inf:
        raise ValueError(f"temperature must be at least 1e-6 and finite, got {temperature}")

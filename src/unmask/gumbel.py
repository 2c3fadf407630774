"""The float32 fault: Gumbel-max draws as public code makes them, their true law, and the temperature it amounts to.

For study alone. Nothing else in the library draws like this; see `unmask.categorical`.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Precision = Literal["float64", "float32", "truncated"]

LARGEST = 1 - 2.0**-24
"""The largest float32 below 1, hence the largest uniform number that a float32 generator can give."""

BOUND = -math.log(-math.log(LARGEST))
"""16.6355: the largest Gumbel number that can come of it."""


def gumbel_max(
    logits: Float[Tensor, "n vocab"], precision: Precision, generator: torch.Generator | None = None
) -> Int[Tensor, " n"]:
    """Draw one token a row as argmax(logits + g), g = -log(-log(u)), with V uniform numbers u a row.

    Args:
        logits: (n, V).
        precision: of u and of all that follows: "float64"; "float32", in which u <= 1 - 2^-24 so that g <= 16.6355; or
            "truncated", float64 but with u scaled into the same bound, which shows that the bound is what matters.
        generator: of the uniform numbers.

    Returns:
        (n,) tokens in 0..V-1.
    """
    dtype = torch.float32 if precision == "float32" else torch.float64
    u = torch.rand(logits.shape, dtype=dtype, generator=generator, device=logits.device)
    if precision == "truncated":
        u.mul_(LARGEST)
    return u.log_().neg_().log_().neg_().add_(logits).argmax(-1)


def truncated_law(p: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """Return the probabilities with which Gumbel-max under the bound of float32 draws tokens of probabilities p.

    With p_1 <= ... <= p_V it is p_n times a sum of terms i = 1..n, none negative: likely tokens gain, others lose (FHS,
    Proposition 5.2). Between p_(i-1) and p_i the Gumbel numbers of the first i - 1 tokens have all met their bound, and
    the term is the chance, given a maximum there, of each token's share:

        b_i = (exp(e (V-i+1 - S_i / p_i)) - exp(e (V-i+1 - S_i / p_(i-1)))) / S_i,   S_i = p_i + ... + p_V,
        e = -log(1 - 2^-24), p_0 = 0.

    Args:
        p: (..., V) in float64, of sum 1.
    """
    p, token = p.double().sort(dim=-1)
    e = -math.log(LARGEST)
    tail = p.flip(-1).cumsum(-1).flip(-1)  # S_i
    count = torch.arange(p.shape[-1], 0, -1, dtype=p.dtype, device=p.device)
    below = torch.cat((torch.zeros_like(p[..., :1]), p[..., :-1]), -1)
    upper, lower = e * (count - tail / p), e * (count - tail / below)
    term = torch.where(p > 0, upper.exp() * -torch.expm1(lower - upper) / tail, 0.0)
    return torch.empty_like(p).scatter(-1, token, p * term.nan_to_num().cumsum(-1))


def effective_temperature(
    logits: Float[Tensor, "n vocab"], token: Int[Tensor, " n"] | Float[Tensor, "n vocab"]
) -> tuple[float, float]:
    """Return the temperature under which the tokens are most likely, and its standard error.

    At the maximum the mean of logits over softmax(logits / T) is that over the tokens drawn.

    Args:
        logits: (n, V) that the tokens were drawn from.
        token: (n,) what was drawn; or (n, V), the probabilities with which tokens are drawn (the error is then that of
            n draws).

    Raises:
        ValueError: no finite temperature makes them most likely (all are the most likely tokens, say).
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

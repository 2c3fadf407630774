"""Figures of samples."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.types import Nats, Tokens


def token_entropy(x: Tokens, vocab_size: int) -> Nats:
    """Return the entropy of each example's histogram of tokens, in nats: small where tokens repeat.

    What published generative perplexities must be read together with (FHS, section 5): both fall with the temperature.
    """
    flat = x.flatten(1)
    counts = torch.zeros(len(flat), vocab_size, dtype=torch.float64, device=x.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    p = counts / flat.shape[1]
    return -torch.special.xlogy(p, p).sum(1)


def mean_error(values: Float[Tensor, " n"]) -> tuple[float, float]:
    """Return the mean of some values and its standard error, NaN of a single one."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error

"""The plain way, as public code goes it, written from the formulas: what the ratios of the benchmarks are against."""

import torch
from torch import Tensor

from unmask.networks.base import Network


@torch.no_grad()
def plain_ancestral_step(network: Network, x: Tensor, t: float, s: float) -> Tensor:
    """Go from t to s under the linear schedule: all logits, a float64 Gumbel-max over V + 1 at every position."""
    logits = network(x, torch.full((len(x),), t, dtype=torch.float64))
    p = logits.double().softmax(-1) * ((t - s) / t)
    p = torch.cat((p, torch.full_like(p[..., :1], s / t)), -1)
    gumbel = torch.rand_like(p).log_().neg_()
    drawn = p.div_(gumbel).argmax(-1)
    return torch.where(x == network.mask_id, drawn, x)

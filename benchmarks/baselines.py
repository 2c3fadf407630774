"""Plain implementations, written directly from the formulas: the baselines of the benchmarks."""

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


def plain_nll(logits: Tensor, x: Tensor, one_hot: bool) -> Tensor:
    """Return the cross-entropy at every position, by the formula's one-hot vectors or by gathering."""
    log_p = logits.log_softmax(-1)
    if one_hot:
        return -(torch.nn.functional.one_hot(x, logits.shape[-1]).to(logits.dtype) * log_p).sum(-1)
    return -log_p.gather(-1, x.unsqueeze(-1)).squeeze(-1)


def plain_training_step(
    network: Network, optimizer: torch.optim.Optimizer, average: list[Tensor], x: Tensor, one_hot: bool = True
) -> None:
    """Train on one batch: all logits, cross-entropy at every position, then AdamW and a loop of averages."""
    t = torch.rand(len(x)).clamp(min=1e-3)
    masked = torch.rand(x.shape) < t.unsqueeze(1)
    nll = plain_nll(network(x.masked_fill(masked, network.mask_id), t), x, one_hot)
    loss = ((nll * masked).sum(1) / t).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for mean, parameter in zip(average, network.parameters(), strict=True):
            mean.mul_(0.999).add_(parameter, alpha=0.001)


@torch.no_grad()
def plain_evaluation(network: Network, x: Tensor, one_hot: bool = True) -> Tensor:
    """Estimate the bound of a batch: all logits, cross-entropy at every position, independent times."""
    t = torch.rand(len(x)).clamp(min=1e-3)
    masked = torch.rand(x.shape) < t.unsqueeze(1)
    nll = plain_nll(network(x.masked_fill(masked, network.mask_id), t), x, one_hot)
    return (nll * masked).sum(1) / t

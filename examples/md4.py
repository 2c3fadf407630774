"""MD4's loss (Shi et al., 2024, arXiv:2406.04329, section 2) in one screen: `python examples/md4.py` learns with it.

    q(x_t,i = mask | x) = 1 - α_t,   -log p(x) ≤ E_{t ~ U(0, 1]} [ -α'_t / (1 - α_t) · Σ_{i masked} -log p(x_i | x_t) ]

The library's class is `unmask.ContinuousELBO`; with the same random numbers both are the same.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASK = 8  # V: the tokens are 0..7


def alpha(t: Tensor) -> Tensor:  # the cosine schedule
    return 1 - torch.cos(math.pi / 2 * (1 - t))


def weight(t: Tensor) -> Tensor:  # -α'_t / (1 - α_t)
    return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))


def md4_loss(network: nn.Module, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """Return the bound of each example in nats, from times t (batch,) and uniform numbers u (batch, L)."""
    masked = u < (1 - alpha(t))[:, None]
    x_t = torch.where(masked, MASK, x)
    nll = F.cross_entropy(network(x_t).transpose(1, 2), x, reduction="none")
    return weight(t) * (nll * masked).sum(1)


def main() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(9, 32), nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
    network.append(nn.Unflatten(1, (2, 8)))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for step in range(600):
        x = torch.randint(8, (128, 1)).expand(-1, 2)  # two equal tokens: log 8 nats
        t = (torch.rand(1) + torch.arange(128) / 128) % 1  # evenly spread over the batch
        loss = md4_loss(network, x, 1 - t, torch.rand(128, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"step {step + 1}: {sum(losses[-50:]) / 50:.3f} nats, an estimate; the entropy is {math.log(8):.3f}")


if __name__ == "__main__":
    main()

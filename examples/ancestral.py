"""Ancestral sampling of a masked diffusion (MD4, section 4) in one screen: the reverse process on a grid of times.

    t → s < t: token v with probability (α_s - α_t) / (1 - α_t) p_v(x_t), still masked with (1 - α_s) / (1 - α_t)

Every step calls the network once, and draws the tokens of that step independently: the error of a finite grid. The
library's class is `unmask.Ancestral`, which skips the steps that reveal nothing.
"""

import torch
from torch import Tensor


@torch.no_grad()
def ancestral(network: torch.nn.Module, x: Tensor, mask: int, steps: int, v: Tensor, u: Tensor) -> Tensor:
    """Reveal x (batch, L) under α_t = 1 - t, from uniform numbers v, which say when, and u, which say what."""
    for step in range(steps, 0, -1):
        s = (step - 1) / steps
        reveal = (x == mask) & (v >= s)  # of those masked at t, (t - s) / t have v in [s, t): v is uniform in [0, t)
        p = network(x).softmax(-1, dtype=torch.float64)
        token = (p.cumsum(-1) <= u[..., None]).sum(-1)
        x = torch.where(reveal, token, x)
    return x


def main() -> None:
    def network(x: Tensor) -> Tensor:  # log p of two equal tokens, 0 or 1
        other = x.flip(1)
        return torch.where(other == 2, 0.5, 0.0)[..., None].add(torch.nn.functional.one_hot(other, 3)[..., :2]).log()

    n = 4000
    for steps in (1, 2, 8, 64):
        u = torch.rand(n, 2, dtype=torch.float64)
        x = ancestral(network, torch.full((n, 2), 2), 2, steps, torch.rand(n, 2), u)  # type: ignore[arg-type]
        unequal = (x[:, 0] != x[:, 1]).double().mean()
        print(f"{steps:3} steps: {unequal:.3f} of the pairs are unequal, {1 / (2 * steps):.3f} due: both in one step")


if __name__ == "__main__":
    main()

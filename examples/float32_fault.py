"""The fault of float32 Gumbel-max (Zheng et al., 2024, arXiv:2409.02908, section 5) in one screen.

    token = argmax_v log q_v + g_v,   g = -log(-log u),   u in float32 is at most 1 - 2^-24, so that g ≤ 16.64

In each of T steps a position becomes token v with probability q_v = p_v / T, and stays masked otherwise. Token v wins
against the mask if -log u_v < q_v (-log u_mask), but -log u_v is at least e = 2^-24: rare tokens are drawn with

    q'_v = q_v exp(-e / q_v),

as if the temperature were below 1: generative perplexity looks better, and entropy falls. Exact: invert the
distribution function with one uniform number of 53 bits. In the library: `unmask.categorical.categorical` and
`unmask.gumbel.gumbel_max`.
"""

import torch
from torch import Tensor


def gumbel_max(logits: Tensor, dtype: torch.dtype, generator: torch.Generator | None = None) -> Tensor:
    """Draw a token for each row of logits (n, V)."""
    u = torch.rand(logits.shape, dtype=dtype, generator=generator)
    return (logits - torch.log(-torch.log(u))).argmax(-1)


def exact(p: Tensor, u: Tensor) -> Tensor:
    """Draw a token for each row of probabilities (n, V), from uniform numbers (n,) in float64."""
    return (p.double().cumsum(-1) <= u[:, None]).sum(-1).clamp(max=p.shape[1] - 1)


def float32_probabilities(p: Tensor, steps: int) -> Tensor:
    """Return the probabilities with which tokens appear in float32 with many steps, where they should have p (V,)."""
    q = p.double() / steps
    q = q * torch.exp(-(2.0**-24) / q)
    return q / q.sum()


def main() -> None:
    for vocab in (27, 50_257):
        p = 1 / torch.arange(1, vocab + 1, dtype=torch.float64)  # Zipf's law
        p = p / p.sum()
        print(f"V = {vocab}: the entropy is {-(p * p.log()).sum():.3f} nats")
        for steps in (64, 1024, 4096, 65_536):
            drawn = float32_probabilities(p, steps)
            lost = (drawn < p / 2).double().mean()
            print(f"  {steps:6} steps: entropy {-torch.special.xlogy(drawn, drawn).sum():.3f}, {lost:.0%} halved")


if __name__ == "__main__":
    main()

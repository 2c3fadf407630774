"""GenMD4's bound (MD4, section 6) in one screen: a schedule α_t(v) = 1 - t^{w_v} of its own for each token value v.

    -log p(x) ≤ ∫₀¹ (1/t) E[ Σ_{l masked} g_l ] dt,   g_l = w_{x_l} (-log p_l(x_l) - 1) + Σ_v w_v p_l(v)

A uniform t has infinite variance where w ≤ 1. Drawn instead is the time at which some position becomes masked:

    τ_l = u_l^(1 / w_{x_l}),   t = the n-th smallest τ,   n ~ U{1..L}:   L · Σ_{l masked} g_l / Σ_{l masked} w_{x_l}

The library's class is `unmask.TokenELBO`, which also has the gradient in w; docs/mathematics.md derives it.
"""

import torch
from torch import Tensor, nn

MASK = 4  # V: the tokens are 0..3


def genmd4_bound(network: nn.Module, x: Tensor, w: Tensor, n: Tensor, u: Tensor) -> Tensor:
    """Return the bound of each example in nats, from numbers n (batch,) in 1..L and uniform numbers u (batch, L)."""
    w_x = w[x]
    log_tau = u.log() / w_x
    log_t = log_tau.sort(1).values.gather(1, n[:, None] - 1)
    masked = log_tau <= log_t
    log_p = network(torch.where(masked, MASK, x), log_t.exp().squeeze(1)).log_softmax(-1)
    nll = -log_p.gather(2, x[..., None]).squeeze(2)
    g = w_x * (nll - 1) + (log_p.exp() * w).sum(-1)
    return x.shape[1] * (g * masked).sum(1) / (w_x * masked).sum(1)


def main() -> None:
    torch.manual_seed(0)
    p = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    for w in (torch.ones(4), torch.tensor([0.5, 2.0, 2.0, 2.0])):

        def network(x_t: Tensor, t: Tensor, w: Tensor = w) -> Tensor:  # p(v | masked at t) ∝ p_v t^{w_v}
            return (p.log() + w * t.log()[:, None])[:, None].expand(*x_t.shape, 4)

        x = torch.multinomial(p, 20_000 * 5, replacement=True).view(-1, 5)
        n, u = torch.randint(1, 6, (len(x),)), 1 - torch.rand(x.shape, dtype=torch.float64)
        found = genmd4_bound(network, x, w.double(), n, u).mean()  # type: ignore[arg-type]
        print(f"w = {w.tolist()}: {found:.3f} nats; the entropy is {-(5 * p * p.log()).sum():.3f}")


if __name__ == "__main__":
    main()

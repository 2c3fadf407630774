"""The first-hitting sampler (Zheng et al., 2024, arXiv:2409.02908, section 4) in one screen.

With n tokens masked, the next one is revealed at a uniformly random masked position, one network call for each:
no time grid, and the distribution of the reverse process exactly. The time, for networks that want it, is at

    1 - α(τ_{n-1}) = u^(1/n) (1 - α(τ_n)),   u ~ U[0, 1).

The library's class is `unmask.FirstHitting`, which draws the mask rates of all positions at once and sorts them.
"""

import torch
from torch import Tensor


@torch.no_grad()
def first_hitting(network: torch.nn.Module, x: Tensor, mask: int, v: Tensor, u: Tensor) -> Tensor:
    """Reveal x (batch, L) from uniform numbers v, the mask rates at which positions are revealed, and u of tokens."""
    for position in v.masked_fill(x != mask, -1).argsort(dim=1, descending=True).T:
        row = torch.arange(len(x))
        p = network(x)[row, position].softmax(-1, dtype=torch.float64)
        token = (p.cumsum(-1) <= u[row, position, None]).sum(-1)  # inverts the distribution function
        x = x.clone()
        x[row, position] = torch.where(x[row, position] == mask, token, x[row, position])
    return x


def main() -> None:
    table = torch.tensor([[0.4, 0.1], [0.1, 0.4]])  # p(x_1, x_2), with correlated tokens

    def network(x: Tensor) -> Tensor:  # the exact posterior, log p(x_i | what is visible)
        rows = []
        for a, b in x.tolist():
            joint = table.clone()
            joint[torch.arange(2) != a] *= float(a == 2)
            joint[:, torch.arange(2) != b] *= float(b == 2)
            rows.append(torch.stack((joint.sum(1), joint.sum(0))) / joint.sum())
        return torch.stack(rows).log()

    n = 4000
    x = first_hitting(network, torch.full((n, 2), 2), 2, torch.rand(n, 2), torch.rand(n, 2, dtype=torch.float64))  # type: ignore[arg-type]
    print("drawn:", (x[:, 0] * 2 + x[:, 1]).bincount(minlength=4) / n, "due:", table.flatten())


if __name__ == "__main__":
    main()

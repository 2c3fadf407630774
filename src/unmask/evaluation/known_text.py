"""The bound on what is known of a text in which some tokens stay unknown: they are marginalised out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.given import add_excluded
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network, Positions
from unmask.networks.marginal import Marginal
from unmask.randomness import seeded, uniform
from unmask.types import Labels

LEVELS = 16
"""Numbers of masks in each order of the tokens, where these are too many for every number."""


@torch.no_grad()
def known_text_nats(
    model: MaskedDiffusion,
    canvas: Int[Tensor, " length"],
    label: Labels | None = None,
    *,
    evaluations: int = 256,
    seed: int = 0,
    batch_size: int = 64,
) -> Float[Tensor, " orders"]:
    """Estimate the bound on −log p(known tokens of a canvas), the unknown ones marginalised out, in nats.

    Each estimate is from one random order of the m known tokens, in which the first n are masked:

        m / n · Σ_{i masked} −log p(x_i | x without the masked),   averaged over numbers n that are evenly spread,

    or, where every n in 1..m has its turn, the sum of −log p of the token of each that is the last of the order. Both
    have the same expectation, that of `TimeFreeELBO`.

    Args:
        model: of the canvas.
        canvas: masked where unknown; tokens that the model never predicts are given.
        label: (1,), class of the text.
        evaluations: network evaluations, at most.
        seed: of the orders, which depend on it and on the number of known tokens alone.
        batch_size: masked texts at a time.

    Returns:
        Independent unbiased estimates, on the CPU; two zeros if nothing is known.
    """
    canvas = canvas.to(model.device)
    known = canvas != model.network.mask_id
    given = add_excluded(None, canvas, model.network.excluded)
    known = known if given is None else known & ~given
    m = int(known.sum())
    if not m:
        return torch.zeros(2, dtype=torch.float64)
    network = Marginal(model.network_for(canvas.unsqueeze(0)), canvas, known)
    whole = 4 * m <= evaluations
    levels = m if whole else min(LEVELS, evaluations // 2)
    orders = max(2, evaluations // levels)
    u = uniform((orders, m + 1), seeded(seed, m, 1), torch.device("cpu"))
    rank = u[:, 1:].argsort(1).argsort(1)
    spread = (torch.arange(levels) + 1 - u[:, :1]) / levels  # in (0, 1]
    n = torch.arange(1, m + 1).expand(orders, -1) if whole else (m * spread).ceil().long().clamp(1, m)
    rank, n = rank.repeat_interleave(levels, 0), n.flatten()
    x = canvas[known]
    parts = [
        _masked_nats(network, x, some, number, label, last=whole)
        for some, number in zip(rank.split(batch_size), n.split(batch_size), strict=True)
    ]
    return torch.cat(parts).cpu().view(orders, levels).sum(1) * (1 if whole else m / levels)


def _masked_nats(
    network: Network,
    x: Int[Tensor, " m"],
    rank: Int[Tensor, "rows m"],
    n: Int[Tensor, " rows"],
    label: Labels | None,
    *,
    last: bool,
) -> Float[Tensor, " rows"]:
    """Return −log p of the last of n masked tokens for each row, or the mean over all of them.

    Args:
        network: predicts the tokens from one another.
        x: the tokens.
        rank: of each token in a random order, on the CPU.
        n: how many of each row are masked, on the CPU: those of the lowest ranks.
        label: (1,), class of the text.
        last: whether to take the token of rank n − 1 alone.
    """
    rows, m = rank.shape
    masked, flags = rank < n.unsqueeze(1), rank == n.unsqueeze(1) - 1
    at = Positions.of(flags if last else masked)
    masked, example, position, n = (
        part.to(x.device, non_blocking=True) for part in (masked, at.example, at.position, n.double())
    )
    at, whole = Positions(example, position), x.expand(rows, -1)
    labels = None if label is None else label.to(x.device).expand(rows)
    weight = torch.ones(len(example), dtype=torch.float64, device=x.device)
    x_t = whole.masked_fill(masked, network.mask_id)
    _, nll = network.cross_entropy(x_t, whole, n / m, labels, at=at, weight=weight)
    total = at.put(nll.double(), rows, m).sum(1)
    return total if last else total / n

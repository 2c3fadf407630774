"""Alternatives for what is unknown of an example, the likeliest first."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from unmask.model import MaskedDiffusion
from unmask.objectives.estimate import draw_loss
from unmask.randomness import Generators, seeded
from unmask.types import Labels, Tokens


class Alternative(NamedTuple):
    """One of several completions.

    Attributes:
        example: its number.
        log_p: a lower bound on its log-likelihood given what was known, in nats.
        error: the standard error of the bound's estimate; None of a single draw.
    """

    example: int
    log_p: float
    error: float | None


def rank_alternatives(
    model: MaskedDiffusion,
    canvas: Tokens,
    x: Tokens,
    label: Labels | None = None,
    *,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 64,
) -> list[Alternative]:
    """Bound log p of completed examples given what was known of them; return them from the likeliest on.

    Args:
        model: of such examples.
        canvas: (n, *dims), masked where an example was unknown.
        x: (n, *dims), the completed examples.
        label: class of each.
        draws: random masks for each bound.
        seed: of the masks.
        batch_size: examples at a time.
    """
    bounds = []
    for start in tqdm(range(0, len(x), batch_size), desc="bounding", unit="batch", delay=2):
        here = slice(start, start + batch_size)
        labels = None if label is None else label[here]
        generator = seeded(seed, start, device=model.device)
        bounds.append(bound_completions(model, canvas[here], x[here], labels, draws=draws, generator=generator))
    mean, error = (torch.cat(parts) for parts in zip(*bounds, strict=True))
    order = mean.argsort(descending=True, stable=True).tolist()
    return [Alternative(i, float(mean[i]), float(error[i]) if draws > 1 else None) for i in order]


def bound_completions(
    model: MaskedDiffusion,
    canvas: Tokens,
    x: Tokens,
    label: Labels | None = None,
    *,
    draws: int,
    generator: Generators = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Bound log p of one batch of completed examples given what was known of each, from below.

    Args:
        model: of such examples.
        canvas: (n, *dims), masked where an example was unknown.
        x: (n, *dims), the completed examples.
        label: class of each.
        draws: random masks for each bound.
        generator: of the masks; with `unmask.randomness.Repeated`, an example does not depend on the others.

    Returns:
        The bounds in nats, and their standard errors (NaN of a single draw), on the CPU.
    """
    network, device = model.network_for(canvas), model.device
    given = (canvas != network.mask_id).to(device)
    label = None if label is None else label.to(device)
    loss = draw_loss(network, model.fit_objective(), x.to(device), label, draws=draws, given=given, generator=generator)
    drawn = -loss.nelbo.view(draws, -1).cpu()
    return drawn.mean(0), drawn.std(0) / draws**0.5 if draws > 1 else torch.full_like(drawn[0], torch.nan)

"""Alternatives for what is unknown of an example, the likeliest first."""

from typing import NamedTuple

import torch
from tqdm import tqdm

from unmask.model import MaskedDiffusion
from unmask.objectives.estimate import draw_loss
from unmask.randomness import seeded
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
    network, objective = model.network_for(canvas), model.fit_objective()
    given = (canvas != network.mask_id).to(model.device)
    x = x.to(model.device)
    bounds = []
    for start in tqdm(range(0, len(x), batch_size), desc="bounding", unit="batch", delay=2):
        here = slice(start, start + batch_size)
        labels = None if label is None else label[here].to(model.device)
        generator = seeded(seed, start, device=model.device)
        loss = draw_loss(network, objective, x[here], labels, draws=draws, given=given[here], generator=generator)
        bounds.append(loss.nelbo.view(draws, -1))
    drawn = torch.cat(bounds, 1).cpu()
    mean, error = drawn.mean(0), drawn.std(0) / draws**0.5 if draws > 1 else None
    order = mean.argsort(stable=True).tolist()
    return [Alternative(i, -float(mean[i]), None if error is None else float(error[i])) for i in order]

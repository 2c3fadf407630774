"""Alternatives for what is unknown of an example, the likeliest first."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from unmask.canvas import by_shape
from unmask.model import MaskedDiffusion
from unmask.objectives.estimate import draw_loss
from unmask.randomness import Generators, Repeated, seeded
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

    def __str__(self) -> str:
        """Return the bound in words."""
        return f"log p >= {self.log_p:.2f}" + (f" ± {self.error:.2f}" if self.error is not None else "") + " nats"


def rank_alternatives(
    model: MaskedDiffusion,
    canvas: Tokens | Sequence[Tensor],
    x: Tokens | Sequence[Tensor],
    label: Labels | None = None,
    *,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    lengths: Sequence[tuple[float, float]] | None = None,
) -> list[Alternative]:
    """Bound log p of completed examples given what was known of them; return them from the likeliest on.

    Args:
        model: of such examples.
        canvas: (n, *dims), masked where an example was unknown; or one for each, of any lengths.
        x: the completed examples, of the same shapes.
        label: class of each.
        draws: random masks for each bound.
        seed: of the masks; those of example i depend on (seed, i) alone.
        batch_size: examples at a time.
        lengths: log p of the length of each, where that was drawn, and its error; it is added.
    """
    mean, error = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    batches = [
        group[start : start + batch_size] for group in by_shape(canvas) for start in range(0, len(group), batch_size)
    ]
    for here in tqdm(batches, desc="bounding", unit="batch", delay=2):
        masks = Repeated([seeded(seed, i, 1) for i in here], draws)
        known, whole = (torch.stack([some[i].cpu() for i in here]) for some in (canvas, x))
        labels = None if label is None else label[here]
        found = bound_completions(model, known, whole, labels, draws=draws, generator=masks)
        mean[here], error[here] = (part.double() for part in found)
    if lengths is not None:
        of_length = torch.tensor(lengths, dtype=torch.float64)
        mean, error = mean + of_length[:, 0], torch.hypot(error, of_length[:, 1])
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

"""Estimate the bound on the same examples from several draws."""

import torch

from unmask.given import add_excluded
from unmask.networks.base import Network, check_label, check_tokens
from unmask.objectives.base import Loss, Objective
from unmask.randomness import Generators
from unmask.types import Labels, Tokens, Where


@torch.no_grad()
def draw_loss(
    network: Network,
    objective: Objective,
    x: Tokens,
    label: Labels | None = None,
    *,
    draws: int,
    given: Where | None = None,
    generator: Generators = None,
) -> Loss:
    """Estimate the negative ELBO of each example several times, in nats: entry draw * batch + example.

    All draws form one batch of the objective, so that its low-discrepancy times are spread over the draws of each
    example as well as over the examples. Every single estimate is unbiased. An exact objective is computed once, and
    its result repeated.

    Raises:
        ValueError: if draws is below 1, tokens or labels are out of range, or every token of an example is given.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    check_tokens(x, network.vocab_size)
    given = add_excluded(given, x, network.excluded)
    if given is not None and given.flatten(1).all(1).any():
        raise ValueError("every token of an example is given: there is nothing to measure")
    check_label(label, network.classes, len(x))
    if objective.exact:
        loss = objective(network, x, label, given=given)
        return Loss(loss.loss, loss.nelbo.repeat(draws), loss.parts.repeat(draws, 1))
    given = None if given is None else given.repeat(draws, *[1] * (x.dim() - 1))
    x = x.repeat(draws, *[1] * (x.dim() - 1))
    label = None if label is None else label.repeat(draws)
    return objective(network, x, label, given=given, generator=generator)

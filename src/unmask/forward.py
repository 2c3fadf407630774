"""The forward process: how data becomes masks."""

import torch
from torch import Tensor

from unmask.randomness import Generators, uniform
from unmask.schedules import Schedule
from unmask.types import Times, Tokens


def mask(x: Tokens, t: Times, schedule: Schedule, mask_id: int, *, generator: Generators = None) -> Tokens:
    """Hide each token of x independently with probability 1 - alpha_t: draw x_t ~ q(x_t | x) (MD4, section 2).

    Args:
        x: clean tokens (batch, *dims).
        t: one time per example, in [0, 1].
        schedule: gives alpha_t.
        mask_id: the value that hides a token, the vocabulary's size.
        generator: see `unmask.randomness`.
    """
    rate = schedule.mask_rate(t.double()).view(-1, *[1] * (x.dim() - 1))
    return torch.where(uniform(tuple(x.shape), generator, x.device) < rate, mask_id, x)


def all_masked(batch: int, dims: tuple[int, ...], mask_id: int, *, device: torch.device | str | None = None) -> Tokens:
    """Return a canvas of nothing but masks, x at t = 1: (batch, *dims)."""
    return torch.full((batch, *dims), mask_id, device=device)


def sample_times(batch: int, *, generator: Generators = None, device: torch.device | str | None = None) -> Times:
    """Draw times in (0, 1], each uniform, together evenly spread over the batch (low discrepancy, arXiv:2107.00630).

    One uniform shift is shared: t_i = (u + i / batch) mod 1. With one generator per example the times are
    independent, so that an example does not depend on its batch.
    """
    device = torch.device(device or "cpu")
    if generator is None or isinstance(generator, torch.Generator):
        shift: Tensor = (
            uniform((1,), generator, device) + torch.arange(batch, dtype=torch.float64, device=device) / batch
        )
    else:
        shift = uniform((batch,), generator, device)
    return 1 - shift % 1

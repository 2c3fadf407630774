"""The forward process: how data becomes masks."""

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.randomness import Generators, uniform
from unmask.schedules import Schedule
from unmask.types import Times, Tokens, Where


def mask(
    x: Tokens,
    t: Times,
    schedule: Schedule,
    mask_id: int,
    *,
    given: Where | None = None,
    generator: Generators = None,
) -> Tokens:
    """Hide each token of x independently with probability 1 - alpha_t: draw x_t ~ q(x_t | x) (MD4, section 2).

    Args:
        x: clean tokens (batch, *dims).
        t: one time per example, in [0, 1].
        schedule: gives alpha_t.
        mask_id: the value that hides a token, the vocabulary's size.
        given: tokens that are never hidden.
        generator: see `unmask.randomness`.
    """
    rate = schedule.mask_rate(t.double()).view(-1, *[1] * (x.dim() - 1))
    hidden = uniform(tuple(x.shape), generator, x.device) < rate
    return torch.where(hidden if given is None else hidden & ~given, mask_id, x)


def all_masked(batch: int, dims: tuple[int, ...], mask_id: int, *, device: torch.device | str | None = None) -> Tokens:
    """Return a canvas of nothing but masks, x at t = 1: (batch, *dims)."""
    return torch.full((batch, *dims), mask_id, device=device)


def sample_times(batch: int, *, generator: Generators = None, device: torch.device | str | None = None) -> Times:
    """Draw times in (0, 1], each uniform, together evenly spread over the batch (low discrepancy, arXiv:2107.00630).

    One uniform shift u is shared: half of the times are (u + 2 i / batch) mod 1, the others 1 minus these, which
    takes away the error that a lattice makes where the integrand differs between the ends. With one generator per
    example the times are independent, so that an example does not depend on its batch.
    """
    device = torch.device(device or "cpu")
    if generator is None or isinstance(generator, torch.Generator):
        half = (batch + 1) // 2
        lattice = torch.arange(half, dtype=torch.float64, device=device) / max(half, 1)
        t = (uniform((1,), generator, device) + lattice) % 1
        return torch.cat((1 - t, t[: batch - half].clamp(min=2**-53)))
    return 1 - uniform((batch,), generator, device)


def sample_counts(
    batch: int,
    length: int | Int[Tensor, " batch"],
    *,
    generator: Generators = None,
    device: torch.device | str | None = None,
) -> Int[Tensor, " batch"]:
    """Draw numbers of masks n, each uniform in 1..length, spread over the batch as `sample_times` does.

    From one generator, example i + batch / 2 has length + 1 - n_i: for an even batch the sum is always the same. With a
    length for each example they are spread alike, and the sum varies.
    """
    n = (length * sample_times(batch, generator=generator, device=device)).ceil().long()
    if isinstance(length, int) and (generator is None or isinstance(generator, torch.Generator)):
        half = (batch + 1) // 2
        n[half:] = length + 1 - n[: batch - half]
    return n

"""The forward process: masking data or replacing its tokens, and drawing the times and numbers of masks."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.randomness import Generators, Repeated, Share, uniform
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
    """Mask each token of x independently: draw x_t ~ q(x_t | x) (MD4, section 2).

        q(x_t,i = x_i | x) = α_t,   q(x_t,i = mask | x) = 1 − α_t

    Args:
        x: tokens (batch, *dims).
        t: time of each example, in [0, 1].
        schedule: gives α_t.
        mask_id: the value of a masked token, V.
        given: tokens that are never masked.
        generator: see `unmask.randomness`.

    Examples:
        >>> x = torch.tensor([[0, 1, 2], [3, 4, 5]])
        >>> unmask.mask(x, torch.tensor([0.0, 1.0]), unmask.Linear(), mask_id=6)
        tensor([[0, 1, 2],
                [6, 6, 6]])
    """
    rate = schedule.mask_rate(t.double()).view(-1, *[1] * (x.dim() - 1))
    masked = uniform(tuple(x.shape), generator, x.device) < rate
    return torch.where(masked if given is None else masked & ~given, mask_id, x)


def most_masked(batch: int, length: int, mean_rate: float) -> int:
    """Return a number of tokens that `mask` at `sample_times` exceeds with a probability below 2⁻⁵³, if at all.

    The times of one generator are two lattices, and the mask rate r grows with the time, so

        Σᵢ r(tᵢ) ≤ (batch + 1) ∫ r(t) dt + 2.

    By Hoeffding's inequality the number of masked tokens is above its mean by s with a probability of at most
    exp(−2 s² / (batch · length)).

    Args:
        batch: number of examples.
        length: tokens of each, all of which may be masked.
        mean_rate: ∫ r(t) dt over [0, 1], or more.
    """
    mean = length * ((batch + 1) * mean_rate + 2)
    spread = math.sqrt(53 * math.log(2) / 2 * batch * length)
    return min(batch * length, math.ceil(mean + spread))


def randomise(
    x: Tokens,
    t: Times,
    schedule: Schedule,
    vocab_size: int,
    *,
    given: Where | None = None,
    generator: Generators = None,
) -> Tokens:
    """Replace tokens of x by uniformly random ones: draw x_t ~ q(x_t | x) of multinomial diffusion (arXiv:2102.05379).

        q(x_t,i = v | x) = α_t 1[v = x_i] + (1 − α_t) / V

    Args:
        x: tokens (batch, *dims).
        t: time of each example, in [0, 1].
        schedule: gives α_t.
        vocab_size: V.
        given: tokens that are never replaced.
        generator: see `unmask.randomness`.
    """
    rate = schedule.mask_rate(t.double()).view(-1, *[1] * (x.dim() - 1))
    u, v = uniform((len(x), 2, *x.shape[1:]), generator, x.device).unbind(1)
    replaced = u < rate
    return torch.where(replaced if given is None else replaced & ~given, (v * vocab_size).long(), x)


def all_masked(batch: int, dims: tuple[int, ...], mask_id: int, *, device: torch.device | str | None = None) -> Tokens:
    """Return a fully masked canvas, x_t at t = 1: (batch, *dims).

    Examples:
        >>> unmask.all_masked(1, (4,), mask_id=6)
        tensor([[6, 6, 6, 6]])
    """
    return torch.full((batch, *dims), mask_id, device=device)


def sample_times(batch: int, *, generator: Generators = None, device: torch.device | str | None = None) -> Times:
    """Draw times, each uniform in (0, 1], evenly spread over the batch (low discrepancy, arXiv:2107.00630).

        t_i = 1 − ((u + 2 i / batch) mod 1) for half of the batch,   1 − t_i for the other half,   u ~ U[0, 1)

    The second half cancels the error of a lattice for integrands that differ between the ends of [0, 1]. With one
    generator per example the times are independent, so that an example does not depend on its batch; those of
    `Repeated` examples are spread over the draws of each.

    Examples:
        >>> unmask.sample_times(4).mean()
        tensor(0.5000, dtype=torch.float64)
    """
    device = torch.device(device or "cpu")
    if generator is None or isinstance(generator, torch.Generator):
        return _spread(batch, uniform((1,), generator, device)).flatten()
    if isinstance(generator, Share):
        return generator.of(sample_times(generator.batch(batch), generator=generator.generator, device=device))
    if isinstance(generator, Repeated):
        return _spread(generator.draws, uniform((len(generator.examples),), generator.examples, device)).flatten()
    return 1 - uniform((batch,), generator, device)


def _spread(draws: int, u: Float[Tensor, " n"]) -> Float[Tensor, "draws n"]:
    """Return times that are evenly spread over the draws, for each uniform number u."""
    half = (draws + 1) // 2
    lattice = torch.arange(half, dtype=torch.float64, device=u.device) / max(half, 1)
    t = (u + lattice.unsqueeze(1)) % 1
    return torch.cat((1 - t, t[: draws - half].clamp(min=2**-53)))


def sample_counts(
    batch: int,
    length: int | Int[Tensor, " batch"],
    *,
    generator: Generators = None,
    device: torch.device | str | None = None,
) -> Int[Tensor, " batch"]:
    """Draw numbers of masks, each uniform in 1..length, evenly spread over the batch: n = ⌈length · t⌉, t as above.

    With one generator, example i + batch / 2 gets length + 1 − n_i, so that the sum is constant for an even batch. With
    one length per example they are spread in the same way, but the sum varies.
    """
    if isinstance(generator, Share) and isinstance(length, int):
        whole = sample_counts(generator.batch(batch), length, generator=generator.generator, device=device)
        return generator.of(whole)
    n = (length * sample_times(batch, generator=generator, device=device)).ceil().long()
    if isinstance(length, int) and (generator is None or isinstance(generator, torch.Generator)):
        half = (batch + 1) // 2
        n[half:] = length + 1 - n[: batch - half]
    return n

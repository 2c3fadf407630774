"""Uniform random numbers from one generator, or from one generator per example."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.devices import send


@dataclass(frozen=True)
class Share:
    """The generator of a batch, of which one share is here: every `shares`-th example, from number `first` on.

    Each process draws the numbers of the whole batch and keeps its own, so that an example gets the same numbers
    however many processes share the batch. Examples i and i + batch / 2 are in one share if shares are even, so that
    what is spread in pairs (`unmask.forward.sample_counts`) is so in each of them.

    Args:
        generator: of the whole batch.
        first: number of the first example that is here, in 0..shares-1.
        shares: number of shares.
        whole: examples of the whole batch; None: all shares are of one size.
    """

    generator: torch.Generator
    first: int = 0
    shares: int = 1
    whole: int | None = None

    def batch(self, here: int) -> int:
        """Return the number of examples of the whole batch, of which there are some here."""
        return here * self.shares if self.whole is None else self.whole

    def of(self, x: Tensor) -> Tensor:
        """Return the share of x (batch, ...) that is here."""
        return x[self.first :: self.shares]


Generators = torch.Generator | Share | Sequence[torch.Generator] | None
"""One generator for the whole batch; or one per example, so that an example does not depend on the others."""


def generators(seed: int, count: int, first: int = 0) -> list[torch.Generator]:
    """Return one generator per example, for example numbers first, ..., first + count - 1.

    The generator of example i depends on (seed, i) only, not on `count` or `first`.

    Examples:
        >>> one = [torch.rand(1, generator=generator) for generator in unmask.generators(0, 2)]
        >>> more = [torch.rand(1, generator=generator) for generator in unmask.generators(0, 5)]
        >>> one == more[:2]
        True
    """
    return [seeded(seed, i) for i in range(first, first + count)]


def seeded(*entropy: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded by integers such as (seed, step), so that no state needs to be saved or restored.

    Neighbouring integers give independent streams (`numpy.random.SeedSequence`). Zeros at the end do not count:
    seeded(5) and seeded(5, 0) are one stream.

    Raises:
        ValueError: if an integer is negative.
    """
    if min(entropy) < 0:
        raise ValueError(f"a seed must be at least 0, got {min(entropy)}")
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state))


class Repeated(Sequence[torch.Generator]):
    """The generators of n examples that are repeated `draws` times: entry draw * n + example has that of the example.

    `unmask.forward.sample_times` spreads the draws of each example evenly, so that an example depends on no other one.
    """

    def __init__(self, examples: Sequence[torch.Generator], draws: int) -> None:
        self.examples, self.draws = examples, draws

    def __len__(self) -> int:
        return self.draws * len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [*self][index]
        return self.examples[range(len(self))[index] % len(self.examples)]

    def __iter__(self) -> Iterator[torch.Generator]:
        for _ in range(self.draws):
            yield from self.examples


def uniform(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Draw uniform numbers in [0, 1) with all 53 bits of a float64.

    Args:
        shape: (batch, ...).
        generator: see `Generators`; None uses torch's global generator.
        device: of the result; numbers from a generator on another device are copied, from the CPU without waiting.

    Raises:
        ValueError: if the number of generators is not the batch size.
    """
    if generator is None:
        return torch.rand(shape, dtype=torch.float64, device=device)
    if isinstance(generator, torch.Generator):
        return send(torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device), device)
    if isinstance(generator, Share):
        return generator.of(uniform((generator.batch(shape[0]), *shape[1:]), generator.generator, device))
    if isinstance(generator, int):
        raise ValueError(f"generator={generator} is a seed: give unmask.generators({generator}, n), one per example")
    if len(generator) != shape[0]:
        raise ValueError(f"one generator per example is needed: got {len(generator)} for a batch of {shape[0]}")
    rows = [torch.rand(shape[1:], dtype=torch.float64, generator=g, device=g.device) for g in generator]
    return send(torch.stack(rows), device)


def normal(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Draw standard normal numbers in float64, from one number of `uniform` each; the arguments are those of it."""
    return torch.special.ndtri(uniform(shape, generator, device).clamp(min=2**-54))

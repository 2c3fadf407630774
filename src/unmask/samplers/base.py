"""What every sampler has: a trajectory of states, and the law from which it draws a token."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.categorical import check_filters, filtered
from unmask.networks.base import At, Network, Positions, check_label, check_tokens
from unmask.randomness import Generators, uniform
from unmask.types import Labels, Logits, Times, Tokens, Where


class State(NamedTuple):
    """A moment of a trajectory: the tokens, each example's clock, and the network evaluations it has cost so far."""

    x: Tokens
    t: Times
    calls: Int[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Reveal the masked positions of a canvas; what the canvas shows is never written.

    Args:
        temperature: divides the logits; positive.
        top_k: draw among the k most likely tokens only.
        top_p: draw among the most likely tokens that together have this probability, in (0, 1] (nucleus sampling).
        guidance: scale s of classifier-free guidance: logits + (s - 1) (logits - logits without the label). 1: none;
            0: the label is ignored. Any other value evaluates the network twice an example, in one batch; what has
            no chance with the label keeps none.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_filters(self.temperature, self.top_k, self.top_p)
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be at least 0 and finite, got {self.guidance}")

    @abstractmethod
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """Yield the canvas, then the state after each step.

        Args:
            network: predicts the masked tokens.
            x: any canvas, masked (x = network.mask_id) where tokens are wanted.
            label: class of each example, for a network that takes one.
            generator: see `unmask.randomness`; with one per example, an example does not depend on its batch.

        Raises:
            ValueError: tokens or labels out of range, a canvas without masks, or guidance without labels.
            FloatingPointError: the network's logits give no distribution; names the step.
        """

    def __call__(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Tokens:
        """Return the tokens at the end of `trajectory`, which see."""
        for state in self.trajectory(network, x, label, generator=generator):
            x = state.x
        return x

    @property
    def evaluations(self) -> int:
        """Network evaluations of one example in one call."""
        return 1 if self.guidance in (0, 1) else 2

    def check(self, network: Network, x: Tokens, label: Labels | None) -> Where:
        """Return where a canvas is masked; raise a ValueError if it, or the labels, do not fit (see `trajectory`)."""
        check_tokens(x, network.vocab_size + 1)
        check_label(label, network.classes, len(x))
        if self.guidance != 1 and label is None:
            has = "no label was given" if network.classes else "the network takes none (it was built with classes=None)"
            raise ValueError(f"guidance {self.guidance:g} needs a label of each example; {has}")
        masked = x == network.mask_id
        if not masked.any():
            raise ValueError(f"the canvas has no masked position (value {network.mask_id}): nothing to sample")
        return masked

    def predict(self, network: Network, x: Tokens, noise: Times, label: Labels | None, at: At) -> Logits:
        """Return the network's logits at the N positions `at`, guided."""
        if self.guidance == 1 or label is None:
            return network(x, noise, label, at=at)
        null = torch.full_like(label, network.classes or 0)
        if self.guidance == 0:
            return network(x, noise, null, at=at)
        twice = Positions.of(at).repeat(2, len(x))
        logits = network(x.repeat(2, *[1] * (x.dim() - 1)), noise.repeat(2), torch.cat((label, null)), at=twice)
        given, free = (logits if logits.dtype == torch.float64 else logits.float()).chunk(2)
        guided = free + self.guidance * (given - free)
        limit = torch.minimum(given, free) if self.guidance < 1 else given  # where one of them is -inf
        return torch.where(given.isneginf() | free.isneginf(), limit, guided)

    def law(self, network: Network, x: Tokens, noise: Times, label: Labels | None, at: At) -> Logits:
        """Return the logits from which the tokens at the N positions `at` are drawn: guided, tempered, cut."""
        return filtered(self.predict(network, x, noise, label, at), self.temperature, self.top_k, self.top_p)


def check_drawn(token: Tensor, failed: int, step: int) -> None:
    """Raise a FloatingPointError where `categorical` found no distribution to draw from, which it says by `failed`."""
    if (token == failed).any():
        raise FloatingPointError(f"step {step}: the network's logits are NaN, infinite, or all -inf")


def uniform_rows(shape: tuple[int, ...], rows: Bool[Tensor, " batch"], generator: Generators) -> Tensor:
    """Draw uniforms (rows, *shape) for some examples of a batch; with a generator per example, from theirs alone."""
    if isinstance(generator, torch.Generator) or generator is None:
        return uniform((int(rows.sum()), *shape), generator, rows.device)
    chosen = [one for one, wanted in zip(generator, rows.tolist(), strict=True) if wanted]
    return uniform((len(chosen), *shape), chosen, rows.device)


def nth(flags: Where, rank: Int[Tensor, " batch"]) -> Where:
    """Keep of each example's flags only the one of that rank, in row-major order from 0."""
    flat = flags.flatten(1)
    return ((flat.cumsum(1) == rank.unsqueeze(1) + 1) & flat).view_as(flags)

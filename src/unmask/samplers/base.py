"""What every sampler does: reveal the masked positions of a canvas."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.categorical import categorical, check_temperature
from unmask.networks.base import Network, check_label, check_tokens
from unmask.randomness import Generators, uniform
from unmask.types import Labels, Times, Tokens, Where


class State(NamedTuple):
    """A moment of a trajectory: the tokens, each example's clock, and the network evaluations it has cost so far."""

    x: Tokens
    t: Times
    calls: Int[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Reveal the masked positions of a canvas; no other position is ever written.

    Args:
        temperature: divides the logits; positive.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

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
            ValueError: tokens or labels out of range, or a canvas without masks.
            FloatingPointError: the network's logits give no distribution; names the step.
        """

    def __call__(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Tokens:
        """Return the tokens at the end of `trajectory`, which see."""
        for state in self.trajectory(network, x, label, generator=generator):
            x = state.x
        return x


def check_canvas(network: Network, x: Tokens, label: Labels | None) -> Where:
    """Return where a canvas is masked; raise a ValueError if that is nowhere, or a token or label is out of range."""
    check_tokens(x, network.vocab_size + 1)
    check_label(label, network.classes, len(x))
    masked = x == network.mask_id
    if not masked.any():
        raise ValueError(f"the canvas has no masked position (value {network.mask_id}): nothing to sample")
    return masked


def check_drawn(token: Tensor, failed: int, step: int) -> None:
    """Raise a FloatingPointError where `categorical` found no distribution to draw from, which it says by `failed`."""
    if (token == failed).any():
        raise FloatingPointError(f"step {step}: the network's logits are NaN, infinite, or all -inf")


class Plan(NamedTuple):
    """When each position is revealed, and what the network and the clock are told.

    Attributes:
        step: the step that reveals each position; -1 where nothing is to be revealed.
        noise: the mask rate that the network is told at each step.
        t: the time after each step.
    """

    step: Int[Tensor, "batch *dims"]
    noise: Float[Tensor, "batch steps"]
    t: Float[Tensor, "batch steps"]


@dataclass(frozen=True, kw_only=True)
class Planned(Sampler):
    """Plan which position is revealed when, then reveal: for schedules that treat all token values alike.

    *Which* position is revealed when does not depend on what it becomes, so it is planned first, from one uniform
    number v per position: the position is masked at t exactly while v < r_t, the mask rate. *What* it becomes is
    drawn from the network when its moment comes, from a second uniform number. Nothing else is random.
    """

    @abstractmethod
    def plan(self, v: Float[Tensor, "batch *dims"], masked: Where) -> Plan:
        """Turn the uniform number of each position into the step that reveals it."""

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`."""
        masked = check_canvas(network, x, label)
        v, u = uniform((len(x), 2, *x.shape[1:]), generator, x.device).unbind(1)
        step, noise, t = self.plan(v, masked)
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        yield State(x, torch.ones_like(t[:, 0]), calls)
        for k in range(noise.shape[1]):
            at = step == k
            rows = at.flatten(1).any(1)
            if rows.any():  # an example in which this step reveals nothing costs no call
                logits = network(x[rows], noise[rows, k], None if label is None else label[rows], at=at[rows])
                token = categorical(logits, u[at], temperature=self.temperature)
                check_drawn(token, network.mask_id, k + 1)
                x = x.masked_scatter(at, token)
                calls = calls + rows
            yield State(x, t[:, k], calls)

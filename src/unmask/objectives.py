"""Objectives: bounds on -log p(x), in nats per example, from a network's predictions at masked positions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.forward import mask, sample_times
from unmask.networks.base import Network
from unmask.randomness import Generators, uniform
from unmask.schedules import Linear, Schedule
from unmask.types import Labels, Nats, Times, Tokens


class Loss(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: the scalar to backpropagate.
        nelbo: an unbiased estimate of the negative ELBO, an upper bound on -log p(x); nats per example, detached.
    """

    loss: Float[Tensor, ""]
    nelbo: Nats


@dataclass(frozen=True)
class Objective(ABC):
    """Estimate a bound on -log p(x) from random masks of x. It owns its randomness and calls the network."""

    @abstractmethod
    def __call__(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Loss:
        """Mask x at random and weigh the network's cross-entropies.

        Args:
            network: predicts the masked tokens; it is told the mask rate.
            x: clean tokens (batch, *dims).
            label: class of each example, for a network that takes one.
            generator: see `unmask.randomness`.
        """


def masked_nll(network: Network, x_t: Tokens, x: Tokens, noise: Times, label: Labels | None) -> Nats:
    """Sum -log p(x_i | x_t) over the masked positions i of each example: the cross-entropy of every objective."""
    at = x_t == network.mask_id
    nll = network.nll(x_t, x, noise, label, at=at)
    return nll.new_zeros(at.shape).masked_scatter(at, nll).flatten(1).sum(1)


@dataclass(frozen=True)
class ContinuousELBO(Objective):
    """Bound -log p(x) by E_t [ -alpha'_t / (1 - alpha_t) * sum over masked i of -log p(x_i | x_t) ], t ~ U(0, 1].

    The continuous-time ELBO (MD4, section 3). Its value does not depend on the schedule, its variance does (for
    `Linear` it grows with the log of the smallest time drawn; prefer `TimeFreeELBO` where no schedule is needed).
    """

    schedule: Schedule = field(default_factory=Linear)

    def __call__(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Loss:
        t = sample_times(len(x), generator=generator, device=x.device)
        x_t = mask(x, t, self.schedule, network.mask_id, generator=generator)
        nelbo = self.schedule.weight(t) * masked_nll(network, x_t, x, self.schedule.mask_rate(t), label)
        return Loss(nelbo.mean(), nelbo.detach())


@dataclass(frozen=True)
class DiscreteELBO(Objective):
    """Bound -log p(x) by T E_k [ (alpha_s - alpha_t) / (1 - alpha_t) * sum over masked i of -log p(x_i | x_t) ].

    Here t = k / T, s = (k - 1) / T and k ~ U{1..T}: the ELBO of T discrete steps (MD4, section 3). With T = 1 it is
    the sum of the marginal cross-entropies; it falls to `ContinuousELBO` as 1 / T.

    Args:
        schedule: gives alpha.
        steps: T, at least 1.
    """

    schedule: Schedule = field(default_factory=Linear)
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def __call__(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Loss:
        k = (self.steps * sample_times(len(x), generator=generator, device=x.device)).ceil()
        t, s = k / self.steps, (k - 1) / self.steps
        x_t = mask(x, t, self.schedule, network.mask_id, generator=generator)
        weight = self.steps * self.schedule.unmask_prob(t, s)
        nelbo = weight * masked_nll(network, x_t, x, self.schedule.mask_rate(t), label)
        return Loss(nelbo.mean(), nelbo.detach())


@dataclass(frozen=True)
class TimeFreeELBO(Objective):
    """Bound -log p(x) by E_n [ L / n * sum over a uniformly random n-subset of -log p(x_i | the rest) ], n ~ U{1..L}.

    Equal to the continuous-time ELBO of every schedule, without a time (FHS, proposition 3.1), and to the any-order
    autoregressive bound. n is spread evenly over the batch, so the estimate varies little. A network with time
    conditioning is told the mask rate n / L.

    Args:
        power: of L / n in `.loss`, in [0, 1]; `.nelbo` is always the bound, which 1 minimises. With less, examples of
            few masks, whose gradients are the noisiest, count less, and training is faster at first.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise ValueError(f"power must be in [0, 1], got {self.power}")

    def __call__(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Loss:
        length = x[0].numel()
        n = (length * sample_times(len(x), generator=generator, device=x.device)).ceil().long()
        v = uniform((len(x), length), generator, x.device)
        last = v.sort(dim=1).values.gather(1, n[:, None] - 1)
        x_t = torch.where((v <= last).view_as(x), network.mask_id, x)
        rate = n.double() / length
        nll = masked_nll(network, x_t, x, rate, label)
        return Loss((nll / rate**self.power).mean(), nll.detach() / rate)

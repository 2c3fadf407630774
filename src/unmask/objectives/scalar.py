"""Objectives under a schedule that treats all tokens alike: continuous time, discrete time, and none."""

import math
from dataclasses import dataclass, field

import torch

from unmask.forward import mask, sample_counts, sample_times
from unmask.networks.base import Network, Positions
from unmask.objectives.base import Loss, Objective, open_length
from unmask.randomness import Generators, uniform
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Labels, Times, Tokens, Where


def masked_cross_entropy(
    network: Network,
    x_t: Tokens,
    x: Tokens,
    noise: Times,
    label: Labels | None,
    *,
    at: Positions,
    weight: Times,
    power: float = 1.0,
) -> Loss:
    """Weigh the sum over masked positions i of -log p(x_i | x_t) of each example: what every scalar objective does.

    Args:
        network: see `Objective`; so is label.
        x_t: partly masked tokens.
        x: clean tokens.
        noise: what the network is told.
        at: the positions that are masked.
        weight: of each example in the bound; to this power in the loss.
        power: see `TimeFreeELBO`.
    """
    batch, length = len(x), x[0].numel()
    loss, nll = network.cross_entropy(x_t, x, noise, label, at=at, weight=at.spread(weight**power / batch))
    parts = weight.unsqueeze(1) * at.put(nll, batch, length)
    return Loss(loss, parts.sum(1), parts)


@dataclass(frozen=True)
class ContinuousELBO(Objective):
    """Bound -log p(x) by E_t [ -alpha'_t / (1 - alpha_t) * sum over masked i of -log p(x_i | x_t) ], t ~ U(0, 1].

    The continuous-time ELBO (MD4, section 3). Its value does not depend on the schedule, its variance does (for
    `Linear` it grows with the log of the smallest time drawn; prefer `TimeFreeELBO` where no schedule is needed).
    """

    schedule: Schedule = field(default_factory=Linear)

    def __post_init__(self) -> None:
        check_kind(self.schedule, Schedule, "ContinuousELBO")

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        t = sample_times(len(x), generator=generator, device=x.device)
        x_t = mask(x, t, self.schedule, network.mask_id, given=given, generator=generator)
        rate, weight = self.schedule.mask_rate(t), self.schedule.weight(t)
        at = Positions.of(x_t == network.mask_id)
        return masked_cross_entropy(network, x_t, x, rate, label, at=at, weight=weight)


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
        check_kind(self.schedule, Schedule, "DiscreteELBO")
        if self.steps != int(self.steps) or self.steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {self.steps}")

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        k = (self.steps * sample_times(len(x), generator=generator, device=x.device)).ceil()
        t, s = k / self.steps, (k - 1) / self.steps
        x_t = mask(x, t, self.schedule, network.mask_id, given=given, generator=generator)
        weight = self.steps * self.schedule.unmask_prob(t, s)
        at = Positions.of(x_t == network.mask_id)
        return masked_cross_entropy(network, x_t, x, self.schedule.mask_rate(t), label, at=at, weight=weight)


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
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        length = open_length(x, given)
        n = sample_counts(len(x), length, generator=generator, device=x.device)
        v = uniform((len(x), x[0].numel()), generator, x.device)
        v = v if given is None else v.masked_fill(given.flatten(1), math.inf)
        last = v.sort(dim=1).values.gather(1, n[:, None] - 1)
        hidden = (v <= last).view_as(x)
        shared = generator is None or isinstance(generator, torch.Generator)
        known = isinstance(length, int) and shared and len(x) % 2 == 0
        count = len(x) // 2 * (x[0].numel() + 1) if known else None
        at, rate = Positions.of(hidden, count), n.double() / length
        x_t = x.masked_fill(hidden, network.mask_id)
        return masked_cross_entropy(network, x_t, x, rate, label, at=at, weight=1 / rate, power=self.power)

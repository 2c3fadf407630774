"""Objectives for scalar schedules: in continuous time, in discrete time, and without time."""

import math
from dataclasses import dataclass, field

import torch

from unmask.checks import check_whole
from unmask.forward import mask, most_masked, sample_counts, sample_times
from unmask.networks.base import Network, Positions
from unmask.objectives.base import Loss, Objective, length_without_given
from unmask.randomness import Generators, Share, uniform
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
    counted: Where | None = None,
) -> Loss:
    """Return weight · Σ_{i masked} −log p(x_i | x_t) for each example, which all scalar objectives consist of.

    Args:
        network: predicts the masked tokens.
        x_t: partly masked tokens.
        x: clean tokens.
        noise: mask rate, passed to the network.
        label: class of each example.
        at: the masked positions; with `counted`, perhaps others too.
        weight: weight of each example in the bound; weight ** power in the loss.
        power: see `TimeFreeELBO`.
        counted: which tokens count; None: those at `at`.
    """
    batch, length = len(x), x[0].numel()
    each = at.spread(weight**power / batch)
    if counted is not None:
        each = each * at.pick(counted.flatten(1))
    loss, nll = network.cross_entropy(x_t, x, noise, label, at=at, weight=each)
    parts = weight.unsqueeze(1) * at.put(nll, batch, length)
    if counted is not None:
        parts = torch.where(counted.flatten(1), parts, 0)
    return Loss(loss, parts.sum(1), parts)


def positions_to_predict(masked: Where, most: int | None = None) -> tuple[Positions, Where | None]:
    """Return the positions to be predicted, and which tokens count, where there are positions of others among them.

    On a CPU these are the masked ones. A GPU would have to be waited for in order to count these: there some more are
    predicted, which do not count.

    Args:
        masked: the masked tokens.
        most: how many there are at most; None: all.
    """
    if masked.device.type == "cpu":
        return Positions.of(masked), None
    return Positions.covering(masked, masked.numel() if most is None else most), masked


def _most_at_times(schedule: Schedule, steps: int, x: Tokens, generator: Generators) -> int | None:
    """Return how many tokens are masked at most at times that are rounded up to i / steps (`most_masked`)."""
    if isinstance(generator, Share) and generator.shares == 1:
        generator = generator.generator
    if x.device.type == "cpu" or not (generator is None or isinstance(generator, torch.Generator)):
        return None
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return most_masked(len(x), x[0].numel(), schedule.mask_rate(times).mean().item())


@dataclass(frozen=True)
class ContinuousELBO(Objective):
    """Bound −log p(x) by the continuous-time ELBO (MD4, section 3).

        −log p(x) ≤ E_{t ~ U(0, 1]} [ −α′_t / (1 − α_t) · Σ_{i masked} −log p(x_i | x_t) ]

    Its value does not depend on the schedule, but its variance does; with `Linear` it is infinite. Prefer
    `TimeFreeELBO` unless a schedule is needed.

    Args:
        schedule: gives α.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> bound = unmask.ContinuousELBO(unmask.Cosine())(network, torch.tensor([[3, 1, 4, 1], [2, 0, 2, 3]]))
        >>> bound.nelbo.shape
        torch.Size([2])
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
        most = _most_at_times(self.schedule, 1000, x, generator)
        at, counted = positions_to_predict(x_t == network.mask_id, most)
        return masked_cross_entropy(network, x_t, x, rate, label, at=at, weight=weight, counted=counted)


@dataclass(frozen=True)
class DiscreteELBO(Objective):
    """Bound −log p(x) by the ELBO of T discrete steps (MD4, section 3).

        −log p(x) ≤ T · E_{k ~ U{1..T}} [ (α_s − α_t) / (1 − α_t) · Σ_{i masked} −log p(x_i | x_t) ],
        t = k / T,   s = (k − 1) / T

    With T = 1 this is the sum of the marginal cross-entropies; it converges to `ContinuousELBO` from above as 1 / T.

    Args:
        schedule: gives α.
        steps: T, at least 1.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> unmask.DiscreteELBO(steps=1)(network, torch.tensor([[3, 1, 4, 1]])).nelbo / 4  # log 5
        tensor([1.6094], dtype=torch.float64)
    """

    schedule: Schedule = field(default_factory=Linear)
    steps: int = 1000

    def __post_init__(self) -> None:
        check_kind(self.schedule, Schedule, "DiscreteELBO")
        check_whole(1, steps=self.steps)

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
        rate = self.schedule.mask_rate(t)
        at, counted = positions_to_predict(
            x_t == network.mask_id, _most_at_times(self.schedule, self.steps, x, generator)
        )
        return masked_cross_entropy(network, x_t, x, rate, label, at=at, weight=weight, counted=counted)


@dataclass(frozen=True)
class TimeFreeELBO(Objective):
    """Bound −log p(x) by a masked cross-entropy without a time (FHS, Proposition 3.1).

        −log p(x) ≤ E_{n ~ U{1..L}} E_{M, |M| = n} [ L / n · Σ_{i in M} −log p(x_i | x without M) ],

    with M a uniformly random set of n positions. This equals the continuous-time ELBO under every schedule, and the
    bound of any-order autoregressive models. The n are evenly spread over the batch, which reduces the variance. A
    network with time conditioning is given the mask rate n / L.

    Args:
        power: exponent of L / n in `.loss`, in [0, 1]; 1 minimises the bound. With less, examples with few masks, whose
            gradients have the largest variance, have less weight, and training is faster at first. `.nelbo` is always
            the bound.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> unmask.TimeFreeELBO()(network, torch.tensor([[3, 1, 4, 1]])).nelbo / 4  # log 5: it has not learned anything
        tensor([1.6094], dtype=torch.float64)
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
        length = length_without_given(x, given)
        n = sample_counts(len(x), length, generator=generator, device=x.device)
        v = uniform((len(x), x[0].numel()), generator, x.device)
        v = v if given is None else v.masked_fill(given.flatten(1), math.inf)
        largest_hidden = v.sort(dim=1).values.gather(1, n[:, None] - 1)
        masked = (v <= largest_hidden).view_as(x)
        masked = masked if given is None else masked & ~given
        pairs, odd = divmod(len(x), 2)
        shared = generator is None or isinstance(generator, torch.Generator)
        shared = shared or (isinstance(generator, Share) and generator.whole is None and not odd)  # else without pairs
        most = pairs * (x[0].numel() + 1) + odd * x[0].numel() if shared else None  # see `sample_counts`
        if isinstance(length, int) and shared and not odd:
            at, counted = Positions.of(masked, most), None
        else:
            at, counted = positions_to_predict(masked, most)
        rate, x_t = n.double() / length, x.masked_fill(masked, network.mask_id)
        return masked_cross_entropy(
            network, x_t, x, rate, label, at=at, weight=1 / rate, power=self.power, counted=counted
        )

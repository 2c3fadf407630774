"""Objectives: bounds on -log p(x), in nats per example, from a network's predictions at masked positions."""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.forward import mask, sample_counts, sample_times
from unmask.networks.base import Network, Positions
from unmask.randomness import Generators, uniform
from unmask.schedules import Linear, Schedule, TokenPolynomial, check_kind, checked
from unmask.types import Labels, Nats, Times, Tokens, Where


class Loss(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: the scalar to backpropagate.
        nelbo: an unbiased estimate of the negative ELBO, an upper bound on -log p(x); nats per example, detached.
        parts: what each token adds to `nelbo`, (batch, L) with the dims flattened.
    """

    loss: Float[Tensor, ""]
    nelbo: Nats
    parts: Float[Tensor, "batch length"]


@dataclass(frozen=True)
class Objective(ABC):
    """Estimate a bound on -log p(x) from random masks of x. It owns its randomness and calls the network."""

    @property
    def calls(self) -> int:
        """Network evaluations an example."""
        return 1

    @abstractmethod
    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        """Mask x at random and weigh the network's cross-entropies.

        Args:
            network: predicts the masked tokens; it is told the mask rate, or the time where the schedule depends on
                the token.
            x: clean tokens (batch, *dims).
            label: class of each example, for a network that takes one.
            given: tokens that are conditioned upon: never masked, and not part of the bound, which is on -log p of the
                others given these. At least one of an example must not be given. None: no token is.
            generator: see `unmask.randomness`.
        """


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


def open_length(x: Tokens, given: Where | None) -> int | Int[Tensor, " batch"]:
    """Return L: the number of tokens that are not given, of each example where some are."""
    return x[0].numel() if given is None else (~given).flatten(1).sum(1)


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


@dataclass(frozen=True, eq=False)
class TokenELBO(Objective):
    """Bound -log p(x) under a state-dependent schedule: the continuous-time ELBO of GenMD4 (MD4, section 6).

    With w the exponents, p the network's prediction at a masked position and x its token, it is the integral over t of

        (1 / t) E[ sum over masked of g ],   g = w_x (-log p_x - 1) + sum_i w_i p_i.

    A uniform t would give an estimate without a finite variance wherever w <= 1. So t is drawn where something happens:
    position l is masked from tau_l = u^(1 / w_x) on, and t is the n-th smallest of these, n ~ U{1..L}. Given t and the
    set that is masked then, position l of it is the one masked at t with probability w_x / (sum over masked of w_x), so

        nelbo = L (sum over masked of g) / (sum over masked of w_x)

    is unbiased, has no singularity in t, and is `TimeFreeELBO` for equal w. Several sets are drawn with the same t and
    the same position masked at it. They give the gradient in w: pathwise where w stands in the bound, by the score of
    the position and its time, and by REINFORCE where w moves the rest of the set, from what two sets say of the
    positions that both hold.

    Args:
        schedule: gives w, and learns it. None: that of the model (`MaskedDiffusion.nelbo` fills it in).
        masks: K, sets of an example at the same time, evaluated in one network call; at least 2 to learn w.
        power: as in `TimeFreeELBO`, in the loss of the network alone; w always follows the bound.
    """

    schedule: TokenPolynomial | None = None
    masks: int = 2
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule is not None:
            check_kind(self.schedule, TokenPolynomial, "TokenELBO")
            self.schedule.check()
        if self.masks != int(self.masks) or self.masks < 1:
            raise ValueError(f"masks must be a whole number of at least 1, got {self.masks}")
        if not 0 <= self.power <= 1:
            raise ValueError(f"power must be in [0, 1], got {self.power}")

    @property
    def calls(self) -> int:
        return self.masks

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        w, many = checked(self.schedule, network.vocab_size, "TokenELBO").powers, self.masks
        if w.requires_grad and many < 2:
            raise ValueError("to learn a schedule, TokenELBO needs masks of at least 2, got 1")
        w_x = w[x.flatten(1)]
        length, given = open_length(x, given), None if given is None else given.flatten(1)
        log_t, hidden = draw_masks(w_x.detach(), many, length, given, generator)
        at = hidden.view(many * len(x), *x.shape[1:])
        x = x.repeat(many, *[1] * (x.dim() - 1))
        label = None if label is None else label.repeat(many)
        logits = network(x.masked_fill(at, network.mask_id), log_t.exp().repeat(many), label, at=at)
        log_p = (logits if logits.dtype.itemsize >= 4 else logits.float()).log_softmax(-1)
        nll, p = -log_p.gather(1, x[at].unsqueeze(1)).squeeze(1), log_p.exp()

        def integrand(nll: Tensor, p: Tensor, w: Tensor, w_x: Tensor) -> Float[Tensor, "masks batch length"]:
            """Return g where masked, else 0."""
            g = w_x.expand_as(hidden)[hidden] * (nll - 1) + (p * w.to(p.dtype)).sum(
                -1
            )  # not @: autocast would round it
            return g.new_zeros(hidden.shape).masked_scatter(hidden, g)

        scale = length / torch.where(hidden, w_x.detach(), 0).sum(-1)
        parts = scale.unsqueeze(-1) * integrand(nll, p, w.detach(), w_x.detach())
        of_network = parts.sum(-1)
        loss = (of_network * hidden.double().mean(-1) ** (1 - self.power)).mean()
        if w.requires_grad:
            g = integrand(nll.detach(), p.detach(), w, w_x)
            pathwise = scale * (g + g.detach() * w_x * log_t.unsqueeze(1)).sum(-1)
            of_w = pathwise.mean() + reinforce(g.detach() / w_x.detach(), w_x, log_t, hidden, length).mean()
            loss = loss + of_w - of_w.detach()
        return Loss(loss, of_network.detach().mean(0), parts.detach().mean(0))


def draw_masks(
    w_x: Float[Tensor, "batch length"],
    masks: int,
    length: int | Int[Tensor, " batch"],
    given: Bool[Tensor, "batch length"] | None,
    generator: Generators,
) -> tuple[Float[Tensor, " batch"], Bool[Tensor, "masks batch length"]]:
    """Draw for each example a position, the time at which it is masked, and several sets that are masked then.

    Args:
        w_x: exponent of each position's token.
        masks: number of sets.
        length: number of tokens that are not given.
        given: tokens that are in no set.
        generator: see `unmask.randomness`.

    Returns:
        log t, and the sets: each holds the position, and any other with probability t^(w_x), independently.
    """
    batch = len(w_x)
    n = sample_counts(batch, length, generator=generator, device=w_x.device)
    u = 1 - uniform((batch, masks, w_x.shape[1]), generator, w_x.device)
    log_tau = u.transpose(0, 1).contiguous().log() / w_x
    log_tau = log_tau if given is None else log_tau.masked_fill(given, math.inf)
    log_t, position = (part.gather(1, n[:, None] - 1) for part in log_tau[0].sort(dim=1))
    return log_t.squeeze(1), (log_tau <= log_t).scatter(2, position.expand(masks, -1, -1), True)


def reinforce(
    h: Float[Tensor, "masks batch length"],
    w_x: Float[Tensor, "batch length"],
    log_t: Float[Tensor, " batch"],
    hidden: Bool[Tensor, "masks batch length"],
    length: int | Int[Tensor, " batch"],
) -> Float[Tensor, "pairs batch"]:
    """Return what has the gradient in w that comes from the law of the sets, given the position and its time.

    For two sets of `draw_masks` it is (h - h') / 2 times the difference of the scores, at the position that they were
    drawn with. Of those that both hold, l is that one with probability proportional to w_l t^(-w_l). Tokens that are
    given are in neither set, and drop out of the difference.
    """
    log_rate = w_x * log_t.unsqueeze(1)
    visible = (-torch.expm1(log_rate)).clamp(min=torch.finfo(log_rate.dtype).tiny).log()
    log_law = torch.where(hidden, log_rate, visible).sum(-1)
    weight = (w_x.log() - log_rate).detach()
    terms = []
    for a, b in itertools.combinations(range(len(hidden)), 2):
        chance = weight.masked_fill(~(hidden[a] & hidden[b]), -math.inf).softmax(-1)
        terms.append(length * (chance * (h[a] - h[b])).sum(-1) * (log_law[a] - log_law[b]) / 2)
    return torch.stack(terms)

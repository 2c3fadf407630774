"""Masking schedules: alpha_t, the chance that a token is still visible at time t (MD4, section 2 and figure 1).

Everything that the objectives and samplers need is a ratio of mask rates r_t = 1 - alpha_t, so each schedule
gives r_t in a form that keeps its relative precision as t goes to 0.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule(ABC):
    """Decrease alpha_t from exactly 1 at t = 0 to exactly 0 at t = 1.

    A new schedule writes `alpha` and `inverse`; the rest follows. It overrides `mask_rate` where 1 - alpha
    would subtract near-equal numbers, and `weight` where a closed form is at hand. Times and the results are
    tensors of any one shape.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the chance that a token is visible at t."""

    @abstractmethod
    def inverse(self, alpha: Tensor) -> Tensor:
        """Return the time at which the chance of being visible is alpha."""

    def dalpha(self, t: Tensor) -> Tensor:
        """Differentiate alpha in t (by automatic differentiation)."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            return torch.autograd.grad(self.alpha(t).sum(), t)[0]

    def mask_rate(self, t: Tensor) -> Tensor:
        """Return r_t = 1 - alpha_t, the chance that a token is masked at t."""
        return 1 - self.alpha(t)

    def weight(self, t: Tensor) -> Tensor:
        """Return -alpha'_t / (1 - alpha_t) = d log r_t / dt, the weight of the continuous-time ELBO at t > 0."""
        return -self.dalpha(t) / self.mask_rate(t)

    def unmask_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return (alpha_s - alpha_t) / (1 - alpha_t) = 1 - r_s / r_t, for s < t.

        It is the chance that a token masked at t is revealed by s, whatever the token.
        """
        return 1 - self.mask_rate(s) / self.mask_rate(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log alpha_t / (1 - alpha_t), the log signal-to-noise ratio."""
        return self.alpha(t).log() - self.mask_rate(t).log()


@dataclass(frozen=True)
class Linear(Schedule):
    """Mask at a constant pace: alpha_t = 1 - t, weight 1 / t."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def inverse(self, alpha: Tensor) -> Tensor:
        return 1 - alpha

    def mask_rate(self, t: Tensor) -> Tensor:
        return t

    def weight(self, t: Tensor) -> Tensor:
        return 1 / t


@dataclass(frozen=True)
class Polynomial(Schedule):
    """Mask as a power of time: alpha_t = 1 - t^power, weight power / t.

    Args:
        power: the exponent, positive; 1 is `Linear`.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.power < math.inf:
            raise ValueError(f"power must be positive and finite, got {self.power}")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.power

    def inverse(self, alpha: Tensor) -> Tensor:
        return (1 - alpha) ** (1 / self.power)

    def mask_rate(self, t: Tensor) -> Tensor:
        return t**self.power

    def weight(self, t: Tensor) -> Tensor:
        return self.power / t


@dataclass(frozen=True)
class Cosine(Schedule):
    """Mask along a cosine: alpha_t = 1 - cos(pi/2 (1 - t)), weight pi/2 cot(pi/2 t)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.sin(math.pi / 2 * t)

    def inverse(self, alpha: Tensor) -> Tensor:
        return torch.asin(1 - alpha) * (2 / math.pi)

    def mask_rate(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 / torch.tan(math.pi / 2 * t)


@dataclass(frozen=True)
class Geometric(Schedule):
    """Mask at a geometrically growing rate: alpha_t proportional to exp(-sigma_t), sigma_t = beta_min^(1-t) beta_max^t.

    The paper's alpha_t = exp(-sigma_t) ends near 1 and 0; here it is shifted and scaled to end there exactly:
    r_t = (1 - exp(-(sigma_t - sigma_0))) / (1 - exp(-(sigma_1 - sigma_0))).

    Args:
        beta_min: rate at t = 0, positive.
        beta_max: rate at t = 1, larger than beta_min.
    """

    beta_min: float = 1e-5
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max <= 700:  # exp(-700) is about the least that a float64 holds
            raise ValueError(f"0 < beta_min < beta_max <= 700 is needed, got {self.beta_min} and {self.beta_max}")

    @property
    def _growth(self) -> float:
        return math.log(self.beta_max / self.beta_min)

    @property
    def _full(self) -> float:
        return -math.expm1(self.beta_min - self.beta_max)

    def _rise(self, t: Tensor) -> Tensor:
        """Return sigma_t - sigma_0."""
        return self.beta_min * torch.expm1(self._growth * t)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - self.mask_rate(t)

    def inverse(self, alpha: Tensor) -> Tensor:
        rise = -torch.log1p((alpha - 1) * self._full)
        time = torch.log1p(rise / self.beta_min) / self._growth
        return torch.where(alpha > 0, time, torch.ones_like(time)).clamp(max=1)

    def mask_rate(self, t: Tensor) -> Tensor:
        rate = -torch.expm1(-self._rise(t)) / self._full
        return torch.where(t < 1, rate, torch.ones_like(rate))  # exactly 1 at the end, in every precision

    def weight(self, t: Tensor) -> Tensor:
        rise = self._rise(t)
        return (rise + self.beta_min) * self._growth / torch.expm1(rise)


class TokenPolynomial(nn.Module):
    """Mask each token value i at a pace of its own: alpha_{t,i} = 1 - t^{w_i}, with w = softplus(raw) learned.

    The state-dependent schedule of GenMD4 (MD4, section 6): a sibling of `Schedule` with the same method names, whose
    results have a trailing axis V. A value of large w is masked late, so it is revealed early.

    Args:
        vocab_size: V, number of clean token values.
        power: where every w_i starts, positive; all equal is `Polynomial(power)` exactly.
        groups: the group of each token value, V entries in 0..G-1; a group shares one w. None: each value its own.
        learned: whether w is trained; False keeps it as it is.
    """

    def __init__(
        self, vocab_size: int, power: float = 1.0, groups: tuple[int, ...] | None = None, learned: bool = True
    ) -> None:
        super().__init__()
        if vocab_size != int(vocab_size) or vocab_size < 1:
            raise ValueError(f"vocab_size must be a whole number of at least 1, got {vocab_size}")
        if not 1e-6 <= power <= 1e6:
            raise ValueError(f"power must be in [1e-6, 1e6], got {power}")
        if groups is not None and len(groups) != vocab_size:
            raise ValueError(f"groups must name the group of each of {vocab_size} token values, got {len(groups)}")
        group = torch.arange(vocab_size) if groups is None else torch.tensor(groups)
        if groups is not None and not torch.equal(group.unique(), torch.arange(int(group.max()) + 1)):
            raise ValueError(f"groups must be numbered 0, 1, ... without gaps, got {sorted(set(groups))}")
        self.vocab_size, self.power, self.groups, self.learned = vocab_size, power, groups, learned
        raw = power + math.log(-math.expm1(-power))  # softplus(raw) = power
        self.raw = nn.Parameter(torch.full((int(group.max()) + 1,), raw), requires_grad=learned)
        self.register_buffer("group", group, persistent=False)
        self.group: Tensor

    @property
    def powers(self) -> Float[Tensor, " vocab"]:
        """The exponents w, in float64."""
        raw = self.raw.double()
        return torch.logaddexp(raw, torch.zeros_like(raw))[self.group]

    def check(self) -> "TokenPolynomial":
        """Return self; raise a ValueError if an exponent is 0, infinite or NaN, where nothing is defined."""
        wrong = ~((self.powers > 0) & self.powers.isfinite())
        if wrong.any():
            value = int(wrong.nonzero()[0])
            raise ValueError(f"the exponent of token value {value} is {self.powers[value].item()}: not a schedule")
        return self

    def alpha(self, t: Tensor) -> Tensor:
        """Return the chance that a token of each value is visible at t: (..., V)."""
        return 1 - self.mask_rate(t)

    def inverse(self, alpha: Tensor) -> Tensor:
        """Return the time at which the chance of being visible is alpha (..., V), for each value."""
        return (1 - alpha) ** (1 / self.powers)

    def dalpha(self, t: Tensor) -> Tensor:
        """Return the derivative of alpha in t: (..., V)."""
        return -self.powers * t.unsqueeze(-1) ** (self.powers - 1)

    def mask_rate(self, t: Tensor) -> Tensor:
        """Return r_{t,i} = t^{w_i}, the chance that a token of each value is masked at t: (..., V)."""
        return t.unsqueeze(-1) ** self.powers

    def weight(self, t: Tensor) -> Tensor:
        """Return -alpha'_{t,i} / (1 - alpha_{t,i}) = w_i / t: (..., V)."""
        return self.powers / t.unsqueeze(-1)

    def unmask_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return 1 - r_{s,i} / r_{t,i} = 1 - (s / t)^{w_i}, for s < t: (..., V)."""
        return -torch.expm1(self.powers * (s / t).log().unsqueeze(-1))

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log alpha_{t,i} / (1 - alpha_{t,i}): (..., V)."""
        return self.alpha(t).log() - self.mask_rate(t).log()


def check_kind(schedule: object, kind: type[Schedule] | type[TokenPolynomial], user: str) -> None:
    """Raise a ValueError unless a schedule is of the kind, scalar or state-dependent, that its user computes with."""
    if not isinstance(schedule, kind):
        other = "TokenELBO, TokenAncestral or TokenFirstHitting" if kind is Schedule else "those without Token"
        what = "a schedule that treats all tokens alike" if kind is Schedule else "a TokenPolynomial"
        raise ValueError(f"{user} needs {what}, got {schedule!r}; for other schedules see {other}")


def checked(schedule: TokenPolynomial | None, vocab_size: int, user: str) -> TokenPolynomial:
    """Return the schedule; raise a ValueError if there is none, or it is for another vocabulary than a network's."""
    if schedule is None:
        raise ValueError(f"{user} needs a schedule, as in {user}(schedule=model.schedule)")
    if schedule.vocab_size != vocab_size:
        raise ValueError(f"the schedule is for {schedule.vocab_size} token values, the network for {vocab_size}")
    return schedule

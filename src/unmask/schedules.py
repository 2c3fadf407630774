"""Masking schedules: α_t, the probability that a token is not masked at time t (MD4, section 2 and figure 1).

Objectives and samplers use ratios of mask rates r_t = 1 − α_t only, so each schedule computes r_t in a form that keeps
its relative precision as t → 0.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule(ABC):
    """Decrease α_t from exactly 1 at t = 0 to exactly 0 at t = 1.

    A subclass implements `alpha` and `inverse`. It overrides `mask_rate` if 1 − α would subtract nearly equal numbers,
    and `weight` if there is a closed form. Arguments and results are tensors of the same, arbitrary shape.

    Examples:
        >>> class Square(unmask.Schedule):
        ...     def alpha(self, t):
        ...         return 1 - t**2
        ...     def inverse(self, alpha):
        ...         return (1 - alpha).sqrt()
        >>> Square().weight(torch.tensor([0.25, 0.5]))
        tensor([8., 4.])
    """

    of_masks: ClassVar[bool] = True
    """Whether it is of tokens that are masked, not replaced by others (`unmask.noise`)."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return α_t, the probability that a token is visible at t."""

    @abstractmethod
    def inverse(self, alpha: Tensor) -> Tensor:
        """Return the time t at which α_t = alpha."""

    def dalpha(self, t: Tensor) -> Tensor:
        """Return α′_t = dα_t / dt (by automatic differentiation)."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            return torch.autograd.grad(self.alpha(t).sum(), t)[0]

    def mask_rate(self, t: Tensor) -> Tensor:
        """Return r_t = 1 − α_t, the probability that a token is masked at t."""
        return 1 - self.alpha(t)

    def weight(self, t: Tensor) -> Tensor:
        """Return −α′_t / (1 − α_t) = d log r_t / dt, the weight of the continuous-time ELBO at t > 0."""
        return -self.dalpha(t) / self.mask_rate(t)

    def unmask_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return (α_s − α_t) / (1 − α_t) = 1 − r_s / r_t for s < t.

        This is the probability that a token masked at t is unmasked at s in the reverse process.
        """
        return 1 - self.mask_rate(s) / self.mask_rate(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(α_t / (1 − α_t)), the log signal-to-noise ratio."""
        return self.alpha(t).log() - self.mask_rate(t).log()


@dataclass(frozen=True)
class Linear(Schedule):
    """Mask at a constant rate: α_t = 1 − t, weight 1 / t.

    Examples:
        >>> unmask.Linear().alpha(torch.tensor([0.0, 0.25, 1.0]))
        tensor([1.0000, 0.7500, 0.0000])
    """

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
    """Mask polynomially in time: α_t = 1 − t^power, weight power / t.

    Args:
        power: the exponent, positive; 1 is `Linear`.

    Examples:
        >>> unmask.Polynomial(power=2.0).mask_rate(torch.tensor([0.25, 0.5]))
        tensor([0.0625, 0.2500])
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
    """Mask along a cosine: α_t = 1 − cos(π/2 (1 − t)), weight π/2 · cot(π/2 · t).

    Examples:
        >>> unmask.Cosine().alpha(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.2929, 0.0000])
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.sin(math.pi / 2 * t)

    def inverse(self, alpha: Tensor) -> Tensor:
        return torch.asin(1 - alpha) * (2 / math.pi)

    def mask_rate(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 / torch.tan(math.pi / 2 * t)


@dataclass(frozen=True)
class CosineSignal(Schedule):
    """Lose the data along a cosine: α_t = cos(π/2 t), weight π/2 · cot(π/4 · t) (arXiv:2102.05379).

    The schedule of multinomial diffusion: slower than `Linear` at first, where `Cosine` is faster.

    Examples:
        >>> unmask.CosineSignal().alpha(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.7071, 0.0000])
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))

    def inverse(self, alpha: Tensor) -> Tensor:
        return torch.acos(alpha) * (2 / math.pi)

    def mask_rate(self, t: Tensor) -> Tensor:
        rate = 2 * torch.sin(math.pi / 4 * t) ** 2
        return torch.where(t < 1, rate, torch.ones_like(rate))  # exactly 1 at the end

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 / torch.tan(math.pi / 4 * t)


@dataclass(frozen=True)
class Geometric(Schedule):
    """Mask at a geometrically growing rate: α_t = exp(−σ_t), shifted and scaled, with σ_t = beta_min^(1−t) beta_max^t.

    The paper's α_t = exp(−σ_t) is only close to 1 and 0 at the ends; here they are exact:

        1 − α_t = (1 − exp(−(σ_t − σ_0))) / (1 − exp(−(σ_1 − σ_0))).

    Args:
        beta_min: σ at t = 0, positive.
        beta_max: σ at t = 1, larger than beta_min.

    Examples:
        >>> schedule = unmask.Geometric()
        >>> schedule.inverse(schedule.alpha(torch.tensor([0.25, 0.75], dtype=torch.float64)))
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """

    beta_min: float = 1e-5
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max <= 700:  # exp(-700) is close to the smallest float64
            raise ValueError(f"0 < beta_min < beta_max <= 700 is needed, got {self.beta_min} and {self.beta_max}")

    @property
    def _log_ratio(self) -> float:
        return math.log(self.beta_max / self.beta_min)

    @property
    def _scale(self) -> float:
        return -math.expm1(self.beta_min - self.beta_max)

    def _sigma_difference(self, t: Tensor) -> Tensor:
        """Return σ_t − σ_0."""
        return self.beta_min * torch.expm1(self._log_ratio * t)

    def alpha(self, t: Tensor) -> Tensor:
        difference = self._sigma_difference(t)
        left = -torch.expm1((difference + (self.beta_min - self.beta_max)).clamp(max=0))  # 0 at t = 1
        return torch.where(t < 1, (-difference).exp() * left / self._scale, torch.zeros_like(left))

    def inverse(self, alpha: Tensor) -> Tensor:
        difference = -torch.log1p((alpha - 1) * self._scale)
        time = torch.log1p(difference / self.beta_min) / self._log_ratio
        return torch.where(alpha > 0, time, torch.ones_like(time)).clamp(max=1)

    def mask_rate(self, t: Tensor) -> Tensor:
        rate = -torch.expm1(-self._sigma_difference(t)) / self._scale
        return torch.where(t < 1, rate, torch.ones_like(rate))  # exactly 1 at the end, in every precision

    def weight(self, t: Tensor) -> Tensor:
        difference = self._sigma_difference(t)
        return (difference + self.beta_min) * self._log_ratio / torch.expm1(difference)


class TokenPolynomial(nn.Module):
    """Mask each token value i at its own rate: the state-dependent schedule of GenMD4 (MD4, section 6).

        α_{t,i} = 1 − t^{w_i},   w = softplus(raw)

    It has the methods of `Schedule`, with a trailing axis V in the results. A token value with a large w is masked
    late, and so revealed early.

    Args:
        vocab_size: V, number of token values.
        power: initial value of every w_i, positive; with equal w this is `Polynomial(power)`.
        groups: group of each token value, V entries in 0..G-1; a group shares one w. None: one w per token value.
        learned: whether w is trained.

    Examples:
        >>> schedule = unmask.TokenPolynomial(vocab_size=3, power=2.0)
        >>> with torch.no_grad():
        ...     print(schedule.mask_rate(torch.tensor([0.5])))
        ...
        tensor([[0.2500, 0.2500, 0.2500]], dtype=torch.float64)
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
        """Return self; raise a ValueError if an exponent is 0, infinite or NaN."""
        invalid = ~((self.powers > 0) & self.powers.isfinite())
        if invalid.any():
            value = int(invalid.nonzero()[0])
            raise ValueError(f"the exponent of token value {value} is {self.powers[value].item()}: not a schedule")
        return self

    def alpha(self, t: Tensor) -> Tensor:
        """Return α_{t,i}, the probability that token value i is visible at t: (..., V)."""
        return 1 - self.mask_rate(t)

    def inverse(self, alpha: Tensor) -> Tensor:
        """Return the times t at which α_{t,i} = alpha: (..., V)."""
        return (1 - alpha) ** (1 / self.powers)

    def dalpha(self, t: Tensor) -> Tensor:
        """Return α′_{t,i} = −w_i t^{w_i − 1}: (..., V)."""
        return -self.powers * t.unsqueeze(-1) ** (self.powers - 1)

    def mask_rate(self, t: Tensor) -> Tensor:
        """Return r_{t,i} = t^{w_i}, the probability that token value i is masked at t: (..., V)."""
        return t.unsqueeze(-1) ** self.powers

    def weight(self, t: Tensor) -> Tensor:
        """Return −α′_{t,i} / (1 − α_{t,i}) = w_i / t: (..., V)."""
        return self.powers / t.unsqueeze(-1)

    def unmask_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """Return 1 − r_{s,i} / r_{t,i} = 1 − (s / t)^{w_i} for s < t: (..., V)."""
        return -torch.expm1(self.powers * (s / t).log().unsqueeze(-1))

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(α_{t,i} / (1 − α_{t,i})): (..., V)."""
        return self.alpha(t).log() - self.mask_rate(t).log()


def check_kind(schedule: object, kind: type[Schedule] | type[TokenPolynomial], user: str) -> None:
    """Raise a ValueError unless the schedule is of the kind, scalar or state-dependent, that `user` needs."""
    if not isinstance(schedule, kind):
        other = "TokenELBO, TokenAncestral or TokenFirstHitting" if kind is Schedule else "the classes without Token"
        needed = "a schedule that treats all tokens alike" if kind is Schedule else "a TokenPolynomial"
        raise ValueError(f"{user} needs {needed}, got {schedule!r}; for other schedules use {other}")
    if isinstance(schedule, Schedule) and not schedule.of_masks:
        raise ValueError(f"{user} needs a schedule of masks; under {schedule!r} tokens are replaced by others")


def require_schedule(schedule: TokenPolynomial | None, vocab_size: int, user: str) -> TokenPolynomial:
    """Return the schedule; raise a ValueError if there is none, or if its vocabulary is not of size `vocab_size`."""
    if schedule is None:
        raise ValueError(f"{user} needs a schedule, as in {user}(schedule=model.schedule)")
    if schedule.vocab_size != vocab_size:
        raise ValueError(f"the schedule is for {schedule.vocab_size} token values, the network for {vocab_size}")
    return schedule

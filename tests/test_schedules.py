import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from unmask.schedules import Cosine, CosineSignal, Geometric, Linear, Polynomial, Schedule

SCHEDULES = [Linear(), Polynomial(0.5), Polynomial(2.0), Polynomial(3.7), Cosine(), CosineSignal()]
SCHEDULES += [Geometric(), Geometric(0.1, 5.0)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
T = torch.linspace(0, 1, 1001, dtype=torch.float64)


@dataclass(frozen=True)
class Own(Schedule):
    """What a user writes: alpha and its inverse, here (1 - t)^2."""

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2

    def inverse(self, alpha: Tensor) -> Tensor:
        return 1 - alpha.sqrt()


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_exact(schedule: Schedule, dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert schedule.alpha(ends).tolist() == [1, 0]
    assert schedule.mask_rate(ends).tolist() == [0, 1]


@pytest.mark.parametrize("schedule", [*SCHEDULES, Own()], ids=str)
def test_alpha_falls_and_inverts(schedule: Schedule) -> None:
    alpha = schedule.alpha(T)
    assert (alpha.diff() < 0).all()
    # Where alpha is flat its inverse cannot know t better than alpha's last digit allows.
    slope = -schedule.dalpha(T[1:-1])
    error = (schedule.inverse(alpha[1:-1]) - T[1:-1]).abs()
    assert (error <= 1e-12 + 1e-15 / slope).all()


@every_schedule
def test_mask_rate_is_one_minus_alpha(schedule: Schedule) -> None:
    torch.testing.assert_close(schedule.mask_rate(T), 1 - schedule.alpha(T), rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", [*SCHEDULES, Own()], ids=str)
def test_derivative_agrees_with_differences(schedule: Schedule) -> None:
    t, h = T[5:-5], 1e-6
    differences = (schedule.alpha(t + h) - schedule.alpha(t - h)) / (2 * h)
    torch.testing.assert_close(schedule.dalpha(t), differences, rtol=1e-6, atol=1e-8)


@every_schedule
def test_weight_agrees_with_its_definition(schedule: Schedule) -> None:
    t = T[1:-1]
    torch.testing.assert_close(schedule.weight(t), Schedule.weight(schedule, t), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", [*SCHEDULES, Own()], ids=str)
def test_unmasking_composes(schedule: Schedule) -> None:
    t, s, r = (torch.tensor(value, dtype=torch.float64) for value in (0.9, 0.5, 0.2))
    stay = (1 - schedule.unmask_prob(t, s)) * (1 - schedule.unmask_prob(s, r))
    torch.testing.assert_close(stay, 1 - schedule.unmask_prob(t, r))
    alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
    torch.testing.assert_close(schedule.unmask_prob(t, s), (alpha_s - alpha_t) / (1 - alpha_t))
    assert schedule.unmask_prob(t, torch.zeros_like(t)) == 1


@every_schedule
def test_float32_keeps_its_precision_near_zero(schedule: Schedule) -> None:
    t = torch.tensor([1e-6, 1e-4, 0.3], dtype=torch.float32)
    for name in ("mask_rate", "weight"):
        torch.testing.assert_close(
            getattr(schedule, name)(t).double(), getattr(schedule, name)(t.double()), rtol=2e-6, atol=0
        )


def test_closed_forms_of_the_paper() -> None:
    t = T[1:-1]
    torch.testing.assert_close(Linear().weight(t), 1 / t)
    torch.testing.assert_close(Polynomial(3.0).weight(t), 3 / t)
    torch.testing.assert_close(Cosine().alpha(t), 1 - torch.cos(math.pi / 2 * (1 - t)))
    torch.testing.assert_close(Cosine().weight(t), math.pi / 2 / torch.tan(math.pi / 2 * t))
    sigma = 1e-5 ** (1 - t) * 20**t
    torch.testing.assert_close(Geometric(1e-5, 20.0).alpha(t), torch.exp(-sigma), rtol=1e-9, atol=2e-5)


@pytest.mark.parametrize("beta_max", [20.0, 40.0, 700.0])
def test_geometric_keeps_the_precision_of_a_small_alpha(beta_max: float) -> None:
    """α_t is positive before t = 1, and its log the exact one: −(σ_t − σ_0) but near the end."""
    schedule, t = Geometric(beta_max=beta_max), torch.linspace(0.5, 0.95, 40, dtype=torch.float64)
    sigma = 1e-5 * (beta_max / 1e-5) ** t - 1e-5
    assert (schedule.alpha(torch.linspace(0, 0.9999, 999).double()) > 0).all()
    torch.testing.assert_close(schedule.alpha(t).log(), -sigma, rtol=1e-9, atol=1e-4)
    assert schedule.log_snr(torch.tensor([0.999]).double()).isfinite().all()


def test_log_snr() -> None:
    torch.testing.assert_close(Linear().log_snr(T[1:-1]), ((1 - T[1:-1]) / T[1:-1]).log())


@pytest.mark.parametrize("power", [0.0, -1.0, math.inf, math.nan])
def test_polynomial_refuses(power: float) -> None:
    with pytest.raises(ValueError, match="power must be positive and finite"):
        Polynomial(power)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf)])
def test_geometric_refuses(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 < beta_min < beta_max"):
        Geometric(*ends)

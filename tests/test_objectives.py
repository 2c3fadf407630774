import itertools
import math

import pytest
import torch
from torch import Tensor

from oracle import MarkovChain, Table
from unmask.forward import sample_times
from unmask.networks.transformer import Transformer
from unmask.objectives import ContinuousELBO, DiscreteELBO, Objective, TimeFreeELBO
from unmask.randomness import seeded
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule

SCHEDULES = [Linear(), Polynomial(2.0), Cosine(), Geometric(0.01, 8.0)]


def estimate(
    objective: Objective, network: Table | MarkovChain, x: Tensor, draws: int, rounds: int
) -> tuple[Tensor, Tensor]:
    """Return the mean NELBO of each example and its standard error, over independent rounds of many draws each."""
    means = torch.stack(
        [
            objective(network, x.repeat(draws, 1), generator=seeded(7, i)).nelbo.view(draws, -1).mean(0)
            for i in range(rounds)
        ]
    )
    return means.mean(0), means.std(0) / math.sqrt(rounds)


@pytest.mark.parametrize(
    "objective", [*map(ContinuousELBO, SCHEDULES), TimeFreeELBO()], ids=[*map(str, SCHEDULES), "time-free"]
)
def test_the_bound_is_tight_for_every_x_of_a_table(objective: Objective, device: torch.device) -> None:
    oracle = Table(3, 3).to(device)
    mean, error = estimate(objective, oracle, oracle.states, draws=100, rounds=60)
    z = (mean + oracle.log_prob(oracle.states)) / error
    assert z.abs().max() < 4


@pytest.mark.parametrize("objective", [ContinuousELBO(Cosine()), TimeFreeELBO()], ids=["cosine", "time-free"])
def test_the_bound_is_tight_on_a_long_markov_chain(objective: Objective, device: torch.device) -> None:
    oracle = MarkovChain(3, 64).to(device)
    x = oracle.cpu().sample(12, seeded(0)).to(device)
    oracle.to(device)
    mean, error = estimate(objective, oracle, x, draws=128, rounds=100)
    z = (mean + oracle.log_prob(x)) / error
    assert z.abs().max() < 4
    assert (error < 0.03 * mean).all()  # sharp enough to see an error of a few per cent


def test_the_bound_is_loose_for_a_wrong_network() -> None:
    """A negative control: the gap is the relative entropy between the true and the wrong conditionals."""
    oracle, wrong = Table(3, 3), Table(3, 3, seed=1)
    mean, error = estimate(TimeFreeELBO(), wrong, oracle.states, draws=100, rounds=30)
    gap = (oracle.p * (mean + oracle.log_prob(oracle.states))).sum()
    assert gap > 20 * (oracle.p * error).sum()


def discrete_bound(oracle: Table, schedule: Schedule, steps: int) -> Tensor:
    """Enumerate the T-step bound of every x: all times, all masks."""
    total = torch.zeros(len(oracle.states), dtype=torch.float64)
    for k in range(1, steps + 1):
        t, s = (torch.tensor(i / steps, dtype=torch.float64) for i in (k, k - 1))
        rate = schedule.mask_rate(t)
        for hidden in itertools.product((False, True), repeat=oracle.shape[0]):
            at = torch.tensor(hidden).expand_as(oracle.states)
            p = oracle.marginals(torch.where(at, oracle.mask_id, oracle.states))
            nll = -p.gather(2, oracle.states.unsqueeze(2)).squeeze(2).log()
            chance = rate ** sum(hidden) * (1 - rate) ** (len(hidden) - sum(hidden))
            total += schedule.unmask_prob(t, s) * chance * torch.where(at, nll, 0).sum(1)
    return total


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_discrete_bound_exceeds_the_entropy_by_one_over_steps(schedule: Schedule) -> None:
    oracle = Table(3, 3)
    entropy = -(oracle.p * oracle.p.log()).sum()
    steps = [8, 16, 32, 64]
    gaps = torch.stack([(oracle.p * discrete_bound(oracle, schedule, n)).sum() - entropy for n in steps])
    slopes = gaps.log().diff() / math.log(2)
    assert (gaps > 0).all()
    assert abs(slopes[-1] + 1) < 0.1


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_discrete_elbo_is_the_enumerated_bound(steps: int) -> None:
    oracle = Table(3, 3)
    mean, error = estimate(DiscreteELBO(Cosine(), steps), oracle, oracle.states, draws=100, rounds=30)
    exact = discrete_bound(oracle, Cosine(), steps)
    assert ((mean - exact).abs() <= 4 * error + 1e-12).all()


def test_one_discrete_step_is_the_sum_of_the_marginal_entropies() -> None:
    oracle = Table(3, 4)
    nelbo = DiscreteELBO(steps=1)(oracle, oracle.states).nelbo
    p = oracle.marginals(torch.full((1, 4), oracle.mask_id))[0]
    torch.testing.assert_close((oracle.p * nelbo).sum(), -(p * p.log()).sum())


def test_loss_is_the_mean_and_carries_the_gradient_of_the_bound() -> None:
    class Biased(Table):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def marginals(self, x_t: Tensor) -> Tensor:
            return (super().marginals(x_t).clamp(min=1e-30).log() + self.bias).softmax(-1)

    network = Biased()
    x = network.states.repeat_interleave((3000 * network.p).round().long(), 0)
    loss, nelbo, _ = TimeFreeELBO()(network, x, generator=seeded(0))
    torch.testing.assert_close(loss.detach(), nelbo.mean())
    assert not nelbo.requires_grad
    loss.backward()
    assert network.bias.grad is not None
    assert network.bias.grad.abs().max() < 0.1  # the truth is where the bound is least: no pull there
    with torch.no_grad():
        network.bias += torch.tensor([1.0, 0, -1])
    network.bias.grad = None
    TimeFreeELBO()(network, x, generator=seeded(0)).loss.backward()
    assert network.bias.grad[0] > 0.1 and network.bias.grad[2] < -0.1


@pytest.mark.parametrize("batch", [3, 4])
def test_data_that_hold_the_mask_are_refused_and_not_miscounted(batch: int) -> None:
    network = Transformer(5, (8,), width=8, depth=1, heads=1)
    x = torch.full((batch, 8), 5)  # every token is the mask's value
    with pytest.raises((IndexError, RuntimeError), match="out of (bounds|range)"):
        TimeFreeELBO()(network, x, generator=seeded(0))


def test_time_free_masks_every_number_equally_often() -> None:
    class Recorder(Table):
        def marginals(self, x_t: Tensor) -> Tensor:
            self.hidden = (x_t == self.mask_id).sum(1)
            return super().marginals(x_t)

    network = Recorder(3, 4)
    TimeFreeELBO()(network, network.states[:80], generator=seeded(0))
    assert network.hidden.bincount(minlength=5).tolist() == [0, 20, 20, 20, 20]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_power_weighs_the_loss_and_leaves_the_bound(power: float) -> None:
    oracle, x = Table(3, 4), Table(3, 4).states[:40]
    loss, nelbo, _ = TimeFreeELBO(power)(oracle, x, generator=seeded(0))
    assert torch.equal(nelbo, TimeFreeELBO()(oracle, x, generator=seeded(0)).nelbo)
    times = sample_times(len(x), generator=seeded(0))
    rate = (4 * times).ceil() / 4  # n / L, from the same draw
    torch.testing.assert_close(loss, (nelbo * rate ** (1 - power)).mean())


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"power must be in \[0, 1\], got 2.0"):
        TimeFreeELBO(2.0)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        DiscreteELBO(steps=0)

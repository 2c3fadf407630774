import itertools
import math

import pytest
import torch
from torch import Tensor

from oracle import MarkovChain, Table
from unmask.forward import sample_times
from unmask.networks.transformer import Transformer
from unmask.objectives.base import Objective
from unmask.objectives.scalar import ContinuousELBO, DiscreteELBO, TimeFreeELBO
from unmask.objectives.token import TokenELBO
from unmask.randomness import seeded
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule, TokenPolynomial


def learned(*powers: float) -> TokenPolynomial:
    """A state-dependent schedule of these exponents."""
    schedule = TokenPolynomial(len(powers)).double()
    with torch.no_grad():
        schedule.raw.copy_(torch.tensor(powers).expm1().log())
    return schedule


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


def conditional(oracle: Table, x: Tensor, given: Tensor) -> Tensor:
    """Return -log p(the other tokens | those that are given)."""
    agree = ((oracle.states == x[:, None]) | ~given[:, None]).all(-1)
    return (agree * oracle.p).sum(1).log() - oracle.log_prob(x)


@pytest.mark.parametrize(
    "objective",
    [*map(ContinuousELBO, SCHEDULES), TimeFreeELBO(), TokenELBO(learned(0.5, 1.0, 2.0))],
    ids=[*map(str, SCHEDULES), "time-free", "state-dependent"],
)
def test_the_bound_of_some_tokens_given_others_is_tight(objective: Objective, device: torch.device) -> None:
    oracle = Table(3, 4).to(device)
    if isinstance(objective, TokenELBO):
        oracle.under(objective.schedule.powers.detach().to(device))  # type: ignore[union-attr]
        objective.schedule.to(device)  # type: ignore[union-attr]
    patterns = torch.tensor(list(itertools.product((False, True), repeat=4))[:-1], device=device)
    x = oracle.states[torch.randint(81, (len(patterns),), generator=seeded(3)).to(device)]
    means = torch.stack(
        [
            objective(oracle, x.repeat(200, 1), given=patterns.repeat(200, 1), generator=seeded(7, i, device=device))
            .nelbo.view(200, -1)
            .mean(0)
            for i in range(60)
        ]
    )
    mean, error = means.mean(0), means.std(0) / math.sqrt(60)
    assert ((mean - conditional(oracle, x, patterns)).abs() <= 4 * error + 1e-9).all()


def test_the_discrete_bound_of_some_tokens_given_others_is_that_of_the_rest() -> None:
    """At T = 1 it is the sum of the cross-entropies of the open tokens, each given what is given alone."""
    oracle = Table(3, 4)
    given = torch.tensor([[False, True, True, False]])
    x = oracle.states[[50]]
    p = oracle.marginals(torch.where(given, x, oracle.mask_id))
    exact = -p.gather(2, x.unsqueeze(2)).squeeze(2).log()[~given].sum()
    torch.testing.assert_close(DiscreteELBO(steps=1)(oracle, x, given=given).nelbo, exact[None])


def test_the_gradient_of_a_schedule_with_given_tokens_is_that_of_the_shorter_example() -> None:
    class Rest(Table):
        """The distribution of the first three tokens given the last."""

        def marginals(self, x_t: Tensor, potential: Tensor | None = None) -> Tensor:
            if x_t.shape[1] == 4:
                return super().marginals(x_t, potential)
            longer = torch.cat((x_t, torch.ones_like(x_t[:, :1])), 1)
            return super().marginals(longer, potential)[:, :3]

    oracle = Rest(3, 4)
    schedule = learned(0.7, 1.0, 1.6)
    oracle.under(torch.tensor((1.2, 1.0, 0.8)).double())  # not its own: the bound has a gradient
    objective, x = TokenELBO(schedule, masks=2), torch.tensor([[0, 1, 2]])
    longer = torch.cat((x, torch.ones_like(x[:, :1])), 1)
    given = torch.tensor([[False, False, False, True]])
    grads: dict[int, list[Tensor]] = {3: [], 4: []}
    for i in range(100):
        for many, (tokens, flags) in {3: (x, None), 4: (longer, given.repeat(300, 1))}.items():
            loss = objective(oracle, tokens.repeat(300, 1), given=flags, generator=seeded(many, i)).loss
            grads[many].append(torch.autograd.grad(loss, list(schedule.parameters()))[0])
    short, long = (torch.stack(grads[many]) for many in (3, 4))
    error = ((short.var(0) + long.var(0)) / 100).sqrt()
    assert ((short.mean(0) - long.mean(0)).abs() < 4 * error).all()
    assert (short.mean(0).abs() > 6 * error).any()  # there is something to see


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


@pytest.mark.parametrize("kind", ["free", "power", "continuous", "discrete", "token"])
def test_an_example_of_which_every_token_is_given_adds_nothing(kind: str) -> None:
    """As a text of unknown words alone, for a network that never predicts these."""
    schedule = TokenPolynomial(5)
    found: dict[str, Objective] = {
        "free": TimeFreeELBO(),
        "power": TimeFreeELBO(power=0.5),
        "token": TokenELBO(schedule),
    }
    objective = (found | {"continuous": ContinuousELBO(), "discrete": DiscreteELBO(steps=4)})[kind]
    torch.manual_seed(0)
    network = Transformer(5, (6,), width=8, depth=1, heads=1, time_conditioning=True).double()
    torch.nn.init.normal_(network.head.weight)
    x, given = torch.randint(0, 5, (4, 6), generator=seeded(1)), torch.zeros(4, 6, dtype=torch.bool)
    given[1], given[0, 2] = True, True
    loss = objective(network, x, given=given, generator=seeded(0))
    assert loss.nelbo[1] == 0 and loss.nelbo.sum() > 0 and loss.loss.isfinite()
    loss.loss.backward()
    learned = [*network.parameters(), *schedule.parameters()]
    assert all(p.grad is None or p.grad.isfinite().all() for p in learned)

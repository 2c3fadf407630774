import math

import pytest
import torch
from scipy import stats

from oracle import MarkovChain, Table
from unmask.metrics.likelihood import Likelihood, draw_nelbo, evaluate
from unmask.objectives import ContinuousELBO, TimeFreeELBO
from unmask.randomness import seeded
from unmask.schedules import Cosine


def test_it_finds_the_entropy_within_its_standard_error() -> None:
    oracle = MarkovChain(3, 64)
    x = oracle.sample(400, seeded(0))
    result = evaluate(oracle, TimeFreeELBO(), [(part, None) for part in x.split(64)], draws=4)
    exact = -oracle.log_prob(x).mean().item()
    spread = oracle.log_prob(x).std().item() / math.sqrt(400)
    assert abs(result.nats - exact) < 4 * math.sqrt(max(result.nats_error**2 - spread**2, 1e-4))
    assert spread < result.nats_error < 1.5 * spread
    assert (result.examples, result.length, result.calls) == (400, 64, 1600)
    assert oracle.evaluations == 1600


@pytest.mark.parametrize("objective", [TimeFreeELBO(), ContinuousELBO(Cosine())], ids=str)
def test_the_standard_error_covers(objective: TimeFreeELBO | ContinuousELBO) -> None:
    """Over many data sets, the results scatter around the entropy as their standard errors say, or less."""
    oracle = Table(3, 4)
    entropy = -(oracle.p * oracle.p.log()).sum().item()
    results = []
    for i in range(200):
        index = torch.multinomial(oracle.p, 100, replacement=True, generator=seeded(1, i))
        results.append(evaluate(oracle, objective, [(oracle.states[index], None)], draws=2, seed=i))
    scatter = stats.tstd([result.nats for result in results])
    said = math.sqrt(sum(result.nats_error**2 for result in results) / 200)
    assert abs(sum(result.nats for result in results) / 200 - entropy) < 4 * scatter / math.sqrt(200)
    assert 0.6 < scatter / said < 1.15


def test_draws_of_an_example_are_spread_evenly() -> None:
    oracle = Table(3, 4)
    seen = []
    oracle.register_forward_pre_hook(lambda _, arguments: seen.append((arguments[0] == oracle.mask_id).sum(1)))
    draw_nelbo(oracle, TimeFreeELBO(), oracle.states[:5], draws=8, generator=seeded(0))
    for example in seen[0].view(8, 5).T:
        assert example.bincount(minlength=5).tolist() == [0, 2, 2, 2, 2]


def test_units() -> None:
    result = Likelihood(nats=10 * math.log(2), nats_error=math.log(2), examples=3, length=5, calls=3)
    assert result.bits == pytest.approx((2.0, 0.2))
    assert result.perplexity == pytest.approx((4.0, 4 * math.log(2) / 5))


def test_refusals() -> None:
    oracle = Table(3, 2)
    with pytest.raises(ValueError, match="no examples"):
        evaluate(oracle, TimeFreeELBO(), [], draws=1)
    with pytest.raises(ValueError, match="tokens must be in 0..2, got 3"):
        evaluate(oracle, TimeFreeELBO(), [(torch.tensor([[0, 3]]), None)], draws=1)
    oracle.p[:] = torch.nan
    with pytest.raises(FloatingPointError, match="example 0 has a likelihood that is not finite"):
        evaluate(oracle, TimeFreeELBO(), [(oracle.states, None)], draws=1)
    single = evaluate(Table(3, 2), TimeFreeELBO(), [(torch.tensor([[0, 1]]), None)], draws=1)
    assert math.isnan(single.nats_error)

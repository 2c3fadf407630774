"""SEDD absorb: its bound by the rates as published, equal to MD4's where it must be; its samplers; every command."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import unmask
from oracle import Table
from pretend_device import DEVICE, move, pretend_device
from unmask.forward import mask, sample_times
from unmask.networks.constrained import Constrained
from unmask.networks.padded import Padded
from unmask.randomness import generators, seeded
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule

SCHEDULES = [Linear(), Polynomial(2.0), Cosine(), Geometric(0.01, 8.0)]


class Scores(Table):
    """A table whose predictions p̃ at a position sum to `total`, not to 1; all of them are kept."""

    def __init__(self, vocab_size: int = 3, length: int = 3, total: float = 1.0) -> None:
        super().__init__(vocab_size, length)
        partly = torch.tensor(list(itertools.product(range(vocab_size + 1), repeat=length)))
        self.kept = self.marginals(partly).log() + math.log(total * vocab_size)

    def forward(self, x_t: Tensor, noise: Any = None, label: Any = None, *, at: Any = None) -> Tensor:
        place = (x_t * (self.vocab_size + 1) ** torch.arange(x_t.shape[1] - 1, -1, -1)).sum(1)
        return unmask.pick(self.kept[place], at)


def after_times(seed: int, batch: int) -> torch.Generator:
    """Return a generator that has drawn the times of a batch."""
    generator = seeded(seed)
    sample_times(batch, generator=generator)
    return generator


def by_rates(network: Scores, schedule: Schedule, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The integrand as published: at every position, over all V + 1 values, with the rates and ratios written out."""
    vocab, alpha = network.vocab_size, schedule.alpha(t)
    sigma, dsigma = -alpha.log(), -schedule.dalpha(t) / alpha
    log_score = network(x_t, schedule.mask_rate(t)) - sigma.expm1().log()[:, None, None] - math.log(vocab)
    total = torch.zeros(x.shape, dtype=torch.float64)
    for i in range(x.shape[1]):
        for y in range(vocab):
            masked = x_t[:, i] == vocab  # Q(y, mask) = 1: each value becomes the mask at rate 1, and nothing else
            ratio = torch.where(x[:, i] == y, alpha, 0) / (1 - alpha)
            log_s, log_ratio = log_score[:, i, y], ratio.clamp(min=1e-300).log()
            total[:, i] += torch.where(masked, log_s.exp() - ratio * log_s + ratio * (log_ratio - 1), 0)
    return dsigma * total.sum(1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("total", [1.0, 0.6, 1.7])
def test_it_is_score_entropy_as_published(schedule: Schedule, total: float) -> None:
    network = Scores(total=total)
    x = network.states
    t = sample_times(len(x), generator=seeded(1))
    x_t = mask(x, t, schedule, network.mask_id, generator=after_times(1, len(x)))
    found = unmask.ScoreEntropy(schedule)(network, x, generator=seeded(1)).nelbo
    torch.testing.assert_close(found, by_rates(network, schedule, x, x_t, t), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_it_is_the_continuous_bound_for_scores_that_sum_as_they_should(schedule: Schedule) -> None:
    """MD4 and RADD; and for others it is larger by Z − 1 − log Z at each masked position."""
    x, table = Table().states.repeat(20, 1), Table()
    given = torch.rand(x.shape, generator=seeded(0)) < 0.2
    given[given.all(1)] = False
    for known in (None, given):
        plain = unmask.ContinuousELBO(schedule)(table, x, given=known, generator=seeded(2))
        same = unmask.ScoreEntropy(schedule)(Scores(), x, given=known, generator=seeded(2))
        torch.testing.assert_close(same.nelbo, plain.nelbo, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(same.parts, plain.parts, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(same.loss.double(), plain.loss, rtol=1e-9, atol=1e-12)
        larger = unmask.ScoreEntropy(schedule)(Scores(total=1.5), x, given=known, generator=seeded(2))
        weight = schedule.weight(sample_times(len(x), generator=seeded(2)))[:, None]
        gap = (0.5 - math.log(1.5)) * weight * (plain.parts != 0)
        torch.testing.assert_close(larger.parts, plain.parts + gap, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [Linear(), Geometric(0.01, 8.0)], ids=str)
def test_the_bound_is_tight_for_exact_scores(schedule: Schedule) -> None:
    network = Scores()
    means = torch.stack(
        [
            unmask.ScoreEntropy(schedule)(network, network.states.repeat(100, 1), generator=seeded(7, i))
            .nelbo.view(100, -1)
            .mean(0)
            for i in range(40)
        ]
    )
    z = (means.mean(0) + network.log_prob(network.states)) / (means.std(0) / 40**0.5)
    assert z.abs().max() < 4


def test_gradients_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    net = unmask.Transformer(3, (4,), width=16, depth=1, heads=2, time_conditioning=True).double()
    torch.nn.init.normal_(net.head.weight, std=0.5)
    x, schedule = torch.randint(3, (8, 4), generator=seeded(0)), Cosine()
    t = sample_times(8, generator=seeded(3))
    x_t = mask(x, t, schedule, 3, generator=after_times(3, 8))
    f = net(x_t, schedule.mask_rate(t)) - math.log(3)
    entropy = f.exp().sum(-1) - f.gather(2, x.unsqueeze(2)).squeeze(2) - 1
    expected = (schedule.weight(t)[:, None] * entropy * (x_t == 3)).sum() / 8
    found = unmask.ScoreEntropy(schedule)(net, x, generator=seeded(3)).loss
    torch.testing.assert_close(found, expected)
    parameters = list(net.parameters())
    for one, other in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def fits(x: Tensor, table: Table, p: Tensor) -> float:
    observed = table.index(x).bincount(minlength=len(p))
    return float(stats.chisquare(observed.numpy(), (len(x) * p / p.sum()).numpy()).pvalue)


@pytest.mark.parametrize(
    ("sampler", "total"),
    [
        (unmask.Tweedie(Cosine(), steps=100), 1.0),
        (unmask.Tweedie(steps=100), 1.3),
        (unmask.Euler(Geometric(0.01, 8.0), steps=200), 1.0),
        (unmask.Euler(steps=100), 0.8),
    ],
    ids=str,
)
def test_samples_have_the_distribution(sampler: unmask.Sampler, total: float) -> None:
    """With many steps, whatever the scores sum to: that alone decides how soon a position is revealed."""
    network, n = Scores(total=total), 3000
    x = sampler(network, torch.full((n, 3), 3), generator=seeded(0))
    assert fits(x, network, network.p) > 1e-3
    x = sampler(network, torch.tensor([[3, 1, 3]]).repeat(1000, 1), generator=seeded(1))
    assert (x[:, 1] == 1).all() and fits(x, network, network.p * (network.states[:, 1] == 1) + 1e-300) > 1e-3


def test_few_steps_reveal_as_the_formula_says() -> None:
    """A step reveals a position with probability c Z, and draws its token from p̃."""
    network, n, schedule = Scores(total=1.2), 20_000, Cosine()
    t, s = torch.tensor(1.0).double(), torch.tensor(0.5).double()
    p = network.marginals(torch.full((1, 3), 3))[0]
    for sampler, c in (
        (unmask.Tweedie(schedule, steps=2), schedule.unmask_prob(t, s)),
        (unmask.Euler(Polynomial(0.7), steps=2), (t - s) * Polynomial(0.7).weight(t)),
    ):
        states = list(sampler.trajectory(network, torch.full((n, 3), 3), generator=seeded(4)))
        first = states[1].x
        expected = torch.cat((1.2 * c * p, (1 - 1.2 * c).expand(3, 1)), 1)
        for i in range(3):
            observed = first[:, i].bincount(minlength=4)
            assert stats.chisquare(observed.numpy(), (n * expected[i]).numpy()).pvalue > 1e-3
        assert (states[-1].x < 3).all() and states[-1].calls.max() == 2


def test_tweedie_is_ancestral_sampling_for_scores_that_sum_as_they_should() -> None:
    """In distribution, with steps so few that neither is exact."""
    network, n = Scores(), 40_000
    one = unmask.Tweedie(steps=2)(network, torch.full((n, 3), 3), generator=seeded(5))
    other = unmask.Ancestral(steps=2, grid="uniform")(network, torch.full((n, 3), 3), generator=seeded(6))
    counts = torch.stack([network.index(x).bincount(minlength=27) for x in (one, other)])
    assert stats.chi2_contingency(counts.numpy()).pvalue > 1e-3
    exact = stats.chisquare(counts[0].numpy(), (n * network.p).numpy()).pvalue
    assert exact < 1e-6, "two steps are not exact, so that the comparison says something"


@pytest.mark.parametrize("guidance", [0.5, 2.0])
def test_guidance_does_not_change_when_positions_are_revealed(guidance: float) -> None:
    """A guided prediction is a distribution: it is normalised, so that its Z is 1."""
    torch.manual_seed(0)
    network = unmask.Transformer(27, (64,), width=8, depth=1, heads=2, classes=2).eval()
    torch.nn.init.normal_(network.head.weight, std=3.0)  # sharp, and another with each label
    for name, parameter in network.named_parameters():
        if "condition" in name:
            torch.nn.init.normal_(parameter, std=1.0, generator=seeded(1))
    sampler = unmask.Tweedie(steps=16, guidance=guidance)
    states = sampler.trajectory(network, torch.full((100, 64), 27), torch.zeros(100).long(), generator=seeded(0))
    left = [(state.x == 27).double().mean().item() for state in states]
    assert left == pytest.approx([1 - k / 16 for k in range(17)], abs=0.03)


def test_the_limit_of_many_steps_is_that_of_the_normalised_predictions(tmp_path: Path) -> None:
    """The bound of scores is another: shifting all of a position's outputs changes it, and not p̃ / Z."""
    net, found = small(), []
    np.save(tmp_path / "x.npy", torch.randint(5, (40, 8), generator=seeded(0)).numpy())
    data = unmask.data.Arrays(str(tmp_path / "x.npy"), vocab_size=5)
    for shift in (0.0, 0.7):
        net.head.bias.data += shift
        model = unmask.MaskedDiffusion(net, unmask.Symbols(5), unmask.ScoreEntropy(Cosine()).process).eval()
        rows = unmask.evaluation.likelihood(model, data, split="all", steps=[1000, math.inf], draws=8).rows
        found.append([row["nats_per_example"].value for row in rows])
    assert found[0] == pytest.approx(found[1], rel=1e-5) and found[0][0] == pytest.approx(found[0][1], rel=0.02)


def small(**settings: Any) -> unmask.Transformer:
    torch.manual_seed(0)
    net = unmask.Transformer(5, (8,), width=16, depth=1, heads=2, time_conditioning=True, **settings).eval()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    return net


SAMPLERS = [unmask.Tweedie(steps=6), unmask.Euler(Cosine(), steps=6, temperature=0.7, top_k=3), unmask.Tweedie(steps=4)]


def canvas() -> Tensor:
    x = torch.full((4, 8), 5)
    x[0, :3], x[2, 5:] = 1, 2
    return x


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_what_every_sampler_does(sampler: unmask.Sampler) -> None:
    net, x = small(), canvas()
    drawn = sampler(net, x, generator=generators(0, 4))
    assert (drawn < 5).all() and torch.equal(torch.where(x < 5, drawn, 5), x)
    assert torch.equal(sampler(net, x[1:3], generator=generators(0, 2, 1)), drawn[1:3]), "of its generator alone"
    *_, state = sampler.trajectory(net, x, generator=generators(0, 4))
    assert (state.t == 0).all() and state.calls.max() <= sampler.steps  # type: ignore[attr-defined]
    allowed = torch.arange(5) > 2
    assert (sampler(Constrained(net, allowed), x, generator=generators(0, 4))[x == 5] > 2).all()
    assert sampler(Padded(net), x[:, :5], generator=seeded(0)).shape == (4, 5)
    labelled, label = small(classes=2), torch.tensor([0, 1, 2, 0])
    for scale in (0.0, 1.0, 2.0):
        drawn = replace(sampler, guidance=scale)(labelled, x, label, generator=generators(0, 4))
        assert (drawn < 5).all()
    net.head.bias.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match="step 1: "):
        sampler(net, x)


@pytest.fixture
def waits() -> Iterator[Counter[str]]:
    with pretend_device() as counted:
        yield counted


def test_on_a_device_nothing_waits_for_it(waits: Counter[str]) -> None:
    for sampler in SAMPLERS:
        for shift, net in enumerate((small(), small(classes=2))):
            label = None if net.classes is None else torch.tensor([0, 1, 2, 0])
            one = replace(sampler, guidance=1.0 + shift)
            expected = one(net, canvas(), label, generator=generators(0, 4))
            there = None if label is None else label.to(DEVICE)
            found = one(move(net), canvas().to(DEVICE), there, generator=generators(0, 4))
            assert torch.equal(found.values, expected)  # type: ignore[attr-defined]
    counted = []
    for steps in (4, 16):
        net, x = move(small()), canvas().to(DEVICE)
        net(x, torch.ones(4, device=DEVICE))
        waits.clear()
        unmask.Tweedie(steps=steps)(net, x, generator=seeded(0, device=DEVICE))
        counted.append(waits.total())
    assert counted[0] == counted[1] <= 20, waits


def test_a_model_of_scores(tmp_path: Path) -> None:
    net, codec = small(), unmask.Characters("abcde")
    model = unmask.MaskedDiffusion(net, codec, unmask.ScoreEntropy(Cosine()).process).eval()
    assert model.fit_objective() == unmask.ScoreEntropy(Cosine()) and model.fit_sampler() == unmask.Tweedie(Cosine())
    assert model.fit_objective(unmask.TimeFreeELBO()) == unmask.TimeFreeELBO()
    assert model.fit_sampler(unmask.FirstHitting()) == unmask.FirstHitting(), "p̃ / Z is a masked model"
    model.save_pretrained(tmp_path / "m")
    again = unmask.load(tmp_path / "m")
    assert again.schedule == model.schedule and again.fit_objective() == model.fit_objective()
    x = torch.randint(5, (6, 8), generator=seeded(0))
    torch.testing.assert_close(again.nelbo(x, generator=seeded(1)), model.nelbo(x, generator=seeded(1)))
    few = unmask.Tweedie(steps=4)
    one, other = (found.sample(2, sampler=few, generator=seeded(0)) for found in (again, model))
    assert torch.equal(one, other)


def test_under_log_linear_noise_euler_takes_the_steps_of_tweedie() -> None:
    t, s = torch.tensor([1.0, 0.7, 0.2]).double(), torch.tensor([0.7, 0.2, 0.0]).double()
    for schedule, same in ((Linear(), True), (Cosine(), False)):
        both = [kind(schedule, steps=3).reveal_rate(t, s) for kind in (unmask.Euler, unmask.Tweedie)]
        assert torch.allclose(*both, atol=1e-12) == same

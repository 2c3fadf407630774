import math

import numpy as np
import pytest
import torch
from scipy import stats

from unmask.forward import all_masked, mask, most_masked, sample_counts, sample_times
from unmask.networks.base import Positions
from unmask.randomness import generators, seeded, uniform
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=str)
def test_mask_hides_at_the_mask_rate(schedule: Schedule, device: torch.device) -> None:
    x = torch.randint(0, 5, (4, 30_000), device=device)
    t = torch.tensor([0.0, 0.1, 0.7, 1.0], device=device)
    hidden = mask(x, t, schedule, 5, generator=seeded(0)) == 5
    rate = schedule.mask_rate(t.double())
    z = (hidden.double().mean(1) - rate) / (rate * (1 - rate) / x.shape[1]).sqrt().clamp(min=1e-12)
    assert z.abs().max() < 4
    assert not hidden[0].any() and hidden[3].all()


def test_mask_keeps_what_it_does_not_hide() -> None:
    x = torch.randint(0, 5, (10, 6, 4, 3))
    x_t = mask(x, torch.full((10,), 0.5), Linear(), 5, generator=seeded(1))
    assert x_t.shape == x.shape
    assert ((x_t == x) | (x_t == 5)).all()


def test_all_masked() -> None:
    assert all_masked(2, (3, 4), 7).tolist() == [[[7] * 4] * 3] * 2


@pytest.mark.parametrize("batch", [1, 2, 7, 8])
def test_times_are_spread_evenly_and_each_is_uniform(batch: int) -> None:
    draws = torch.stack([sample_times(batch, generator=seeded(i)) for i in range(4000)])
    assert draws.shape[1] == batch and ((draws > 0) & (draws <= 1)).all()
    half = (batch + 1) // 2
    gaps = draws[:, :half].sort(1).values.diff(dim=1)
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / half))
    torch.testing.assert_close(draws[:, half:], 1 - draws[:, : batch - half])
    for column in draws.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_counts_are_uniform_and_their_sum_is_the_same(batch: int) -> None:
    draws = torch.stack([sample_counts(batch, 4, generator=seeded(i)) for i in range(4000)])
    for column in draws.T:
        assert stats.chisquare(column.bincount(minlength=5)[1:].numpy()).pvalue > 1e-3
    if batch % 2 == 0:
        assert (draws.sum(1) == batch // 2 * 5).all()


def test_counts_of_examples_with_generators_of_their_own() -> None:
    counts = sample_counts(4000, 4, generator=generators(0, 4000))
    assert stats.chisquare(counts.bincount(minlength=5)[1:].numpy()).pvalue > 1e-3
    for half in counts.split(2000):
        assert stats.chisquare(half.bincount(minlength=5)[1:].numpy()).pvalue > 1e-3
    pairs = (counts[:2000] * 5 + counts[2000:]).bincount(minlength=25).view(5, 5)[1:, 1:]
    assert stats.chi2_contingency(pairs.numpy()).pvalue > 1e-3, "one half says nothing of the other"
    for batch in (1, 2, 5, 6):
        assert torch.equal(counts[:batch], sample_counts(batch, 4, generator=generators(0, batch)))


def test_an_example_of_its_own_generator_does_not_depend_on_its_batch() -> None:
    for draw in (lambda g: sample_times(len(g), generator=g), lambda g: uniform((len(g), 5), g, torch.device("cpu"))):
        torch.testing.assert_close(draw(generators(3, 8))[:2], draw(generators(3, 2)))


def test_seeds_give_unrelated_streams() -> None:
    first = torch.stack(
        [uniform((1000,), seeded(seed, step), torch.device("cpu")) for seed in (0, 1) for step in range(4)]
    )
    correlation = torch.corrcoef(first) - torch.eye(8)
    assert correlation.abs().max() < 4.5 / math.sqrt(1000)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="one generator per example is needed: got 2 for a batch of 3"):
        uniform((3,), generators(0, 2), torch.device("cpu"))
    with pytest.raises(ValueError, match="a seed must be at least 0, got -1"):
        seeded(-1)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(0.3), Polynomial(9.0), Geometric()], ids=str)
@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_more_tokens_than_the_bound_are_never_masked(schedule: Schedule, batch: int) -> None:
    """The mask rates of a batch add up to no more than is assumed, and the tail is that of a binomial distribution."""
    length, grid = 64, torch.arange(1, 1001, dtype=torch.float64) / 1000
    mean_rate = schedule.mask_rate(grid).mean().item()
    most = most_masked(batch, length, mean_rate)
    t = torch.stack([sample_times(batch, generator=seeded(i)) for i in range(500)])
    rates = schedule.mask_rate(t)
    assert (rates.sum(1) <= (batch + 1) * mean_rate + 2).all()
    for row in rates[:3].tolist():
        p = np.ones(1)  # of each number of masked tokens
        for rate in row:
            p = np.convolve(p, stats.binom.pmf(np.arange(length + 1), length, rate))
        assert p[most + 1 :].sum() <= 2**-53


def test_positions_that_cover_flags() -> None:
    flags = torch.rand(5, 2, 8, generator=seeded(0)) < 0.3
    exact = Positions.of(flags)
    for count in (len(exact.example), len(exact.example) + 1, 60, 80, 100):
        found = Positions.covering(flags, count)
        places = found.example * 16 + found.position
        assert len(places) == min(count, 80) and (places.diff() > 0).all()
        assert torch.isin(exact.example * 16 + exact.position, places).all()
    known = Positions.of(flags, len(exact.example), int(flags.flatten(1).sum(1).max()))
    for name, value in vars(exact).items():
        other = getattr(known, name)
        assert value is other is None or torch.equal(value, other)
    one = torch.nn.functional.one_hot(torch.tensor([3, 0, 7]), 8).bool()
    for name, value in vars(Positions.of(one)).items():
        other = getattr(Positions.one_each(one), name)
        assert torch.equal(torch.arange(3) if value is None else value, torch.arange(3) if other is None else other)

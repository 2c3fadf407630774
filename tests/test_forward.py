import math

import pytest
import torch
from scipy import stats

from unmask.forward import all_masked, mask, sample_counts, sample_times
from unmask.randomness import generators, seeded, uniform
from unmask.schedules import Cosine, Linear, Schedule


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

"""Gumbel-max in float32: what torch's generators can return, the resulting distribution, and that ours is exact."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import unmask.gumbel
from oracle import Table
from unmask.categorical import categorical
from unmask.forward import all_masked
from unmask.gumbel import (
    LARGEST_GUMBEL,
    LARGEST_UNIFORM,
    effective_temperature,
    gumbel_max,
    truncated_probabilities,
)
from unmask.networks.causal import CausalTransformer
from unmask.randomness import generators, seeded, uniform
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.gumbel import GumbelAncestral, GumbelLeftToRight
from unmask.samplers.left_to_right import LeftToRight


def test_the_bound_is_that_of_the_paper() -> None:
    assert pytest.approx(16.6355, abs=1e-4) == LARGEST_GUMBEL
    assert torch.tensor(LARGEST_UNIFORM, dtype=torch.float32).item() == LARGEST_UNIFORM
    assert torch.nextafter(torch.tensor(LARGEST_UNIFORM), torch.tensor(2.0)) == 1


def test_what_float32_generators_give(device: torch.device) -> None:
    """torch.rand in float32 is a multiple of 2^-24: no Gumbel number above 16.6355. In float64 it has 53 bits."""
    generator = seeded(0, device=device)
    u = torch.rand(4_000_000, generator=generator, device=device)
    assert u.max() <= LARGEST_UNIFORM
    if device.type == "cpu":
        assert torch.equal(u * 2**24, (u * 2**24).round())
    v = torch.rand(4_000_000, dtype=torch.float64, generator=generator, device=device)
    assert (v * 2**24 != (v * 2**24).round()).double().mean() > 0.99


@pytest.fixture
def on_cpu(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("says what torch's generators do on a CPU")


@pytest.mark.usefixtures("on_cpu")
def test_exponentials_keep_their_tails_on_a_cpu() -> None:
    """What torch.multinomial races with: drawn finer than a float32 uniform: small ones are no multiples of 2^-24."""
    e = torch.empty(20_000_000).exponential_(generator=seeded(0))
    for below in (2e-7, 1e-6, 1e-5):
        assert stats.poisson.interval(1 - 1e-3, 2e7 * below)[0] <= (e < below).sum() <= 2e7 * below * 3
    small = e[e < 1e-5]
    assert small.unique().numel() == small.numel(), "no grain"


def rare() -> torch.Tensor:
    """50,257 probabilities, all but two of 1e-8."""
    p = torch.full((50_257,), 1e-8, dtype=torch.float64)
    p[0], p[1] = 0.6, 0.0
    p[1] = 1 - p.sum()
    return p


@pytest.mark.usefixtures("on_cpu")
def test_multinomial_with_replacement_loses_its_tail() -> None:
    """It adds up probabilities in float32: what comes to 1 part in 2,000 is never drawn."""
    p, n = rare(), 1_000_000
    token = torch.multinomial(p.float(), n, replacement=True, generator=seeded(0))
    expected = n * float(p[2:].sum())
    assert (token > 1).sum() < 0.1 * expected
    hits = (torch.multinomial(p, n, replacement=True, generator=seeded(0)) > 1).sum()
    assert stats.binomtest(int(hits), n, float(p[2:].sum())).pvalue > 1e-3, "in float64 it does not"


@pytest.mark.usefixtures("on_cpu")
def test_multinomial_of_one_token_keeps_its_tail() -> None:
    """It is a race of exponentials, p / e: as good as `exponential_` is."""
    p = torch.full((5_000,), 1e-7, dtype=torch.float64)
    p[0] = 1 - p[1:].sum()
    rows = p.float().expand(1000, -1)
    hits = sum(int((torch.multinomial(rows, 1, generator=seeded(0, i)) > 0).sum()) for i in range(20))
    assert stats.binomtest(hits, 20_000, float(p[1:].sum())).pvalue > 1e-3


def test_the_exact_draw_passes_at_probabilities_of_1e_minus_9(device: torch.device) -> None:
    """V = 50,257: uniform numbers of the tail, the last 5e-5 of them, find those of its 50,000 tokens that they should.

    Numbers of 24 bits would find 840 of them, sums in float32 none.
    """
    p = torch.full((50_257,), 1e-9, dtype=torch.float64, device=device)
    p[100], p[200] = 0.7, 0.0
    p[200] = 1 - p.sum()
    tail = p[201:].sum()
    w = (torch.arange(1000, dtype=torch.float64, device=device) + uniform((1000,), seeded(0), device)) / 1000
    for dtype in (torch.float32, torch.float64):
        logits = p.log().to(dtype)
        q = logits.double().softmax(0)
        token = torch.cat([categorical(logits.expand(len(u), -1), u) for u in (1 - q[201:].sum() * (1 - w)).split(100)])
        assert token.min() > 200 and (tail - q[201:].sum()).abs() < 1e-6 * tail
        assert token.unique().numel() == 1000
        away = (token - 201 - w * (50_257 - 201)).abs().max()
        assert away < (1.01 if dtype == torch.float64 else 60), "of float32, p of 0.7 is known to 3e-8"


def test_float32_draws_follow_the_closed_form(device: torch.device) -> None:
    """Tokens of 3e-8 lose 6 in 7 draws of what is theirs, as the closed form says; those of 1e-6 lose 6 in 100.

    Were it not so, 7 draws or more of 3e-8 would come in 5 of 6 runs, which fails.
    """
    rare = torch.tensor([3e-8] * 8000 + [1e-6] * 2000, dtype=torch.float64)
    p = torch.cat((rare, 1 - rare.sum().reshape(1))).to(device)
    lost, kept = (truncated_probabilities(p)[some].sum().item() for some in (slice(8000), slice(8000, 10_000)))
    assert lost < 0.15 * rare[:8000].sum() and kept > 0.93 * rare[8000:].sum()
    generator, n, rows = seeded(0, device=device), 40_000, p.log().float().expand(100, -1)
    token = torch.cat([gumbel_max(rows, "float32", generator) for _ in range(n // len(rows))])
    assert stats.binomtest(int((token < 8000).sum()), n, lost).pvalue > 1e-3
    assert stats.binomtest(int(((token >= 8000) & (token < 10_000)).sum()), n, kept).pvalue > 1e-3


def test_truncated_draws_follow_the_closed_form(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """For a bound that is felt at probabilities that are often drawn."""
    monkeypatch.setattr(unmask.gumbel, "LARGEST_UNIFORM", 1 - 2.0**-12)
    rare = 2.0**-12 * torch.tensor([1 / 3, 1, 3, 16], dtype=torch.float64).repeat_interleave(20)
    p = torch.cat((rare, 1 - rare.sum().reshape(1))).to(device)
    q = truncated_probabilities(p)
    assert q.sum().item() == pytest.approx(1, abs=1e-12)
    expected, true = (torch.stack([*each[:-1].view(4, 20).sum(1), each[-1]]) for each in (q, p))
    assert (expected < true)[:-1].all() and expected[0] < 0.1 * true[0]
    token = gumbel_max(p.log().expand(60_000, -1), "truncated", seeded(0, device=device))
    counts = (token // 20).bincount(minlength=5)
    for hits, share in zip(counts.tolist(), expected.tolist(), strict=True):
        assert stats.binomtest(hits, len(token), share).pvalue > 1e-3


def test_the_closed_form_is_the_integral(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against quadrature of the density of the maximum, for a bound that is felt."""
    p = torch.tensor([0.02, 0.08, 0.3, 0.6], dtype=torch.float64)
    bound = 1.0
    c = math.exp(-math.exp(-bound))

    def cdf(z: float, q: float) -> float:
        return min(1.0, math.exp(-q * math.exp(-z)) / c)

    expected = []
    for n, q in enumerate(p.tolist()):
        others = [r for m, r in enumerate(p.tolist()) if m != n]
        ends = sorted(math.log(r) + bound for r in p.tolist())
        density = lambda z, q=q, others=others: (  # noqa: E731
            q * math.exp(-z) * math.exp(-q * math.exp(-z)) / c * math.prod(cdf(z, r) for r in others)
        )
        expected.append(quad(density, -12, math.log(q) + bound, points=[e for e in ends if e < math.log(q) + bound])[0])
    monkeypatch.setattr(unmask.gumbel, "LARGEST_UNIFORM", c)
    found = truncated_probabilities(p)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    assert (found / p).diff().min() > 0, "likelier tokens gain more"


def test_float64_gumbel_is_exact_enough() -> None:
    logits = torch.tensor([0.0, -1.0, 2.0, -3.0])
    token = gumbel_max(logits.expand(100_000, -1), "float64", seeded(0))
    assert stats.chisquare(token.bincount(minlength=4), 100_000 * logits.double().softmax(0)).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_effective_temperature_is_found(temperature: float) -> None:
    logits = 2 * torch.randn(20_000, 30, dtype=torch.float64, generator=seeded(0))
    token = categorical(logits / temperature, uniform((20_000,), seeded(1), logits.device))
    found, error = effective_temperature(logits, token)
    assert abs(found - temperature) < 4 * error and error < 0.02
    exact, _ = effective_temperature(logits, (logits / temperature).softmax(-1))
    assert exact == pytest.approx(temperature, rel=1e-9)


def test_truncation_lowers_the_temperature() -> None:
    """As in an ancestral step: the mask nearly certain, tokens sharing the rest."""
    p = torch.randn(4, 50_000, dtype=torch.float64, generator=seeded(0)).mul(2).softmax(-1) / 2048
    p = torch.cat((p, 1 - p.sum(1, keepdim=True)), 1)
    q = truncated_probabilities(p)[:, :-1]
    temperature, _ = effective_temperature(p[:, :-1].log(), q / q.sum(1, keepdim=True))
    assert 0.5 < temperature < 0.95


def test_tokens_that_are_all_the_likeliest_have_no_temperature() -> None:
    logits = torch.randn(10, 5, generator=seeded(0))
    with pytest.raises(ValueError, match="no temperature between"):
        effective_temperature(logits, logits.argmax(1))


def test_gumbel_ancestral_has_the_distribution_of_ancestral() -> None:
    oracle = Table(3, 3)
    canvas = all_masked(20_000, oracle.shape, oracle.mask_id)
    samplers = (Ancestral(steps=4, grid="uniform"), GumbelAncestral(steps=4, precision="float64"))
    found = [
        oracle.index(sampler(oracle, canvas, generator=seeded(seed))).bincount(minlength=27)
        for seed, sampler in enumerate(samplers)
    ]
    assert stats.chi2_contingency(torch.stack(found)).pvalue > 1e-3
    *_, last = GumbelAncestral(steps=4).trajectory(oracle, canvas[:5], generator=seeded(0))
    assert not (last.x == oracle.mask_id).any() and (last.calls <= 4).all()


def test_an_example_of_gumbel_draws_depends_on_its_own_generator_alone() -> None:
    oracle = Table(3, 3)
    canvas = all_masked(4, oracle.shape, oracle.mask_id)
    canvas[1, 0] = 2  # the examples have different numbers of masks
    sampler = GumbelAncestral(steps=3)
    whole = sampler(oracle, canvas, generator=generators(0, 4))
    assert torch.equal(whole[1:], sampler(oracle, canvas[1:], generator=generators(0, 3, 1)))


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_left_to_right_by_gumbel_max_has_the_distribution_of_left_to_right(precision: Any) -> None:
    """Token by token, float32 makes no difference that 20,000 examples show."""
    torch.manual_seed(0)
    network = CausalTransformer(3, (3,), width=16, depth=1, heads=2)
    torch.nn.init.normal_(network.head.weight, std=2.0)
    canvas = all_masked(20_000, (3,), network.mask_id)
    found = []
    for seed, sampler in enumerate((LeftToRight(), GumbelLeftToRight(precision=precision))):
        x = sampler(network, canvas, generator=seeded(seed))
        found.append((x * torch.tensor([9, 3, 1])).sum(1).bincount(minlength=27))
    table = torch.stack(found)
    assert stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 1e-3

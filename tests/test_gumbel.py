"""Gumbel-max in float32: what torch's generators can return, the resulting distribution, and that ours is exact."""

import math

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
    Precision,
    effective_temperature,
    gumbel_max,
    truncated_probabilities,
)
from unmask.randomness import seeded, uniform
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.gumbel import GumbelAncestral


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
    """V = 50,257: the uniform numbers of the tail, the last 5e-5 of them, find its 50,000 tokens equally often."""
    p = torch.full((50_257,), 1e-9, dtype=torch.float64, device=device)
    p[100], p[200] = 0.7, 0.0
    p[200] = 1 - p.sum()
    tail = p[201:].sum()
    w = uniform((20_000,), seeded(0), device)
    for dtype in (torch.float32, torch.float64):
        logits = p.log().to(dtype)
        q = logits.double().softmax(0)
        token = torch.cat(
            [categorical(logits.expand(len(u), -1), u) for u in (1 - q[201:].sum() * (1 - w)).split(1000)]
        )
        assert token.min() > 200 and (tail - q[201:].sum()).abs() < 1e-6 * tail
        counts = ((token - 201) * 64 // (50_257 - 201)).bincount(minlength=64)
        assert stats.chisquare(counts.cpu()).pvalue > 1e-3


@pytest.mark.parametrize("precision", ["float32", "truncated"])
def test_truncated_draws_follow_the_closed_form(precision: Precision, device: torch.device) -> None:
    """Tokens of 2e-8 to 1e-6 lose a large part of what is theirs; the closed form says how much."""
    rare = torch.tensor([2e-8, 6e-8, 2e-7, 1e-6], dtype=torch.float64).repeat_interleave(2500)
    p = torch.cat((rare, 1 - rare.sum().reshape(1))).to(device)
    q = truncated_probabilities(p)
    assert q.sum().item() == pytest.approx(1, abs=1e-12)
    group = [slice(2500 * i, 2500 * (i + 1)) for i in range(4)]
    expected = torch.tensor([q[g].sum() for g in group])
    true = torch.tensor([p[g].sum() for g in group])
    assert (expected < true).all() and expected[0] < 0.35 * true[0]
    generator, counts, n = seeded(0, device=device), torch.zeros(4), 60_000
    for _ in range(n // 500):
        token = gumbel_max(p.log().expand(500, -1), precision, generator).cpu()
        counts += torch.stack([((token >= g.start) & (token < g.stop)).sum() for g in group])
    for hits, share in zip(counts.tolist(), expected.tolist(), strict=True):
        assert stats.binomtest(int(hits), n, share).pvalue > 1e-3


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

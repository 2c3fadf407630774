import itertools
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import unmask.networks
import unmask.samplers
from oracle import MarkovChain, Oracle, Table, pairwise_correlated, parallel_draw_probabilities
from unmask.forward import all_masked
from unmask.given import clean_tokens, encode_given, mark_given
from unmask.networks.base import Network, pick
from unmask.networks.transformer import Transformer
from unmask.randomness import generators, seeded
from unmask.samplers.ancestral import Ancestral, grid_times
from unmask.samplers.base import Sampler, State
from unmask.samplers.confidence import EntropyBounded, MostConfident, sureness
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.ordered import InOrder
from unmask.samplers.presets import dream, llada
from unmask.samplers.remasking import Remasking
from unmask.samplers.rows import Failures, Rows
from unmask.samplers.unmasking import Span
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule

SAMPLERS = [
    FirstHitting(),
    FirstHitting(tokens_per_call=3),
    FirstHitting(tokens_per_call=3, order=2),
    FirstHitting(tokens_per_call=4, order=2, form="predictor-corrector", block_length=9),
    Ancestral(steps=7),
    Ancestral(steps=100, grid="uniform"),
    Ancestral(Cosine(), steps=3, block_length=6),
    InOrder(),
    InOrder(tuple(reversed(range(20))), tokens_per_call=6),
    MostConfident(steps=5),
    MostConfident(steps=40, measure="margin", noise=2.0, block_length=7),
    MostConfident(steps=4, measure="entropy", grid="uniform", temperature=0.5),
    EntropyBounded(1.0),
    EntropyBounded(0.0, block_length=5, top_p=0.9),
    llada(steps=4, block_length=7, temperature=0.5),
    llada(remasking="random", temperature=1.0),
    dream(steps=9, temperature=0.5),
    dream(steps=9, alg="origin", temperature=1.0),
]
CORRECTING = [
    FirstHitting(corrections=1),
    FirstHitting(tokens_per_call=5, corrections=2, block_length=8),
    MostConfident(steps=5, corrections=1, block_length=8),
    EntropyBounded(1.0, corrections=1, block_length=8),
    Remasking(steps=9, eta=0.5),
    Remasking(steps=9, form="rescale", eta=1.0, confidence=True),
    Remasking(steps=30, eta=0.3, loop=(0.6, 0.2, 0.8)),
]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
any_sampler = pytest.mark.parametrize("sampler", SAMPLERS + CORRECTING, ids=str)


def blank(network: Network, n: int) -> Tensor:
    return all_masked(n, network.shape, network.mask_id, device=next(network.buffers()).device)


def frequencies(oracle: Table, x: Tensor) -> Tensor:
    return oracle.index(x).bincount(minlength=len(oracle.p)).cpu()


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Geometric()], ids=str)
def test_first_hitting_draws_the_table(schedule: Schedule, device: torch.device) -> None:
    oracle = Table(3, 3).to(device)
    x = FirstHitting(schedule)(oracle, blank(oracle, 30_000), generator=seeded(0))
    assert stats.chisquare(frequencies(oracle, x), 30_000 * oracle.p.cpu()).pvalue > 1e-3


def test_first_hitting_draws_the_conditional_given_a_prompt(device: torch.device) -> None:
    oracle = Table(3, 3).to(device)
    canvas = blank(oracle, 30_000)
    canvas[:, 1] = 2
    x = FirstHitting()(oracle, canvas, generator=seeded(0))
    given = torch.where(oracle.states[:, 1] == 2, oracle.p, 0).cpu()
    counts = frequencies(oracle, x)
    assert counts[given == 0].sum() == 0
    assert stats.chisquare(counts[given > 0], 30_000 * given[given > 0] / given.sum()).pvalue > 1e-3


def test_first_hitting_draws_a_long_markov_chain(device: torch.device) -> None:
    oracle = MarkovChain(3, 64).to(device)
    x = FirstHitting()(oracle, blank(oracle, 1500), generator=seeded(0))
    p = oracle.start
    for i in range(64):
        if i in (0, 1, 13, 40, 62):
            pair = p[:, None] * oracle.step
            counts = (x[:, i] * 3 + x[:, i + 1]).bincount(minlength=9)
            assert stats.chisquare(counts.cpu(), 1500 * pair.flatten().cpu()).pvalue > 1e-3
        if i in (0, 20, 61):
            triple = p[:, None, None] * oracle.step[:, :, None] * oracle.step
            counts = (x[:, i] * 9 + x[:, i + 1] * 3 + x[:, i + 2]).bincount(minlength=27)
            assert stats.chisquare(counts.cpu(), 1500 * triple.flatten().cpu()).pvalue > 1e-3
        p = p @ oracle.step


def test_one_ancestral_step_draws_the_product_of_the_marginals(device: torch.device) -> None:
    oracle = Table(3, 3).to(device)
    x = Ancestral(steps=1)(oracle, blank(oracle, 30_000), generator=seeded(0))
    p = oracle.marginals(blank(oracle, 1))[0].cpu()
    product = (p[0][:, None, None] * p[1][:, None] * p[2]).flatten()
    assert stats.chisquare(frequencies(oracle, x), 30_000 * product).pvalue > 1e-3


@pytest.mark.parametrize("schedule", [Linear(), Polynomial(2.0), Cosine()], ids=str)
@pytest.mark.parametrize("grid", ["uniform", "cosine"])
def test_ancestral_error_falls_with_steps(schedule: Schedule, grid: str) -> None:
    oracle = Table(3, 3, peak=2.0)
    distances = []
    for steps in (1, 4, 64):
        x = Ancestral(schedule, steps, grid)(oracle, blank(oracle, 40_000), generator=seeded(steps))
        distances.append((frequencies(oracle, x) / 40_000 - oracle.p).abs().sum().item() / 2)
    noise = (oracle.p * (1 - oracle.p) / 40_000).sqrt().sum().item() * math.sqrt(2 / math.pi) / 2
    assert 0.7 * distances[0] > distances[1] > 4 * noise
    assert distances[2] < distances[1] / 3


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=str)
def test_ancestral_reveals_at_the_schedules_rate(schedule: Schedule) -> None:
    """The number revealed in each step is binomial with unmask_prob, whatever the tokens."""
    oracle = MarkovChain(2, 1)
    sampler = Ancestral(schedule, steps=5, grid="uniform")
    states = list(sampler.trajectory(oracle, blank(oracle, 20_000), generator=seeded(0)))
    t = grid_times(sampler.steps, sampler.grid)
    for before, after, start, end in zip(states, states[1:], t, t[1:], strict=False):
        hidden = int((before.x == oracle.mask_id).sum())
        revealed = hidden - int((after.x == oracle.mask_id).sum())
        assert stats.binomtest(revealed, hidden, float(schedule.unmask_prob(start, end))).pvalue > 1e-3
        torch.testing.assert_close(after.t, end.expand(len(after.t)), rtol=1e-12, atol=1e-15)


def test_first_hitting_times_are_those_of_the_paper() -> None:
    """With n masked at rate r, the next rate is r u^(1/n): (r_s / r_t)^n is uniform, independently."""
    oracle = MarkovChain(2, 5)
    states = list(FirstHitting(Cosine()).trajectory(oracle, blank(oracle, 4000), generator=seeded(0)))
    rates = torch.stack([Cosine().mask_rate(state.t) for state in states])
    u = (rates[1:] / rates[:-1]) ** torch.arange(5, 0, -1)[:, None]
    for row in u:
        assert stats.kstest(row.numpy(), "uniform").pvalue > 1e-3
    assert torch.corrcoef(u).triu(1).abs().max() < 4 / math.sqrt(4000)


def test_ancestral_on_a_fine_grid_is_first_hitting_path_by_path() -> None:
    oracle = MarkovChain(3, 12)
    fine = Ancestral(steps=200_000, grid="uniform").plan
    v = torch.rand(8, 12, dtype=torch.float64, generator=seeded(0))
    hidden = torch.ones(8, 12, dtype=torch.bool)
    hits = FirstHitting().plan(v, hidden)
    assert torch.equal(fine(v, hidden).step.argsort(1), hits.step.argsort(1))
    canvas = blank(oracle, 8)
    coarse = Ancestral(steps=5000, grid="uniform")(oracle, canvas, generator=seeded(1))
    assert (coarse == FirstHitting()(oracle, canvas, generator=seeded(1))).float().mean() > 0.95


@every_sampler
def test_trajectories(sampler: Sampler, device: torch.device) -> None:
    oracle = MarkovChain(3, 20).to(device)
    canvas = blank(oracle, 6)
    canvas[0, 4:] = 1
    canvas[1, ::2] = 2
    canvas[5] = 0  # nothing to do here
    states = list(sampler.trajectory(oracle, canvas, generator=seeded(0)))
    assert torch.equal(states[0].x, canvas)
    for before, after in itertools.pairwise(states):
        shown = before.x != oracle.mask_id
        assert torch.equal(before.x[shown], after.x[shown]), "a revealed token changed"
        assert (after.t <= before.t).all() and (after.calls >= before.calls).all()
    last = states[-1]
    assert not (last.x == oracle.mask_id).any()
    assert torch.equal(last.x[canvas != oracle.mask_id], canvas[canvas != oracle.mask_id]), "a given token changed"
    assert last.calls.sum() == oracle.evaluations
    assert last.calls[5] == 0 and (last.calls <= (canvas == oracle.mask_id).sum(1)).all()
    if isinstance(sampler, FirstHitting | InOrder) and sampler.block_length is None:
        many = -(-(canvas == oracle.mask_id).sum(1) // sampler.tokens_per_call)
        assert last.calls.tolist() == many.tolist()
    if not isinstance(sampler, FirstHitting):
        assert (last.t == 0).all()
    assert torch.equal(sampler(oracle, canvas, generator=seeded(0)), last.x)


@pytest.mark.parametrize("sampler", CORRECTING, ids=str)
def test_trajectories_that_take_back(sampler: Sampler, device: torch.device) -> None:
    """What the canvas shows is kept, no mask is left, calls are counted, and something is taken back."""
    oracle = MarkovChain(3, 20).to(device)
    canvas = blank(oracle, 6)
    canvas[0, 4:] = 1
    canvas[1, ::2] = 2
    canvas[5] = 0
    states = list(sampler.trajectory(oracle, canvas, generator=seeded(0)))
    given = canvas != oracle.mask_id
    changed = 0
    for before, after in itertools.pairwise(states):
        assert torch.equal(after.x[given], canvas[given]), "a given token changed"
        assert (after.calls >= before.calls).all()
        changed += int(((before.x != oracle.mask_id) & (before.x != after.x)).sum())
    assert changed > 0
    last = states[-1]
    assert not (last.x == oracle.mask_id).any()
    assert last.calls.sum() == oracle.evaluations and last.calls[5] == 0
    assert torch.equal(sampler(oracle, canvas, generator=seeded(0)), last.x)


@any_sampler
def test_an_example_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    oracle = MarkovChain(3, 20)
    canvas = blank(oracle, 8)
    for i in range(7):  # examples that end at different times, and hold nothing in some blocks
        canvas[i, : 3 * i] = i % 3
    together = sampler(oracle, canvas, generator=generators(5, 8))
    alone = [sampler(oracle, canvas[i : i + 1], generator=[one]) for i, one in enumerate(generators(5, 8))]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, sampler(oracle, canvas, generator=generators(6, 8)))


def test_images_are_canvases_too() -> None:
    class Image(MarkovChain):
        def __init__(self) -> None:
            super().__init__(3, 24)
            self.shape = (2, 4, 3)

    network = Image()
    for sampler in SAMPLERS + CORRECTING:
        if isinstance(sampler, InOrder) and sampler.order:
            sampler = InOrder(tuple(range(0, 24, 2)) + tuple(range(1, 24, 2)))
        x = sampler(network, blank(network, 4), generator=seeded(0))
        assert x.shape == (4, 2, 4, 3) and (x < 3).all()


def test_the_network_is_told_the_mask_rate() -> None:
    class Listener(MarkovChain):
        def forward(self, x_t, noise=None, label=None, *, at=None):  # type: ignore[no-untyped-def]
            self.heard = [*getattr(self, "heard", []), noise]
            return super().forward(x_t, noise, label, at=at)

    network = Listener(2, 4)
    states = list(FirstHitting().trajectory(network, blank(network, 3), generator=seeded(0)))
    torch.testing.assert_close(torch.stack(network.heard), torch.stack([state.t for state in states[1:]]))
    network.heard = []
    list(Ancestral(Cosine(), steps=1).trajectory(network, blank(network, 3)))
    assert network.heard[0].tolist() == [1, 1, 1]


def test_temperature_sharpens() -> None:
    oracle = Table(3, 1)
    for temperature in (0.5, 2.0):
        x = FirstHitting(temperature=temperature)(oracle, blank(oracle, 20_000), generator=seeded(0))
        expected = (oracle.p.log() / temperature).softmax(0)
        assert stats.chisquare(frequencies(oracle, x), 20_000 * expected).pvalue > 1e-3


def test_refusals() -> None:
    oracle = Table(3, 3)
    for settings, message in (
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be at least 1e-6 and finite, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Ancestral(**settings)
    with pytest.raises((ValueError, TypeCheckError), match="grid"):
        Ancestral(grid="square")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="step"):
        FirstHitting(step=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="no masked position"):
        FirstHitting()(oracle, oracle.states)
    with pytest.raises(ValueError, match=r"tokens must be in 0..3, got 9 at index \[0, 1\]"):
        FirstHitting()(oracle, torch.tensor([[3, 9, 3]]))
    with pytest.raises(ValueError, match="the network takes none"):
        FirstHitting()(oracle, blank(oracle, 2), torch.tensor([0, 1]))


@any_sampler
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_without_a_distribution_are_an_error_that_names_the_step(sampler: Sampler, value: float) -> None:
    class Broken(Oracle):
        def marginals(self, x_t: Tensor) -> Tensor:
            return torch.full((*x_t.shape, 3), value).exp()

    network = Broken(3, (20,))
    network.register_buffer("place", torch.zeros(1))
    with pytest.raises(FloatingPointError, match=r"step \d+: the network's logits"):
        sampler(network, blank(network, 2), generator=seeded(0))


def distance(oracle: Table, sampler: Sampler, n: int) -> float:
    """Total variation between samples and the table."""
    counts = frequencies(oracle, sampler(oracle, blank(oracle, n), generator=seeded(11)))
    return (counts / n - oracle.p.cpu()).abs().sum().item() / 2


def chance(oracle: Table, n: int) -> float:
    """Average total variation of n exact samples."""
    return (oracle.p * (1 - oracle.p) / n).sqrt().sum().item() * math.sqrt(2 / math.pi) / 2


@pytest.mark.parametrize(
    "sampler",
    [
        InOrder(),
        InOrder((2, 0, 1)),
        FirstHitting(block_length=2),
        FirstHitting(block_length=1),
        FirstHitting(tokens_per_call=1, order=2),
        FirstHitting(corrections=1),
        InOrder(corrections=2),
        EntropyBounded(math.inf, block_length=1),
    ],
    ids=str,
)
def test_exact_samplers_draw_the_table(sampler: Sampler, device: torch.device) -> None:
    oracle = Table(3, 3).to(device)
    x = sampler(oracle, blank(oracle, 30_000), generator=seeded(0))
    assert stats.chisquare(frequencies(oracle, x), 30_000 * oracle.p.cpu()).pvalue > 1e-3


@pytest.mark.parametrize("sampler", [InOrder(), FirstHitting(block_length=16, corrections=1)], ids=str)
def test_exact_samplers_draw_a_long_markov_chain(sampler: Sampler) -> None:
    oracle = MarkovChain(3, 64)
    x = sampler(oracle, blank(oracle, 1000), generator=seeded(0))
    p = oracle.start
    for i in range(62):
        if i in (0, 14, 15, 31, 61):
            triple = p[:, None, None] * oracle.step[:, :, None] * oracle.step
            counts = (x[:, i] * 9 + x[:, i + 1] * 3 + x[:, i + 2]).bincount(minlength=27)
            assert stats.chisquare(counts, 1000 * triple.flatten()).pvalue > 1e-3
        p = p @ oracle.step


def test_corrections_leave_the_distribution_of_a_partly_masked_state_unchanged() -> None:
    """Exact samples, one position hidden: a correction elsewhere must leave them exact, given what is hidden."""
    oracle = Table(3, 3)
    n = 60_000
    x = FirstHitting()(oracle, blank(oracle, n), generator=seeded(0))
    hidden = torch.arange(n) % 3
    x_t = x.scatter(1, hidden[:, None], oracle.mask_id)
    state = State(x_t, torch.ones(n, dtype=torch.float64), torch.zeros(n, dtype=torch.long))
    everything = torch.ones_like(x, dtype=torch.bool)
    noise = torch.full((n,), 0.3, dtype=torch.float64)
    span = Span(everything, everything, torch.zeros(n, 1, dtype=torch.float64), 0, Failures(x.device))
    rows = Rows.of([True] * n, x.device)
    after = FirstHitting(corrections=1).correct(oracle, state, span, rows, noise, None, seeded(1), 1).x
    assert ((after != x_t).sum(1) <= 1).all() and (after != x_t).any()
    assert torch.equal(after == oracle.mask_id, x_t == oracle.mask_id)
    cube = oracle.p.view(3, 3, 3)
    for position in range(3):
        pairs = after[hidden == position][:, [i for i in range(3) if i != position]]
        counts = (3 * pairs[:, 0] + pairs[:, 1]).bincount(minlength=9)
        assert stats.chisquare(counts, counts.sum() * cube.sum(position).flatten()).pvalue > 1e-3


FORMS = [None, "extrapolation", "predictor-corrector"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [2, 4])
def test_parallel_draws_follow_their_distribution(size: int, form: str | None, device: torch.device) -> None:
    oracle = Table(2, 5, seed=1).to(device)
    settings = {} if form is None else {"order": 2, "form": form}
    x = FirstHitting(tokens_per_call=size, **settings)(oracle, blank(oracle, 50_000), generator=seeded(0))
    counts, p = frequencies(oracle, x), parallel_draw_probabilities(oracle.cpu(), size, form)
    assert counts[p < 1e-12].sum() == 0
    assert stats.chisquare(counts[p > 1e-12], 50_000 * p[p > 1e-12]).pvalue > 1e-3


def test_second_order_is_second_order() -> None:
    """With weak pairwise correlations, the error is linear in their strength for order 1, quadratic for order 2."""
    for form in FORMS[1:]:
        errors = {}
        for strength in (0.05, 0.1):
            oracle = pairwise_correlated(6, strength)
            for order in (None, form):
                for size in (3, 2):
                    p = parallel_draw_probabilities(oracle, size, order)
                    errors[strength, order, size] = (p - oracle.p).abs().sum().item() / 2
        for size in (3, 2):
            assert errors[0.1, form, size] < errors[0.1, None, size] / 5
            assert 1.7 < errors[0.1, None, size] / errors[0.05, None, size] < 2.5
            assert errors[0.1, form, size] / errors[0.05, form, size] > 3.3


def test_pairs_of_tokens_are_right_in_second_order() -> None:
    """On a long chain the error of neighbouring pairs: the last calls alone are left uncorrected by extrapolation."""
    oracle = MarkovChain(2, 24, seed=3)
    oracle.step = 0.6 * oracle.step + 0.2  # weak correlations, where the orders differ
    exact, p = [], oracle.start
    for _ in range(23):
        exact.append((p[:, None] * oracle.step).flatten())
        p = p @ oracle.step
    n = 60_000
    errors = {}
    for order in (1, 2):
        x = FirstHitting(tokens_per_call=6, order=order)(oracle, blank(oracle, n), generator=seeded(0))
        pairs = torch.stack([(2 * x[:, i] + x[:, i + 1]).bincount(minlength=4) / n for i in range(23)])
        correlation = torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)  # lost by drawing together
        errors[order] = ((pairs - torch.stack(exact)) @ correlation).mean().abs().item()
    assert errors[2] < errors[1] / 3


def test_remasking_converges_to_the_distribution_with_small_steps_for_every_sigma() -> None:
    oracle = Table(3, 3)
    n = 20_000
    for settings in ({"eta": 0.1}, {"form": "rescale", "eta": 0.3}):
        far = distance(oracle, Remasking(steps=4, **settings), n)
        near = distance(oracle, Remasking(steps=300, grid="uniform", **settings), n)
        assert near < 2 * chance(oracle, n) + 0.004 and far > 3 * near


class Coins(Oracle):
    """Independent coins, one side of probability 0.1."""

    def __init__(self) -> None:
        super().__init__(2, (8,))
        self.register_buffer("p", torch.tensor([0.9, 0.1], dtype=torch.float64))

    def marginals(self, x_t: Tensor) -> Tensor:
        return self.p.expand(*x_t.shape, 2)


def test_remasking_by_confidence_makes_the_unlikely_unlikelier_and_the_plain_form_does_not() -> None:
    network = Coins()
    settings = {"steps": 100, "eta": 0.1}
    plain = Remasking(**settings)(network, blank(network, 2000), generator=seeded(0))
    assert stats.binomtest(int(plain.sum()), plain.numel(), 0.1).pvalue > 1e-3
    biased = Remasking(**settings, confidence=True)(network, blank(network, 2000), generator=seeded(0))
    assert biased.double().mean() < 0.08


@pytest.mark.parametrize(
    "settings",
    [{"eta": 0.3}, {"form": "rescale", "eta": 0.7}, {"eta": 0.3, "confidence": True}, {"loop": (0.6, 0.2, 0.8)}],
    ids=str,
)
def test_remasking_shows_as_many_tokens_as_the_schedule_says(settings: dict) -> None:
    oracle = MarkovChain(2, 20)
    sampler = Remasking(Cosine(), steps=12, **settings)
    rate, sigma = sampler.mask_rates_and_sigma(torch.device("cpu"))
    assert (sigma >= 0).all() and (sigma[0] > 0 or sampler.loop) and sigma[-1] == 0
    states = list(sampler.trajectory(oracle, blank(oracle, 4000), generator=seeded(0)))
    for state, r in zip(states, rate, strict=True):
        hidden = (state.x == oracle.mask_id).double().mean()
        assert abs(hidden - r) < 4 * math.sqrt(float(r * (1 - r)) / 80_000) + 1e-9


def test_no_remasking_is_ancestral() -> None:
    oracle = Table(3, 3)
    x = Remasking(steps=3, eta=0.0)(oracle, blank(oracle, 30_000), generator=seeded(0))
    y = Ancestral(steps=3)(oracle, blank(oracle, 30_000), generator=seeded(1))
    both = torch.stack((frequencies(oracle, x), frequencies(oracle, y)))
    assert stats.chi2_contingency(both).pvalue > 1e-3


def test_confidence_takes_back_what_was_least_likely() -> None:
    drawn = torch.tensor([[0.9, 0.1, 0.5, 0.0]], dtype=torch.float64)
    visible = torch.tensor([[True, True, True, False]])
    remask, mean = Remasking(confidence=True)._remasking_probability(
        torch.tensor(0.2, dtype=torch.float64), visible, drawn
    )
    assert remask[0, 1] > remask[0, 2] > remask[0, 0] > 0 == remask[0, 3]
    torch.testing.assert_close(mean, torch.tensor([0.2], dtype=torch.float64))


def test_blocks_are_finished_one_by_one() -> None:
    oracle = MarkovChain(3, 20)
    for sampler in (FirstHitting(block_length=6), MostConfident(steps=3, block_length=6)):
        for state in sampler.trajectory(oracle, blank(oracle, 5), generator=seeded(0)):
            for row in (state.x != oracle.mask_id).long():
                done = [int(part.sum()) for part in row.split(6)]
                begun = max((i for i, many in enumerate(done) if many), default=0)
                assert done[:begun] == [6] * begun
            assert torch.allclose(state.t, (state.x == oracle.mask_id).double().mean(1), atol=0.31)


@pytest.mark.parametrize("schedule", [Linear(), Polynomial(2.0), Cosine(), Geometric()], ids=str)
def test_clocks_run_down_in_blocks(schedule: Schedule) -> None:
    """For any number of blocks the time and the mask rate that the network is told stay in [0, 1] and never rise."""

    class Listener(MarkovChain):
        def forward(self, x_t, noise=None, label=None, *, at=None):  # type: ignore[no-untyped-def]
            assert noise.min() >= 0 and noise.max() <= 1
            return super().forward(x_t, noise, label, at=at)

    for length in (3, 7, 11):
        network = Listener(2, length)
        for sampler in (
            Ancestral(schedule, 500, block_length=1),
            FirstHitting(schedule, block_length=2),
            InOrder(block_length=2),
            MostConfident(steps=5, block_length=2),
            EntropyBounded(block_length=2),
        ):
            times = torch.stack([s.t for s in sampler.trajectory(network, blank(network, 2), generator=seeded(0))])
            assert times.min() >= 0 and times[0].tolist() == [1, 1] and (times.diff(dim=0) <= 0).all()


def test_most_confident_reveals_as_many_as_planned() -> None:
    for n in range(2, 60):
        sampler = MostConfident(steps=n, grid="uniform")
        left = [int(sampler._masked_after(torch.tensor([n]), step)) for step in range(n)]
        assert left == list(range(n - 1, -1, -1))


def test_errors_name_the_step_of_the_trajectory() -> None:
    class Late(MarkovChain):
        def forward(self, x_t, noise=None, label=None, *, at=None):  # type: ignore[no-untyped-def]
            logits = super().forward(x_t, noise, label, at=at)
            return logits * math.nan if self.evaluations > 5 else logits

    for sampler in (
        FirstHitting(block_length=2),
        InOrder(block_length=4),
        MostConfident(steps=1, block_length=1),
        FirstHitting(corrections=1, block_length=3),
    ):
        network = Late(2, 12)
        count = 0
        with pytest.raises(FloatingPointError) as failure:  # noqa: PT012
            for _ in sampler.trajectory(network, blank(network, 1), generator=seeded(0)):
                count += 1
        assert f"step {count}:" in str(failure.value)  # the canvas, then count - 1 steps, then the one that failed


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_guidance_where_a_token_has_no_chance(scale: float) -> None:
    """Without the label impossible, with it possible, and the other way round: never NaN."""

    class Two(Oracle):
        classes = 1

        def forward(self, x_t, noise=None, label=None, *, at=None):  # type: ignore[no-untyped-def]
            rows = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64).log()
            return pick(rows[label].unsqueeze(1).expand(-1, 2, -1), at)

    network = Two(3, (2,))
    network.register_buffer("place", torch.zeros(1))
    label = torch.zeros(200, dtype=torch.long)
    x = FirstHitting(guidance=scale)(network, blank(network, 200), label, generator=seeded(0))
    assert set(x.flatten().tolist()) == {0.0: {1, 2}, 0.5: {1}, 2.0: {0, 1}}[scale]


def test_orders_are_kept() -> None:
    oracle = MarkovChain(3, 6)
    order = (3, 1, 5, 0, 2, 4)
    states = list(InOrder(order, tokens_per_call=2).trajectory(oracle, blank(oracle, 2), generator=seeded(0)))
    for k, state in enumerate(states):
        shown = (state.x[0] != oracle.mask_id).nonzero().flatten().tolist()
        assert shown == sorted(order[: 2 * k])
        assert state.t.tolist() == pytest.approx([1 - k / 3] * 2)


def test_the_surest_come_first() -> None:
    """Independent positions, one of them certain: it is revealed first, by every measure."""

    class Uneven(Oracle):
        def marginals(self, x_t: Tensor) -> Tensor:
            return self.p.expand(len(x_t), -1, -1)

    network = Uneven(2, (3,))
    network.register_buffer("p", torch.tensor([[0.5, 0.5], [0.999, 0.001], [0.9, 0.1]], dtype=torch.float64))
    for measure in ("confidence", "margin", "entropy"):
        sampler = MostConfident(steps=3, grid="uniform", measure=measure, top_k=1)
        states = list(sampler.trajectory(network, blank(network, 4), generator=seeded(0)))
        shown = [(state.x[0] != 2).nonzero().flatten().tolist() for state in states]
        assert shown == [[], [1], [1, 2], [0, 1, 2]]
    *_, last = EntropyBounded(0.4).trajectory(network, blank(network, 4), generator=seeded(0))
    assert last.calls.tolist() == [1] * 4  # 0.008 + 0.325 before the last: all at once
    *_, last = EntropyBounded(0.1).trajectory(network, blank(network, 4), generator=seeded(0))
    assert last.calls.tolist() == [2] * 4


def test_sureness() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]], dtype=torch.float64).log()
    token = torch.tensor([1, 0])
    assert sureness(logits, token, "confidence").exp().tolist() == pytest.approx([0.3, 1.0])
    assert sureness(logits, token, "margin").exp().tolist() == pytest.approx([0.2, 1.0])
    expected = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert sureness(logits, token, "entropy").tolist() == pytest.approx([-expected, 0.0])


class Labelled(Table):
    """A table for each label, and the null label's."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.classes = 2
        self.tables = torch.nn.ModuleList([Table(3, 2, seed=seed) for seed in (1, 2, 3)])

    def forward(self, x_t, noise=None, label=None, *, at=None):  # type: ignore[no-untyped-def]
        self.evaluations += len(x_t)
        every = torch.stack([table(x_t) for table in self.tables], 1)
        label = torch.full((len(x_t),), 2) if label is None else label
        return pick(every[torch.arange(len(x_t)), label], at)


@any_sampler
def test_guidance_takes_two_evaluations_in_one_call(sampler: Sampler) -> None:
    if isinstance(sampler, InOrder):
        sampler = InOrder()
    network = Labelled()
    label = torch.tensor([0, 1, 0, 1])
    *_, plain = sampler.trajectory(network, blank(network, 4), label, generator=seeded(0))
    network.evaluations = 0
    *_, guided = replace(sampler, guidance=2.0).trajectory(network, blank(network, 4), label, generator=seeded(0))
    assert network.evaluations == guided.calls.sum()
    if isinstance(sampler, FirstHitting | InOrder):
        assert torch.equal(guided.calls, 2 * plain.calls)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_draws_from_the_product_of_powers(scale: float) -> None:
    network = Labelled()
    n = 20_000
    x = FirstHitting(guidance=scale, tokens_per_call=2)(
        network, blank(network, n), torch.ones(n, dtype=torch.long), generator=seeded(0)
    )
    blank_one = blank(network, 1)
    given, free = (network.tables[i].marginals(blank_one)[0] for i in (1, 2))
    p = (given.log() * scale + free.log() * (1 - scale)).softmax(-1)
    for i in range(2):
        assert stats.chisquare(x[:, i].bincount(minlength=3), n * p[i]).pvalue > 1e-3


def test_filters_cut_in_samplers_too() -> None:
    oracle = Table(5, 1)
    p = oracle.marginals(blank(oracle, 1))[0, 0]
    best = p.argsort(descending=True)
    for sampler in (FirstHitting(top_k=2), Ancestral(top_k=2), MostConfident(top_k=2), Remasking(top_k=2)):
        x = sampler(oracle, blank(oracle, 5000), generator=seeded(0)).flatten()
        assert set(x.tolist()) == set(best[:2].tolist())
        share = float(p[best[0]] / p[best[:2]].sum())
        assert stats.binomtest(int((x == best[0]).sum()), 5000, share).pvalue > 1e-3


def test_new_samplers_refuse() -> None:
    for make, message in (
        (lambda: FirstHitting(tokens_per_call=0), "tokens_per_call must be a whole number of at least 1, got 0"),
        (lambda: FirstHitting(block_length=0), "block_length must be a whole number of at least 1, got 0"),
        (lambda: FirstHitting(corrections=-1), "corrections must be a whole number of at least 0, got -1"),
        (lambda: FirstHitting(top_k=0), "top_k must be a whole number of at least 1, got 0"),
        (lambda: FirstHitting(top_p=0.0), r"top_p must be in \(0, 1\], got 0.0"),
        (lambda: FirstHitting(top_p=1.1), r"top_p must be in \(0, 1\], got 1.1"),
        (lambda: FirstHitting(guidance=-1.0), "guidance must be at least 0 and finite, got -1"),
        (lambda: InOrder((0, 0, 1)), r"order must be a permutation of 0..2, got \(0, 0, 1\)"),
        (lambda: MostConfident(noise=-1.0), "noise must be at least 0 and finite, got -1"),
        (lambda: MostConfident(steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: EntropyBounded(-0.1), "bound must be at least 0 nats, got -0.1"),
        (lambda: EntropyBounded(math.nan), "bound must be at least 0 nats, got nan"),
        (lambda: Remasking(eta=1.5), r"eta must be in \[0, 1\], got 1.5"),
        (lambda: Remasking(loop=(0.1, 0.5, 0.9)), "loop must be 0 < t_off < t_on < 1"),
        (
            lambda: FirstHitting(tokens_per_call=4, form="predictor-corrector"),
            "form is of the second order: give order",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    oracle = MarkovChain(3, 4)
    with pytest.raises((ValueError, TypeCheckError), match="generator"):
        FirstHitting()(oracle, blank(oracle, 2), generator=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order has 3 positions, the canvas 4"):
        InOrder((0, 2, 1))(oracle, blank(oracle, 1))
    with pytest.raises(ValueError, match="guidance 2 needs a label of each example; the network takes none"):
        FirstHitting(guidance=2.0)(oracle, blank(oracle, 1))
    with pytest.raises(ValueError, match="guidance 2 needs a label of each example; no label was given"):
        FirstHitting(guidance=2.0)(Labelled(), blank(Labelled(), 1))


class Waits(TorchDispatchMode):
    """Counts the operations for whose result a GPU would make the host wait."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = function.overloadpacket.__name__
        flags = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        self.count += flags or name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "sampler",
    [
        FirstHitting(),
        FirstHitting(Cosine(), tokens_per_call=2, order=2, guidance=2.0, top_p=0.9),
        InOrder(tokens_per_call=2, top_k=2),
        Ancestral(steps=40),
    ],
    ids=str,
)
def test_planned_samplers_do_not_wait_for_the_device_in_their_loop(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.samplers.rows.Failures.check", lambda self: None)  # at each step on a CPU alone
    waits = []
    for length in (8, 24):
        network = Transformer(5, (24,), classes=2, width=16, depth=2, heads=2, time_conditioning=True).eval()
        canvas = torch.full((3, length), 5)
        canvas[0, 3:] = 1
        label = torch.tensor([0, 1, 0])
        sampler(network, canvas, label, generator=seeded(0))  # fills the cache of rotary angles
        with Waits() as counter:
            sampler(network, canvas, label, generator=seeded(0))
        waits.append(counter.count)
    assert waits[0] == waits[1] > 0


def documented_first_hitting() -> Callable[..., Tensor]:
    """Return the function in the docstring of `unmask.samplers`."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", unmask.samplers.__doc__ or "", re.MULTILINE)
    (code,) = [textwrap.dedent(block) for block in blocks if "def first_hitting" in block]
    assert len(code.strip().splitlines()) <= 16
    names: dict[str, Any] = {}
    exec(compile(code, "unmask.samplers", "exec"), names)
    return names["first_hitting"]


def test_the_loop_of_the_documentation_is_first_hitting() -> None:
    """The code in the docstring of `unmask.samplers`: the distribution of `FirstHitting`, with as many calls."""
    oracle, n, counts = Table(3, 3), 30_000, []
    for draw in (
        lambda: documented_first_hitting()(oracle, Cosine(), n, 3, seeded(0)),
        lambda: FirstHitting(Cosine())(oracle, blank(oracle, n), generator=seeded(1)),
    ):
        oracle.evaluations = 0
        counts.append(frequencies(oracle, draw()))
        assert oracle.evaluations == 3 * n
        assert stats.chisquare(counts[-1], n * oracle.p).pvalue > 1e-3
    assert stats.chi2_contingency(torch.stack(counts)).pvalue > 1e-3


def test_the_loop_of_the_documentation_keeps_the_times_of_the_paper() -> None:
    """It passes the same mask rates to the network as `FirstHitting` has: (r_s / r_t)^n is uniform."""

    class Listener(MarkovChain):
        def forward(self, x_t, noise=None, label=None, *, at=None):  # type: ignore[no-untyped-def]
            self.heard = [*getattr(self, "heard", [torch.ones_like(noise)]), noise]
            return super().forward(x_t, noise, label, at=at)

    network = Listener(2, 5)
    documented_first_hitting()(network, Cosine(), 4000, 5, seeded(0))
    rates = torch.stack(network.heard)
    for row in (rates[1:] / rates[:-1]) ** torch.arange(5, 0, -1)[:, None]:
        assert stats.kstest(row.numpy(), "uniform").pvalue > 1e-3


def test_a_given_token_is_encoded_in_one_place() -> None:
    x = torch.tensor([[0, 3, 5]])
    given = torch.tensor([[True, False, True]])
    marked = mark_given(x, given)
    assert marked.tolist() == [[encode_given(0), 3, encode_given(5)]] == [[-1, 3, -6]]
    assert torch.equal(clean_tokens(marked), x)


def test_what_one_needs_to_write_samplers_and_networks_is_exported_and_explained() -> None:
    needed = {
        unmask.samplers: "Sampler Planned Plan Unmasking State",
        unmask.networks: "Network HeadedNetwork Positions pick UNet DDiT",
    }
    for module, names in needed.items():
        assert set(names.split()) <= set(module.__all__) and module.__doc__
        for name in module.__all__:
            assert getattr(module, name).__doc__, name

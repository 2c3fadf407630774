import itertools
import math

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import stats
from torch import Tensor

from oracle import MarkovChain, Oracle, Table
from unmask.forward import all_masked
from unmask.networks.base import Network
from unmask.randomness import generators, seeded
from unmask.samplers.ancestral import Ancestral, grid_times
from unmask.samplers.base import Sampler
from unmask.samplers.first_hitting import FirstHitting
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule

SAMPLERS = [FirstHitting(), Ancestral(steps=7), Ancestral(steps=100, grid="uniform"), Ancestral(Cosine(), steps=3)]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)


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
        assert (after.t == end).all()


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
    if isinstance(sampler, FirstHitting):
        assert last.calls.tolist() == (canvas == oracle.mask_id).sum(1).tolist()
    else:
        assert (last.calls <= sampler.steps).all() and (last.t == 0).all()
    assert torch.equal(sampler(oracle, canvas, generator=seeded(0)), last.x)


@every_sampler
def test_an_example_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    oracle = MarkovChain(3, 20)
    together = sampler(oracle, blank(oracle, 8), generator=generators(5, 8))
    alone = [sampler(oracle, blank(oracle, 1), generator=[generator]) for generator in generators(5, 8)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, sampler(oracle, blank(oracle, 8), generator=generators(6, 8)))


def test_images_are_canvases_too() -> None:
    class Image(MarkovChain):
        def __init__(self) -> None:
            super().__init__(3, 24)
            self.shape = (2, 4, 3)

    network = Image()
    for sampler in SAMPLERS:
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


@every_sampler
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_without_a_distribution_are_an_error_that_names_the_step(sampler: Sampler, value: float) -> None:
    class Broken(Oracle):
        def marginals(self, x_t: Tensor) -> Tensor:
            return torch.full((*x_t.shape, 3), value).exp()

    network = Broken(3, (4,))
    network.register_buffer("place", torch.zeros(1))
    with pytest.raises(FloatingPointError, match=r"step \d+: the network's logits"):
        sampler(network, blank(network, 2), generator=seeded(0))

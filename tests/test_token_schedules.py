"""GenMD4: the schedule, its bound and gradient, and its samplers, against enumeration."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.token_elbo import paired_gradient, plain_gradient
from jaxtyping import TypeCheckError
from scipy import stats
from torch import Tensor

from oracle import MarkovChain, Oracle, Table
from unmask.codecs.symbols import Symbols
from unmask.forward import all_masked
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.networks.transformer import Transformer
from unmask.objectives.scalar import ContinuousELBO, DiscreteELBO, TimeFreeELBO
from unmask.objectives.token import TokenELBO, draw_time_and_masks
from unmask.randomness import generators, seeded
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.remasking import Remasking
from unmask.samplers.token import TokenAncestral, TokenFirstHitting
from unmask.schedules import Linear, Polynomial, Schedule, TokenPolynomial, check_kind

UNEQUAL = (0.4, 1.0, 2.5)


def schedule(powers: tuple[float, ...], learned: bool = False) -> TokenPolynomial:
    result = TokenPolynomial(len(powers), learned=learned).double()
    with torch.no_grad():
        result.raw.copy_(torch.tensor(powers, dtype=torch.float64).expm1().log())
    return result


def blank(network: Network, n: int) -> Tensor:
    return all_masked(n, network.shape, network.mask_id)


def table(powers: tuple[float, ...], length: int = 3) -> Oracle:
    return Table(len(powers), length).under(torch.tensor(powers, dtype=torch.float64))


# --- the schedule


@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
def test_equal_powers_are_the_polynomial(power: float) -> None:
    ours, scalar = TokenPolynomial(4, power).double(), Polynomial(power)
    torch.testing.assert_close(ours.powers, torch.full((4,), power, dtype=torch.float64), rtol=1e-6, atol=0.0)
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    for name in ("alpha", "dalpha", "mask_rate", "weight", "log_snr"):
        expected = getattr(scalar, name)(t).unsqueeze(1).expand(50, 4)
        torch.testing.assert_close(getattr(ours, name)(t), expected, rtol=1e-5, atol=1e-6)
    expected = scalar.unmask_prob(t, t / 3).unsqueeze(1).expand(50, 4)
    torch.testing.assert_close(ours.unmask_prob(t, t / 3), expected, rtol=1e-5, atol=0.0)


def test_the_schedule_is_consistent() -> None:
    ours = schedule(UNEQUAL)
    torch.testing.assert_close(ours.powers, torch.tensor(UNEQUAL, dtype=torch.float64))
    t = torch.linspace(0.001, 1, 64, dtype=torch.float64)
    alpha = ours.alpha(t)
    assert alpha.shape == (64, 3) and (alpha.diff(dim=0) < 0).all() and (alpha[-1] == 0).all()
    assert (ours.alpha(torch.zeros(1, dtype=torch.float64)) == 1).all()
    torch.testing.assert_close(ours.inverse(alpha), t.unsqueeze(1).expand(64, 3))
    slope = (ours.alpha(t + 1e-6) - ours.alpha(t - 1e-6)) / 2e-6
    torch.testing.assert_close(ours.dalpha(t)[1:-1], slope[1:-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.weight(t), -ours.dalpha(t) / ours.mask_rate(t))
    s, r = t * 0.7, t * 0.2  # staying masked composes
    stay = (1 - ours.unmask_prob(t, s)) * (1 - ours.unmask_prob(s, r))
    torch.testing.assert_close(stay, 1 - ours.unmask_prob(t, r))


def test_groups_share_an_exponent() -> None:
    ours = TokenPolynomial(5, 1.0, groups=(0, 1, 1, 0, 2))
    assert ours.raw.shape == (3,)
    with torch.no_grad():
        ours.raw += torch.tensor([0.0, 1, 2])
    w = ours.powers
    assert w[0] == w[3] < w[1] == w[2] < w[4]


def test_schedule_refusals() -> None:
    for arguments, message in (
        ((0,), "vocab_size must be a whole number of at least 1, got 0"),
        ((3, 0.0), r"power must be in \[1e-6, 1e6\], got 0"),
        ((3, math.inf), r"power must be in \[1e-6, 1e6\], got inf"),
        ((3, 1.0, (0, 1)), "groups must name the group of each of 3 token values, got 2"),
        ((3, 1.0, (0, 2, 2)), r"groups must be numbered 0, 1, ... without gaps, got \[0, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenPolynomial(*arguments)
    for raw, value in ((-2000.0, "0.0"), (math.inf, "inf"), (math.nan, "nan")):
        broken = TokenPolynomial(3)
        with torch.no_grad():
            broken.raw[1] = raw
        with pytest.raises(ValueError, match=f"the exponent of token value 1 is {value}: not a schedule"):
            TokenFirstHitting(schedule=broken)


# --- the bound


def estimate(objective: TokenELBO, network: Network, x: Tensor, draws: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Return the mean NELBO of each example and its standard error, over independent rounds of many draws each."""
    means = torch.stack(
        [
            objective(network, x.repeat(draws, 1), generator=seeded(7, i)).nelbo.view(draws, -1).mean(0)
            for i in range(rounds)
        ]
    )
    return means.mean(0), means.std(0) / math.sqrt(rounds)


@pytest.mark.parametrize("powers", [(1.0, 1.0, 1.0), UNEQUAL, (3.0, 0.1, 0.1)], ids=str)
@pytest.mark.parametrize("masks", [1, 3])
def test_the_bound_is_tight_for_every_x_of_a_table(powers: tuple[float, ...], masks: int) -> None:
    oracle = table(powers)
    mean, error = estimate(TokenELBO(schedule(powers), masks), oracle, oracle.states, draws=60, rounds=60)
    z = (mean + oracle.log_prob(oracle.states)) / error
    assert z.abs().max() < 4


def test_the_bound_is_tight_on_a_long_markov_chain() -> None:
    oracle = MarkovChain(3, 64)
    x = oracle.sample(8, seeded(0))
    oracle.under(torch.tensor(UNEQUAL, dtype=torch.float64))
    mean, error = estimate(TokenELBO(schedule(UNEQUAL)), oracle, x, draws=64, rounds=60)
    assert ((mean + oracle.log_prob(x)) / error).abs().max() < 4
    assert (error < 0.03 * mean).all()


def test_the_bound_is_loose_for_an_oracle_that_ignores_the_time() -> None:
    """A negative control: with unequal exponents the posterior depends on the time."""
    oracle = Table(3, 3)
    mean, error = estimate(TokenELBO(schedule(UNEQUAL)), oracle, oracle.states, draws=60, rounds=60)
    gap, scale = ((oracle.p * value).sum().item() for value in (mean + oracle.log_prob(oracle.states), error))
    assert gap > 10 * scale
    bound = enumerated(oracle, torch.tensor(UNEQUAL), oracle.states)
    exact = (oracle.p * (bound + oracle.log_prob(oracle.states))).sum()
    assert abs(gap - exact) < 4 * scale


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_equal_exponents_are_the_time_free_objective(power: float) -> None:
    """Same numbers of masks from the same generator, and the same formula, L / n times the sum."""
    oracle, x = Table(3, 4), Table(3, 4).states[:40]
    seen: list[Tensor] = []
    oracle.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    loss, nelbo, _ = TokenELBO(schedule((1.7, 1.7, 1.7)), masks=1, power=power)(oracle, x, generator=seeded(0))
    at = seen[0] == oracle.mask_id
    n = at.sum(1)
    expected = 4 / n * -(Table(3, 4)(seen[0]).gather(2, x.unsqueeze(2)).squeeze(2) * at).sum(1)
    torch.testing.assert_close(nelbo, expected)
    torch.testing.assert_close(loss, (expected * (n / 4) ** (1 - power)).mean())
    TimeFreeELBO()(oracle, x, generator=seeded(0))
    assert torch.equal(n, (seen[1] == oracle.mask_id).sum(1)), "the numbers of masks are not spread as they should"


def enumerated(network: Network, w: Tensor, x: Tensor) -> Tensor:
    """The bound of every x by quadrature over the time and enumeration of the masks; differentiable in w."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(200))
    s, weights = (nodes + 1) / 2, weights / 2
    total = torch.zeros(len(x), dtype=torch.float64)
    w = w.double()
    for hidden in itertools.product((False, True), repeat=x.shape[1]):
        if not any(hidden):
            continue
        at = torch.tensor(hidden).expand_as(x)
        for node, weight in zip(s, weights, strict=True):
            t = node**10  # so that t^(w - 1) is smooth: dt / t = 10 ds / s
            logits = network(x.masked_fill(at, network.mask_id), t.expand(len(x)))
            log_p = logits.log_softmax(-1)
            nll = -log_p.gather(2, x.unsqueeze(2)).squeeze(2)
            integrand = torch.where(at, w[x] * (nll - 1) + log_p.exp() @ w, 0).sum(1)
            rate = t ** w[x]
            total = total + weight * 10 / node * torch.where(at, rate, 1 - rate).prod(1) * integrand
    return total


class Trained(Table):
    """A table whose predictions are off by a bias that has a gradient, and which ignores the time."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.bias = torch.nn.Parameter(torch.tensor([0.5, 0.0, -0.7], dtype=torch.float64))

    def marginals(self, x_t: Tensor, potential: Tensor | None = None) -> Tensor:
        return (super().marginals(x_t).clamp(min=1e-30).log() + self.bias).softmax(-1)


@pytest.mark.parametrize("masks", [2, 4])
def test_gradients_are_those_of_the_enumerated_bound(masks: int) -> None:
    network, x = Trained(), Table(3, 3).states[[1, 5, 12, 25]]
    exact_schedule, ours = schedule(UNEQUAL, learned=True), schedule(UNEQUAL, learned=True)
    exact = enumerated(network, exact_schedule.powers, x).mean()
    wanted = torch.autograd.grad(exact, [exact_schedule.raw, network.bias])
    objective, draws = TokenELBO(ours, masks), []
    for i in range(150):
        loss = objective(network, x.repeat(100, 1), generator=seeded(3, i)).loss
        draws.append(torch.cat(torch.autograd.grad(loss, [ours.raw, network.bias])))
    found = torch.stack(draws)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - torch.cat(wanted)) / error).abs().max() < 4
    assert (error < 0.1 * torch.cat(wanted).abs().max()).all(), "too noisy to show anything"


def test_pairs_of_masks_lower_the_variance_of_the_gradient() -> None:
    """The whole gradient, against REINFORCE with the other mask's whole bound as the baseline, from the same masks."""
    oracle, ours = MarkovChain(3, 32), schedule(UNEQUAL, learned=True)
    x = oracle.sample(8, seeded(0))
    oracle.under(torch.tensor(UNEQUAL, dtype=torch.float64))
    paired = torch.stack([paired_gradient(oracle, ours, x, seed) for seed in range(200)])
    plain = torch.stack([plain_gradient(oracle, ours, x, seed) for seed in range(200)])
    error = ((paired - plain).var(0) / 200).sqrt()
    assert ((paired - plain).mean(0).abs() < 4 * error).all()
    assert paired.var(0).sum() < 0.6 * plain.var(0).sum()


def test_times_and_masks_follow_their_distribution() -> None:
    """The time of a random position's masking; at it the other position is masked with its own rate."""
    w_x = torch.tensor([[0.5, 2.0]], dtype=torch.float64).expand(200_000, 2)
    log_t, hidden = draw_time_and_masks(w_x, 2, w_x.shape[1], None, seeded(0))
    t = log_t.exp()
    assert stats.kstest(t[::37].numpy(), lambda v: (v**0.5 + v**2) / 2).pvalue > 1e-3
    assert hidden.any(2).all()
    band = (t > 0.30) & (t < 0.32)
    rates = torch.tensor(
        [0.5 * 0.31**-0.5, 2 * 0.31], dtype=torch.float64
    )  # of either position being the one that is masked just then
    first, second = (rates / rates.sum()).tolist()
    both = first * 0.31**2 + second * 0.31**0.5
    expected = torch.tensor([first - first * 0.31**2, second - second * 0.31**0.5, both], dtype=torch.float64)
    for k in range(2):
        counts = (hidden[k, band].long() @ torch.tensor([1, 2])).bincount(minlength=4)
        assert stats.chisquare(counts[1:], counts.sum() * expected).pvalue > 1e-3
    given = hidden[:, band & hidden[:, :, 0].all(0)][:, :, 1].double()
    assert torch.corrcoef(given)[0, 1] > 0, "the sets share the position masked at t"


def plain_nelbo(w: Tensor, log_p: Tensor, x: Tensor, x_t: Tensor) -> float:
    """The estimate for one mask of one example, from the formulas, loop by loop."""
    total = masses = 0.0
    for i in range(len(x)):
        if x_t[i] == len(w):
            expected = sum(math.exp(log_p[i][j]) * w[j].item() for j in range(len(w)))
            total += w[x[i]].item() * (-log_p[i][x[i]].item() - 1) + expected
            masses += w[x[i]].item()
    return len(x) * total / masses


def test_the_loss_is_that_of_an_independent_implementation() -> None:
    oracle, x = table(UNEQUAL, 4), Table(3, 4).states[:60:7]
    seen: list[tuple[Tensor, Tensor]] = []
    oracle.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[:2]))
    nelbo = TokenELBO(schedule(UNEQUAL), masks=3)(oracle, x, generator=seeded(0)).nelbo
    assert len(seen) == 1, "all masks go through one network call"
    (x_t, t), w = seen[0], torch.tensor(UNEQUAL, dtype=torch.float64)
    log_p = table(UNEQUAL, 4)(x_t, t)
    each = [plain_nelbo(w, log_p[i], x[i % len(x)], x_t[i]) for i in range(len(x_t))]
    torch.testing.assert_close(nelbo, torch.tensor(each, dtype=torch.float64).view(3, -1).mean(0))


def test_autocast_does_not_round_the_bound() -> None:
    class Single(Table):
        def forward(self, *arguments: object, **named: object) -> Tensor:
            return super().forward(*arguments, **named).float()

    network, x = Single(3, 3), Table(3, 3).states
    objective = TokenELBO(schedule(UNEQUAL))
    exact = objective(network, x, generator=seeded(0)).nelbo
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(objective(network, x, generator=seeded(0)).nelbo, exact, rtol=1e-5, atol=1e-5)


def test_objective_refusals() -> None:
    with pytest.raises(ValueError, match="TokenELBO needs masks of at least 2, got 1"):
        TokenELBO(schedule(UNEQUAL, learned=True), masks=1)(Table(3, 3), Table(3, 3).states)
    with pytest.raises(ValueError, match=r"TokenELBO needs a schedule, as in TokenELBO\(schedule=model.schedule\)"):
        TokenELBO()(Table(3, 3), Table(3, 3).states)
    with pytest.raises(ValueError, match="masks must be a whole number of at least 1, got 0"):
        TokenELBO(schedule(UNEQUAL), masks=0)
    with pytest.raises(ValueError, match="the schedule is for 4 token values, the network for 3"):
        TokenELBO(TokenPolynomial(4))(Table(3, 3), Table(3, 3).states)


# --- the samplers


def frequencies(oracle: Oracle, x: Tensor) -> Tensor:
    return oracle.index(x).bincount(minlength=len(oracle.p))


@pytest.mark.parametrize("powers", [(1.0, 1.0, 1.0), UNEQUAL, (3.0, 0.3, 0.3)], ids=str)
def test_thinned_first_hitting_draws_the_table(powers: tuple[float, ...]) -> None:
    oracle = table(powers)
    x = TokenFirstHitting(schedule=schedule(powers))(oracle, blank(oracle, 20_000), generator=seeded(0))
    assert stats.chisquare(frequencies(oracle, x), 20_000 * oracle.p).pvalue > 1e-3


def test_thinned_first_hitting_draws_a_long_markov_chain() -> None:
    oracle = MarkovChain(3, 32)
    oracle.under(torch.tensor(UNEQUAL, dtype=torch.float64))
    x = TokenFirstHitting(schedule=schedule(UNEQUAL))(oracle, blank(oracle, 600), generator=seeded(0))
    p = oracle.start
    for i in range(31):
        if i in (0, 1, 13, 20, 30):
            counts = (x[:, i] * 3 + x[:, i + 1]).bincount(minlength=9)
            assert stats.chisquare(counts, 600 * (p[:, None] * oracle.step).flatten()).pvalue > 1e-3
        p = p @ oracle.step


def test_thinned_first_hitting_draws_the_conditional_given_a_prompt() -> None:
    """A prompt is visible from t = 1 on, so the other tokens follow the posterior at t = 1, which is that of p."""
    oracle = table(UNEQUAL)
    canvas = blank(oracle, 20_000)
    canvas[:, 1] = 2
    x = TokenFirstHitting(schedule=schedule(UNEQUAL))(oracle, canvas, generator=seeded(0))
    given = torch.where(oracle.states[:, 1] == 2, oracle.p, 0)
    counts = frequencies(oracle, x)
    assert counts[given == 0].sum() == 0
    assert stats.chisquare(counts[given > 0], 20_000 * given[given > 0] / given.sum()).pvalue > 1e-3


def test_frozen_first_hitting_is_exact_for_equal_exponents_and_close_for_others() -> None:
    for powers in ((1.5, 1.5, 1.5), UNEQUAL):
        oracle = table(powers)
        sampler = TokenFirstHitting(schedule=schedule(powers), form="frozen")
        counts = frequencies(oracle, sampler(oracle, blank(oracle, 20_000), generator=seeded(0)))
        exact = stats.chisquare(counts, 20_000 * oracle.p).pvalue > 1e-3
        assert exact == (powers is not UNEQUAL)
        assert (counts / 20_000 - oracle.p).abs().sum() / 2 < 0.1


def test_ancestral_comes_closer_with_more_steps() -> None:
    oracle, distances = table(UNEQUAL), []
    for steps in (1, 4, 64):
        sampler = TokenAncestral(schedule=schedule(UNEQUAL), steps=steps)
        x = sampler(oracle, blank(oracle, 20_000), generator=seeded(0))
        distances.append((frequencies(oracle, x) / 20_000 - oracle.p).abs().sum() / 2)
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    p = oracle.marginals(torch.full((1, 3), 3))[0]
    product = torch.stack([p[i, oracle.states[:, i]] for i in range(3)]).prod(0)
    x = TokenAncestral(schedule=schedule(UNEQUAL), steps=1)(oracle, blank(oracle, 20_000), generator=seeded(0))
    assert stats.chisquare(frequencies(oracle, x), 20_000 * product).pvalue > 1e-3


SAMPLERS = [
    TokenAncestral(schedule=schedule(UNEQUAL), steps=5),
    TokenFirstHitting(schedule=schedule(UNEQUAL)),
    TokenFirstHitting(schedule=schedule(UNEQUAL), form="frozen"),
]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=["ancestral", "thinned", "frozen"])


@every_sampler
def test_a_trajectory_only_reveals(sampler: Sampler) -> None:
    oracle = table(UNEQUAL, 5)
    canvas = blank(oracle, 6)
    canvas[2, :4] = 1
    canvas[4] = 0  # nothing to do here
    before, clock = canvas, torch.full((6,), 1.0, dtype=torch.float64)
    for state in sampler.trajectory(oracle, canvas, generator=seeded(0)):
        shown = before != oracle.mask_id
        assert torch.equal(before[shown], state.x[shown]), "a revealed token changed"
        assert (state.t <= clock).all()
        before, clock = state.x, state.t
    assert (state.x < oracle.mask_id).all() and state.calls[4] == 0
    assert int(state.calls.sum()) == oracle.evaluations


@every_sampler
def test_an_example_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    oracle = table(UNEQUAL, 5)
    whole = sampler(oracle, blank(oracle, 6), generator=generators(0, 6))
    alone = sampler(oracle, blank(oracle, 1), generator=[generators(0, 6)[4]])
    assert torch.equal(whole[4:5], alone)


def test_the_scale_of_the_exponents_only_bends_the_time() -> None:
    oracle = Table(3, 3)
    canvas = all_masked(500, oracle.shape, oracle.mask_id)
    samples = [
        TokenAncestral(schedule=schedule((power,) * 3), steps=6)(oracle, canvas, generator=seeded(0))
        for power in (0.2, 1.0, 7.0)
    ]
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[1], samples[2])


@pytest.mark.parametrize("value", [-2000.0, math.inf, math.nan])
def test_exponents_that_learning_ruined_are_refused_wherever_they_enter(value: float, tmp_path: Path) -> None:
    network, codec = Transformer(3, (4,), width=8, depth=1, heads=1), Symbols(3)
    model = MaskedDiffusion(network, codec, TokenPolynomial(3))
    with torch.no_grad():
        model.schedule.raw[1] = value
    model.save_pretrained(tmp_path)
    for use in (
        lambda: TokenELBO(model.schedule),
        lambda: TokenAncestral(schedule=model.schedule),
        lambda: MaskedDiffusion(network, codec, model.schedule),
        lambda: MaskedDiffusion.from_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match="the exponent of token value 1 is"):
            use()


def test_the_wrong_kind_of_schedule_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="Ancestral needs a schedule that treats all tokens alike, got TokenPoly"):
        check_kind(TokenPolynomial(3), Schedule, "Ancestral")
    with pytest.raises(ValueError, match="TokenELBO needs a TokenPolynomial, got Linear"):
        check_kind(Linear(), TokenPolynomial, "TokenELBO")
    refused = (ValueError, TypeCheckError)  # the tests' own check of types comes first
    for scalar in (ContinuousELBO, DiscreteELBO, FirstHitting, Ancestral, Remasking):
        with pytest.raises(refused):
            scalar(schedule=TokenPolynomial(3))
    for token in (TokenELBO, TokenAncestral, TokenFirstHitting):
        with pytest.raises(refused):
            token(Linear())
    model = MaskedDiffusion(Transformer(3, (4,), width=8, depth=1, heads=1), Symbols(3))
    with pytest.raises(ValueError, match="TokenAncestral is for state-dependent schedules, the model has Linear"):
        model.sample(1, sampler=TokenAncestral(TokenPolynomial(3)))


def test_exact_sampling_that_would_take_very_long_says_so() -> None:
    with pytest.warns(UserWarning, match="a token of the smallest costs 10000 network calls"):
        TokenFirstHitting(schedule((1e-3, 1.0, 10.0)))


def test_sampler_refusals() -> None:
    oracle = table(UNEQUAL)
    with pytest.raises(
        ValueError, match=r"TokenAncestral needs a schedule, as in TokenAncestral\(schedule=model.schedule\)"
    ):
        TokenAncestral()(oracle, blank(oracle, 1))
    with pytest.raises(ValueError, match="the schedule is for 4 token values, the network for 3"):
        TokenFirstHitting(schedule=TokenPolynomial(4))(oracle, blank(oracle, 1))
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        TokenAncestral(steps=0)

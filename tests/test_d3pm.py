"""D3PM: the bound and the reverse process of multinomial diffusion by matrices and enumeration; the auxiliary term."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

import unmask
from oracle import Table
from pretend_device import DEVICE, move, pretend_device
from unmask.forward import mask, randomise, sample_times
from unmask.networks.constrained import Constrained
from unmask.randomness import generators, seeded
from unmask.schedules import Cosine, CosineSignal, Geometric, Linear, Schedule

SCHEDULES = [Linear(), Cosine(), CosineSignal()]


def transition(alpha: Tensor | float, vocab: int) -> Tensor:
    """The matrix of replacement: rows are what was, columns what is."""
    return alpha * torch.eye(vocab, dtype=torch.float64) + (1 - alpha) / vocab * torch.ones(vocab, vocab).double()


class Noised(Table):
    """The exact p(x_i | x_t without i) of a table, for a network that reads replaced tokens: all of them are kept."""

    def __init__(self, vocab_size: int, length: int, schedule: Schedule, steps: int, seed: int = 0) -> None:
        super().__init__(vocab_size, length, seed)
        self.rates = schedule.mask_rate(torch.arange(1, steps + 1).double() / steps)
        self.kept = torch.stack([self.predict(1 - rate) for rate in self.rates]).log()

    def predict(self, alpha: Tensor) -> Tensor:
        q = transition(alpha, self.vocab_size)
        found = torch.zeros(len(self.states), self.shape[0], self.vocab_size, dtype=torch.float64)
        for n, i in itertools.product(range(len(self.states)), range(self.shape[0])):
            weight = self.p.clone()
            for j in range(self.shape[0]):
                weight = weight * (q[self.states[:, j], self.states[n, j]] if j != i else 1)
            found[n, i].index_add_(0, self.states[:, i], weight)
        return found / found.sum(-1, keepdim=True)

    def forward(self, x_t: Tensor, noise: Any = None, label: Any = None, *, at: Any = None) -> Tensor:
        k = (self.rates - noise[:, None]).abs().argmin(1)
        return unmask.pick(self.kept[k, self.index(x_t)], at)


class Wrong(Noised):
    """Predictions of no distribution, which depend on everything."""

    def predict(self, alpha: Tensor) -> Tensor:
        logits = torch.randn(len(self.states), self.shape[0], self.vocab_size, generator=seeded(int(1e6 * alpha)))
        return (2 * logits).double().softmax(-1)


def reverse(net: Noised, schedule: Schedule, steps: int, k: int) -> Tensor:
    """p(x_s,i | x_t) of every x_t, from matrices: Bayes' rule with p̃ in place of x_0 (D3PM, equation 4)."""
    alpha_t, alpha_s = (schedule.alpha(torch.tensor(n / steps).double()) for n in (k, k - 1))
    step, past = transition(alpha_t / alpha_s, net.vocab_size), transition(alpha_s, net.vocab_size)
    joint = step.T[net.states] * (net.kept[k - 1].exp() @ past)
    return joint / joint.sum(-1, keepdim=True)


def bounds(net: Noised, schedule: Schedule, steps: int) -> Tensor:
    """The bound of every x by enumeration of all noised states and steps, each KL from its posterior written out."""
    total = torch.zeros(len(net.states), dtype=torch.float64)
    for k in range(1, steps + 1):
        alpha_t, alpha_s = (schedule.alpha(torch.tensor(n / steps).double()) for n in (k, k - 1))
        step, past, whole = (transition(a, net.vocab_size) for a in (alpha_t / alpha_s, alpha_s, alpha_t))
        p = reverse(net, schedule, steps, k)
        for n, x in enumerate(net.states):
            q_x_t = whole[x, net.states].prod(1)
            q = step.T[net.states] * past[x]
            q = q / q.sum(-1, keepdim=True)
            kl = torch.where(q > 0, q * (q.clamp(min=1e-300).log() - p.log()), 0).sum((1, 2))
            total[n] += (q_x_t * kl).sum()
    return total


def model_probabilities(net: Noised, schedule: Schedule, steps: int) -> Tensor:
    """p(x_0) of the reverse process by multiplying its transition matrices."""
    p = torch.full((len(net.states),), 1 / len(net.states), dtype=torch.float64)
    for k in range(steps, 0, -1):
        each = reverse(net, schedule, steps, k)
        matrix = torch.stack([each[:, i, net.states[:, i]] for i in range(net.shape[0])]).prod(0)
        p = p @ matrix
    return p


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("steps", [1, 4])
def test_each_estimate_is_the_divergence_of_categorical_distributions(schedule: Schedule, steps: int) -> None:
    net = Wrong(3, 2, schedule, steps)
    x = net.states.repeat(6, 1)
    given = torch.zeros_like(x, dtype=torch.bool)
    given[::3, 0] = True
    for known in (None, given):
        k = (steps * sample_times(len(x), generator=seeded(1))).ceil()
        x_t = randomise(x, k / steps, schedule, 3, given=known, generator=after_times(1, len(x)))
        expected = torch.zeros(x.shape, dtype=torch.float64)
        for n in range(len(x)):
            alpha_t, alpha_s = (schedule.alpha(torch.tensor(float(m) / steps).double()) for m in (k[n], k[n] - 1))
            step, past = transition(alpha_t / alpha_s, 3), transition(alpha_s, 3)
            q = step.T[x_t[n]] * past[x[n]]
            q = q / q.sum(-1, keepdim=True)
            p = reverse(net, schedule, steps, int(k[n]))[net.index(x_t[n : n + 1])[0]]
            expected[n] = steps * torch.where(q > 0, q * (q.clamp(min=1e-300).log() - p.log()), 0).sum(1)
        expected = expected if known is None else expected.masked_fill(known, 0)
        found = unmask.UniformELBO(schedule, steps)(net, x, given=known, generator=seeded(1))
        torch.testing.assert_close(found.parts, expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.nelbo, expected.sum(1), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.loss, expected.sum() / len(x), rtol=1e-9, atol=1e-11)


def after_times(seed: int, batch: int) -> torch.Generator:
    """Return a generator that has drawn the times of a batch."""
    generator = seeded(seed)
    sample_times(batch, generator=generator)
    return generator


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_bound_is_tight_for_the_exact_posterior_of_one_token(schedule: Schedule, steps: int) -> None:
    net = Noised(4, 1, schedule, steps)
    torch.testing.assert_close(bounds(net, schedule, steps), -net.p.log(), rtol=1e-10, atol=1e-10)


def test_the_bound_is_tight_for_exact_posteriors_with_many_steps() -> None:
    """Positions are drawn independently in a step, which costs O(1 / T): the only gap, and it is above −log p."""
    gaps = []
    for steps in (8, 16, 32):
        net = Noised(3, 2, Linear(), steps)
        gaps.append(float((net.p * (bounds(net, Linear(), steps) + net.p.log())).sum()))
    assert 0 < gaps[2] < 0.02 and gaps[0] / gaps[1] > 1.7 and gaps[1] / gaps[2] > 1.8
    means = torch.stack(
        [
            unmask.UniformELBO(Linear(), 32)(net, net.states.repeat(200, 1), generator=seeded(i))
            .nelbo.view(200, -1)
            .mean(0)
            for i in range(20)
        ]
    )
    z = (means.mean(0) - bounds(net, Linear(), 32)) / (means.std(0) / 20**0.5)
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_bound_is_above_what_the_model_says(schedule: Schedule) -> None:
    for net in (Wrong(3, 2, schedule, 4), Noised(3, 2, schedule, 4)):
        p = model_probabilities(net, schedule, 4)
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)
        assert (bounds(net, schedule, 4) > -p.log()).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_samples_have_the_distribution(schedule: Schedule) -> None:
    """That of the model that the bound is of, with few steps; with many, that of the data."""
    n = 20_000
    for net in (Wrong(3, 2, schedule, 4), Noised(3, 2, schedule, 4)):
        x = unmask.UniformAncestral(schedule, 4)(net, torch.full((n, 2), 3), generator=seeded(0))
        expected = n * model_probabilities(net, schedule, 4)
        assert stats.chisquare(net.index(x).bincount(minlength=9).numpy(), expected.numpy()).pvalue > 1e-3
    many = Noised(3, 2, schedule, 64)
    x = unmask.UniformAncestral(schedule, 64)(many, torch.full((4000, 2), 3), generator=seeded(1))
    assert stats.chisquare(many.index(x).bincount(minlength=9).numpy(), (4000 * many.p).numpy()).pvalue > 1e-3


def small(**settings: Any) -> unmask.Transformer:
    torch.manual_seed(0)
    net = unmask.Transformer(5, (8,), width=16, depth=1, heads=2, time_conditioning=True, **settings).eval()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    return net


@pytest.mark.parametrize("beta_max", [20.0, 100.0])
def test_a_schedule_that_loses_everything_long_before_the_end(beta_max: float) -> None:
    network, schedule = unmask.Transformer(5, (6,), width=8, depth=1, heads=1).eval(), Geometric(beta_max=beta_max)
    x = torch.randint(5, (200, 6), generator=seeded(0))
    bound = unmask.UniformELBO(schedule, steps=1000)(network, x, generator=seeded(1)).nelbo
    assert bound.isfinite().all() and bound.mean().item() == pytest.approx(6 * math.log(5), rel=0.1)
    drawn = unmask.UniformAncestral(schedule, steps=50)(network, torch.full((4, 6), 5), generator=seeded(2))
    assert (drawn < 5).all()


def test_gradients_are_those_of_the_formula() -> None:
    net, x, schedule, steps = small().double(), torch.randint(5, (6, 8), generator=seeded(0)), Cosine(), 10
    k = (steps * sample_times(6, generator=seeded(2))).ceil()
    x_t = randomise(x, k / steps, schedule, 5, generator=after_times(2, 6))
    p = net(x_t, schedule.mask_rate(k / steps)).softmax(-1)
    loss = torch.zeros((), dtype=torch.float64)
    for n in range(6):
        alpha_t, alpha_s = (schedule.alpha(m / steps) for m in (k[n], k[n] - 1))
        step, past = transition(alpha_t / alpha_s, 5), transition(alpha_s, 5)
        q, joint = step.T[x_t[n]] * past[x[n]], step.T[x_t[n]] * (p[n] @ past)
        q, joint = q / q.sum(-1, keepdim=True), joint / joint.sum(-1, keepdim=True)
        loss = loss + steps * torch.where(q > 0, q * (q.clamp(min=1e-300).log() - joint.log()), 0).sum() / 6
        loss = loss - steps * 0.01 * p[n].log().gather(1, x[n, :, None]).sum() / 6
    found = unmask.UniformELBO(schedule, steps, auxiliary=0.01)(net, x, generator=seeded(2)).loss
    torch.testing.assert_close(found, loss)
    parameters = list(net.parameters())
    ours, plain = (torch.autograd.grad(part, parameters) for part in (found, loss))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_absorbing_with_the_auxiliary_term() -> None:
    net, x, steps = small().double(), torch.randint(5, (6, 8), generator=seeded(0)), 10
    given = torch.arange(8).expand(6, -1) < 2
    for known in (None, given):
        plain = unmask.DiscreteELBO(Linear(), steps)(net, x, given=known, generator=seeded(1))
        found = unmask.HybridELBO(Linear(), steps, auxiliary=0.01)(net, x, given=known, generator=seeded(1))
        torch.testing.assert_close(found.nelbo, plain.nelbo)
        k = (steps * sample_times(6, generator=seeded(1))).ceil()
        x_t = mask(x, k / steps, Linear(), 5, given=known, generator=after_times(1, 6))
        nll = -net(x_t, k / steps).log_softmax(-1).gather(2, x.unsqueeze(2)).squeeze(2)
        extra = 0.01 * steps * (nll * (x_t == 5)).sum() / 6
        torch.testing.assert_close(found.loss, plain.loss + extra)
    net.zero_grad()
    unmask.HybridELBO(auxiliary=0.0)(net, x, generator=seeded(0)).loss.backward()
    one = net.head.weight.grad.clone()  # type: ignore[union-attr]
    net.zero_grad()
    unmask.DiscreteELBO()(net, x, generator=seeded(0)).loss.backward()
    torch.testing.assert_close(one, net.head.weight.grad)


def test_the_auxiliary_bound_is_tight_for_exact_posteriors() -> None:
    """Of the absorbing kind: with as many steps as it takes that no two tokens come together."""
    table, steps = Table(3, 1), 5
    exact = torch.zeros(3, dtype=torch.float64)
    for k in range(1, steps + 1):  # one token: masked at k / T, and its cross-entropy is −log p
        exact += (k / steps) * (1 / k) * -table.p.log()
    torch.testing.assert_close(exact, -table.p.log())
    x = table.states.repeat(20 * steps, 1)
    found = unmask.HybridELBO(Linear(), steps)(table, x, generator=seeded(0)).nelbo.view(-1, 3).mean(0)
    torch.testing.assert_close(found, -table.p.log(), rtol=0.15, atol=0.0)


SAMPLERS = [
    unmask.UniformAncestral(CosineSignal(), 6),
    unmask.UniformAncestral(Linear(), 4, temperature=0.7, top_k=3),
    unmask.UniformAncestral(Linear(), 4, "cosine", top_p=0.9),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_what_every_sampler_does(sampler: unmask.UniformAncestral) -> None:
    net, x = small(), torch.full((4, 8), 5)
    drawn = sampler(net, x, generator=generators(0, 4))
    assert (drawn < 5).all()
    assert torch.equal(sampler(net, x[1:3], generator=generators(0, 2, 1)), drawn[1:3]), "of its generator alone"
    *_, state = sampler.trajectory(net, x, generator=generators(0, 4))
    assert (state.t == 0).all() and (state.calls == sampler.steps).all()  # type: ignore[attr-defined]
    allowed = torch.arange(5) > 2
    assert (sampler(Constrained(net, allowed), x, generator=generators(0, 4)) > 2).all()
    labelled, label = small(classes=2), torch.tensor([0, 1, 2, 0])
    for scale in (0.0, 1.0, 2.0):
        assert (replace(sampler, guidance=scale)(labelled, x, label, generator=generators(0, 4)) < 5).all()
    prompt = x.clone()
    prompt[1, :3] = 1
    with pytest.raises(ValueError, match="example 1: position 0 is known, but the model draws whole examples"):
        sampler(net, prompt)
    for allowing in (replace(sampler, known=True), replace(sampler, filling=(1,))):
        assert (allowing(net, prompt, generator=seeded(0))[1, :3] == 1).all()
    net.head.bias.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match="step 1: "):
        sampler(net, x)


@pytest.fixture
def waits() -> Iterator[Counter[str]]:
    with pretend_device() as counted:
        yield counted


def test_on_a_device_nothing_waits_for_it(waits: Counter[str]) -> None:
    x = torch.full((4, 8), 5)
    for sampler in SAMPLERS:
        expected = sampler(small(), x, generator=generators(0, 4))
        found = sampler(move(small()), x.to(DEVICE), generator=generators(0, 4))
        assert torch.equal(found.values, expected)  # type: ignore[attr-defined]
    counted = []
    for steps in (4, 16):
        net, there = move(small()), x.to(DEVICE)
        net(there, torch.ones(4, device=DEVICE))
        waits.clear()
        unmask.UniformAncestral(Linear(), steps)(net, there, generator=seeded(0, device=DEVICE))
        counted.append(waits.total())
    assert counted[0] == counted[1] <= 20, waits
    tokens = torch.randint(5, (4, 8), generator=seeded(0)).to(DEVICE)
    for _ in range(2):
        waits.clear()
        unmask.UniformELBO(steps=10)(net.train(), tokens, generator=seeded(0, device=DEVICE)).loss.backward()
    assert not waits


def test_a_model_of_replaced_tokens(tmp_path: Path) -> None:
    codec = unmask.Characters("abcde")
    objective = unmask.UniformELBO(CosineSignal(), 12)
    model = unmask.MaskedDiffusion(small(), codec, objective.process).eval()
    assert model.kind == "uniform" and model.fit_objective() == objective
    assert model.fit_sampler() == unmask.UniformAncestral(CosineSignal(), 12)
    assert model.fit_sampler(unmask.UniformAncestral(steps=3)) == unmask.UniformAncestral(CosineSignal(), 3)
    model.save_pretrained(tmp_path / "m")
    assert "whose tokens are replaced" in (tmp_path / "m" / "README.md").read_text()
    again = unmask.load(tmp_path / "m")
    x = torch.randint(5, (6, 8), generator=seeded(0))
    torch.testing.assert_close(again.nelbo(x, generator=seeded(1)), model.nelbo(x, generator=seeded(1)))
    assert torch.equal(again.sample(2, generator=seeded(0)), model.sample(2, generator=seeded(0)))
    what = "this model is not a masked one, its tokens are replaced by random ones, not masked"
    with pytest.raises(ValueError, match=f"{what}: its objective is UniformELBO, got TimeFreeELBO"):
        model.nelbo(x, objective=unmask.TimeFreeELBO())
    with pytest.raises(ValueError, match=f"{what}: its sampler is UniformAncestral, got FirstHitting"):
        model.sample(1, sampler=unmask.FirstHitting())
    with pytest.raises(ValueError, match="position 0 is known"):
        model.infill(torch.tensor([[1, 5, 5, 5, 5, 5, 5, 5]]))
    with pytest.raises(ValueError, match="a text of 4 tokens, not the 8 of its training, is not for this model"):
        model.sample(1, length=4)
    masked = unmask.MaskedDiffusion(small(), codec)
    for wrong in (lambda: masked.nelbo(x, objective=objective), lambda: masked.sample(1, sampler=SAMPLERS[0])):
        with pytest.raises(ValueError, match="is not for this model, but for one of another kind: its tokens are rep"):
            wrong()
    with pytest.raises(ValueError, match="Ancestral needs a schedule of masks"):
        unmask.Ancestral(model.schedule)
    with pytest.raises(ValueError, match="UniformAncestral needs a schedule"):
        unmask.UniformAncestral()(small(), torch.full((1, 8), 5))
    with pytest.raises(ValueError, match="auxiliary must be at least 0"):
        unmask.UniformELBO(auxiliary=math.inf)

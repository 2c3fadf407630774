"""Gaussian diffusion of embeddings: its bound by quadrature, its gradients, its samples, and what it is not for."""

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
from torch import Tensor, nn

import unmask
from oracle import MarkovChain
from pretend_device import DEVICE, move, pretend_device
from unmask.networks.constrained import Constrained
from unmask.networks.gaussian import LearnedNoise, VectorNetwork
from unmask.objectives.gaussian import GaussianELBO
from unmask.randomness import generators, seeded
from unmask.samplers.gaussian import GaussianAncestral


class Exact(VectorNetwork):
    """The posterior of a known distribution; or, with `off`, a prediction that is wrong by some function of z."""

    def __init__(self, p: Tensor, table: Tensor, off: float = 0.0, hidden: int = 8) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.shape = *table.shape, (p.dim(),)
        self.log_p, self.off = p.double().log(), off
        self.states = torch.tensor(list(itertools.product(range(self.vocab_size), repeat=p.dim())))
        torch.manual_seed(0)
        self.table, self.noise = nn.Parameter(table.double()), LearnedNoise(-2.5, 5.0, hidden).double()

    def embeddings(self) -> Tensor:
        return nn.functional.normalize(self.table, dim=1)

    def denoise(self, z: Tensor, gamma: Tensor, *_: Any, **__: Any) -> Tensor:
        score = (torch.sigmoid(-gamma).sqrt() / torch.sigmoid(gamma)).view(-1, 1, 1) * (z @ self.embeddings().T)
        each = sum((score[:, i, self.states[:, i]] for i in range(self.shape[0])), self.log_p.flatten())
        one_hot = nn.functional.one_hot(self.states, self.vocab_size).double()
        p = torch.einsum("bs,slv->blv", each.softmax(-1), one_hot)
        return p.clamp(min=1e-300).log() + self.off * torch.sin(
            2 * z.sum(-1, keepdim=True) + torch.arange(self.vocab_size)
        )


def pair(p: float = 0.3, **settings: Any) -> Exact:
    """One token of two values, one-dimensional vectors +1 and −1."""
    return Exact(torch.tensor([p, 1 - p]), torch.tensor([[1.0], [-1.0]]), **settings)


def triples(**settings: Any) -> Exact:
    """Two tokens of three values, correlated, in the plane."""
    p = torch.rand(3, 3, generator=seeded(0)) ** 2
    angle = torch.tensor([0.0, 1.9, 4.0])
    return Exact(p / p.sum(), torch.stack((angle.cos(), angle.sin()), 1), **settings)


def hermite(count: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def legendre(count: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def quadrature(net: Exact, x: int, times: int = 60, points: int = 60) -> Tensor:
    """The bound of a single token, with γ as the variable of integration: the shape of the schedule is not in it."""
    nodes, weights = hermite(points)
    eps = torch.cartesian_prod(*[nodes] * net.dim).view(-1, net.dim)
    weight = torch.cartesian_prod(*[weights] * net.dim).view(-1, net.dim).prod(1)
    table = net.embeddings()
    e, (first, last) = table[x], net.noise.ends

    def predict(gamma: Tensor) -> Tensor:
        z = torch.sigmoid(-gamma).sqrt() * e + torch.sigmoid(gamma).sqrt() * eps
        return net.denoise(z.unsqueeze(1), gamma.expand(len(z))).squeeze(1).log_softmax(-1)

    total = -(weight * predict(first)[:, x]).sum()
    signal, variance = torch.sigmoid(-last), torch.sigmoid(last)
    total = total + 0.5 * (signal * e.square().sum() + net.dim * (variance - 1 - variance.log()))
    for place, share in zip(*legendre(times), strict=True):
        gamma = first + (last - first) * place
        error = (e - predict(gamma).exp() @ table).square().sum(-1)
        total = total + 0.5 * share * (last - first) * (-gamma).exp() * (weight * error).sum()
    return total


def test_the_noise_schedule_rises_from_end_to_end() -> None:
    noise = LearnedNoise(-3.0, 6.0).double()
    t = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    shape, slope = noise.shape(t)
    assert shape[0] == 0 and shape[-1] == 1 and (shape.diff() > 0).all()
    assert noise(t)[0] == -3 and noise(t)[-1] == 6
    torch.testing.assert_close(torch.autograd.grad(shape.sum(), t)[0], slope)


@pytest.mark.parametrize("off", [0.0, 0.8])
@pytest.mark.parametrize("x", [0, 1])
def test_the_bound_is_that_of_quadrature(x: int, off: float) -> None:
    """Its terms at the nodes of a quadrature in t and ε; and the average of what it draws."""
    net, objective = pair(off=off), GaussianELBO(0.2)
    (nodes, weights), (times, shares) = hermite(60), legendre(200)
    t, eps = (part.flatten() for part in torch.meshgrid(times, nodes, indexing="ij"))
    tokens = torch.full((len(t), 1), x)
    with torch.no_grad():
        expected = quadrature(net, x)
        none = torch.zeros(len(t), dtype=torch.bool)
        later = objective.terms(net, tokens, None, none, t, eps.view(-1, 1, 1)).nelbo
        zero = torch.zeros(60).double()
        first = objective.terms(net, tokens[:60], None, ~none[:60], zero, nodes.view(-1, 1, 1)).nelbo
        found = 0.2 * (weights * first).sum() + 0.8 * (torch.outer(shares, weights).flatten() * later).sum()
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
        drawn = objective(net, torch.full((40_000, 1), x), generator=seeded(0)).nelbo.view(200, 200).mean(0)
    assert abs(float(drawn.mean() - expected)) < 4 * float(drawn.std()) / 200**0.5


def test_the_bound_is_tight_for_the_exact_posterior() -> None:
    """On average over x it is the entropy plus KL(q(z_1) || N(0, 1)), the prior's own error."""
    net = pair()
    with torch.no_grad():
        mean = sum(float(p) * float(quadrature(net, x)) for x, p in enumerate((0.3, 0.7)))
        z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
        alpha, sigma = torch.sigmoid(-net.noise.ends[1]).sqrt(), torch.sigmoid(net.noise.ends[1]).sqrt()
        normal = torch.distributions.Normal(0.0, 1.0)
        q = 0.3 * torch.distributions.Normal(alpha, sigma).log_prob(z).exp()
        q = q + 0.7 * torch.distributions.Normal(-alpha, sigma).log_prob(z).exp()
        kl = float((q * (q.log() - normal.log_prob(z))).nan_to_num().sum() * (z[1] - z[0]))
    entropy = -sum(p * math.log(p) for p in (0.3, 0.7))
    assert 0 < kl < 1e-2
    assert mean == pytest.approx(entropy + kl, abs=1e-6)


def grid_probabilities(net: Exact, steps: int) -> Tensor:
    """p(x) of the reverse process of one token in T steps, its density carried along on a grid."""
    z = torch.linspace(-5, 5, 601, dtype=torch.float64)
    width, density = z[1] - z[0], torch.distributions.Normal(0.0, 1.0).log_prob(z).exp()
    gamma = net.noise(torch.arange(steps, -1, -1).double() / steps)
    for now, then in itertools.pairwise(gamma):
        c = 1 - (then - now).exp()
        p = net.denoise(z.view(-1, 1, 1), now.expand(len(z))).softmax(-1).squeeze(1)
        mean = torch.sigmoid(-then).sqrt() * (
            (1 - c) * z / torch.sigmoid(-now).sqrt() + c * (p @ net.embeddings()).squeeze(1)
        )
        step = torch.distributions.Normal(mean, (torch.sigmoid(then) * c).sqrt())
        density = width * density @ step.log_prob(z.unsqueeze(1)).exp().T
    p = net.denoise(z.view(-1, 1, 1), gamma[-1].expand(len(z))).softmax(-1).squeeze(1)
    return width * density @ p


@pytest.mark.parametrize("off", [0.0, 0.8, -1.5])
def test_the_bound_is_above_what_the_model_says(off: float) -> None:
    net = pair(off=off)
    with torch.no_grad():
        few, p = (grid_probabilities(net, steps) for steps in (24, 48))
        bound = torch.stack([quadrature(net, x) for x in (0, 1)])
    assert float(p.sum()) == pytest.approx(1, abs=1e-4)
    gap = bound + (2 * p - few).log()  # of infinitely many steps: the error of T is O(1 / T)
    assert (gap > -0.005).all()
    assert off == 0 or (gap > 0.005).all()


def test_gradients_are_those_of_the_bound_and_of_the_variance() -> None:
    """In the embeddings and the ends of the schedule, of the bound; in its shape, of E[ℓ²] / (2 E[ℓ])."""
    net = Exact(torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.2], [-0.3, 0.9]]), off=2.5, hidden=3)
    net.noise.ends.data[:] = torch.tensor([-1.0, 3.0])
    inner = [net.table, net.noise.ends]
    shape = [net.noise.slopes, net.noise.shifts, net.noise.weights]
    bound = 0.4 * quadrature(net, 0, 30, 16) + 0.6 * quadrature(net, 1, 30, 16)
    expected = torch.autograd.grad(bound, inner)

    nodes, weights = hermite(16)
    eps, weight = torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(weights, weights).prod(1)
    square = mean = torch.zeros((), dtype=torch.float64)
    objective = GaussianELBO(0.25)
    for x, p in ((0, 0.4), (1, 0.6)):
        for place, share in zip(*legendre(30), strict=True):
            (tilde,), (slope,) = net.noise.shape(place.view(1))
            first, last = net.noise.ends.detach()
            gamma = first + (last - first) * tilde
            table = net.embeddings().detach()
            z = torch.sigmoid(-gamma).sqrt() * table[x] + torch.sigmoid(gamma).sqrt() * eps
            p_v = net.denoise(z.unsqueeze(1), gamma.expand(len(z))).squeeze(1).softmax(-1)
            error = (table[x] - p_v @ table).square().sum(-1)
            each = 0.5 * (last - first) * slope * (-gamma).exp() * error / 0.75
            square = square + 0.75 * p * share * (weight * each**2).sum()
            mean = mean + 0.75 * p * share * (weight * each).sum()
    expected += torch.autograd.grad(square / (2 * mean.detach()), shape)

    rounds: list[list[Tensor]] = []
    for i in range(40):
        x = (torch.rand(3000, 1, generator=seeded(i, 1)) < 0.6).long()
        loss = objective(net, x, generator=seeded(i)).loss
        rounds.append([part.flatten() for part in torch.autograd.grad(loss, [*inner, *shape])])
    for n, part in enumerate(expected):
        found = torch.stack([one[n] for one in rounds])
        error = found.std(0) / 40**0.5
        assert ((found.mean(0) - part.flatten()).abs() < 4.5 * error + 1e-6).all(), n
        assert (part.flatten().abs() > 5 * error).any(), "there is something to see"


def test_samples_have_the_distribution() -> None:
    """That of the model in few steps, by the density on a grid; with many steps, that of the data."""
    n, canvas = 20_000, torch.full((20_000, 1), 2)
    for net in (pair(), pair(off=-1.5)):
        x = GaussianAncestral(steps=3)(net, canvas, generator=seeded(0))
        with torch.no_grad():
            p = grid_probabilities(net, 3)
        assert stats.chisquare(x.flatten().bincount(minlength=2).numpy(), (n * p / p.sum()).numpy()).pvalue > 1e-3
    many = triples()
    x = GaussianAncestral(steps=100)(many, torch.full((4000, 2), 3), generator=seeded(1))
    p = many.log_p.exp().flatten()
    observed = (x @ torch.tensor([3, 1])).bincount(minlength=9)
    assert stats.chisquare(observed.numpy(), (4000 * p / p.sum()).numpy()).pvalue > 1e-3


def small(**settings: Any) -> unmask.GaussianTransformer:
    torch.manual_seed(0)
    net = unmask.GaussianTransformer(5, (6,), width=16, depth=1, heads=2, dim=4, **settings).eval()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    for parameter in net.modulation.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.3)
    if net.embed_estimate is not None:
        torch.nn.init.normal_(net.embed_estimate.weight)
    return net


class Watched(unmask.GaussianTransformer):
    """Keeps what it is asked."""

    def denoise(self, z: Tensor, gamma: Tensor, label: Any = None, estimate: Any = None, frozen: Any = None) -> Tensor:
        logits = super().denoise(z, gamma, label, estimate, frozen)
        self.asked = [*getattr(self, "asked", []), (z, gamma, estimate, frozen, logits)]
        return logits


def test_given_tokens_have_their_own_vectors_and_are_not_counted() -> None:
    net = Watched(5, (6,), width=16, depth=1, heads=2, dim=4).eval()
    x, given = torch.randint(5, (8, 6), generator=seeded(0)), torch.arange(6).expand(8, -1) < 2
    found = GaussianELBO()(net, x, given=given, generator=seeded(1))
    ((z, *_),) = net.asked
    torch.testing.assert_close(z[:, :2], net.embeddings()[x[:, :2]])
    assert (found.parts[:, :2] == 0).all() and (found.parts[:, 2:] > 0).all()
    torch.testing.assert_close(found.loss, found.nelbo.mean())
    net.asked = []
    canvas = torch.where(given, x, 5)
    drawn = GaussianAncestral(steps=3, known=True)(net, canvas, generator=seeded(2))
    assert torch.equal(drawn[:, :2], x[:, :2])
    assert all(torch.equal(z[:, :2], net.embeddings()[x[:, :2]]) for z, *_ in net.asked)


def test_self_conditioning() -> None:
    """Measured: every example is given the estimate of a first call; trained: every fourth, without other gradients."""
    net = Watched(5, (6,), width=16, depth=1, heads=2, dim=4, self_conditioning=True)
    torch.nn.init.normal_(net.embed_estimate.weight)  # type: ignore[union-attr]
    torch.nn.init.normal_(net.head.weight)
    x = torch.randint(5, (8, 6), generator=seeded(0))
    GaussianELBO()(net.eval(), x, generator=seeded(1))
    (z, _, none, _, logits), (again, _, estimate, frozen, _) = net.asked
    assert torch.equal(z, again) and none is None and frozen is None
    torch.testing.assert_close(estimate, logits.softmax(-1) @ net.embeddings())
    net.asked = []
    GaussianELBO()(net.train(), x, generator=seeded(1))
    (few, _, none, _, logits), (z, gamma, estimate, frozen, _) = net.asked
    assert torch.equal(few, z[3::4]) and none is None
    assert frozen.tolist() == [False, False, False, True] * 2  # type: ignore[union-attr]
    torch.testing.assert_close(estimate[3::4], logits.softmax(-1) @ net.embeddings())
    assert (estimate[frozen.logical_not()] == 0).all()
    for part in (z, gamma):
        table, ends = torch.autograd.grad(
            part[3::4].sum(), [net.table, net.noise.ends], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert (table == 0).all() and (ends == 0).all()
    assert net.passes == 2 and small().passes == 1
    net.asked = []
    GaussianAncestral(steps=4)(net.eval(), torch.full((2, 6), 5), generator=seeded(0))
    assert len(net.asked) == 5 and net.asked[0][2] is None
    torch.testing.assert_close(net.asked[1][2], net.asked[0][4].softmax(-1) @ net.embeddings())
    net.asked = []
    *_, state = GaussianAncestral(steps=4, fresh=True).trajectory(net, torch.full((2, 6), 5), generator=seeded(0))
    assert len(net.asked) == 10 and (state.calls == 10).all()  # type: ignore[attr-defined]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(net.asked[::2], net.asked[1::2], strict=True))


def test_a_markov_chain_is_learned() -> None:
    chain = MarkovChain(3, 6)
    torch.manual_seed(0)
    net = unmask.GaussianTransformer(3, (6,), width=32, depth=1, heads=2, dim=4)
    model = unmask.MaskedDiffusion(net, unmask.Symbols(3))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    generator = seeded(0)
    for _ in range(100):
        GaussianELBO()(net, chain.sample(64, generator), generator=generator).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    x = chain.sample(500, generator)
    gap = model.eval().nelbo(x, generator=generator) + chain.log_prob(x)
    error = float(gap.std() / len(gap) ** 0.5)
    assert -3 * error < float(gap.mean()) < 1.5, "nats of 6 tokens above the entropy; 3.3 at first"
    assert (net.noise.ends - torch.tensor([-3.0, 6.0])).abs().min() > 0.01, "the ends are learned"
    drawn = model.sample(300, sampler=GaussianAncestral(steps=20), generator=generator)
    independent = torch.randint(3, (300, 6), generator=generator)
    nats = [-float(chain.log_prob(part).mean()) for part in (drawn, independent, x)]
    assert nats[0] < nats[2] + 0.35 * (nats[1] - nats[2]), "the samples are closer to the chain's than to chance"


SAMPLERS = [
    GaussianAncestral(steps=4),
    GaussianAncestral(steps=3, temperature=0.7, top_k=3),
    GaussianAncestral(steps=3, fresh=True, top_p=0.9),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_what_every_sampler_does(sampler: GaussianAncestral) -> None:
    net, x = small(self_conditioning=sampler.fresh), torch.full((4, 6), 5)
    drawn = sampler(net, x, generator=generators(0, 4))
    assert (drawn < 5).all()
    assert torch.equal(sampler(net, x[1:3], generator=generators(0, 2, 1)), drawn[1:3]), "of its generator alone"
    allowed = torch.arange(5) > 2
    assert (sampler(Constrained(net, allowed), x, generator=generators(0, 4)) > 2).all()
    by_position = torch.arange(30).view(6, 5) % 2 > 0
    found = sampler(Constrained(net, by_position), x, generator=generators(0, 4))
    assert by_position[torch.arange(6), found].all()
    labelled, label = small(classes=2), torch.tensor([0, 1, 2, 0])
    for scale in (0.0, 1.0, 2.0):
        assert (replace(sampler, guidance=scale)(labelled, x, label, generator=generators(0, 4)) < 5).all()
    prompt = x.clone()
    prompt[1, :3] = 1
    with pytest.raises(ValueError, match="example 1: position 0 is known, but the model draws whole examples"):
        sampler(net, prompt)
    net.head.bias.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match="step 1: "):
        sampler(net, x)


@pytest.fixture
def waits() -> Iterator[Counter[str]]:
    with pretend_device() as counted:
        yield counted


def test_on_a_device_nothing_waits_for_it(waits: Counter[str]) -> None:
    x = torch.full((4, 6), 5)
    for sampler in SAMPLERS:
        expected = sampler(small(), x, generator=generators(0, 4))
        found = sampler(move(small()), x.to(DEVICE), generator=generators(0, 4))
        assert torch.equal(found.values, expected)  # type: ignore[attr-defined]
    counted = []
    for steps in (4, 16):
        net, there = move(small()), x.to(DEVICE)
        GaussianAncestral(steps=1)(net, there, generator=seeded(0, device=DEVICE))
        waits.clear()
        GaussianAncestral(steps=steps)(net, there, generator=seeded(0, device=DEVICE))
        counted.append(waits.total())
    assert counted[0] == counted[1] <= 20, waits
    tokens = torch.randint(5, (4, 6), generator=seeded(0)).to(DEVICE)
    net = move(small(self_conditioning=True).train())
    for _ in range(2):
        waits.clear()
        GaussianELBO()(net, tokens, generator=seeded(0, device=DEVICE)).loss.backward()
    assert not waits


def test_a_model_of_vectors(tmp_path: Path) -> None:
    codec = unmask.Characters("abcde")
    model = unmask.MaskedDiffusion(small(), codec).eval()
    assert model.kind == "vectors" and model.fit_objective() == GaussianELBO()
    assert model.fit_sampler() == GaussianAncestral()
    model.save_pretrained(tmp_path / "m")
    assert "A Gaussian diffusion model of embeddings" in (tmp_path / "m" / "README.md").read_text()
    again = unmask.load(tmp_path / "m")
    x = torch.randint(5, (6, 6), generator=seeded(0))
    torch.testing.assert_close(again.nelbo(x, generator=seeded(1)), model.nelbo(x, generator=seeded(1)))
    few = GaussianAncestral(steps=4)
    one, other = (found.sample(2, sampler=few, generator=seeded(0)) for found in (again, model))
    assert torch.equal(one, other)
    what = "this model is not a masked one, its tokens are vectors with noise, not masked"
    with pytest.raises(ValueError, match=f"{what}: its objective is GaussianELBO, got TimeFreeELBO"):
        model.nelbo(x, objective=unmask.TimeFreeELBO())
    with pytest.raises(ValueError, match=f"{what}: its sampler is GaussianAncestral, got FirstHitting"):
        model.sample(1, sampler=unmask.FirstHitting())
    with pytest.raises(ValueError, match="position 0 is known"):
        model.infill(torch.tensor([[1, 5, 5, 5, 5, 5]]))
    with pytest.raises(ValueError, match="a text of 4 tokens, not the 6 of its training, is not for this model"):
        model.sample(1, length=4)
    with pytest.raises(ValueError, match="reads noisy vectors, not tokens"):
        small()(x)
    with pytest.raises(ValueError, match="such as GaussianTransformer; Transformer reads tokens"):
        GaussianELBO()(unmask.Transformer(5, (6,), width=16, depth=1, heads=2), x)
    with pytest.raises(ValueError, match="a network that reads noisy vectors has no schedule"):
        unmask.MaskedDiffusion(small(), codec, unmask.TokenPolynomial(5))
    with pytest.raises(ValueError, match="reconstruction must be in"):
        GaussianELBO(1.0)

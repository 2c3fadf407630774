"""Left-to-right models: their likelihood is exact, their samples have the distribution that it says, on every path."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

import unmask
from oracle import MarkovChain
from pretend_device import DEVICE, DeviceTensor, move, pretend_device
from unmask.networks.constrained import Constrained
from unmask.networks.layers import attend, rotate
from unmask.networks.reading import Rereading, start_reading
from unmask.objectives.estimate import draw_loss
from unmask.randomness import generators, seeded
from unmask.samplers.base import State

V = 3
KINDS: dict[str, dict[str, Any]] = {
    "text": dict(shape=(5,)),
    "absolute positions": dict(shape=(5,), absolute_positions=True),
    "labelled": dict(shape=(4,), classes=2),
    "labelled image": dict(shape=(2, 2, 1), classes=2, absolute_positions=True),
    "convolutions": dict(shape=(5,), convolution=3),
}


def network(kind: str = "text", **settings: Any) -> unmask.CausalTransformer:
    """A small network in float64 with random weights everywhere, the ones that start at zero too."""
    made = unmask.CausalTransformer(V, **{"width": 16, "depth": 2, "heads": 2} | KINDS[kind] | settings).double()
    generator = seeded(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return made.eval()


def label_of(net: unmask.Network, count: int, value: int = 1) -> Tensor | None:
    return None if net.classes is None else torch.full((count,), value)


def every_example(dims: tuple[int, ...]) -> Tensor:
    states = itertools.product(range(V), repeat=torch.Size(dims).numel())
    return torch.tensor(list(states)).view(-1, *dims)


def probabilities(net: unmask.Network, label: int = 1) -> Tensor:
    """Return p(x) of every example, in the order of `every_example`."""
    x = every_example(net.shape)
    return (-unmask.NextToken()(net, x, label_of(net, len(x), label)).nelbo).exp().detach()


def number(x: Tensor) -> Tensor:
    """Return the place of each example in `every_example`."""
    flat = x.flatten(1)
    return (flat * V ** torch.arange(flat.shape[1] - 1, -1, -1)).sum(1)


def last(sampler: unmask.Sampler, net: unmask.Network, x: Tensor, label: Tensor | None = None, seed: int = 0) -> State:
    *_, state = sampler.trajectory(net, x, label, generator=generators(seed, len(x)))
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_distribution(kind: str) -> None:
    net = network(kind)
    for label in (0, 1, 2):  # 2 is the null label
        p = probabilities(net, label)
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)
        assert p.max() > 3 * p.min(), "random weights predict something"


def plain_logits(net: unmask.CausalTransformer, x: Tensor) -> Tensor:
    """The same network once more, as one would write it in plain torch: the inputs shifted, a triangular mask."""
    batch, length = x.shape
    h = net.embed(torch.cat((torch.full((batch, 1), V), x[:, :-1]), 1))
    angle = torch.arange(length).double().unsqueeze(1) * 10_000.0 ** (-torch.arange(4).double() / 4)
    future = torch.ones(length, length).triu(1).bool()
    for block in net.blocks:
        q, k, v = block.attention.qkv(block.norm1(h)).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        q, k = (rotate(part, angle.cos(), angle.sin()) for part in (q, k))
        weights = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(future, -torch.inf).softmax(-1)
        h = h + block.attention.out((weights @ v).transpose(1, 2).reshape(batch, length, 16))
        a, b = block.mlp.up(block.norm2(h)).chunk(2, -1)
        h = h + block.mlp.out(F.silu(a) * b)
    return net.head(net.norm(h))


@pytest.mark.parametrize("given", [None, 0, 3])
def test_loss_and_gradients_are_those_of_plain_torch(given: int | None) -> None:
    net, x = network(), torch.randint(V, (6, 5), generator=seeded(1))
    known = None if given is None else (torch.arange(5) < given).expand(6, -1)
    loss = unmask.NextToken()(net, x, given=known)
    nll = F.cross_entropy(plain_logits(net, x).transpose(1, 2), x, reduction="none")
    nll = nll if known is None else nll.masked_fill(known, 0)
    torch.testing.assert_close(loss.parts, nll.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.nelbo, nll.sum(1).detach())
    parameters = list(net.parameters())
    ours, plain = (torch.autograd.grad(part, parameters) for part in (loss.loss, nll.sum() / len(x)))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_masked_position_is_exact_and_later_ones_are_undefined(kind: str) -> None:
    net = network(kind)
    x = torch.randint(V, (3, *net.shape), generator=seeded(2))
    label, length = label_of(net, 3), x[0].numel()
    full = net(x, None, label).flatten(1, -2)
    for i in range(length):
        x_t = x.flatten(1).clone()
        x_t[:, i:] = V
        found = net(x_t.view_as(x), None, label).flatten(1, -2)
        torch.testing.assert_close(found[:, : i + 1], full[:, : i + 1])
        assert found[:, i + 1 :].isnan().all()
        x_t[:, i + 1 :] = 0  # a hole
        found = net(x_t.view_as(x), None, label).flatten(1, -2)
        torch.testing.assert_close(found[:, : i + 1], full[:, : i + 1])
        assert found[:, i + 1 :].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_at_is_the_full_output_gathered(kind: str) -> None:
    net = network(kind)
    x = torch.randint(V, (4, *net.shape), generator=seeded(2))
    label, full = label_of(net, 4), net(x, None, label_of(net, 4))
    few, many = torch.zeros_like(x, dtype=torch.bool), torch.ones_like(x, dtype=torch.bool)
    few.flatten(1)[:, 2] = True
    few.flatten(1)[1] = False
    for at in (few, many, ~many):
        for form in (at, unmask.Positions.of(at)):
            torch.testing.assert_close(net(x, None, label, at=form), full[at], rtol=1e-10, atol=1e-10)


def test_bfloat16_on_a_cpu_sees_nothing_of_the_future() -> None:
    q, k, v = torch.randn(3, 2, 2, 9, 8, generator=seeded(0)).unbind(0)
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    exact = F.scaled_dot_product_attention(q, k, v, seen)
    low = (part.bfloat16() for part in (q, k, v))
    torch.testing.assert_close(attend(*low, causal=True).float(), exact, rtol=0, atol=0.03)
    torch.testing.assert_close(attend(q, k, v, causal=True), exact)


@pytest.mark.parametrize("shown", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_distribution(kind: str, shown: int) -> None:
    net, n = network(kind), 20_000
    x = torch.full((n, *net.shape), V)
    x.flatten(1)[:, :shown] = torch.tensor([1, 2])[:shown]
    drawn = unmask.LeftToRight()(net, x, label_of(net, n), generator=seeded(3))
    assert (drawn.flatten(1)[:, :shown] == x.flatten(1)[:, :shown]).all()
    fits = (every_example(net.shape).flatten(1)[:, :shown] == torch.tensor([1, 2])[:shown]).all(1)
    p = probabilities(net)[fits]
    observed = number(drawn).bincount(minlength=len(fits))[fits]
    assert observed.sum() == n
    assert stats.chisquare(observed.numpy(), (n * p / p.sum()).numpy()).pvalue > 1e-3


def test_filters_are_those_of_every_sampler() -> None:
    net = network()
    greedy = last(unmask.LeftToRight(top_k=1), net, torch.full((1, 5), V)).x
    x = torch.full((1, 5), V)
    for i in range(5):
        x[:, i] = net(x)[:, i].argmax(-1)
    assert torch.equal(greedy, x)
    n, p = 20_000, net(torch.full((1, 5), V))[0, 0].softmax(-1).detach()
    sharper = p**2 / (p**2).sum()
    first = unmask.LeftToRight(temperature=0.5)(net, torch.full((n, 5), V), generator=seeded(1))[:, 0]
    assert stats.chisquare(first.bincount(minlength=V).numpy(), (n * sharper).numpy()).pvalue > 1e-3
    two = unmask.LeftToRight(top_p=float(p.sort().values[1:].sum()) - 1e-6)(
        net, torch.full((500, 5), V), generator=seeded(1)
    )
    assert set(two[:, 0].tolist()) == set(p.argsort()[1:].tolist())


SETTINGS = [
    unmask.LeftToRight(),
    unmask.LeftToRight(temperature=0.7, top_k=2),
    unmask.LeftToRight(top_p=0.8),
    unmask.LeftToRight(block_length=2),
    unmask.LeftToRight(block_length=1, stop_at=2),
    unmask.LeftToRight(block_length=2, stop_at=(2, 0)),
]


def prompts(net: unmask.Network, n: int = 12) -> Tensor:
    """A canvas of which example i shows i % 4 tokens, and the last one is whole."""
    x = torch.randint(V, (n, *net.shape), generator=seeded(4))
    flat = x.flatten(1)
    flat[torch.arange(flat.shape[1]) >= torch.arange(n).unsqueeze(1) % 4] = V
    flat[-1] = 1
    return x


@pytest.mark.parametrize("sampler", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing(kind: str, sampler: unmask.LeftToRight) -> None:
    net = network(kind)
    x = prompts(net)
    for guidance in (1.0,) if net.classes is None else (1.0, 0.0, 2.5):
        one = replace(sampler, guidance=guidance)
        with_cache, without = (
            last(replace(one, cache=cache), net, x, label_of(net, len(x))) for cache in (True, False)
        )
        assert torch.equal(with_cache.x, without.x) and torch.equal(with_cache.calls, without.calls)
        assert (with_cache.x < V).all() and (with_cache.t == 0).all()
        assert torch.equal(torch.where(x < V, with_cache.x, V), x), "what is given is kept"
        if not sampler.ends:
            assert torch.equal(with_cache.calls, (1 + (guidance == 2.5)) * (x == V).flatten(1).sum(1))


def test_guidance_is_that_of_every_sampler() -> None:
    net, n = network("labelled"), 5_000
    canvas = torch.full((n, 4), V)
    drawn = unmask.LeftToRight(guidance=2.0)(net, canvas, torch.zeros(n).long(), generator=seeded(5))[:, 0]
    one = torch.full((1, 4), V)
    with_label, without = (net(one, None, torch.tensor([k]))[0, 0] for k in (0, 2))
    p = (2 * with_label - without).softmax(-1).detach()
    assert stats.chisquare(drawn.bincount(minlength=V).numpy(), (n * p).numpy()).pvalue > 1e-3
    with pytest.raises(ValueError, match="guidance 2 needs a label"):
        unmask.LeftToRight(guidance=2.0)(net, canvas)


@pytest.mark.parametrize("by_position", [False, True])
def test_constraints(by_position: bool) -> None:
    net = network(shape=(6,))
    allowed = torch.arange(6 * V).view(6, V) % 4 > 0 if by_position else torch.tensor([True, False, True])
    limited = Constrained(net, allowed)
    x = prompts(limited)
    with_cache, without = (last(unmask.LeftToRight(cache=cache), limited, x).x for cache in (True, False))
    assert torch.equal(with_cache, without)
    assert allowed.expand(6, V)[torch.arange(6), with_cache][x == V].all()


def test_an_example_depends_on_its_generator_alone() -> None:
    net = network(shape=(40,))
    x = torch.full((9, 40), V)
    x[:, :3] = torch.arange(9).unsqueeze(1) % V
    for sampler in (unmask.LeftToRight(), unmask.LeftToRight(stop_at=2, block_length=4)):
        whole = last(sampler, net, x).x
        own = generators(0, 9)
        some = sampler(net, x[3:7], generator=own[3:7])
        assert torch.equal(some, whole[3:7])
        assert torch.equal(whole, last(replace(sampler, block_length=7), net, x).x)


def test_stopping() -> None:
    """What comes after the first end that is drawn is filled; ends that are given stop nothing."""
    net, length = network(shape=(30,)), 30
    x = torch.full((20, length), V)
    x[:, 0] = 2
    whole = last(unmask.LeftToRight(), net, x)
    for block_length in (1, 4, 50):
        stopped = last(unmask.LeftToRight(stop_at=(2, 1), block_length=block_length), net, x)
        for one, other, calls in zip(stopped.x.tolist(), whole.x.tolist(), stopped.calls.tolist(), strict=True):
            end = next((i for i in range(1, length) if other[i] in (1, 2)), length - 1)
            assert one == other[: end + 1] + [2] * (length - 1 - end) and calls == end
        assert (stopped.t == 0).all()
    few = network(shape=(30,))
    few.head.weight.data.zero_()
    few.head.bias.data[:] = torch.tensor([-50.0, 50.0, -50.0])
    read = []
    few.blocks[0].register_forward_hook(lambda module, inputs, out: read.append(len(out)))
    last(unmask.LeftToRight(stop_at=1, block_length=4), few, x)
    assert read == [20] * 4, "examples that have ended leave the batch"


def test_states_go_step_by_step() -> None:
    net = network(shape=(6,))
    states = list(unmask.LeftToRight().trajectory(net, prompts(net), generator=generators(0, 12)))
    for before, after in itertools.pairwise(states):
        revealed = before.x != after.x
        assert (before.x[revealed] == V).all() and revealed.any(0).sum() == 1
        assert torch.equal(after.calls - before.calls, revealed.sum(1))
    hidden = (states[2].x == V).sum(1) / (states[0].x == V).sum(1).clamp(min=1)
    torch.testing.assert_close(states[2].t, hidden.double(), check_dtype=False)


def test_what_does_not_fit_is_refused() -> None:
    net, masked = network(), unmask.Transformer(V, (5,), width=16, depth=1, heads=2)
    hole, canvas = torch.tensor([[0, V, V, V, V], [0, V, V, 1, V]]), torch.full((2, 5), V)
    with pytest.raises(ValueError, match="example 1: position 3 is known, but an unknown one comes before it"):
        unmask.LeftToRight()(net, hole)
    with pytest.raises(ValueError, match="example 1: position 3 is known"):
        unmask.LeftToRight(filling=(1,))(net, hole)
    with pytest.raises(ValueError, match="^position 4 is known"):
        unmask.LeftToRight(filling=(1,))(net, torch.tensor([[0, V, V, V, 2]]))
    filled = torch.tensor([[0, V, V, 1, 1]])
    assert (unmask.LeftToRight(filling=(1,))(net, filled)[:, 3:] == 1).all()
    with pytest.raises(ValueError, match="Transformer predicts masked tokens: InOrder samples it"):
        unmask.LeftToRight()(masked, canvas)
    with pytest.raises(ValueError, match="tokens are 0..2, got 3"):
        unmask.LeftToRight(stop_at=3)(net, canvas)
    with pytest.raises(ValueError, match="NextToken is for networks that read from left to right"):
        unmask.NextToken()(masked, canvas * 0)
    with pytest.raises(ValueError, match="takes examples of shape"):
        net(torch.zeros(1, 6).long())
    with pytest.raises(FloatingPointError):  # never a wrong sample
        unmask.FirstHitting()(net, canvas)
    net.head.bias.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match="step 1: "):
        unmask.LeftToRight()(net, canvas)
    model = unmask.MaskedDiffusion(network(), unmask.Symbols(V))
    with pytest.raises(ValueError, match="its objective is NextToken, got TimeFreeELBO"):
        model.nelbo(canvas * 0, objective=unmask.TimeFreeELBO())
    with pytest.raises(ValueError, match="its sampler is LeftToRight, got FirstHitting"):
        model.sample(1, sampler=unmask.FirstHitting())
    with pytest.raises(ValueError, match="LeftToRight is for networks that read"):
        unmask.MaskedDiffusion(masked, unmask.Symbols(V)).sample(1, sampler=unmask.LeftToRight())
    with pytest.raises(ValueError, match="has no schedule"):
        unmask.MaskedDiffusion(network(), unmask.Symbols(V), unmask.TokenPolynomial(V))


def test_readings_read_prompts_at_once_and_go_on_with_some() -> None:
    net = network(shape=(6,))
    x = torch.randint(V, (4, 6), generator=seeded(0))
    full = net(x)
    for reading in (start_reading(net, x), Rereading(net, x, None)):
        torch.testing.assert_close(reading.next(x[:, :2]), full[:, 2])
        torch.testing.assert_close(reading.next(x[:, 2:3]), full[:, 3])
        reading.select(torch.tensor([3, 1]))
        torch.testing.assert_close(reading.next(x[[3, 1], 3:4]), full[[3, 1], 4])
    reading = start_reading(net, x)
    reading.next(x[:, :1])
    with pytest.raises(ValueError, match="one token is read at a time"):
        reading.next(x[:, 1:3])


def test_an_exact_objective_is_computed_once() -> None:
    net, x = network(), every_example((5,))[::7]
    calls: list[int] = []
    net.embed.register_forward_hook(lambda module, inputs, out: calls.append(len(out)))
    loss = draw_loss(net, unmask.NextToken(), x, draws=3)
    assert calls == [len(x)] and loss.nelbo.shape == (3 * len(x),)
    assert torch.equal(loss.nelbo, unmask.NextToken()(net, x).nelbo.repeat(3))


def test_a_markov_chain_is_learned_to_its_entropy() -> None:
    chain = MarkovChain(3, 12)
    torch.manual_seed(0)
    net = unmask.CausalTransformer(3, (12,), width=32, depth=1, heads=2)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    generator = seeded(0)
    for _ in range(300):
        unmask.NextToken()(net, chain.sample(128, generator)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    x = chain.sample(4000, generator)
    gap = draw_loss(net.eval(), unmask.NextToken(), x, draws=1).nelbo + chain.log_prob(x)  # of one example: log p / q
    error = float(gap.std() / len(gap) ** 0.5)
    assert -3 * error < float(gap.mean()) < 0.02 + 3 * error, "nats of 12 tokens above the entropy"
    drawn = unmask.LeftToRight()(net, torch.full((4000, 12), 3), generator=seeded(1))
    entropies = [-chain.log_prob(part) for part in (x, drawn)]
    assert abs(float(entropies[0].mean() - entropies[1].mean())) < 4 * float(entropies[0].std()) * (2 / 4000) ** 0.5


@pytest.fixture
def waits() -> Iterator[Counter[str]]:
    with pretend_device() as counted:
        yield counted


def there(x: Tensor | None) -> Any:
    return None if x is None else x.to(DEVICE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("sampler", SETTINGS, ids=str)
def test_on_a_device(sampler: unmask.LeftToRight, cache: bool, kind: str, waits: Counter[str]) -> None:
    net, sampler = network(kind), replace(sampler, cache=cache, guidance=2.0 if "classes" in KINDS[kind] else 1.0)
    x, label = prompts(net), label_of(net, 12)
    found = list(sampler.trajectory(move(net), there(x), there(label), generator=generators(0, 12)))
    expected = list(sampler.trajectory(net, x, label, generator=generators(0, 12)))
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one.x, DeviceTensor) and torch.equal(one.x.values, other.x)
        assert torch.equal(one.calls.values, other.calls)  # type: ignore[attr-defined]


def test_more_tokens_wait_no_more(waits: Counter[str]) -> None:
    counted = []
    for length in (8, 24):
        net = move(network(shape=(length,)))
        x = there(torch.full((3, length), V))
        net(x)  # the angles of its positions are kept
        waits.clear()
        unmask.LeftToRight(block_length=length)(net, x, generator=generators(0, 3))
        counted.append(waits.copy())
    assert counted[0] == counted[1] and counted[0].total() <= 20, counted[0]
    waits.clear()
    unmask.LeftToRight(block_length=6, stop_at=2)(net, x, generator=generators(0, 3))
    assert waits.total() <= counted[0].total() + 4 * 5, "a few at the border of each block"


def test_a_training_step_does_not_wait(waits: Counter[str]) -> None:
    net = move(network("labelled").train())
    x, label = there(torch.randint(V, (4, 4), generator=seeded(0))), there(torch.tensor([0, 1, 2, 0]))
    for _ in range(2):
        waits.clear()
        unmask.NextToken()(net, x, label).loss.backward()
    assert not waits

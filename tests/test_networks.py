import copy
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.networks import head
from unmask.networks.base import Network, Positions
from unmask.networks.convolution import Convolution
from unmask.networks.layers import attend, rotary_angles, rotate
from unmask.networks.ngrams import NGrams
from unmask.networks.padded import Padded
from unmask.networks.transformer import Transformer
from unmask.objectives.scalar import TimeFreeELBO
from unmask.randomness import seeded

KINDS = {
    "text": dict(shape=(11,)),
    "labelled image": dict(shape=(4, 3, 1), classes=3),
    "timed colour image": dict(shape=(2, 3, 3), time_conditioning=True),
    "image with absolute positions": dict(shape=(3, 4, 1), absolute_positions=True),
    "labelled and timed": dict(shape=(9,), classes=2, time_conditioning=True),
    "text with convolutions": dict(shape=(7,), convolution=5),
    "text with n-grams": dict(shape=(6,), ngrams=4),
    "labelled image with convolutions": dict(shape=(4, 3, 2), classes=3, convolution=3),
}


def transformer(kind: str, **settings: object) -> Transformer:
    """A small network in float64 with random weights everywhere, the ones that start at zero too."""
    network = Transformer(5, **{"width": 32, "depth": 2, "heads": 2} | KINDS[kind] | settings).double()
    generator = seeded(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def inputs(network: Transformer, batch: int = 4) -> tuple[Tensor, Tensor, Tensor | None]:
    x_t = torch.randint(0, 6, (batch, *network.shape), generator=seeded(1))
    noise = torch.linspace(0.1, 1, batch, dtype=torch.float64)
    return x_t, noise, None if network.classes is None else torch.arange(batch) % (network.classes + 1)


@pytest.fixture(params=KINDS)
def network(request: pytest.FixtureRequest, device: torch.device) -> Transformer:
    return transformer(request.param)


def test_at_is_the_full_output_gathered(network: Transformer, device: torch.device) -> None:
    network.to(device)
    x_t, noise, label = (None if part is None else part.to(device) for part in inputs(network))
    full = network(x_t, noise, label)
    assert full.shape == (*x_t.shape, 5)
    single = torch.zeros_like(x_t, dtype=torch.bool)
    single.flatten(1)[:, 3] = True
    some = x_t == 5
    some[0] = False  # an example that wants nothing
    for at in (some, single, torch.ones_like(some), torch.zeros_like(some)):
        for form in (at, Positions.of(at)):
            torch.testing.assert_close(network(x_t, noise, label, at=form), full[at], rtol=1e-10, atol=1e-10)


def test_gradients_are_finite_everywhere(network: Transformer) -> None:
    x_t, noise, label = inputs(network)
    x = x_t.clamp(max=4)
    at = Positions.of(x_t == 5)
    network.cross_entropy(x_t, x, noise, label, at=at, weight=torch.ones(len(at.example)))[0].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if not name.startswith("condition.label"):
            assert parameter.grad.abs().sum() > 0, name


def cross_entropies(
    network: Network, inputs: tuple[Tensor, ...], weight: Tensor, plain: bool = False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the sum, the nll and the gradients, from the network's own way or from all its logits."""
    x_t, noise, label = inputs
    x, at = x_t.clamp(max=4), x_t == 5
    if plain:
        nll = -network(x_t, noise, label).log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)[at]
        loss = (weight * nll).sum()
    else:
        loss, nll = network.cross_entropy(x_t, x, noise, label, at=Positions.of(at), weight=weight)
        assert not nll.requires_grad
    grads = torch.autograd.grad(3 * loss, list(network.parameters()), allow_unused=True)
    return loss, nll, [torch.zeros(()) if grad is None else grad for grad in grads]


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("pieces", [False, True])
def test_cross_entropy_is_the_plain_way(
    network: Transformer, few: bool, pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces:  # of 3 rows and 1
        monkeypatch.setattr(head, "LOGITS_PER_PRODUCT", 17)
        monkeypatch.setattr(head, "LOGITS_PER_SOFTMAX", 5)
    x_t, noise, label = inputs(network)
    if few:
        x_t = torch.where(torch.arange(x_t.numel()).view_as(x_t) % 6 == 1, 5, x_t.clamp(max=4))
    weight = torch.rand(int((x_t == 5).sum()), generator=seeded(0), dtype=torch.float64)
    ours = cross_entropies(network, (x_t, noise, label), weight)
    plain = cross_entropies(network, (x_t, noise, label), weight, plain=True)
    for one, other in zip((*ours[:2], *ours[2]), (*plain[:2], *plain[2]), strict=True):
        torch.testing.assert_close(one, other.expand_as(one), rtol=1e-10, atol=1e-10)


def test_cross_entropy_in_bfloat16_stays_within_one_percent(device: torch.device) -> None:
    width, vocab, n = 64, 1000, 500
    layer = torch.nn.Linear(width, vocab).to(device)
    h = torch.randn(n, width, generator=seeded(0)).to(device).requires_grad_()
    torch.nn.init.normal_(layer.weight, std=0.2, generator=seeded(1, device=device))
    target = torch.randint(vocab, (n,), generator=seeded(2)).to(device)
    weight = torch.rand(n, generator=seeded(3)).to(device)
    wanted = [h, *layer.parameters()]
    exact_nll = torch.nn.functional.cross_entropy(layer(h), target, reduction="none")
    exact = torch.autograd.grad((weight * exact_nll).sum(), wanted)
    with torch.autocast(device.type, torch.bfloat16):
        loss, nll = head.linear_cross_entropy(h, layer, target, weight)
    rounded = torch.autograd.grad(loss, wanted)
    assert nll.dtype == torch.float32 and loss.dtype == torch.float64
    assert (nll - exact_nll).abs().max() < 0.05 and (nll - exact_nll).mean().abs() < 1e-3
    for one, other in zip(rounded, exact, strict=True):
        assert one.dtype == torch.float32 and (one - other).norm() < 0.01 * other.norm()


def test_cross_entropy_goes_backward_once_and_not_where_nothing_learns() -> None:
    network = transformer("text")
    x_t = inputs(network)[0]
    at = Positions.of(x_t == 5)
    loss, nll = network.cross_entropy(x_t, x_t.clamp(max=4), at=at, weight=torch.ones(len(at.example)))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="goes backward once"):
        loss.backward()
    with torch.no_grad():
        again = network.cross_entropy(x_t, x_t.clamp(max=4), at=at, weight=torch.ones(len(at.example)))
    assert not again[0].requires_grad and torch.equal(again[1], nll)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [(), ("h",), ("head",), ("h", "head")])
def test_cross_entropy_with_frozen_parts(frozen: tuple[str, ...], bias: bool) -> None:
    layer = torch.nn.Linear(8, 5, bias=bias).double().requires_grad_("head" not in frozen)
    h = torch.randn(6, 8, generator=seeded(0), dtype=torch.float64).requires_grad_("h" not in frozen)
    target, weight = torch.arange(6) % 5, torch.rand(6, generator=seeded(1), requires_grad=True)
    wanted = [part for part in (h, *layer.parameters()) if part.requires_grad]
    loss, nll = head.linear_cross_entropy(h, layer, target, weight)
    expected = torch.nn.functional.cross_entropy(layer(h), target, reduction="none")
    torch.testing.assert_close(nll, expected.detach())
    assert loss.requires_grad == bool(wanted)
    if wanted:
        plain = torch.autograd.grad((weight.detach() * expected).sum(), wanted)
        for one, other in zip(torch.autograd.grad(loss, wanted), plain, strict=True):
            torch.testing.assert_close(one, other)


def test_cross_entropy_leaves_float64_alone_and_sums_bfloat16_in_float32() -> None:
    layer = torch.nn.Linear(16, 3).bfloat16()
    h = torch.randn(5000, 16, generator=seeded(0)).bfloat16().requires_grad_()
    target = torch.randint(3, (5000,), generator=seeded(1))
    loss, _ = head.linear_cross_entropy(h, layer, target, torch.ones(5000))
    exact = copy.deepcopy(layer).double()
    expected = torch.nn.functional.cross_entropy(exact(h.double()), target, reduction="sum")
    found, plain = torch.autograd.grad(loss, layer.bias)[0], torch.autograd.grad(expected, exact.bias)[0]
    assert (found - plain).norm() < 0.01 * plain.norm()
    with torch.autocast("cpu", torch.bfloat16):
        nll = head.linear_cross_entropy(h.double(), exact, target, torch.ones(5000))[1]
    torch.testing.assert_close(nll, torch.nn.functional.cross_entropy(exact(h.double()), target, reduction="none"))


def test_a_network_with_a_head_compiles_what_training_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # without a C++ compiler's time

    class Bag(head.HeadedNetwork):
        """Every position sees the mean of all."""

        vocab_size, shape = 5, (11,)

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(6, 8), torch.nn.Linear(8, 5)

        def features(
            self, x_t: Tensor, noise: object = None, label: object = None, at: Positions | None = None
        ) -> Tensor:
            h = self.embed(x_t)
            h = h + h.mean(1, keepdim=True)
            return h if at is None else at.pick(h)

    network = Bag()
    x = torch.randint(0, 5, (4, 11), generator=seeded(0))
    plain = TimeFreeELBO()(network, x, generator=seeded(1))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    network.compile_body()
    compiled = TimeFreeELBO()(network, x, generator=seeded(1))
    torch.testing.assert_close(compiled.nelbo, plain.nelbo)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_cross_entropy_of_nothing_is_nothing(network: Transformer) -> None:
    x_t, noise, label = inputs(network)
    loss, nll, grads = cross_entropies(network, (x_t.clamp(max=4), noise, label), torch.ones(0))
    assert loss == 0 and nll.shape == (0,)
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_uniform_distribution(kind: str) -> None:
    network = Transformer(5, **KINDS[kind])
    x_t, noise, label = inputs(network)
    assert (network(x_t, noise, label) == 0).all()
    nelbo = TimeFreeELBO()(network, x_t.clamp(max=4), label).nelbo
    torch.testing.assert_close(nelbo, torch.full_like(nelbo, x_t[0].numel() * math.log(5)))


def test_what_it_reads(network: Transformer) -> None:
    x_t, noise, label = inputs(network)
    base = network(x_t, noise, label)
    other_noise = network(x_t, noise / 2, label)
    assert torch.equal(base, other_noise) != network.time_conditioning
    if label is not None:
        assert not torch.allclose(base, network(x_t, noise, (label + 1) % (network.classes + 1)))
        null = torch.full_like(label, network.classes)
        assert torch.equal(network(x_t, noise, null), network(x_t, noise))
    changed = x_t.clone()
    changed.flatten(1)[:, 0] = (changed.flatten(1)[:, 0] + 1) % 6
    assert not torch.allclose(base.flatten(1, -2)[:, -1], network(changed, noise, label).flatten(1, -2)[:, -1])


def test_bfloat16_autocast_stays_close(network: Transformer, device: torch.device) -> None:
    network = network.float().to(device)
    for parameter in network.parameters():
        parameter.data.mul_(0.3)
    x_t, noise, label = (None if part is None else part.to(device) for part in inputs(network))
    exact = network(x_t, noise, label)
    with torch.autocast(device.type, torch.bfloat16):
        rounded = network(x_t, noise, label)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


@pytest.mark.slow
def test_compiled_body_gives_the_same(device: torch.device) -> None:
    network = transformer("text", depth=1).float().to(device)  # each block more is compiled, too
    x_t = inputs(network)[0].to(device)
    plain = network(x_t, at=x_t == 5)
    network.compile_body()
    torch.testing.assert_close(network(x_t, at=x_t == 5), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dims", "size"), [((7,), 3), ((3,), 9), ((4, 5, 1), 3), ((3, 4, 2), 5), ((1,), 3)])
def test_a_convolution_is_a_sum_over_the_box_around_each_position(dims: tuple[int, ...], size: int) -> None:
    layer = Convolution(3, size, dims).double()
    h = torch.randn(2, math.prod(dims), 3, dtype=torch.float64, generator=seeded(0))
    torch.testing.assert_close(layer(h, dims), h, rtol=0, atol=0)  # nothing at first
    torch.nn.init.normal_(layer.weight, generator=seeded(1))
    grid, expected = h.view(2, *dims, 3), h.view(2, *dims, 3).clone()
    axes = [length for length in dims if length > 1] or [1]
    boxes = [range(min(length - 1, size // 2) * 2 + 1) if length > 1 else range(1) for length in dims]
    weight = layer.weight.view(*(min(size, 2 * length - 1) for length in axes), 3)
    for place in itertools.product(*map(range, dims)):
        for offset in itertools.product(*boxes):
            other = tuple(p + o - len(box) // 2 for p, o, box in zip(place, offset, boxes, strict=True))
            if all(0 <= p < length for p, length in zip(other, dims, strict=True)):
                w = weight[tuple(o for o, box in zip(offset, boxes, strict=True) if len(box) > 1)].reshape(-1, 3)[0]
                expected[:, *place] += w * grid[:, *other]
    torch.testing.assert_close(layer(h, dims), expected.view_as(h), rtol=1e-12, atol=1e-12)


def test_convolutions_start_as_nothing_and_of_a_text_take_any_length() -> None:
    plain, other = (Transformer(5, (8,), width=16, depth=2, heads=2, convolution=size) for size in (0, 5))
    other.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.normal_(other.head.weight)
    plain.head.load_state_dict(other.head.state_dict())
    for length in (8, 3, 12):
        x = torch.randint(0, 6, (2, length), generator=seeded(0))
        torch.testing.assert_close(other(x), plain(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"ngrams are for texts; for examples of shape \(2, 2\) use convolution"):
        Transformer(5, (2, 2), ngrams=3)
    for wrong in (1, -2, 17, 10**12):
        with pytest.raises(ValueError, match=f"ngrams must be 2 to 16, .* got {wrong}"):
            Transformer(5, (8,), ngrams=wrong)
    for size in (2, -1):
        with pytest.raises(ValueError, match=f"convolution must be an odd number of positions, .* got {size}"):
            Transformer(5, (8,), convolution=size)


@pytest.mark.parametrize(("vocab", "size"), [(3, 4), (300, 3)])
def test_n_grams_look_up_the_windows_around_each_position(vocab: int, size: int) -> None:
    layer = NGrams(vocab, size, 8).double()
    x = torch.randint(0, vocab + 1, (3, 7), generator=seeded(0))
    rows: dict[tuple[int, ...], set[int]] = {}
    expected = torch.zeros(3, 7, 8, dtype=torch.float64)
    assert len(layer.tables) == size - 1
    maps = layer.out.weight.split(layer.tables[0].embedding_dim, 1)  # n = 2: a = 0, 1; n = 3: a = 0, 1, 2; ...
    for b, i in itertools.product(range(3), range(7)):
        used = iter(maps)
        for n, (table, keys) in enumerate(zip(layer.tables, layer.keys(x), strict=True), start=2):
            assert keys.shape == (3, 7 + n - 1)
            for a in range(n):
                window = tuple(int(x[b, j]) if 0 <= j < 7 else vocab + 1 for j in range(i - a, i - a + n))
                found = int(keys[b, i - a + n - 1])
                rows.setdefault(window, set()).add(found)
                key = sum(value * (vocab + 2) ** (n - 1 - k) for k, value in enumerate(window)) % (2**31 - 1)
                whole = (vocab + 2) ** n <= 2**16
                assert found == (key if whole else key * 2_654_435_761 % (2**31 - 1) % 2**16)
                expected[b, i] += next(used) @ table.weight[found]
    assert all(len(found) == 1 for found in rows.values())  # one row for one window, wherever it stands
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_rotary_angles_turn_every_axis_at_its_own_place() -> None:
    device = torch.device("cpu")
    cos, sin = rotary_angles((3, 4, 1), 6, 100.0, device, torch.float64)
    assert cos.shape == (12, 6)
    q, k = torch.randn(2, 12, 12, dtype=torch.float64, generator=seeded(0))
    score = rotate(q[:1].expand(12, -1), cos, sin) @ rotate(k[:1].expand(12, -1), cos, sin).T
    grid = score.view(3, 4, 3, 4)
    torch.testing.assert_close(grid[0, 0, 1, 2], grid[1, 1, 2, 3])  # only differences of places matter
    assert not torch.isclose(grid[0, 0, 1, 0], grid[0, 0, 0, 1])  # and axes are told apart
    torch.testing.assert_close(rotate(q, cos, sin).norm(dim=1), q.norm(dim=1))


@pytest.mark.parametrize(
    "at",
    [
        [[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]],
        [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]],
        [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ],
)
def test_positions(at: list[list[int]]) -> None:
    flags = torch.tensor(at).bool()
    positions = Positions.of(flags)
    x, one = torch.arange(24.0).view(3, 4, 2), torch.tensor([[1.0], [2.0], [3.0]])
    for form in (positions, Positions.of(flags, int(flags.sum()))):
        assert torch.equal(form.pick(x), x[flags])
        assert torch.equal(form.spread(one), one[flags.nonzero()[:, 0]])
        assert torch.equal(form.put(x[flags][:, 0], 3, 4), x[..., 0] * flags)
    assert (positions.index is None) == (max(map(sum, at)) > 2)
    if positions.index is not None and positions.kept is not None:
        assert torch.equal(positions.index.flatten()[positions.kept], positions.position)
    twice, both = positions.repeat(2, 3), Positions.of(flags.repeat(2, 1))
    for part in ("example", "position", "index", "kept"):
        a, b = getattr(twice, part), getattr(both, part)
        assert a is b or torch.equal(a, b), part


@pytest.mark.parametrize(("spread", "bound"), [(1.0, 0.01), (2.0, 0.03)])
def test_attention_in_bfloat16_on_a_cpu_stays_close(spread: float, bound: float) -> None:
    """Scores with a standard deviation of spread^2: they are rounded, so that sharp attention loses more."""
    rounded = [(spread * torch.randn(2, 4, 64, 32, generator=seeded(i))).bfloat16().requires_grad_() for i in range(3)]
    exact = [part.detach().double().requires_grad_() for part in rounded]
    weight = torch.randn(2, 4, 64, 32, generator=seeded(3))
    ours = attend(*rounded)
    theirs = torch.nn.functional.scaled_dot_product_attention(*exact)
    found = [ours, *torch.autograd.grad((ours * weight).sum(), rounded)]
    expected = [theirs, *torch.autograd.grad((theirs * weight).sum(), exact)]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < bound * other.norm()


def test_padded_is_the_long_network_with_masks_behind_the_text() -> None:
    network = transformer("text")
    padded = Padded(network)
    x_t = torch.tensor([[5, 1, 5, 2], [0, 5, 5, 5]])
    long = torch.cat((x_t, torch.full((2, 7), 5)), 1)
    torch.testing.assert_close(padded(x_t), network(long)[:, :4])
    torch.testing.assert_close(padded(x_t, at=x_t == 5), network(long)[:, :4][x_t == 5])


def test_only_absolute_positions_tell_places_of_an_empty_canvas_apart() -> None:
    empty = torch.full((1, 3, 4, 1), 5)
    relative = transformer("labelled image", shape=(3, 4, 1))(empty).view(12, 5)
    torch.testing.assert_close(relative, relative[:1].expand(12, 5))
    absolute = transformer("image with absolute positions")(empty).view(12, 5)
    assert torch.pdist(absolute).min() > 0.01


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"a network with absolute positions takes \(3, 4, 1\), got \(4, 3, 1\)"):
        transformer("image with absolute positions")(torch.zeros(1, 4, 3, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="width must be a multiple of 2 \\* heads, got width=30, heads=4"):
        Transformer(5, (3,), width=30)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        Transformer(5, (3,), depth=0)
    with pytest.raises(ValueError, match="needs `noise`: the mask rate"):
        transformer("timed colour image")(torch.zeros(1, 2, 3, 3, dtype=torch.long))


def numpy_nelbo(weights: dict[str, np.ndarray], heads: int, base: float, x: np.ndarray, x_t: np.ndarray) -> np.ndarray:
    """The time-free bound of a label-free text transformer, written from the formulas, loop by loop."""

    def norm(h: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5) * gain

    def turn(h: np.ndarray) -> np.ndarray:
        half = h.shape[1] // 2
        angle = np.arange(len(h))[:, None] * base ** (-np.arange(half) / half)
        z = (h[:, :half] + 1j * h[:, half:]) * np.exp(1j * angle)
        return np.concatenate((z.real, z.imag), 1)

    total = []
    for row, row_t in zip(x, x_t, strict=True):
        h = weights["embed.weight"][row_t]
        for b in range(sum(name.endswith("qkv.weight") for name in weights)):
            w = {name.removeprefix(f"blocks.{b}."): value for name, value in weights.items()}
            q, k, v = np.split(norm(h, w["norm1.weight"]) @ w["attention.qkv.weight"].T, 3, 1)
            mixed = []
            for q_h, k_h, v_h in zip(*(np.split(part, heads, 1) for part in (q, k, v)), strict=True):
                score = np.exp(turn(q_h) @ turn(k_h).T / np.sqrt(q_h.shape[1]))
                mixed.append(score / score.sum(1, keepdims=True) @ v_h)
            h = h + np.concatenate(mixed, 1) @ w["attention.out.weight"].T
            gate, up = np.split(norm(h, w["norm2.weight"]) @ w["mlp.up.weight"].T, 2, 1)
            h = h + gate / (1 + np.exp(-gate)) * up @ w["mlp.out.weight"].T
        logits = norm(h, weights["norm.weight"]) @ weights["head.weight"].T + weights["head.bias"]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        hidden = np.flatnonzero(row_t == len(weights["head.bias"]))
        total.append(len(row) / len(hidden) * sum(-np.log(p[i, row[i]]) for i in hidden))
    return np.array(total)


def test_the_bound_agrees_with_an_independent_numpy_version() -> None:
    network = transformer("text")
    seen = []
    network.embed.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].numpy()))
    x = torch.randint(0, 5, (6, 11), generator=seeded(2))
    nelbo = TimeFreeELBO()(network, x, generator=seeded(3)).nelbo
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    np.testing.assert_allclose(nelbo, numpy_nelbo(weights, 2, 10_000.0, x.numpy(), seen[0]), rtol=1e-10)

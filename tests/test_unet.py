from functools import partial

import pytest
import torch
import yaml
from torch import Tensor

from oracle import Table
from unmask.cli.train import shipped
from unmask.networks.base import Positions, pick
from unmask.networks.unet import UNet
from unmask.objectives.estimate import draw_loss
from unmask.objectives.scalar import TimeFreeELBO
from unmask.randomness import seeded

KINDS = {
    "constant resolution": dict(shape=(4, 6, 3), widths=(16,), blocks=2),
    "two resolutions": dict(shape=(4, 6, 1), widths=(8, 16), blocks=1),
    "timed and labelled": dict(shape=(4, 4, 3), widths=(16,), blocks=1, classes=3, time_conditioning=True),
    "transformer in the middle": dict(
        shape=(8, 4, 3), widths=(8, 16), blocks=1, middle_depth=2, middle_width=24, heads=2
    ),
    "all of it": dict(
        shape=(8, 4, 3), widths=(8, 16), blocks=1, middle_depth=1, heads=2, classes=3, time_conditioning=True
    ),
}


def unet(kind: str, **settings: object) -> UNet:
    """A small network in float64 with random weights everywhere, the ones that start at zero too."""
    network = UNet(5, **KINDS[kind] | settings).double()
    generator = seeded(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


@pytest.fixture(params=KINDS)
def network(request: pytest.FixtureRequest, device: torch.device) -> UNet:
    return unet(request.param).to(device)


def inputs(network: UNet, batch: int = 4) -> tuple[Tensor, Tensor, Tensor | None]:
    device = network.head.weight.device
    x_t = torch.randint(0, 6, (batch, *network.shape), generator=seeded(1)).to(device)
    noise = torch.linspace(0.1, 1, batch, dtype=torch.float64).to(device)
    return x_t, noise, None if network.classes is None else torch.arange(batch).to(device) % (network.classes + 1)


def test_at_is_the_full_output_gathered(network: UNet) -> None:
    x_t, noise, label = inputs(network)
    full = network(x_t, noise, label)
    assert full.shape == (*x_t.shape, 5)
    few = torch.zeros_like(x_t, dtype=torch.bool)
    few.flatten(1)[:, 3] = True
    for at in (x_t == 5, few, torch.zeros_like(few)):
        for form in (at, Positions.of(at)):
            torch.testing.assert_close(network(x_t, noise, label, at=form), full[at], rtol=1e-10, atol=1e-10)


def test_a_residual_block_starts_as_its_skip() -> None:
    network = UNet(5, (4, 4, 1), widths=(8,), blocks=1)
    h = torch.randn(2, 8, 4, 4, generator=seeded(0))
    assert torch.equal(network.down[0][0](h, None), h)


def test_cross_entropy_is_that_of_all_logits(network: UNet) -> None:
    x_t, noise, label = inputs(network)
    x, at = x_t.clamp(max=4), x_t == 5
    weight = torch.rand(int(at.sum()), generator=seeded(2), dtype=torch.float64).to(x.device)
    nll = -network(x_t, noise, label).log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)[at]
    expected = torch.autograd.grad((weight * nll).sum(), list(network.parameters()), allow_unused=True)
    loss, found = network.cross_entropy(x_t, x, noise, label, at=Positions.of(at), weight=weight)
    torch.testing.assert_close(found, nll.detach(), rtol=1e-10, atol=1e-10)
    for one, other in zip(torch.autograd.grad(loss, list(network.parameters())), expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_levels_are_symbols(network: UNet) -> None:
    x_t, noise, label = inputs(network)
    before = network(x_t, noise, label)
    order = torch.tensor([3, 0, 4, 1, 2], device=x_t.device)
    with torch.no_grad():
        embed = network.embed.weight.view(network.shape[2], 6, -1)
        embed[:, order] = embed[:, :5].clone()  # what level i was is now level order[i]
        network.head.weight[order] = network.head.weight.clone()
        network.head.bias[order] = network.head.bias.clone()
    after = network(torch.cat((order, order.new_tensor([5])))[x_t], noise, label)
    torch.testing.assert_close(after[..., order], before, rtol=1e-10, atol=1e-10)


def test_convolutions_follow_a_shifted_image_away_from_the_borders() -> None:
    network = unet("constant resolution", shape=(16, 16, 3), blocks=1)
    network.middle = torch.nn.ModuleList()  # what sees everything
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.GroupNorm)):
        norm.forward = lambda x: x  # which averages over the image
    x_t = torch.randint(0, 6, (2, 16, 16, 3), generator=seeded(1))
    shifted = network(x_t.roll((2, 1), (1, 2)))
    inside = slice(9, -8)  # seven convolutions of 3x3, and the shift
    torch.testing.assert_close(shifted[:, inside, inside], network(x_t).roll((2, 1), (1, 2))[:, inside, inside])


def test_it_sees_the_whole_image(network: UNet) -> None:
    x_t, noise, label = inputs(network)
    other = x_t.clone()
    other[:, 0, 0, 0] = (other[:, 0, 0, 0] + 1) % 6
    changed = (network(other, noise, label) - network(x_t, noise, label)).abs().amax(-1)
    assert (changed > 1e-9).all()


def test_what_it_reads(network: UNet) -> None:
    x_t, noise, label = inputs(network)
    base = network(x_t, noise, label)
    assert torch.equal(base, network(x_t, noise / 2, label)) != network.time_conditioning
    if label is not None:
        assert not torch.allclose(base, network(x_t, noise, (label + 1) % 4))
        null = torch.full_like(label, 3)
        assert torch.equal(network(x_t, noise, null), network(x_t, noise))


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_uniform_distribution(kind: str) -> None:
    network = UNet(256, **KINDS[kind])
    x_t, _, label = inputs(network)
    bits = TimeFreeELBO()(network, x_t, label).nelbo / (x_t[0].numel() * torch.tensor(2.0).log())
    torch.testing.assert_close(bits.float(), torch.full((4,), 8.0))


def test_the_bound_of_tiny_images_is_exact() -> None:
    class Images(Table):
        """An explicit law of 2x2 images of one channel."""

        def __init__(self) -> None:
            super().__init__(3, 4)
            self.shape = (2, 2, 1)

        def forward(self, x_t: Tensor, noise: object = None, label: object = None, *, at: object = None) -> Tensor:
            full = super().forward(x_t.flatten(1))
            return pick(full.view(*x_t.shape, 3), at)

    oracle = Images()
    x = oracle.states[:27].view(-1, 2, 2, 1)
    found = draw_loss(oracle, TimeFreeELBO(), x, draws=4000, generator=seeded(0)).nelbo.view(4000, -1)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) + oracle.log_prob(x.flatten(1))).abs() < 4 * error + 1e-9).all()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_nothing(network: UNet, dropout: float) -> None:
    inside = inputs(network)
    grads = []
    for checkpointing in (False, True):
        for module in network.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = checkpointing
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        torch.manual_seed(0)  # what is computed again drops the same
        grads.append(torch.autograd.grad(network(*inside).square().sum(), list(network.parameters())))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True)
def test_a_compiled_network_is_the_same_at_every_shape(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often torch compiles, and what it is given; without the minutes that a C++ compiler takes for it."""
    torch._dynamo.reset()
    backend = "inductor" if device.type == "cuda" else "eager"
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    network = UNet(5, (8, 8, 1), widths=(8, 16, 24), blocks=1, middle_depth=1, classes=3).to(device)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=seeded(0, device=device))
    x_t, _, label = inputs(network)
    plain = network(x_t, None, label)
    network.compile_body()
    torch.testing.assert_close(network(x_t, None, label), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("config", "channels", "millions"), [("cifar10", 32, 28.4), ("imagenet64", 64, 197.5)])
def test_the_papers_sizes(config: str, channels: int, millions: float) -> None:
    settings = yaml.safe_load(shipped()[config].read_text())["network"]["init_args"]
    settings["widths"] = tuple(settings["widths"])
    with torch.device("meta"):
        network = UNet(256, (channels, channels, 3), **settings)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(shape=(8, 8)), r"shape must be \(height, width, channels\) of an image, got \(8, 8\)"),
        (dict(shape=(6, 6, 1), widths=(8, 8, 8)), "height and width must be divisible by 4, got 6x6; use fewer widths"),
        (dict(shape=(8, 8, 1), widths=()), "widths must be one or more numbers of channels"),
        (dict(shape=(8, 8, 1), heads=48), r"multiple of 2 \* heads, got 128, heads=48"),
        (dict(shape=(8, 8, 1), blocks=0), "blocks must be at least 1, got 0"),
        (dict(shape=(8, 8, 1), middle_width=8), "set middle_depth too"),
        (dict(shape=(8, 8, 1), dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_refusals(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(5, **settings)


def test_images_of_another_size_are_refused(network: UNet) -> None:
    with pytest.raises(ValueError, match="the network takes images"):
        network(torch.zeros(1, 2, 2, 1, dtype=torch.long, device=network.head.weight.device))

"""Images: what the U-Net's ways of computing cost, and sampling, as ratios in one run; memory of a step on CIFAR-10.

python -m benchmarks.images [--small] [--json FILE]
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.sampling import peak, show
from benchmarks.timing import alone, interleaved, report
from unmask.forward import all_masked
from unmask.networks.base import Network
from unmask.networks.unet import UNet
from unmask.objectives.scalar import TimeFreeELBO
from unmask.randomness import generators, seeded
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler
from unmask.samplers.first_hitting import FirstHitting

SIZES: dict[str, dict[str, Any]] = {
    "MNIST, 2 M": dict(shape=(28, 28, 1), widths=(32, 64), blocks=1, middle_depth=4, middle_width=192, heads=6),
    "CIFAR-10, 4 blocks, 5 M": dict(shape=(32, 32, 3), blocks=4),
    "small": dict(shape=(8, 8, 3), widths=(8,), blocks=1),
}


def everywhere(network: UNet, x: torch.Tensor) -> torch.Tensor:
    """Return the loss from the logits at all subpixels."""
    n = (torch.rand(len(x)) * x[0].numel()).ceil().long()
    rank = torch.rand(len(x), x[0].numel()).argsort(1).argsort(1).view_as(x)
    masked = rank < n.view(-1, 1, 1, 1)
    logits = network(x.masked_fill(masked, network.mask_id))
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, -2).float(), x.flatten(), reduction="none").view_as(x)
    return ((nll * masked).flatten(1).sum(1) * x[0].numel() / n).mean()


def training(network: UNet, batch: int, rounds: int) -> dict[str, Any]:
    """Time forward and backward of a training step, in several ways."""
    x = torch.randint(0, network.vocab_size, (batch, *network.shape), generator=seeded(0))
    side_by_side: Callable[[torch.Tensor], torch.Tensor] = partial(
        torch.Tensor.contiguous, memory_format=torch.channels_last
    )

    def step(bf16: bool, loss: Callable[[], torch.Tensor], channels_last: bool = False) -> None:
        hook = network.enter.register_forward_pre_hook(lambda _, inputs: (side_by_side(inputs[0]),))
        if not channels_last:
            hook.remove()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        hook.remove()
        network.zero_grad()

    def ours() -> torch.Tensor:
        return TimeFreeELBO()(network, x).loss

    seconds = interleaved(
        {
            "float32, all subpixels projected": lambda: step(False, lambda: everywhere(network, x)),
            "float32": lambda: step(False, ours),
            "float32, channels last": lambda: step(False, ours, channels_last=True),
            "bfloat16, all subpixels projected": lambda: step(True, lambda: everywhere(network, x)),
            "bfloat16": lambda: step(True, ours),
            "bfloat16, channels last": lambda: step(True, ours, channels_last=True),
        },
        rounds,
    )
    slowest = seconds["float32, all subpixels projected"]
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in network.parameters())}
    row |= {"images a second, float32, all subpixels projected": batch / slowest}
    return row | {f"{name}, ratio": slowest / value for name, value in seconds.items() if value != slowest}


@torch.no_grad()
def sampling(network: Network, batch: int, calls: int, rounds: int) -> dict[str, Any]:
    """Time first hitting of several tokens per call and ancestral sampling at the same number of calls."""
    length = all_masked(1, network.shape, 0).numel()
    canvas = all_masked(batch, network.shape, network.mask_id)
    used: dict[str, float] = {}

    def run(name: str, sampler: Sampler) -> None:
        *_, state = sampler.trajectory(network, canvas, generator=generators(0, batch))
        used[name] = state.calls.double().mean().item()

    work: dict[str, Sampler] = {
        "first hitting": FirstHitting(tokens_per_call=-(-length // calls)),
        "ancestral": Ancestral(steps=calls),
    }
    seconds = interleaved({name: partial(run, name, sampler) for name, sampler in work.items()}, rounds)
    row = {f"{name}, images a second": batch / value for name, value in seconds.items()}
    return row | {f"{name}, calls": value for name, value in used.items()}


def memory(checkpointing: bool, small: bool) -> None:
    """Print the MiB that a step at the paper's CIFAR-10 size lifts the peak by, with 8 images in bfloat16."""
    settings = SIZES["small"] if small else dict(shape=(32, 32, 3))
    network = UNet(256, **settings, time_conditioning=True, checkpointing=checkpointing)
    x = torch.randint(0, 256, (8, *network.shape), generator=seeded(0))
    before = peak()
    with torch.autocast("cpu", torch.bfloat16):
        loss = TimeFreeELBO()(network, x).loss
    loss.backward()
    print(peak() - before)


def measure_memory(checkpointing: bool, small: bool) -> float:
    """Run `memory` in a process of its own."""
    code = f"from benchmarks.images import memory; memory({checkpointing}, {small})"
    return float(alone("-c", code))


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="so small that it only shows that it runs")
    parser.add_argument("--json", help="file for the figures")
    settings = parser.parse_args()
    torch.manual_seed(0)
    names = ["small"] if settings.small else [name for name in SIZES if name != "small"]
    rounds, rows = (1, []) if settings.small else (5, [])
    for name in names:
        network = UNet(256, **SIZES[name])
        rows.append(show(f"a step, {name}", training(network, 4 if settings.small else 16, rounds)))
        row = sampling(network.eval(), 2 if settings.small else 8, 4 if settings.small else 32, min(rounds, 3))
        rows.append(show(f"samples in 32 calls, {name}", row))
    used = {f"checkpointing {on}, MiB": measure_memory(on, settings.small) for on in (False, True)}
    rows.append(show("memory of a step at the paper's CIFAR-10 size, 8 images", used))
    report(rows, settings.json)


if __name__ == "__main__":
    main()

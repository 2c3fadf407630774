"""Compare what `unmask.training.plan` says of memory and time with training here, at two sizes.

    python -m benchmarks.plan

Each size is trained in a process of its own, in float32, with AdamW and averages: the most memory that the process
holds, less what it holds before the network is made, and the median time of a step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

import torch

import unmask
from unmask.training.cost import peak_flops, step_flops
from unmask.training.memory import peak_memory
from unmask.training.planning import GIB, Cluster, memory_per_device


class Size(NamedTuple):
    """What is trained."""

    vocab_size: int
    length: int
    width: int
    depth: int
    heads: int
    batch_size: int

    def network(self) -> unmask.Transformer:
        return unmask.Transformer(self.vocab_size, (self.length,), width=self.width, depth=self.depth, heads=self.heads)


SIZES = {
    "text8_cpu, plain": Size(27, 128, 128, 4, 8, 16),
    "GPT-2's tokens": Size(50257, 512, 512, 8, 8, 8),
}


def train(size: Size, steps: int) -> dict[str, float]:
    """Train for some steps, and return the bytes and the seconds of a step."""
    before = peak_memory(torch.device("cpu"))
    network, objective = size.network(), unmask.TimeFreeELBO()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    averages = [parameter.detach().clone() for parameter in network.parameters()]
    generator, seconds = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        x = torch.randint(size.vocab_size, (size.batch_size, size.length), generator=generator)
        start = time.perf_counter()
        objective(network, x, generator=generator).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for average, parameter in zip(averages, network.parameters(), strict=True):
            average.lerp_(parameter.detach(), 0.01)
        seconds.append(time.perf_counter() - start)
    return {"bytes": peak_memory(torch.device("cpu")) - before, "seconds": statistics.median(seconds[1:])}


def compare(name: str, steps: int) -> dict[str, Any]:
    """Return a row of the table."""
    size = SIZES[name]
    command = [sys.executable, "-m", "benchmarks.plan", "--only", name, "--steps", str(steps)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    network = size.network()
    planned = sum(memory_per_device(network, Cluster(1), size.batch_size, half=False).values())
    operations = size.batch_size * step_flops(network)
    peak, _ = peak_flops(torch.device("cpu"), half=False)
    return {
        "size": name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "memory, planned": f"{planned / GIB:.2f} GiB",
        "memory, measured": f"{found['bytes'] / GIB:.2f} GiB",
        "step, planned at 40% of the peak": f"{operations / (0.4 * peak):.3f} s",
        "step, measured": f"{found['seconds']:.3f} s",
        "part of the peak": f"{operations / found['seconds'] / peak:.0%}",
    }


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", choices=SIZES, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.only:
        print(json.dumps(train(SIZES[settings.only], settings.steps)))
        return
    for name in SIZES:
        print("; ".join(f"{what} {value}" for what, value in compare(name, settings.steps).items()))


if __name__ == "__main__":
    main()

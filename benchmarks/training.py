"""Speed and memory of training and of likelihood, each trick added to the ones before.

Against the plain way of `benchmarks/baselines.py`, on the same network, in turns, medians. Utilisation is the FLOP/s of
a step, counted by `flops`, over those of a product of large matrices in float32, measured in the same run.

    python -m benchmarks.training [--size a|b] [--vocab 27|50257] [--json FILE]
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.baselines import plain_evaluation, plain_training_step
from benchmarks.sampling import peak, show
from benchmarks.timing import interleaved, report
from unmask.metrics.likelihood import draw_nelbo
from unmask.networks.transformer import Transformer
from unmask.objectives import ContinuousELBO, Objective, TimeFreeELBO
from unmask.randomness import seeded

LENGTH = 256
SIZES = {
    "a": ({"width": 256, "depth": 4, "heads": 4}, 16),
    "b": ({"width": 768, "depth": 12, "heads": 12}, 4),
    "tiny": ({"width": 16, "depth": 2, "heads": 2}, 2),
}
TRICKS = ("plain", "head at masks alone", "fused optimizer", "bfloat16", "compiled")


def flops(network: Transformer, batch: int, length: int) -> float:
    """Count the FLOPs of one training step: 6 a matrix entry and token, 12 d L a layer and token."""
    matrices = sum(p.numel() for name, p in network.named_parameters() if p.dim() > 1 and not name.startswith("embed"))
    return batch * length * (6.0 * matrices + 12.0 * network.depth * network.width * length)


def peak_flops() -> float:
    """Measure the FLOP/s of a product of large float32 matrices."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / interleaved({"product": lambda: a @ b})["product"]


def training_step(trick: str, size: str, vocab: int) -> tuple[Callable[[], None], Transformer]:
    """Return one step of training with the tricks up to `trick`, and its network."""
    settings, batch = SIZES[size]
    torch.manual_seed(0)
    network = Transformer(vocab, (LENGTH,), **settings)  # type: ignore[arg-type]
    level = TRICKS.index(trick)
    optimizer = torch.optim.AdamW(network.parameters(), fused=level >= TRICKS.index("fused optimizer"))
    average = [p.detach().clone() for p in network.parameters()]
    x = torch.randint(0, vocab, (batch, LENGTH), generator=seeded(0))
    if trick == "compiled":
        network.compile_body()
    objective, parameters = TimeFreeELBO(), list(network.parameters())

    def step() -> None:
        if trick == "plain":
            plain_training_step(network, optimizer, average, x)
            return
        with torch.autocast("cpu", torch.bfloat16, enabled=level >= TRICKS.index("bfloat16")):
            loss = objective(network, x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            if level >= TRICKS.index("fused optimizer"):
                torch._foreach_lerp_(average, parameters, 0.001)
                return
            for mean, parameter in zip(average, parameters, strict=True):
                mean.mul_(0.999).add_(parameter, alpha=0.001)

    return step, network


def training(size: str, vocab: int, rounds: int) -> dict[str, Any]:
    """Time a step of training, one trick after the other."""
    work = {trick: training_step(trick, size, vocab) for trick in TRICKS}
    seconds = interleaved({trick: step for trick, (step, _) in work.items()}, rounds)
    batch = SIZES[size][1]
    count = flops(work["plain"][1], batch, LENGTH)
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in work["plain"][1].parameters())}
    row |= {f"{trick}, tokens/s": batch * LENGTH / s for trick, s in seconds.items()}
    row |= {f"{trick}, ratio": seconds["plain"] / s for trick, s in seconds.items() if trick != "plain"}
    best = min(seconds.values())
    return row | {
        "utilisation, plain": count / seconds["plain"] / peak_flops(),
        "and best": count / best / peak_flops(),
    }


def evaluation(size: str, vocab: int, rounds: int) -> dict[str, Any]:
    """Time the bound of a batch."""
    settings, batch = SIZES[size]
    network = Transformer(vocab, (LENGTH,), **settings).eval()  # type: ignore[arg-type]
    x = torch.randint(0, vocab, (batch, LENGTH), generator=seeded(0))

    def ours(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            draw_nelbo(network, TimeFreeELBO(), x, draws=1)

    seconds = interleaved(
        {"plain": lambda: plain_evaluation(network, x), "float32": lambda: ours(False), "bfloat16": lambda: ours(True)},
        rounds,
    )
    return {f"{name}, ratio": seconds["plain"] / value for name, value in seconds.items()}


def memory(trick: str, size: str, vocab: int) -> None:
    """Print the MiB that three steps lift the peak by, above weights, averages and the optimizer's state."""
    step, network = training_step(trick, size, vocab)
    before = peak()
    for _ in range(3):
        step()
    state = 3 * sum(p.numel() for p in network.parameters()) * 4 / 2**20  # gradients and two moments
    print(peak() - before - state)


def measure_memory(trick: str, size: str, vocab: int) -> float:
    """Run `memory` in a process of its own."""
    code = f"from benchmarks.training import memory; memory({trick!r}, {size!r}, {vocab})"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def variance(draws: int) -> dict[str, Any]:
    """Compare the variance of likelihood estimates of equal cost, on a network whose answers depend on the masks."""
    torch.manual_seed(0)
    network = Transformer(27, (LENGTH,), width=64, depth=2, heads=4)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    x = torch.randint(0, 27, (1, LENGTH), generator=seeded(0))

    def spread(objective: Objective, together: int) -> float:
        means = [draw_nelbo(network.eval(), objective, x, draws=together).mean().item() for _ in range(draws)]
        return torch.tensor(means).var().item() * together

    plain = spread(ContinuousELBO(), 1)
    return {
        "continuous, low-discrepancy over 8": plain / spread(ContinuousELBO(), 8),
        "time-free, one": plain / spread(TimeFreeELBO(), 1),
        "time-free, low-discrepancy over 8": plain / spread(TimeFreeELBO(), 8),
        "time-free, low-discrepancy over 16": plain / spread(TimeFreeELBO(), 16),
    }


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), help="one size alone")
    parser.add_argument("--vocab", type=int, help="one vocabulary alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file for the figures")
    settings = parser.parse_args()
    rows = []
    for size in (settings.size,) if settings.size else ("a", "b"):
        for vocab in (settings.vocab,) if settings.vocab else (27, 50_257):
            rows.append(show(f"training, size {size}, V={vocab}", training(size, vocab, settings.rounds)))
            rows.append(show(f"evaluation, size {size}, V={vocab}", evaluation(size, vocab, settings.rounds)))
            used = {f"{trick}, MiB": measure_memory(trick, size, vocab) for trick in ("plain", "bfloat16")}
            rows.append(show(f"peak memory above the state, size {size}, V={vocab}", used))
    rows.append(show("variance of one network call, times smaller", variance(20 if settings.size == "tiny" else 400)))
    report(rows, settings.json)


if __name__ == "__main__":
    main()

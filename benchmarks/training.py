"""Speed and memory of training and of likelihood, each trick added to the ones before.

Against the plain way of `benchmarks/baselines.py`, on the same weights, in turns, medians. Utilisation is the FLOP/s of
a step, counted by `flops`, over those of a product of large matrices of the same type, measured in the same run.

    python -m benchmarks.training [--size a|b|tiny] [--vocab 27|50257] [--rounds 5] [--json FILE]
"""

import argparse
import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines import plain_evaluation, plain_training_step
from benchmarks.sampling import peak, show
from benchmarks.timing import alone, interleaved, report
from unmask.data.pydocs import PyDocs
from unmask.networks import layers
from unmask.networks.transformer import Transformer
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.objectives.scalar import ContinuousELBO, TimeFreeELBO
from unmask.randomness import generators, seeded
from unmask.schedules import Cosine, Linear

LENGTH = 256
SIDE = 2048
"""Of the matrices whose product is the peak that utilisation is of."""
SIZES = {
    "a": ({"width": 256, "depth": 4, "heads": 4}, 16),
    "b": ({"width": 768, "depth": 12, "heads": 12}, 4),
    "tiny": ({"width": 16, "depth": 2, "heads": 2}, 2),
}
TRICKS = (
    "plain",
    "gather for one-hot",
    "head at masks alone",
    "fused optimizer",
    "bfloat16",
    "plain attention",
    "compiled",
)


def new_network(size: str, vocab: int, **settings: int) -> Transformer:
    """Return a network of that size with its first weights."""
    torch.manual_seed(0)
    return Transformer(vocab, (LENGTH,), **SIZES[size][0] | settings)  # type: ignore[arg-type]


def flops(network: Transformer, batch: int, length: int, asked: float) -> float:
    """Count the FLOPs of the products in one training step: 6 a matrix entry and token, 12 d L a layer and token.

    Args:
        network: its matrices count, its embeddings do not.
        batch: examples.
        length: tokens of an example.
        asked: share of them that the head and the last block, but for its attention, see.
    """
    rate = length * batch * 6.0
    every = sum(p.numel() for block in network.blocks for p in block.parameters() if p.dim() > 1)
    last = network.blocks[-1]
    some = sum(p.numel() for p in (*last.mlp.parameters(), *last.attention.out.parameters(), network.head.weight))
    dense = every + network.head.weight.numel() - (1 - asked) * some
    return rate * (dense + 2.0 * network.depth * network.width * length)


def peak_flops(dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a product of large matrices."""
    a, b = torch.randn(SIDE, SIDE, dtype=dtype), torch.randn(SIDE, SIDE, dtype=dtype)
    return 2 * SIDE**3 / interleaved({"product": lambda: a @ b})["product"]


def fused_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None, causal: bool = False) -> Tensor:
    """Return what `layers.attend` does, by PyTorch's fused kernel alone."""
    return F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal)


class Step:
    """One step of training with the tricks up to one. Steps of one `Step.all` share weights and averages."""

    def __init__(self, trick: str, network: Transformer, batch: int) -> None:
        self.trick, self.level, self.network = trick, TRICKS.index(trick), network
        self.parameters = list(network.parameters())
        if trick == "compiled":  # another network of the same weights
            self.network = copy.deepcopy(network, {id(p): p for p in self.parameters})
            self.network.compile_body()
        self.average = [p.detach().clone() for p in self.parameters]
        self.fused = self.has("fused optimizer")
        self.optimizer = torch.optim.AdamW(self.parameters, fused=self.fused)
        self.x = torch.randint(0, network.vocab_size, (batch, LENGTH), generator=seeded(0))

    @classmethod
    def all(cls, size: str, vocab: int, tricks: tuple[str, ...]) -> "list[Step]":
        """Return a step for each trick; what is as large as the weights is there but twice."""
        network, made = new_network(size, vocab), []
        for trick in tricks:
            step = cls(trick, network, SIZES[size][1])
            for other in made:
                step.average = other.average
                if other.fused == step.fused:
                    step.optimizer = other.optimizer
            made.append(step)
        return made

    def has(self, trick: str) -> bool:
        return self.level >= TRICKS.index(trick)

    def __call__(self) -> None:
        if not self.has("head at masks alone"):
            one_hot = not self.has("gather for one-hot")
            plain_training_step(self.network, self.optimizer, self.average, self.x, one_hot)
            self.optimizer.zero_grad()  # nothing is left for the step after it
            return
        attend = layers.attend
        try:
            layers.attend = attend if self.has("plain attention") else fused_attention
            with torch.autocast("cpu", torch.bfloat16, enabled=self.has("bfloat16")):
                loss = TimeFreeELBO()(self.network, self.x).loss
        finally:
            layers.attend = attend
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # now, not after the next forward pass: gradients take no memory in it
        with torch.no_grad():
            if self.fused:
                torch._foreach_lerp_(self.average, self.parameters, 0.001)
                return
            for mean, parameter in zip(self.average, self.parameters, strict=True):
                mean.mul_(0.999).add_(parameter, alpha=0.001)


def training(size: str, vocab: int, rounds: int) -> dict[str, Any]:
    """Time a step of training, one trick after the other."""
    steps = Step.all(size, vocab, TRICKS)
    seconds = interleaved({step.trick: step for step in steps}, rounds)
    network, batch = steps[0].network, SIZES[size][1]
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in network.parameters())}
    row |= {f"{trick}, tokens/s": batch * LENGTH / s for trick, s in seconds.items()}
    row |= {f"{trick}, ratio": seconds["plain"] / s for trick, s in seconds.items() if trick != "plain"}
    best = min(seconds.values())
    return row | {
        "utilisation, plain": flops(network, batch, LENGTH, 1) / seconds["plain"] / peak_flops(torch.float32),
        "and best, of bfloat16": flops(network, batch, LENGTH, 0.5) / best / peak_flops(torch.bfloat16),
    }


def scaling(rounds: int) -> dict[str, Any]:
    """Time the step in bfloat16, not compiled, as one thing grows at a time, in microseconds a token."""
    row: dict[str, Any] = {}
    base = {"width": 256, "depth": 4, "heads": 4}
    for name, values in {
        "length": (64, 256, 1024),
        "vocabulary": (27, 5_000, 50_257),
        "depth": (2, 4, 8),
        "width": (128, 256, 512),
        "batch": (4, 16, 64),
    }.items():
        steps = {}
        for value in values:
            made = {"vocabulary": 27, "length": 256, "batch": 16} | base | {name: value}
            network = Transformer(made["vocabulary"], (made["length"],), **{key: made[key] for key in base})  # type: ignore[arg-type]
            step = Step("plain attention", network, 1)
            step.x = torch.randint(0, made["vocabulary"], (made["batch"], made["length"]), generator=seeded(0))
            steps[value] = step
        for value, seconds in interleaved({str(v): step for v, step in steps.items()}, rounds).items():
            row[f"{name} {value}, us/token"] = 1e6 * seconds / steps[int(value)].x.numel()
    return row


def evaluation(size: str, vocab: int, rounds: int) -> dict[str, Any]:
    """Time the bound of a batch."""
    network = new_network(size, vocab).eval()
    x = torch.randint(0, vocab, (SIZES[size][1], LENGTH), generator=seeded(0))

    def ours(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            draw_loss(network, TimeFreeELBO(), x, draws=1)

    seconds = interleaved(
        {
            "plain": lambda: plain_evaluation(network, x),
            "gather for one-hot": lambda: plain_evaluation(network, x, one_hot=False),
            "float32": lambda: ours(False),
            "bfloat16": lambda: ours(True),
        },
        rounds,
    )
    row = {f"{name}, tokens/s": x.numel() / value for name, value in seconds.items()}
    return row | {f"{name}, ratio": seconds["plain"] / value for name, value in seconds.items() if name != "plain"}


def memory(trick: str, size: str, vocab: int) -> None:
    """Print the most MiB of the process in three steps, and of these what is not weights, averages and their like."""
    (step,) = Step.all(size, vocab, (trick,))
    before = peak()
    for _ in range(3):
        step()
    print(peak(), peak() - before - 3 * sum(p.numel() for p in step.parameters) * 4 / 2**20)


def measure_memory(trick: str, size: str, vocab: int) -> dict[str, float]:
    """Run `memory` in a process of its own."""
    code = f"from benchmarks.training import memory; memory({trick!r}, {size!r}, {vocab})"
    whole, working = map(float, alone("-c", code).split())
    return {f"{trick}, the process": whole, f"{trick}, beside weights and their like": working}


def trained_network(steps: int) -> tuple[Transformer, Tensor]:
    """Train a small network on the documents of Python, and return it with eight test sequences."""
    data = PyDocs(length=LENGTH)
    torch.manual_seed(0)
    network = Transformer(data.codec.vocab_size, data.shape, width=64, depth=2, heads=4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    split, test, order = data.split("train"), data.split("test"), np.random.default_rng(0)
    for _ in range(steps):
        x, _ = split[order.integers(len(split), size=16)]
        TimeFreeELBO()(network, x).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval(), test[np.arange(8) * len(test) // 8][0]


def variance(small: bool) -> dict[str, Any]:
    """Compare the variance of one network call of likelihood estimates, within sequences, on a trained network."""
    network, x = trained_network(3 if small else 400)
    calls = 32 if small else 3072

    def spread(objective: Objective, together: int, independent: bool = False) -> Tensor:
        """Return the variance of each sequence's estimate, a call: (8,)."""
        means = [
            draw_loss(
                network, objective, x, draws=together, generator=generators(turn, len(x)) if independent else None
            )
            .nelbo.view(together, -1)
            .mean(0)
            for turn in range(calls // together)
        ]
        return torch.stack(means).var(0) * together

    plain = spread(ContinuousELBO(Linear()), 1, independent=True)
    others = {
        "ContinuousELBO(Cosine()), independent": spread(ContinuousELBO(Cosine()), 1, independent=True),
        "ContinuousELBO(Linear()), 8 spread": spread(ContinuousELBO(Linear()), 8),
        "TimeFreeELBO(), 1": spread(TimeFreeELBO(), 1),
        "TimeFreeELBO(), 8 spread": spread(TimeFreeELBO(), 8),
        "TimeFreeELBO(), 16 spread": spread(TimeFreeELBO(), 16),
    }
    rows = {}
    for name, value in others.items():
        ratio = (plain / value).log()  # of 8 sequences
        rows[name] = f"{ratio.mean().exp():.2f}, times or over {(ratio.std() / 8**0.5).exp():.2f}"
    return rows


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
            used = measure_memory("plain", size, vocab) | measure_memory(TRICKS[-1], size, vocab)
            rows.append(show(f"peak memory in MiB, size {size}, V={vocab}", used))
    if not settings.size:
        rows.append(show("cost of a step", scaling(settings.rounds)))
    title = "variance of a call within a sequence: times less than ContinuousELBO(), independent"
    rows.append(show(title, variance(settings.size == "tiny")))
    report(rows, settings.json)


if __name__ == "__main__":
    main()

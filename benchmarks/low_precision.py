"""What bfloat16 and a compiler do to sampling (python -m benchmarks.low_precision [--small] [--json FILE]).

Distributions: a small transformer is trained on a table of probabilities of all sequences. What first hitting draws
from it is enumerated, without sampling error: with S the revealed positions of x,

    P(S) = Σ_{i in S} P(S without i) · p(x_i | x_S without i) / (L − |S| + 1),

for logits in float64, in float32, and in bfloat16 as `unmask.accelerate` computes them; draws are in float64 always.
Speed: processor time of steps of first hitting, in turns, on one thread.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import report
from unmask.forward import all_masked
from unmask.networks.accelerated import Accelerated
from unmask.networks.base import Network
from unmask.networks.transformer import Transformer
from unmask.objectives.scalar import TimeFreeELBO
from unmask.randomness import generators, seeded
from unmask.samplers.first_hitting import FirstHitting

V, L = 4, 6


def table() -> Tensor:
    """Return random probabilities of all sequences of L tokens, some of them rare."""
    return (2 * torch.randn(V**L, generator=seeded(0), dtype=torch.float64)).softmax(0)


def digits(count: int, base: int) -> Tensor:
    """Return the L digits of 0, ..., count − 1: (count, L)."""
    return torch.arange(count).unsqueeze(1) // base ** torch.arange(L) % base


def trained(p: Tensor, width: int, steps: int) -> Transformer:
    """Return a transformer that was trained on the table."""
    torch.manual_seed(0)
    network = Transformer(V, (L,), width=width, depth=2, heads=4, absolute_positions=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    x, generator = digits(V**L, V), seeded(1)
    for _ in range(steps):
        drawn = torch.multinomial(p, 256, replacement=True, generator=generator)
        TimeFreeELBO()(network, x[drawn], generator=generator).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        plan.step()
    return network.eval()


@torch.no_grad()
def enumerate_samples(network: Network) -> Tensor:
    """Return the probabilities of all sequences of L tokens as `FirstHitting` draws them: (V^L,) in float64."""
    states = digits((V + 1) ** L, V + 1)
    rate = torch.ones(len(states), dtype=torch.float64)
    logits = torch.cat([network(*part) for part in zip(states.split(4096), rate.split(4096), strict=True)])
    p = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).double()  # see `categorical`
    p = p / p.sum(-1, keepdim=True)
    place, masks = (V + 1) ** torch.arange(L), (states == V).sum(1)
    reached = torch.zeros(len(states), dtype=torch.float64)
    reached[-1] = 1  # all masked
    for left in range(L, 0, -1):
        for i in range(L):
            here = ((masks == left) & (states[:, i] == V)).nonzero().squeeze(1)
            for v in range(V):
                reached.index_add_(0, here + (v - V) * place[i], reached[here] / left * p[here, i, v])
    whole = digits(V**L, V)
    return reached[(whole * place).sum(1)]


def entropy(p: Tensor) -> float:
    """Return the entropy in nats."""
    return -torch.special.xlogy(p, p).sum().item()


def distance(p: Tensor, q: Tensor) -> float:
    """Return the total variation."""
    return 0.5 * (p - q).abs().sum().item()


def distributions(width: int, steps: int) -> list[dict[str, Any]]:
    """Compare what is drawn in each format with what is drawn in float64."""
    p = table()
    network = trained(p, width, steps)
    exact = copy.deepcopy(network).double()
    found = {
        "float64": exact,
        "float32": network,
        "bf16-mixed": Accelerated(network, "bf16-mixed"),
        "weights in bfloat16": copy.deepcopy(network).bfloat16(),
    }
    drawn = {name: enumerate_samples(one) for name, one in found.items()}
    reference = drawn["float64"]
    noise = (2 * reference * (1 - reference) / math.pi).sqrt().sum().item() / 2  # of the frequencies of one sample
    return [
        {
            "format": name,
            "width": width,
            "total variation from float64": distance(one, reference),
            "samples whose noise is as large": (noise / max(distance(one, reference), 1e-30)) ** 2,
            "total variation from the data": distance(one, p),
            "entropy, nats": entropy(one),
        }
        for name, one in drawn.items()
    ]


def processor_time(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of processor time of each piece of work, in turns; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, function in work.items():
            start = time.process_time()
            function()
            if turn:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def speed(
    vocab: int, length: int, batch: int, width: int, steps: int, rounds: int, compile: bool, mixed: bool
) -> dict[str, Any]:
    """Time some steps of first hitting in each format, compiled and not."""
    torch.manual_seed(0)
    network = Transformer(vocab, (length,), width=width, depth=4, heads=4).eval()
    canvas = all_masked(batch, (length,), vocab)

    def sample(sampled: Network) -> None:
        states = FirstHitting().trajectory(sampled, canvas, generator=generators(0, batch))
        for _, _ in zip(range(steps + 1), states, strict=False):
            pass

    kinds = {"float32": Accelerated(network), "bfloat16": Accelerated(network, "bf16-mixed")}
    kinds |= {f"{name}, compiled": Accelerated(network, one.precision, True) for name, one in kinds.items() if compile}
    chosen = {name: one for name, one in kinds.items() if mixed or one.precision == "32-true"}
    found = processor_time({name: lambda one=one: sample(one) for name, one in chosen.items()}, rounds)  # type: ignore[misc]
    plain = found["float32"]
    row = {
        "vocabulary": vocab,
        "length": length,
        "batch": batch,
        "width": width,
        "float32, ms a step": 1000 * plain / steps,
    }
    return row | {f"{name}, faster by": plain / seconds for name, seconds in found.items() if name != "float32"}


def show(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row and return it."""
    print("  ".join(f"{k}: {v:.4g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()), flush=True)
    return row


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--small", action="store_true", help="tiny sizes, not compiled, to see that it runs")
    parser.add_argument(
        "--without-bfloat16", action="store_true", help="time float32 alone: where bfloat16 is imitated"
    )
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in distributions(16, 2) if settings.small else distributions(64, 600):
        rows.append(show(row))
    sizes, rounds = ((16, 2, 16, 2), 1) if settings.small else ((256, 16, 256, 4), settings.rounds)
    rows.append(show(speed(27, *sizes, rounds, compile=not settings.small, mixed=not settings.without_bfloat16)))
    report(rows, settings.json)


if __name__ == "__main__":
    main()

"""Speed of sampling, as ratios in one run on one network (python -m benchmarks.sampling [--json FILE]).

A transformer of 4 layers and width 256 with random weights (what it predicts does not matter here), batch 16. The plain
ancestral sampler does the same in every step, so a few steps are timed and multiplied; everything else is run in full.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import plain_ancestral_step
from benchmarks.timing import alone, interleaved, report
from unmask.categorical import categorical
from unmask.forward import all_masked
from unmask.gumbel import gumbel_max
from unmask.networks.base import Positions
from unmask.networks.transformer import Transformer
from unmask.randomness import seeded, uniform
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler
from unmask.samplers.first_hitting import FirstHitting


def network(vocab: int, length: int, width: int) -> Transformer:
    """Return the network of the benchmark."""
    torch.manual_seed(0)
    return Transformer(vocab, (length,), width=width, depth=4, heads=4).eval()


def seconds_of(sampler: Sampler, net: Transformer, canvas: torch.Tensor) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    sampler(net, canvas, generator=seeded(0))
    return time.perf_counter() - start


def one_each(position: Tensor) -> Positions:
    """Pack one position (batch, 1) of each example."""
    return Positions(torch.arange(len(position)), position.squeeze(1), position)


@torch.no_grad()
def first_hitting(vocab: int, length: int, batch: int, width: int, rounds: int = 3) -> dict[str, Any]:
    """First hitting in full, against its own bare network calls and the plain sampler."""
    net = network(vocab, length, width)
    canvas = all_masked(batch, (length,), vocab)
    noise = torch.full((batch,), 0.5, dtype=torch.float64)
    half = torch.where(torch.rand(canvas.shape, generator=seeded(1)) < 0.5, 0, canvas)
    one = one_each(torch.randint(0, length, (batch, 1), generator=seeded(2)))

    def bare() -> None:
        for _ in range(length):
            net(half, noise, at=one)

    net(half, noise, at=one)
    ours, forwards = [], []
    for _ in range(rounds):
        ours.append(seconds_of(FirstHitting(), net, canvas))
        start = time.perf_counter()
        bare()
        forwards.append(time.perf_counter() - start)
    whole, calls = statistics.median(ours), statistics.median(forwards)
    step = interleaved({"plain": lambda: plain_ancestral_step(net, half, 0.5, 0.499)}, rounds=3)["plain"]
    row = {
        "vocabulary": vocab,
        "length": length,
        "batch": batch,
        "first hitting, s": whole,
        "overhead over bare calls": whole / calls,
        "plain step, s": step,
    }
    row |= {f"plain ancestral, T={steps}, ratio": steps * step / whole for steps in (1000, 5000)}
    many = seconds_of(FirstHitting(tokens_per_call=8), net, canvas)
    second = seconds_of(FirstHitting(tokens_per_call=8, order=2), net, canvas)
    return row | {"8 tokens a call, ratio": whole / many, "its second order, cost": second / many}


@torch.no_grad()
def skipping(length: int, batch: int, width: int, steps: int) -> dict[str, Any]:
    """`Ancestral`, that skips calls where nothing is revealed, against a call in every step."""
    net = network(27, length, width)
    canvas = all_masked(batch, (length,), 27)
    sampler = Ancestral(steps=steps, grid="uniform")
    *_, state = sampler.trajectory(net, canvas, generator=seeded(0))
    ours = seconds_of(sampler, net, canvas)
    noise, one = torch.full((batch,), 0.5, dtype=torch.float64), one_each(torch.zeros(batch, 1, dtype=torch.long))
    call = interleaved({"call": lambda: net(canvas, noise, at=one)}, rounds=9)["call"]
    return {"steps": steps, "calls an example": state.calls.double().mean().item(), "ratio": steps * call / ours}


def draws(rows: int, vocab: int) -> dict[str, Any]:
    """One token a row: ours, and what others do."""
    logits = 3 * torch.randn(rows, vocab, generator=seeded(0))
    generator = seeded(1)
    work = {
        "categorical (exact)": lambda: categorical(logits, uniform((rows,), generator, logits.device)),
        "Gumbel-max, float32": lambda: gumbel_max(logits, "float32", generator),
        "Gumbel-max, float64": lambda: gumbel_max(logits, "float64", generator),
        "torch.multinomial": lambda: torch.multinomial(logits.softmax(-1), 1, generator=generator),
    }
    found = interleaved(work)
    exact = found["categorical (exact)"]
    return {"rows": rows, "vocabulary": vocab, "categorical, ms": 1000 * exact} | {
        f"{name}, ratio": seconds / exact for name, seconds in found.items() if seconds != exact
    }


def memory(vocab: int, length: int, batch: int, width: int, plain: bool) -> None:
    """Print the MiB by which a run lifts the process's peak above the loaded network (in a process of its own)."""
    net = network(vocab, length, width)
    canvas = all_masked(batch, (length,), vocab)
    before = peak()
    if plain:
        plain_ancestral_step(net, canvas, 1.0, 0.5)
    else:
        for k, _ in enumerate(FirstHitting().trajectory(net, canvas, generator=seeded(0))):
            if k == 4:
                break
    print(peak() - before)


def peak() -> float:
    """Return the most memory that this process has held, in MiB (getrusage would count its parent's)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure_memory(vocab: int, length: int, batch: int, width: int, plain: bool) -> float:
    """Run `memory` in a process of its own."""
    code = f"from benchmarks.sampling import memory; memory({vocab}, {length}, {batch}, {width}, {plain})"
    return float(alone("-c", code))


def show(title: str, row: dict[str, Any]) -> dict[str, Any]:
    """Print a row and return it."""
    print(title)
    for name, value in row.items():
        print(f"    {name:36} {value:10.3g}" if isinstance(value, float) else f"    {name:36} {value:>10}", flush=True)
    return {"what": title} | row


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    settings = parser.parse_args()
    big, length, batch, width = (600, 16, 2, 16) if settings.small else (50_257, 256, 16, 256)
    rows = [show(f"one draw a row, V={v}", draws(batch * 16, v)) for v in (27, big)]
    rows += [show(f"first hitting, V={v}", first_hitting(v, length, batch, width)) for v in (27, big)]
    rows.append(show("skipping calls", skipping(length, batch, width, 4 * length)))
    vocabularies = (27,) if settings.small else (27, big)
    for name, plain in (("first hitting", False), ("one plain step", True)):
        mebibytes = {f"V={v}, L={length}": measure_memory(v, length, batch, width, plain) for v in vocabularies}
        rows.append(show(f"peak memory of {name}, MiB above the network", mebibytes))
    if not settings.small:
        rows.append(show("first hitting, L=1024, batch 2", first_hitting(big, 1024, 2, width, rounds=1)))
    report(rows, settings.json)


if __name__ == "__main__":
    main()

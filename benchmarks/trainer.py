"""What stands around the steps of training: the trainer's own time, and the wait before the first step.

python -m benchmarks.trainer [--small] [--json FILE]
"""

import argparse
import random
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.sampling import show
from benchmarks.timing import alone, interleaved, report
from benchmarks.training import LENGTH, SIZES, Step, new_network
from unmask.data.textfile import TextFile
from unmask.model import MaskedDiffusion
from unmask.objectives.scalar import TimeFreeELBO
from unmask.training import Optimizer, Run, plan_training

STEPS = 24
"""Of one round, so long that it begins and ends in less than it measures."""


def overhead(size: str, rounds: int) -> dict[str, Any]:
    """Compare a step of `unmask train` with the same step in a bare loop, by turns; medians.

    A run of 2 * STEPS less one of STEPS leaves the steps alone, without what begins and ends a run.
    """
    text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz ", k=200_000))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_text(text)
        data = TextFile(str(path), length=LENGTH)
        batch = SIZES[size][1]
        bare = Step("plain attention", new_network(size, 27), batch)

        def trained(steps: int) -> float:
            model = MaskedDiffusion(new_network(size, 27), data.codec)
            run = Run(str(Path(folder, "run")), batch_size=batch, precision="bf16-mixed", evaluate_every=10**6)
            settings = {"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 10}
            go = plan_training(model, data, TimeFreeELBO(), Optimizer(), run, settings)
            start = time.perf_counter()
            go()
            run.checkpoint.unlink()
            return time.perf_counter() - start

        def plain() -> float:
            start = time.perf_counter()
            for _ in range(STEPS):
                bare()
            return time.perf_counter() - start

        plain()
        found = [(trained(2 * STEPS) - trained(STEPS), plain()) for _ in range(rounds)]
    ours, theirs = (statistics.median(column) / STEPS for column in zip(*found, strict=True))
    return {"bare step, ms": 1e3 * theirs, "step of the trainer, ms": 1e3 * ours, "ratio": ours / theirs}


def start(rounds: int) -> dict[str, Any]:
    """Time imports, and `unmask train digits` with one step; processes by turns, medians."""
    with tempfile.TemporaryDirectory() as folder:
        train = ("-m", "unmask", "train", "digits", "--overwrite", "--out", folder, "--trainer.max_steps", "1")
        work = {
            "import torch, s": ("-c", "import torch"),
            "import torch and unmask, s": ("-c", "import torch, unmask"),
            "unmask train digits of one step, to the end, s": train,
        }
        return interleaved({name: partial(alone, *arguments) for name, arguments in work.items()}, rounds)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="so small that it only shows that it runs")
    parser.add_argument("--json", help="file for the figures")
    settings = parser.parse_args()
    size, rounds = ("tiny", 1) if settings.small else ("a", 5)
    torch.manual_seed(0)
    rows = [
        show(f"overhead of the trainer, size {size}, V=27, bfloat16", overhead(size, rounds)),
        show("start", start(rounds)),
    ]
    report(rows, settings.json)


if __name__ == "__main__":
    main()

"""How fast a run is, and what holds it up."""

import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch.utils.data import DataLoader

from unmask.training.cost import peak_flops
from unmask.training.gradients import clip_norm
from unmask.training.loggers import logs_now
from unmask.training.memory import peak_memory
from unmask.training.sharding import Sharded

SLOW = 1.5
"""A process is named that takes so many times as long as the median of all for what it does alone."""
SHARE = 0.1
"""And so large a part of the time of a step longer."""


class Loader(DataLoader):
    """A loader that says how long it was waited for.

    Attributes:
        waited: seconds.
    """

    waited = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield batch


class Watch(Callback):
    """Log speed, memory and what is waited for, between two rows of the logs; name a process that holds all up.

        tokens/s        of all processes
        mfu             operations a second (`unmask.training.cost.step_flops`) over the most that the devices can do
        memory_gib      the most that a process has held, of the GPU or, without one, of its own
        data_wait       part of the time that a process waited for data; the largest of all
        grad_norm       of all gradients, before they are clipped
        skipped_steps   steps of which float16 could not hold the gradients

    Args:
        example_flops: operations of a step per example.
        compiled: whether the network is compiled, which the first step waits for.
    """

    def __init__(self, example_flops: float, compiled: bool) -> None:
        self.example_flops, self.compiled = example_flops, compiled
        self.rows: list[dict[str, float]] = []
        self.named: set[int] = set()
        self.skipped, self.scale, self.norm = 0, 0.0, torch.zeros(())

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.loader: Any = trainer.train_dataloader
        self._again()
        if self.compiled:
            print("compiling (what is compiled is kept for later runs) ...", file=sys.stderr)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.begun = time.perf_counter()

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Any) -> None:
        self.forward += time.perf_counter() - self.begun

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """Take the norm of the gradients, of the steps of which there is a row."""
        if logs_now(trainer, 1):
            self.norm = clip_norm(pl_module.parameters(), None)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.compiled:
            Tqdm.write(f"first step after {time.perf_counter() - self.since:.1f} s", file=sys.stderr)
            self.compiled = False
            self._again()
            return
        self.tokens += batch[0].numel() * trainer.world_size
        self.examples += len(batch[0])
        self._count_skipped(trainer)
        if logs_now(trainer) and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._write(trainer, pl_module)
            self._again()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Say in a line how it was."""
        if trainer.is_global_zero and len(self.rows) > 1:
            print(summary(self.rows[1:], trainer.world_size, self.peak_from), flush=True)

    def _again(self) -> None:
        self.since, self.tokens, self.examples = time.perf_counter(), 0, 0
        self.forward, self.waited_before = 0.0, self.loader.waited

    def _write(self, trainer: Trainer, pl_module: Any) -> None:
        seconds, device = time.perf_counter() - self.since, pl_module.device
        waited = self.loader.waited - self.waited_before
        alone = waited if isinstance(trainer.strategy, Sharded) else waited + self.forward
        peak, self.peak_from = peak_flops(device, trainer.precision not in ("32-true", "64-true"))
        figures = torch.tensor([waited, alone, peak_memory(device)], dtype=torch.float64, device=device)
        everything = [figures]
        if trainer.world_size > 1:
            everything = [torch.empty_like(figures) for _ in range(trainer.world_size)]
            dist.all_gather(everything, figures)
        waits, alones, memories = torch.stack(everything).T.tolist()
        row = {
            "tokens/s": self.tokens / seconds,
            "mfu": self.examples * self.example_flops / seconds / peak,
            "memory_gib": max(memories) / 2**30,
            "data_wait": min(1.0, max(waits) / seconds),
            "grad_norm": float(self.norm),
            "skipped_steps": float(self.skipped),
        }
        self.rows.append(row)
        for name, value in row.items():
            pl_module.log(name, value)
        self._name_slowest(trainer, alones, seconds)

    def _name_slowest(self, trainer: Trainer, alones: list[float], seconds: float) -> None:
        median = sorted(alones)[(len(alones) - 1) // 2]
        slowest = max(range(len(alones)), key=alones.__getitem__)
        if alones[slowest] <= SLOW * median or alones[slowest] - median < SHARE * seconds or slowest in self.named:
            return
        self.named.add(slowest)
        if trainer.global_rank == slowest:
            took = f"{alones[slowest]:.2g} of {seconds:.2g} s for data and forward pass, the median {median:.2g} s"
            me = f"process {slowest} of {trainer.world_size} ({socket.gethostname()})"
            Tqdm.write(f"unmask: warning: {me} holds the others up: it took {took}", file=sys.stderr)

    def _count_skipped(self, trainer: Trainer) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scale = scaler.get_scale()
            self.skipped += scale < self.scale
            self.scale = scale


def summary(rows: list[dict[str, float]], processes: int, peak_from: str) -> str:
    """Return a line on how fast a run was: medians of its rows."""
    middle = {name: sorted(row[name] for row in rows)[len(rows) // 2] for name in rows[0]}
    each = f" ({middle['tokens/s'] / processes:,.0f} a process)" if processes > 1 else ""
    skipped = f", {rows[-1]['skipped_steps']:.0f} steps skipped" if rows[-1]["skipped_steps"] else ""
    return (
        f"{middle['tokens/s']:,.0f} tokens/s{each}, {middle['mfu']:.0%} of peak ({peak_from}), at most "
        f"{rows[-1]['memory_gib']:.2f} GiB a process, {middle['data_wait']:.0%} of the time waiting for data{skipped}"
    )

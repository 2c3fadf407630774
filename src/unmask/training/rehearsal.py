"""A dry run: what a training would take, from a few steps on a copy of the network."""

import copy
import math
import time
from typing import Any

import numpy as np
import torch

from unmask.data.base import DataSet
from unmask.data.order import Division, Order
from unmask.given import given_and_clean
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.objectives.scalar import TimeFreeELBO
from unmask.randomness import seeded
from unmask.report import Report
from unmask.training.beginning import Start, begin
from unmask.training.loop import check_names
from unmask.training.memory import peak_memory
from unmask.training.optimizer import new_optimizer
from unmask.training.placing import placed, processes_of, trained_on
from unmask.training.planning import Cluster, plan
from unmask.training.precision import Choice, decide
from unmask.training.settings import Optimizer, Run, TrainerSettings
from unmask.training.start import check_data, with_schedule

MIB = 1 << 20


def dry_run(
    network: Network | dict[str, Any] | None,
    data: DataSet,
    *,
    start: Start | None = None,
    objective: Objective | None = None,
    optimizer: Optimizer | None = None,
    run: Run,
    trainer: TrainerSettings | dict[str, Any] | None = None,
    measured_steps: int = 3,
    on: Cluster | None = None,
) -> Report:
    """Estimate what `unmask.train` with the same arguments takes: time, memory, disk. Nothing is written.

    A few steps are made in this process, on a copy of the network, not compiled. The time says nothing of evaluations
    and, with several processes, nothing of what they wait for each other.

    Args:
        network: stays as it is.
        data: its train part is used.
        start: as for `unmask.train`.
        objective: as for `unmask.train`.
        optimizer: as for `unmask.train`.
        run: as for `unmask.train`.
        trainer: as for `unmask.train`.
        measured_steps: steps that are timed, after one that is not.
        on: other machines, for which it is estimated by formula (`unmask.training.plan`); no step is made then.

    Raises:
        ValueError: settings that do not fit each other or the data.
    """
    settings = placed(TrainerSettings(**trainer) if isinstance(trainer, dict) else trainer or TrainerSettings())
    if measured_steps < 1:
        raise ValueError(f"measured_steps must be at least 1, got {measured_steps}")
    check_names(settings)
    if on is not None:
        network = network if isinstance(network, Network) else begin(network, data, start, run).network
        passes, precision = settings.accumulate_grad_batches, "bf16-mixed" if run.precision == "auto" else run.precision
        calls = (objective or TimeFreeELBO()).calls
        how: dict[str, Any] = {"batch_size": run.batch_size, "passes": passes, "precision": precision, "calls": calls}
        return plan(network, on, steps=settings.max_steps, **how)
    device, processes = trained_on(settings), processes_of(settings)
    network, data, schedule, _ = begin(network if start is not None else copy.deepcopy(network), data, start, run)
    choice = decide(network, device, processes)
    if run.precision != "auto":
        choice = Choice(run.precision, "as asked for")
    objective = copy.deepcopy(with_schedule(objective, network, schedule))
    model = MaskedDiffusion(network, data.codec, objective.process).to(device).train()
    check_data(model, data)
    seconds = _time_steps(model, data, objective, optimizer or Optimizer(), run, settings, choice, measured_steps)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    examples = run.batch_size * settings.accumulate_grad_batches * processes
    row = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "tokens_per_step": examples * math.prod(data.shape),
        "steps": settings.max_steps,
        "seconds_per_step": seconds,
        "estimated_hours": seconds * settings.max_steps / 3600,
        "memory_mib": round(peak_memory(device) / MIB),
        "checkpoint_mib": round(4 * weights / MIB, 2),  # weights, averages, and AdamW's two moments
        "model_mib": round(weights / MIB, 2),
    }
    protocol = {
        "data": data.name,
        "device": str(device),
        "processes": processes,
        "precision": f"{choice.precision} ({choice.reason})",
        "measured_steps": measured_steps,
        "memory": "peak of the GPU" if device.type == "cuda" else "peak of this process",
        "written": "nothing",
    }
    return Report((row,), protocol)


def _time_steps(
    model: MaskedDiffusion,
    data: DataSet,
    objective: Objective,
    optimizer: Optimizer,
    run: Run,
    settings: TrainerSettings,
    choice: Choice,
    count: int,
) -> float:
    """Return the seconds of a step: the median of a few."""
    device, train = model.device, data.split("train")
    division = Division(run.batch_size, processes_of(settings), settings.accumulate_grad_batches)
    order = iter(Order(len(train), division, run.seed, lambda: 0))
    updates = new_optimizer(model, optimizer)
    types = {"bf16": torch.bfloat16, "16": torch.float16}
    low = types.get(choice.precision.partition("-")[0])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout draws
        for step in range(count + 1):
            start = time.perf_counter()
            for part in range(settings.accumulate_grad_batches):
                x, label = train[np.asarray(next(order))]
                given, x = given_and_clean(x.to(device), model.network.excluded)
                label = None if label is None else label.to(device)
                generator = seeded(run.seed, step, part, device=device)
                with torch.autocast(device.type, low or torch.bfloat16, enabled=low is not None):
                    loss = objective(model.network, x, label, given=given, generator=generator).loss
                loss.backward()
            updates.step()
            updates.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times[1:]) // 2]

"""Where a run is trained: on which devices, in how many processes."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unmask.data.order import Division
from unmask.training.settings import Run, TrainerSettings


def trained_on(settings: TrainerSettings) -> torch.device:
    """Return the kind of device that the settings train on."""
    on_gpu = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def processes_of(settings: TrainerSettings) -> int:
    """Return how many processes train together."""
    here = settings.devices
    if here == "auto" or str(here) == "-1":
        count = torch.cuda.device_count() if trained_on(settings).type == "cuda" else 1
    else:
        count = len(here) if isinstance(here, list) else int(here) if str(here).isdigit() else 1
    return max(count * settings.num_nodes, int(os.environ.get("WORLD_SIZE", 1)))


def placed(settings: TrainerSettings) -> TrainerSettings:
    """Return the settings with the devices and nodes for which torchrun has started processes, if it has."""
    if not torch.distributed.is_torchelastic_launched():
        return settings
    here, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return replace(settings, devices=here, num_nodes=max(1, world // here))


def division_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return how run.json says that a step is divided: processes, examples of a pass, and passes."""
    run, trainer = record["run"], record["trainer"]
    found = {"processes": record.get("processes"), "batch_size": run.get("batch_size")}
    return found | {"passes": trainer.get("accumulate_grad_batches")}


def divided_anew(run: Run, settings: TrainerSettings, before: dict[str, Any]) -> tuple[Run, TrainerSettings]:
    """Return the settings of a run that goes on with another number of processes: a step has as many examples.

    Args:
        run: settings as they are asked for: how a step was divided when the run began, or when it last went on. Where
            they divide it otherwise, they are kept.
        settings: see `run`.
        before: run.json.

    Raises:
        ValueError: the examples of a step cannot be divided among so many processes.
    """
    processes = processes_of(settings)
    for known in (before.get("begun") or {}, division_of(before)):
        count = known.get("processes")
        if (known.get("batch_size"), known.get("passes")) != (run.batch_size, settings.accumulate_grad_batches):
            continue
        if not isinstance(count, int) or count == processes:
            break
        try:
            division = Division(run.batch_size, count, settings.accumulate_grad_batches).over(processes)
        except ValueError as error:
            raise ValueError(f"cannot resume {Path(run.out)} on {processes} process(es): {error}") from None
        settings = replace(settings, accumulate_grad_batches=division.passes)
        return replace(run, batch_size=division.batch), settings
    return run, settings

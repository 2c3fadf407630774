"""Where a run is trained: on which devices, in how many processes."""

import os
from dataclasses import replace
from pathlib import Path

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


def divided_anew(run: Run, settings: TrainerSettings, before: dict[str, dict]) -> tuple[Run, TrainerSettings]:
    """Return the settings of a run that goes on with another number of processes: a step has as many examples.

    Args:
        run: settings as they are asked for. Where these divide a step otherwise than before, they are kept.
        settings: see `run`.
        before: run.json.

    Raises:
        ValueError: the examples of a step cannot be divided among so many processes.
    """
    processes, count = processes_of(settings), before.get("processes")
    asked = (run.batch_size, settings.accumulate_grad_batches)
    kept = (before["run"].get("batch_size"), before["trainer"].get("accumulate_grad_batches"))
    if not isinstance(count, int) or count == processes or asked != kept:
        return run, settings
    try:
        division = Division(run.batch_size, count, settings.accumulate_grad_batches).over(processes)
    except ValueError as error:
        raise ValueError(f"cannot resume {Path(run.out)} on {processes} process(es): {error}") from None
    settings = replace(settings, accumulate_grad_batches=division.passes)
    return replace(run, batch_size=division.batch), settings

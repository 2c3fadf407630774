"""Devices by name, and copies to them."""

import torch
from torch import Tensor

from unmask.processes import local_rank, world


def find_device(device: str | None = None) -> torch.device:
    """Return the device of that name, a GPU where there is one if none is named.

    Of several processes (`unmask.processes`), each gets a GPU of its own, unless one is named by its number.

    Raises:
        ValueError: an unknown device, or one that cannot be used here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and world() > 1 and 0 < torch.cuda.device_count() <= local_rank():
        count = torch.cuda.device_count()
        raise ValueError(
            f"there are more processes than the {count} GPUs here: --nproc_per_node {count}, or --device cpu"
        )
    if device == "cuda" and world() > 1:
        device = f"cuda:{local_rank()}"
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; for example cpu, cuda or cuda:1") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: no GPU that torch can use is here")
    if target.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r}: cpu and cuda are supported (exact draws need float64)")
    return target


def send(x: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device without waiting for it; the tensor must not be changed afterwards."""
    device = torch.device(device)
    if x.device.type != "cpu" or device.type == "cpu":
        return x.to(device)
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

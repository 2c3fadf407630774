"""How much memory a process has held."""

import resource
import sys

import torch


def peak_memory(device: torch.device) -> int:
    """Return the bytes that this process has held at most, of a GPU or else of its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)

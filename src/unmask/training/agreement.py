"""Processes that train one model must begin with the same: data, weights, settings, checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from unmask.storage.model_files import tensors_digest

SAMPLED = 64
"""Entries of each tensor that are compared."""
HOW = {
    "training data": "every process must read the same files",
    "initial weights": "seed torch before the network is made",
    "checkpoint": "the folder of a run must be one that all processes see",
}


class Agree(Callback):
    """Compare what all processes are to have in common, before the first step.

    Args:
        facts: what this process has, by what it is called.
    """

    def __init__(self, facts: Mapping[str, str]) -> None:
        self.facts = dict(facts)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Raise a ValueError in all processes if one of them differs from the first, which it names."""
        everything: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(everything, self.facts)
        for name, first in everything[0].items():
            others = [str(rank) for rank, facts in enumerate(everything) if facts.get(name) != first]
            if others:
                who = f"process{'es' * (len(others) > 1)} {', '.join(others)} of {trainer.world_size}"
                shown = f" ({everything[int(others[0])].get(name, 'none'):.12}, not {first:.12})"
                raise ValueError(f"{who}: other {name} than process 0{shown}{': ' * (name in HOW)}{HOW.get(name, '')}")


def weights_sum(module: nn.Module) -> str:
    """Return a checksum of some entries of every parameter."""
    some = {name: p.detach().flatten()[:: max(1, p.numel() // SAMPLED)] for name, p in module.named_parameters()}
    return tensors_digest(some)

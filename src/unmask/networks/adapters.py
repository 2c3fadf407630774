"""Low-rank adapters (LoRA, arXiv:2106.09685) of a network's linear maps, by the package `peft`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from unmask.networks.base import Network

HEADS = ("head", "head.linear")
"""Output embeddings, whose weights are read without calling them."""
LORA = ".lora_"
"""In the names of the tensors of adapters, and in no others."""


@dataclass(frozen=True)
class Adapter:
    """Low-rank adapters: each linear map W becomes W + (alpha / rank) B A, of which A and B alone are trained.

    Args:
        rank: of B A.
        alpha: scale of B A; twice the rank if None.
        targets: patterns of the names of modules, such as "*.q_proj"; every linear map but the output embedding if
            there are none.
        dropout: probability of dropping an entry of what goes into A, in training.

    Raises:
        ValueError: a setting out of range.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the rank of an adapter must be at least 1, got {self.rank}")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"the alpha of an adapter must be positive and finite, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"the dropout of an adapter must be in [0, 1), got {self.dropout}")

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self) | {"targets": list(self.targets)}

    @classmethod
    def read(cls, described: Any) -> Adapter:
        """Return the adapter that `describe` described.

        Raises:
            ValueError: a description of another form.
        """
        try:
            alpha = described["alpha"]
            targets = tuple(str(one) for one in described["targets"])
            return cls(
                int(described["rank"]), None if alpha is None else float(alpha), targets, float(described["dropout"])
            )
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"about.adapter: expected rank, alpha, targets and dropout: {error}") from error


def adaptable(network: Network) -> list[str]:
    """Return the names of the linear maps of a network that an adapter can be put on."""
    kinds: tuple[type[nn.Module], ...] = (nn.Linear,)
    if any(type(module).__name__ == "Conv1D" for module in network.modules()):  # what GPT-2 calls them
        from transformers.pytorch_utils import Conv1D

        kinds += (Conv1D,)
    return [name for name, module in network.named_modules() if isinstance(module, kinds) and name not in HEADS]


def add_adapter(network: Network, adapter: Adapter) -> list[str]:
    """Put an adapter on a network, in place, and freeze all other weights; return the names of what is adapted.

    At first B is zero, so that the network computes what it did.

    Raises:
        ValueError: the network has no such linear map; or it has an adapter already.
        ImportError: the package `peft` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("adapters need the package peft: pip install 'unmask[lora]'") from error
    if has_adapter(network):
        raise ValueError("the network has an adapter already: merge it first")
    there = adaptable(network)
    chosen = [name for name in there if not adapter.targets or any(fnmatchcase(name, one) for one in adapter.targets)]
    if not chosen:
        said = ", ".join(adapter.targets) if adapter.targets else "any name"
        known = f"it has {', '.join(there[:8])}{', ...' if len(there) > 8 else ''}" if there else "it has none at all"
        raise ValueError(f"{type(network).__name__} has no linear map of the name {said} for an adapter; {known}")
    alpha: Any = 2 * adapter.rank if adapter.alpha is None else adapter.alpha
    device = next(network.parameters()).device
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=alpha,
        lora_dropout=adapter.dropout,
        target_modules=chosen,
        fan_in_fan_out=not any(isinstance(network.get_submodule(name), nn.Linear) for name in chosen),  # Conv1D
    )
    inject_adapter_in_model(config, network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(LORA in name)
        if LORA in name:
            parameter.data = parameter.data.to(device=device, dtype=torch.promote_types(parameter.dtype, torch.float32))
    return chosen


def has_adapter(network: nn.Module) -> bool:
    """Return whether a network has an adapter."""
    return any(LORA in name for name, _ in network.named_parameters())


def merge_adapter(network: Network) -> None:
    """Add B A to the weights, and take the adapter away, in place; all weights can be trained again."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, module.get_base_layer())
    network.requires_grad_(True)

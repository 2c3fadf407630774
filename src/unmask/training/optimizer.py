"""AdamW over the parts of a model that learn at different rates."""

from typing import Any

import torch
from torch import nn

from unmask.model import MaskedDiffusion
from unmask.schedules import TokenPolynomial
from unmask.training.settings import Optimizer


def parameter_groups(model: MaskedDiffusion, settings: Optimizer) -> list[dict[str, Any]]:
    """Return the parameters that decay, those that do not, and those of a learned schedule, as far as trained.

    Raises:
        ValueError: a rate for exponents, but the model learns none.
    """
    network = model.network
    matrices = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}  # perhaps tied to the head
    maps = {id(m.weight) for m in network.modules() if isinstance(m, matrices)} - embeddings
    trained = [p for p in network.parameters() if p.requires_grad]
    decays = [p for p in trained if id(p) in maps]
    beginnings = ("schedule.", "network.noise.") if network.vectors else ("schedule.",)
    learned = [p for name, p in model.named_parameters() if name.startswith(beginnings) and p.requires_grad]
    known = {id(p) for p in learned}
    others = [p for p in trained if id(p) not in maps and id(p) not in known]
    if settings.schedule_lr and not isinstance(model.schedule, TokenPolynomial) and not model.network.vectors:
        raise ValueError("optimizer.schedule_lr is for the exponents of TokenELBO; this objective learns no schedule")
    groups: list[dict[str, Any]] = [{"params": decays, "weight_decay": settings.weight_decay, "lr": settings.lr}]
    groups += [{"params": others, "weight_decay": 0.0, "lr": settings.lr}]
    groups = [group for group in groups if group["params"]]
    if learned:
        groups += [{"params": learned, "weight_decay": 0.0, "lr": settings.schedule_lr or settings.lr}]
    return groups


def new_optimizer(model: MaskedDiffusion, settings: Optimizer) -> torch.optim.AdamW:
    """Return the optimizer of a model."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(parameter_groups(model, settings), lr=settings.lr, betas=betas, fused=True)

"""The parts of a model that learn at different rates, and their optimizer."""

from typing import Any

import torch
from torch import nn

from unmask.model import MaskedDiffusion
from unmask.networks.gaussian import GaussianTransformer
from unmask.networks.pretrained import Pretrained
from unmask.schedules import TokenPolynomial
from unmask.training.muon import Muon
from unmask.training.settings import Optimizer


def parameter_groups(model: MaskedDiffusion, settings: Optimizer) -> list[dict[str, Any]]:
    """Return the parameters that decay, those that do not, and those of a learned schedule, as far as trained.

    For Muon those that decay are first the matrices inside the network, which it is for, then those of the head. Where
    embeddings and head have a rate of their own, they are groups of their own, too.

    Raises:
        ValueError: a rate for exponents, but the model learns none; or for embeddings and head, but it trains neither.
    """
    network = model.network
    maps = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    looked_up = (m for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    embeddings = {id(m.weight) for m in looked_up}  # perhaps tied to the head
    if isinstance(network, GaussianTransformer):
        embeddings.add(id(network.table))
    matrices = {id(m.weight) for m in network.modules() if isinstance(m, maps)}
    flat = {*matrices, *(id(p) for p in network.parameters() if p.dim() == 2)}
    if isinstance(network, Pretrained):  # GPT-2's Conv1D, and experts, which are one parameter of three axes
        matrices = {id(p) for p in network.parameters() if p.dim() >= 2}
    matrices = matrices - embeddings
    head = getattr(network, "head", None)
    outside = {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    inside = (matrices & flat) - outside if settings.kind == "Muon" else set()
    beginnings = ("schedule.", "network.noise.") if network.vectors else ("schedule.",)
    learned = [p for name, p in model.named_parameters() if name.startswith(beginnings) and p.requires_grad]
    trained = [p for p in network.parameters() if p.requires_grad and not any(p is q for q in learned)]
    if settings.schedule_lr and not isinstance(model.schedule, TokenPolynomial) and not network.vectors:
        raise ValueError("optimizer.schedule_lr is for the exponents of TokenELBO; this objective learns no schedule")
    tables = (embeddings | outside) & {id(p) for p in trained} if settings.embedding_lr else set()
    if settings.embedding_lr and not tables:
        raise ValueError("optimizer.embedding_lr is for embeddings and a head; this network trains neither")
    decay, muon = {"weight_decay": settings.weight_decay}, {"lr": settings.matrix_lr, "momentum": settings.momentum}
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) in inside], **decay, **muon}]
    for in_tables, rate in ((False, settings.lr), (True, settings.embedding_lr)):
        rest = [p for p in trained if id(p) not in inside and (id(p) in tables) == in_tables]
        groups.append({"params": [p for p in rest if id(p) in matrices], **decay, "lr": rate})
        groups.append({"params": [p for p in rest if id(p) not in matrices], "weight_decay": 0.0, "lr": rate})
    groups.append({"params": learned, "weight_decay": 0.0, "lr": settings.schedule_lr or settings.lr})
    return [group for group in groups if group["params"]]


def new_optimizer(model: MaskedDiffusion, settings: Optimizer, fused: bool = True) -> torch.optim.AdamW:
    """Return the optimizer of a model.

    Args:
        model: that is trained.
        settings: of the optimizer.
        fused: whether a step is one kernel, which would scale gradients back itself: after they are clipped, and not
            for Muon. Not where they are scaled, under 16-mixed.
    """
    groups, betas = parameter_groups(model, settings), (settings.beta1, settings.beta2)
    if settings.kind == "Muon":
        return Muon(groups, betas, fused)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, fused=fused)

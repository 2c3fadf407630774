"""Norms and clipping of gradients, whole or sharded."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unmask.training.sharding import local


def clip_norm(parameters: Iterable[Tensor], limit: float | None) -> Float[Tensor, ""]:
    """Return the norm of all gradients together, after it was brought down to a limit, if there is one.

    The norm is that before. Of sharded gradients all processes call this together, and have one norm.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    if not sharded:
        if limit:
            return nn.utils.clip_grad_norm_(parameters, limit)
        return nn.utils.get_total_norm(gradients)
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    first = sharded[0]
    shards = first.device_mesh.size(next(i for i, place in enumerate(first.placements) if place.is_shard()))
    squares = _squares([local(gradient) for gradient in sharded])
    dist.all_reduce(squares)  # over all processes: what several of them have is in it as often
    norm = (squares * (shards / dist.get_world_size()) + _squares(whole, squares)).sqrt()
    if limit:
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor)
    return norm


def clip_value(parameters: Iterable[Tensor], limit: float) -> None:
    """Clip every entry of the gradients."""
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    torch._foreach_clamp_min_(gradients, -limit)
    torch._foreach_clamp_max_(gradients, limit)


def average_whole(parameters: Iterable[Tensor]) -> None:
    """Average over all processes the gradients that are not sharded: of what is outside the network."""
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def _squares(tensors: list[Tensor], like: Tensor | None = None) -> Float[Tensor, ""]:
    """Return the sum of the squares of all entries, in float32 or better."""
    if not tensors:
        return torch.zeros_like(like) if like is not None else torch.zeros(())
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(tensors)])
    return norms.square().sum()

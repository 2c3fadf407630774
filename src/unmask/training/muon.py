"""Muon for matrices and AdamW for everything else, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration a X + b (X Xᵀ) X + c (X Xᵀ)² X, steep at 0, that takes singular values to about 1."""


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Return matrices (..., m, n) of the same singular vectors, and singular values between about 0.7 and 1.2.

    In bfloat16 on a GPU, where that is many times faster; in float32 on a CPU, where it may be many times slower.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x.bfloat16() if x.device.type == "cuda" else x.float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide else x.mT).to(matrices.dtype)


class Muon(torch.optim.AdamW):
    """Momentum whose steps are orthogonalised, for matrices; AdamW for all other parameters.

        m ← β m + (1 − β) g,   W ← (1 − η λ) W − η √max(1, rows / columns) · orthogonalise((1 − β) g + β m)

    The groups with a key "momentum", β, are the matrices; a kernel of more axes is one of a matrix to the output
    features. Matrices of one shape are orthogonalised at once. Sharded parameters have sharded momenta; each process
    gathers a matrix to orthogonalise it. (K. Jordan et al., 2024; `torch.optim.Muon` always iterates in bfloat16.)

    Args:
        groups: of parameters, with their own "lr" and "weight_decay".
        betas: of AdamW.
        fused: whether AdamW is one kernel; not with a scaler of gradients, which then leaves scaling back to it.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], fused: bool = True) -> None:
        super().__init__(groups, betas=betas, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step with every parameter that has a gradient."""
        groups = self.param_groups
        matrices = [group for group in groups if "momentum" in group]
        self.param_groups = [group for group in groups if "momentum" not in group]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in matrices:
            of_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    direction = self._direction(p, p.grad, group["momentum"])
                    of_shape.setdefault(direction.shape, []).append((p, direction))
            for pairs in of_shape.values():
                _move(pairs, group["lr"], group["weight_decay"])
        return loss

    def _direction(self, p: Tensor, grad: Tensor, beta: float) -> Tensor:
        """Update the momentum of a parameter, and return what is to be orthogonalised, (rows, columns)."""
        state = self.state[p]
        if not state:
            state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(p))
        state["step"] += 1  # AdamW wants one of every parameter
        direction = grad.lerp(state["momentum_buffer"].lerp_(grad, 1 - beta), beta)
        return (direction.full_tensor() if isinstance(direction, DTensor) else direction).flatten(1)


def _move(pairs: list[tuple[Tensor, Tensor]], rate: float, decay: float) -> None:
    """Take a step with matrices of one shape, each given with its direction."""
    rows, columns = pairs[0][1].shape
    steps = orthogonalise(torch.stack([direction for _, direction in pairs])) * max(1.0, rows / columns) ** 0.5
    for (p, _), step in zip(pairs, steps, strict=True):
        whole = step.view(p.shape)
        if isinstance(p, DTensor):
            everywhere = DTensor.from_local(whole, p.device_mesh, [Replicate()] * p.device_mesh.ndim)
            whole = everywhere.redistribute(placements=p.placements)
        p.mul_(1 - rate * decay).add_(whole, alpha=-rate)

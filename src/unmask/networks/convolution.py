"""A depthwise convolution over the axes of the data, through which a transformer sees neighbours at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolution(nn.Module):
    """Add to each position a weighted sum of its neighbours, feature by feature.

        h_i ← h_i + Σ_{|j| ≤ size // 2} w_j ⊙ h_{i+j},   w = 0 at first; outside the example h = 0

    On a grid, j runs over a box around the position, no longer on any axis than the axis itself. With `causal`, over
    the `size` positions that end at i, in row-major order.

    Args:
        width: number of features.
        size: of the box on each axis; odd unless causal.
        shape: dims of the examples that are trained on.
        causal: whether a position sees itself and those before it alone.

    Raises:
        ValueError: the size is even, or less than 1; or more than three axes are longer than 1.
    """

    def __init__(self, width: int, size: int, shape: tuple[int, ...], causal: bool = False) -> None:
        super().__init__()
        if size < 1 or (size % 2 == 0 and not causal):
            raise ValueError(f"convolution must be an odd number of positions, or 0 for none; got {size}")
        axes = [size] if causal else axes_of(shape)
        if len(axes) > 3:
            raise ValueError(f"convolution takes examples of up to three axes longer than 1, got the shape {shape}")
        self.causal = causal
        sizes = [size] if causal else [min(size, 2 * length - 1) for length in axes]
        self.weight = nn.Parameter(torch.zeros(*([1] * (2 - len(sizes))), *sizes, width))

    def forward(self, h: Tensor, dims: tuple[int, ...], past: Any = None) -> Tensor:
        """Map h (batch, L, width) to the same shape.

        Args:
            h: features of all positions, in row-major order.
            dims: of the examples.
            past: of a causal convolution, what it has read before (see `Past`).
        """
        kernel = self.weight.movedim(-1, 0).unsqueeze(1)  # (width, 1, *sizes)
        if self.causal:
            before = kernel.shape[-1] - 1
            seen = F.pad(h, (0, 0, before, 0)) if past is None else past.recent(h, before)
            return h + self._convolve(seen.unsqueeze(1), kernel, 0).squeeze(1)
        axes = axes_of(dims)
        grid = h.unflatten(1, axes if len(axes) > 1 else (1, *axes))
        return h + self._convolve(grid, kernel, [size // 2 for size in kernel.shape[2:]]).flatten(1, -2)

    def _convolve(self, x: Tensor, kernel: Tensor, padding: Any) -> Tensor:
        """Convolve x (batch, *axes, width). Features stay last in memory, several times as fast on a CPU."""
        convolve = F.conv2d if kernel.dim() == 4 else F.conv3d
        return convolve(x.movedim(-1, 1), kernel, padding=padding, groups=x.shape[-1]).movedim(1, -1)


def axes_of(dims: tuple[int, ...]) -> list[int]:
    """Return the lengths of the axes that are longer than 1; one of 1 if there is none."""
    return [size for size in dims if size > 1] or [1]

"""Layers that networks are built from: rotary positions, attention, gated MLP, embedding of the mask rate."""

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unmask.networks.base import Positions


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors are used in training too
def rotary_angles(
    dims: tuple[int, ...], frequencies: int, base: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles of every position of a grid (RoFormer, arXiv:2104.09864).

    Each axis longer than one position gets an equal share of the frequencies: text has one axis, grey images two. The
    angle of position m on an axis with F frequencies is

        θ_j = m · base^(−j / F),   j = 0, ..., F − 1.

    Returns:
        Two tensors (L, frequencies), positions in row-major order.
    """
    axes = [size for size in dims if size > 1] or [1]
    shares = [frequencies // len(axes) + (i < frequencies % len(axes)) for i in range(len(axes))]
    grid = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in axes), indexing="ij")
    angle = torch.cat(
        [
            position.reshape(-1, 1) * base ** (-torch.arange(share, dtype=torch.float64) / max(share, 1))
            for position, share in zip(grid, shares, strict=True)
        ],
        dim=1,
    )
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs of entries (j, j + head / 2) of x (..., L, head) by the angles of each position.

    The angles may have a higher precision than x; the result has the dtype of x.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat(((a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype)), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None, causal: bool = False) -> Tensor:
    """Return softmax(q kᵀ / √head) v for q (..., M, head) and k, v (..., L, head).

    Uses PyTorch's fused kernel, except for up to 512 positions in bfloat16 on a CPU: there matrix products and a
    softmax are faster (docs/performance.md), but keep the (M, L) weights and round the scores to bfloat16.

    Args:
        q, k, v: queries, keys and values.
        seen: (..., M, L), which keys each query sees; None: all.
        causal: whether query i sees the keys 0..i alone; then M = L, and `seen` is None.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= 512:
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        if causal:
            seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        return (scores if seen is None else scores.masked_fill(~seen, -math.inf)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal)


def run_block(block: nn.Module, checkpointing: bool, *inputs: Any) -> Tensor:
    """Return block(*inputs); with checkpointing, its activations are recomputed in the backward pass."""
    return checkpoint(block, *inputs, use_reentrant=False) if checkpointing else block(*inputs)


class Past:
    """Keys and values of the positions that a causal attention has read, with room for `length` of them."""

    def __init__(self, length: int) -> None:
        self.length, self.read = length, 0
        self.kept: tuple[Tensor, Tensor] | None = None
        self.last: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of the next positions (batch, heads, n, head), and return those of all until then."""
        keys, values = self.kept or (self._room(k), self._room(v))
        start, stop = self.read, self.read + k.shape[2]
        keys[:, :, start:stop], values[:, :, start:stop] = k, v
        self.kept, self.read = (keys, values), stop
        return keys[:, :, :stop], values[:, :, :stop]

    def recent(self, h: Tensor, count: int) -> Tensor:
        """Return the next inputs of a convolution (batch, n, width) after the last `count` before them, 0 at first."""
        seen = F.pad(h, (0, 0, count, 0)) if self.last is None else torch.cat((self.last, h), 1)
        self.last = seen[:, seen.shape[1] - count :]
        return seen

    def _room(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:2], self.length, x.shape[3])

    def select(self, rows: Tensor) -> None:
        """Go on with some of the examples."""
        if self.kept is not None:
            self.kept = self.kept[0].index_select(0, rows), self.kept[1].index_select(0, rows)
        self.last = None if self.last is None else self.last.index_select(0, rows)


class Attention(nn.Module):
    """Multi-head attention with rotary positions.

    Args:
        width: of the residual stream.
        heads: number of heads.
        causal: whether each position sees itself and those before it alone.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, h: Tensor, cos: Tensor, sin: Tensor, at: Positions | None = None, past: Past | None = None
    ) -> Tensor:
        """Map h (batch, L, width) to the same shape; with `at`, return its N positions only: (N, width).

        With `past` the positions of h follow those that a causal attention has read: all of these at once, then one by
        one.
        """
        if at is None or at.index is None:
            q, k, v = self._split(self.qkv(h), 3)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            k, v = (k, v) if past is None else past.append(k, v)
            mixed = self._join(attend(q, k, v, causal=self.causal and q.shape[-2] == k.shape[-2]))
            return self.out(mixed if at is None else at.pick(mixed))
        width, index = h.shape[-1], at.index
        here = h.gather(1, index.unsqueeze(-1).expand(-1, -1, width))
        if type(self.qkv) is nn.Linear:
            (q,) = self._split(F.linear(here, self.qkv.weight[:width]), 1)
            k, v = self._split(F.linear(h, self.qkv.weight[width:]), 2)
        else:  # it has an adapter, and must be called
            (q,) = self._split(self.qkv(here)[..., :width], 1)
            k, v = self._split(self.qkv(h)[..., width:], 2)
        rotated = rotate(q, cos[index].unsqueeze(1), sin[index].unsqueeze(1))
        seen = None
        if self.causal:
            seen = (torch.arange(h.shape[1], device=h.device) <= index.unsqueeze(-1)).unsqueeze(1)
        mixed = self._join(attend(rotated, rotate(k, cos, sin), v, seen)).flatten(0, 1)
        return self.out(mixed if at.kept is None else mixed.index_select(0, at.kept))

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """Reshape (batch, L, parts * width) to (parts, batch, heads, L, head)."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class GatedMLP(nn.Module):
    """Compute out(silu(a) * b), (a, b) = up(h), at every position (GLU variants, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        a, b = self.up(h).chunk(2, dim=-1)
        return self.out(F.silu(a) * b)


class NoiseEmbedding(nn.Module):
    """Embed mask rates in [0, 1]: sinusoids of geometrically spaced frequencies, then a two-layer perceptron."""

    def __init__(self, width: int, frequencies: int = 64) -> None:
        super().__init__()
        rates = 2 * math.pi * torch.logspace(-2, 2, frequencies, dtype=torch.float64)
        self.register_buffer("rates", rates.float(), persistent=False)
        self.rates: Tensor
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, noise: Tensor) -> Tensor:
        angle = noise.to(self.rates.dtype).unsqueeze(-1) * self.rates
        return self.mlp(torch.cat((angle.cos(), angle.sin()), dim=-1))


class Condition(nn.Module):
    """Sum the embeddings of the mask rate and the label (the null label if there is none): (batch, width)."""

    def __init__(self, width: int, classes: int | None, timed: bool) -> None:
        super().__init__()
        self.label = None if classes is None else nn.Embedding(classes + 1, width)
        self.noise = NoiseEmbedding(width) if timed else None

    def forward(self, noise: Tensor | None, label: Tensor | None, batch: int) -> Tensor:
        parts = []
        if self.label is not None:
            null = self.label.num_embeddings - 1
            parts.append(
                self.label(torch.full((batch,), null, device=self.label.weight.device) if label is None else label)
            )
        if self.noise is not None:
            if noise is None:
                raise ValueError("a network with time conditioning needs `noise`: the mask rate, or the time")
            parts.append(self.noise(noise))
        return sum(parts[1:], parts[0])


def modulate(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """Return x * (1 + scale) + shift, or x if these are None."""
    return x if shift is None or scale is None else torch.addcmul(shift, x, 1 + scale)


def gate(x: Tensor, factor: Tensor | None) -> Tensor:
    """Return x * factor, or x if the factor is None."""
    return x if factor is None else x * factor


class Modulation(nn.Module):
    """Map a condition (batch, condition width) to `parts` vectors (batch, 1, width), initially zero (adaLN-zero)."""

    def __init__(self, width: int, parts: int, condition: int | None = None) -> None:
        super().__init__()
        self.parts = parts
        self.map = nn.Linear(condition or width, parts * width)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.map(F.silu(condition)).unsqueeze(1).chunk(self.parts, dim=-1)


class Block(nn.Module):
    """A pre-norm residual block of attention and an MLP.

    With a condition, the input of each branch is shifted and scaled and its output gated by a linear map of the
    condition, initialised to zero, so that the block starts as the identity (adaLN-zero; DiT, arXiv:2212.09748).
    """

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, conditioned: bool, causal: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=not conditioned, bias=False)
        self.attention = Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=not conditioned, bias=False)
        self.mlp: nn.Module = GatedMLP(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.modulation = Modulation(width, 6) if conditioned else None

    def forward(
        self,
        h: Tensor,
        cos: Tensor,
        sin: Tensor,
        condition: Tensor | None,
        at: Positions | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """Map (batch, L, width) to the same shape; with `at`, return the N positions only: (N, width).

        With `past` see `Attention`.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            (None,) * 6 if self.modulation is None else self.modulation(condition)
        )
        branch = self.attention(modulate(self.norm1(h), shift1, scale1), cos, sin, at, past)
        if at is not None:
            h = at.pick(h)
            gate1, shift2, scale2, gate2 = (
                None if x is None else at.spread(x.squeeze(1)) for x in (gate1, shift2, scale2, gate2)
            )
        h = h + gate(self.dropout(branch), gate1)
        branch = self.mlp(modulate(self.norm2(h), shift2, scale2))
        return h + gate(self.dropout(branch), gate2)

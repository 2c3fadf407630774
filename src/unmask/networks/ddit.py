"""DDiT, the transformer of the public checkpoints of SEDD, MDLM and RADD."""

import math

import torch
from torch import Tensor, nn

from unmask.networks.base import Positions
from unmask.networks.head import HeadedNetwork
from unmask.networks.layers import Block, Modulation, modulate, rotary_angles
from unmask.types import Labels, Times, Tokens

FREQUENCIES = 128


class TotalNoise(nn.Module):
    """Embed the total noise σ = −log α = −log(1 − mask rate): cosines and sines, then a two-layer perceptron.

    Mask rates are clipped to 1 − eps, the largest that these models were trained on (their noise is log-linear).
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        rates = torch.exp(-math.log(10_000) * torch.arange(FREQUENCIES) / FREQUENCIES)
        self.register_buffer("rates", rates, persistent=False)
        self.rates: Tensor
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, noise: Tensor) -> Tensor:
        sigma = -torch.log1p(-noise.double().clamp(max=1 - self.eps))
        angle = sigma.to(self.rates.dtype).unsqueeze(-1) * self.rates
        return self.mlp(torch.cat((angle.cos(), angle.sin()), dim=-1))


class DDiTBlock(Block):
    """A block with a GELU perceptron instead of a gated MLP, and norms with gains (and biases if time-free)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, condition: int | None) -> None:
        super().__init__(width, heads, hidden, dropout, conditioned=False)
        self.norm1, self.norm2 = (nn.LayerNorm(width, bias=condition is None) for _ in range(2))
        self.mlp: nn.Module = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
        self.modulation = None if condition is None else Modulation(width, 6, condition)


class DDiT(HeadedNetwork):
    """A transformer of GPT-2's sizes without a causal mask: SEDD (arXiv:2310.16834), MDLM and RADD.

    It has two forms: time-free (RADD, and MDLM after folding its constant modulation into the weights), and modulated
    by the noise (SEDD). It serves to load public checkpoints; prefer `Transformer` for new models.

    Args:
        vocab_size: V, number of token values.
        shape: (length,). Texts may be longer or shorter when the network is called.
        classes: not supported; None.
        width: width of the residual stream; a multiple of 2 * heads.
        depth: number of blocks.
        heads: number of attention heads.
        hidden: width inside the perceptrons; 4 * width if None.
        condition: width of the embedding of the noise; None for the time-free form.
        eps: mask rates are clipped to 1 − eps.
        dropout: probability of dropping an entry of a residual branch in training.

    Examples:
        >>> network = unmask.DDiT(27, (16,), width=32, depth=2, heads=4)
        >>> network(unmask.all_masked(2, network.shape, network.mask_id)).shape
        torch.Size([2, 16, 27])
    """

    def __init__(
        self,
        vocab_size: int,
        shape: tuple[int, ...],
        classes: int | None = None,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int | None = None,
        condition: int | None = None,
        eps: float = 1e-3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        counts = {"vocab_size": vocab_size, "width": width, "depth": depth, "heads": heads, "hidden": hidden or 1}
        for name, value in (counts | {"condition": 1 if condition is None else condition}).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if classes is not None:
            raise ValueError(f"DDiT takes no class labels, got classes={classes}; Transformer does")
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"shape must be (length,), got {shape}")
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of 2 * heads, got width={width}, heads={heads}")
        if not 0 <= dropout < 1 or not 0 < eps < 1:
            raise ValueError(f"dropout must be in [0, 1) and eps in (0, 1), got {dropout} and {eps}")
        self.vocab_size, self.shape, self.classes = vocab_size, tuple(shape), None
        self.width, self.depth, self.heads, self.hidden = width, depth, heads, hidden or 4 * width
        self.condition, self.eps, self.dropout = condition, eps, dropout
        self.time_conditioning = condition is not None

        self.embed = nn.Embedding(vocab_size + 1, width)
        self.noise = None if condition is None else TotalNoise(condition, eps)
        self.blocks = nn.ModuleList(DDiTBlock(width, heads, self.hidden, dropout, condition) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=condition is None)
        self.modulation = None if condition is None else Modulation(width, 2, condition)
        self.head = nn.Linear(width, vocab_size)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def compile_body(self) -> None:
        """Compile the blocks."""
        for block in self.blocks:
            block.compile()

    def features(
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, at: Positions | None = None
    ) -> Tensor:
        """See `HeadedNetwork.features`."""
        if label is not None:
            raise ValueError("a label was given, but DDiT takes none")
        condition = None
        if self.noise is not None:
            if noise is None:
                raise ValueError("a network with time conditioning needs `noise`: the mask rate")
            condition = self.noise(noise)
        h = self.embed(x_t)
        cos, sin = rotary_angles((x_t.shape[1],), self.width // self.heads // 2, 10_000.0, h.device, h.dtype)
        for block in self.blocks[:-1]:
            h = block(h, cos, sin, condition)
        h = self.norm(self.blocks[-1](h, cos, sin, condition, at))
        if self.modulation is None:
            return h
        shift, scale = self.modulation(condition)
        if at is not None:
            shift, scale = at.spread(shift.squeeze(1)), at.spread(scale.squeeze(1))
        return modulate(h, shift, scale)

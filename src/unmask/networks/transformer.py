"""A bidirectional transformer over tokens of any shape: the default network."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from unmask.networks.base import Positions
from unmask.networks.convolution import Convolution
from unmask.networks.head import HeadedNetwork
from unmask.networks.layers import Block, Condition, Modulation, Past, modulate, rotary_angles, run_block
from unmask.networks.ngrams import NGrams
from unmask.types import Labels, Times, Tokens


class Transformer(HeadedNetwork):
    """Pre-norm transformer with rotary positions on every axis of the data, gated MLPs and a zero-initialised head.

    It initially predicts the uniform distribution, so the first loss is log V per token.

    Args:
        vocab_size: V, number of token values.
        shape: dims of one example, (length,) for text or (height, width, channels) for images. Text may be longer
            or shorter when the network is called, unless positions are absolute.
        classes: number of classes; None for a network without labels.
        width: width of the residual stream; a multiple of 2 * heads.
        depth: number of blocks.
        heads: number of attention heads.
        hidden: width inside the gated MLP; 8/3 of `width`, rounded to a multiple of 32, if None.
        time_conditioning: whether the network is conditioned on the mask rate. Off by default, since it is not needed
            (FHS, section 3) except for state-dependent schedules.
        dropout: probability of dropping an entry of a residual branch in training.
        absolute_positions: whether to also learn an embedding of each position. Rotary positions are relative, and on a
            fully masked canvas cannot tell positions apart. Recommended for images, not for windows of a long text.
        rotary_base: the lowest rotary frequency has a period of about 2π * rotary_base positions.
        checkpointing: whether to compute each block again in the backward pass instead of keeping what is inside.
        convolution: positions on each axis of a depthwise convolution before each block, an odd number; 0 for none.
            Neighbours are then seen from the first step on, which makes small models learn faster.
        ngrams: tokens of the longest windows around each position of a text that are embedded too (`NGrams`), 2 to 16;
            0 for none. It makes small models of texts learn faster still, for tables that cost memory.

    Examples:
        >>> network = unmask.Transformer(27, (16,), width=32, depth=2, heads=4)
        >>> x = unmask.all_masked(2, network.shape, network.mask_id)
        >>> network(x).shape, network(x, at=x == network.mask_id).shape
        (torch.Size([2, 16, 27]), torch.Size([32, 27]))
    """

    def __init__(
        self,
        vocab_size: int,
        shape: tuple[int, ...],
        classes: int | None = None,
        *,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        time_conditioning: bool = False,
        dropout: float = 0.0,
        absolute_positions: bool = False,
        rotary_base: float = 10_000.0,
        checkpointing: bool = False,
        convolution: int = 0,
        ngrams: int = 0,
    ) -> None:
        super().__init__()
        counts = {"vocab_size": vocab_size, "width": width, "depth": depth, "heads": heads}
        counts |= {"classes": 1 if classes is None else classes, "hidden": 1 if hidden is None else hidden}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not isinstance(shape, tuple | list) or not shape or min(shape) < 1:
            raise ValueError(f"shape must be a tuple of lengths of at least 1, such as (256,), got {shape}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if not rotary_base > 0:
            raise ValueError(f"rotary_base must be positive, got {rotary_base}")
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of 2 * heads, got width={width}, heads={heads}")
        self.vocab_size, self.shape, self.classes = vocab_size, tuple(shape), classes
        self.width, self.depth, self.heads, self.dropout = width, depth, heads, dropout
        self.hidden = max(32, 32 * round(width / 12)) if hidden is None else hidden
        self.time_conditioning, self.rotary_base = time_conditioning, rotary_base
        self.absolute_positions, self.checkpointing = absolute_positions, checkpointing
        self.convolution, self.ngrams = convolution, ngrams
        if ngrams and len(shape) != 1:
            raise ValueError(f"ngrams are for texts; for examples of shape {shape} use convolution")

        conditioned = time_conditioning or classes is not None
        self.embed = nn.Embedding(vocab_size + 1, width)
        self.embed_position = nn.Embedding(math.prod(self.shape), width) if absolute_positions else None
        self.embed_ngrams = NGrams(vocab_size, ngrams, width) if ngrams else None
        self.condition = Condition(width, classes, time_conditioning) if conditioned else None
        self.blocks = nn.ModuleList(
            Block(width, heads, self.hidden, dropout, conditioned, self.causal) for _ in range(depth)
        )
        self.convolutions = nn.ModuleList(
            Convolution(width, convolution, self.shape, self.causal) for _ in range(depth if convolution else 0)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=not conditioned, bias=False)
        self.modulation = Modulation(width, 2) if conditioned else None
        self.head: nn.Linear = nn.Linear(width, vocab_size)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                out = name.endswith("out.weight") and self.modulation is None
                nn.init.normal_(parameter, std=0.02 / (2 * self.depth) ** 0.5 if out else 0.02)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.map.weight)
                nn.init.zeros_(module.map.bias)
            if isinstance(module, Convolution):
                nn.init.zeros_(module.weight)
            if isinstance(module, NGrams):
                module.initialise()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def compile_body(self) -> None:
        """Compile the blocks."""
        for block in self.blocks:
            block.compile()

    def features(
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, at: Positions | None = None
    ) -> Tensor:
        """See `HeadedNetwork.features`. With `at`, the last block's MLP runs at these positions only."""
        h = self.embed(x_t.flatten(1))
        if self.embed_position is not None:
            if tuple(x_t.shape[1:]) != self.shape:
                raise ValueError(f"a network with absolute positions takes {self.shape}, got {tuple(x_t.shape[1:])}")
            h = h + self.embed_position.weight
        if self.embed_ngrams is not None:
            h = h + self.embed_ngrams(x_t)
        condition = None if self.condition is None else self.condition(noise, label, len(x_t))
        return self.run_blocks(h, tuple(x_t.shape[1:]), self.angles(tuple(x_t.shape[1:]), h), condition, at)

    def angles(self, dims: tuple[int, ...], h: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the rotary angles of examples of some dims, for h (batch, L, width)."""
        return rotary_angles(dims, self.width // self.heads // 2, self.rotary_base, h.device, h.dtype)

    def run_blocks(
        self,
        h: Tensor,
        dims: tuple[int, ...],
        angles: tuple[Tensor, Tensor],
        condition: Tensor | None,
        at: Positions | None = None,
        past: Sequence[Past] | None = None,
    ) -> Tensor:
        """Map embedded tokens (batch, L, width) to features, those of the N positions `at` only: (N, width).

        Args:
            h: embedded tokens.
            dims: of the examples.
            angles: cos and sin of their rotary angles.
            condition: see `Block`.
            at: positions.
            past: for each block of a causal transformer, what it has read before these tokens.
        """
        again = self.checkpointing and self.training
        before = [None] * self.depth if past is None else past
        for i, (block, one) in enumerate(zip(self.blocks, before, strict=True)):
            if self.convolution:
                h = self.convolutions[i](h, dims, one)
            if i < self.depth - 1:
                h = run_block(block, again, h, *angles, condition, None, one)
            else:
                h = block(h, *angles, condition, at, one)
        shift, scale = (None, None) if self.modulation is None else self.modulation(condition)
        if at is not None and shift is not None and scale is not None:
            shift, scale = at.spread(shift.squeeze(1)), at.spread(scale.squeeze(1))
        return modulate(self.norm(h), shift, scale)

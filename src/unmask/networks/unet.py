"""A U-Net for images in which every channel of every pixel is a token."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.networks.base import Positions
from unmask.networks.head import HeadedNetwork
from unmask.networks.layers import Attention, Block, Condition, Modulation, rotary_angles, run_block
from unmask.types import Labels, Times, Tokens

ROTARY_BASE = 100.0


def group_norm(width: int) -> nn.GroupNorm:
    """Return a group norm with 32 groups, or the largest common divisor of 32 and the width."""
    return nn.GroupNorm(math.gcd(32, width), width)


class ResidualBlock(nn.Module):
    """A residual block of two 3x3 convolutions, each after norm and silu; the condition modulates the second norm.

    The residual branch is initially zero.
    """

    def __init__(self, wide: int, width: int, dropout: float, condition: int | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(wide), group_norm(width)
        self.enter = nn.Conv2d(wide, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if wide == width else nn.Conv2d(wide, width, 1)
        self.modulation = None if condition is None else Modulation(width, 2, condition)

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """Map (batch, channels, height, width) to the number of channels of the block."""
        x = self.norm2(self.enter(F.silu(self.norm1(h))))
        if self.modulation is not None:
            shift, scale = (part.squeeze(1)[..., None, None] for part in self.modulation(condition))
            x = torch.addcmul(shift, x, 1 + scale)
        return self.skip(h) + self.out(self.dropout(F.silu(x)))


class GlobalAttention(nn.Module):
    """A residual block of attention over all pixels; the residual branch is initially zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = group_norm(width), heads
        self.attention = Attention(width, heads)

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """Map (batch, channels, height, width) to the same shape; the condition is not used."""
        x = self.norm(h).permute(0, 2, 3, 1)
        return h + self.attention(x.flatten(1, 2), *pixel_angles(x, self.heads)).view_as(x).permute(0, 3, 1, 2)


class Places(nn.Module):
    """A transformer over the pixels of a feature map (the middle of a U-ViT, arXiv:2301.11093)."""

    def __init__(
        self, width: int, depth: int, heads: int, dropout: float, condition: int | None, checkpointing: bool
    ) -> None:
        super().__init__()
        self.heads, self.checkpointing = heads, checkpointing
        self.condition = None if condition is None else nn.Linear(condition, width)
        hidden = max(32, 32 * round(width / 12))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout, condition is not None) for _ in range(depth))

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        x = h.permute(0, 2, 3, 1)
        condition = None if self.condition is None else self.condition(condition)
        y, rotations = x.flatten(1, 2), pixel_angles(x, self.heads)
        for block in self.blocks:
            y = run_block(block, self.checkpointing and self.training, y, *rotations, condition)
        return y.view_as(x).permute(0, 3, 1, 2)


def pixel_angles(x: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return the rotary angles of the pixels of x (batch, height, width, channels)."""
    return rotary_angles(
        tuple(x.shape[1:3]), x.shape[3] // heads // 2, ROTARY_BASE, x.device, torch.promote_types(x.dtype, torch.float)
    )


class Level(nn.ModuleList):
    """The residual blocks at one resolution."""

    def __init__(self, wide: int, width: int, blocks: int, dropout: float, condition: int | None) -> None:
        super().__init__(ResidualBlock(wide, width, dropout, condition) for _ in range(blocks))


class UNet(HeadedNetwork):
    """A U-Net: residual blocks down and up the resolutions, joined by skip connections, around a global middle.

    Every level of every channel has its own embedding, without an order of the levels. The embedding of a pixel is the
    sum over its channels; in the end, each channel is predicted from the features of its pixel.

    It has two forms. With one width and no `middle_depth`, the resolution is constant, and the middle is attention
    between two residual blocks, as in VDM (arXiv:2107.00630) and MD4 on CIFAR-10. With `middle_depth`, the resolution
    is halved after every width, and the middle is a transformer (U-ViT), as in MD4 on ImageNet 64x64.

    It initially predicts the uniform distribution.

    Args:
        vocab_size: V, number of levels.
        shape: (height, width, channels); height and width must be divisible by 2 for every halving.
        classes: number of classes; None for a network without labels.
        widths: channels at each resolution, from that of the image to the coarsest outside the middle.
        blocks: residual blocks per resolution on the way down; one more on the way up.
        middle_depth: blocks of the transformer in the middle; 0 for attention between residual blocks.
        middle_width: width of that transformer; the last of `widths` if None.
        heads: number of attention heads; the width of the attention must be a multiple of 2 * heads.
        time_conditioning: whether the network is conditioned on the mask rate; see `Transformer`.
        dropout: probability of dropping an entry of a residual branch in training.
        checkpointing: whether to recompute the blocks' activations in the backward pass: a third slower, with much less
            memory.

    Examples:
        >>> network = unmask.UNet(17, (8, 8, 1), widths=(32,), blocks=1)
        >>> network(unmask.all_masked(2, network.shape, network.mask_id)).shape
        torch.Size([2, 8, 8, 1, 17])
    """

    def __init__(
        self,
        vocab_size: int,
        shape: tuple[int, ...],
        classes: int | None = None,
        *,
        widths: tuple[int, ...] = (128,),
        blocks: int = 32,
        middle_depth: int = 0,
        middle_width: int | None = None,
        heads: int = 1,
        time_conditioning: bool = False,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        widths, shape = tuple(widths), tuple(shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be (height, width, channels) of an image, got {shape}")
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be one or more numbers of channels, got {widths}")
        counts = {"vocab_size": vocab_size, "blocks": blocks, "heads": heads}
        counts |= {"classes": 1 if classes is None else classes, "middle_width": middle_width or 1}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if middle_depth < 0:
            raise ValueError(f"middle_depth must be at least 0, got {middle_depth}")
        if middle_width is not None and not middle_depth:
            raise ValueError("middle_width is the width of the transformer in the middle: set middle_depth too")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        halvings = len(widths) - (not middle_depth)
        if shape[0] % 2**halvings or shape[1] % 2**halvings:
            raise ValueError(
                f"height and width must be divisible by {2**halvings}, got {shape[0]}x{shape[1]}; use fewer widths"
            )
        middle = middle_width or widths[-1]
        if middle % (2 * heads):
            raise ValueError(f"the width in the middle must be a multiple of 2 * heads, got {middle}, heads={heads}")
        self.vocab_size, self.shape, self.classes = vocab_size, shape, classes
        self.widths, self.blocks, self.heads = widths, blocks, heads
        self.middle_depth, self.middle_width = middle_depth, middle_width
        self.time_conditioning, self.dropout, self.checkpointing = time_conditioning, dropout, checkpointing

        first, last, channels = widths[0], widths[-1], shape[2]
        condition = first if time_conditioning or classes is not None else None
        self.embed = nn.Embedding(channels * (vocab_size + 1), first)
        self.condition = None if condition is None else Condition(condition, classes, time_conditioning)
        self.enter = nn.Conv2d(first, first, 3, padding=1)
        self.down = nn.ModuleList(Level(width, width, blocks, dropout, condition) for width in widths)
        self.up = nn.ModuleList(Level(2 * width, width, blocks + 1, dropout, condition) for width in widths)
        halved = [*widths[1:], middle][:halvings]
        self.coarser = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, halved, strict=False))
        self.finer = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(widths, halved, strict=False))
        self.middle: nn.ModuleList = nn.ModuleList(
            [Places(middle, middle_depth, heads, dropout, condition, checkpointing)]
            if middle_depth
            else [
                ResidualBlock(last, last, dropout, condition),
                GlobalAttention(last, heads),
                ResidualBlock(last, last, dropout, condition),
            ]
        )
        self.norm = group_norm(first)
        self.channels = nn.Linear(first, channels * first)
        self.head: nn.Linear = nn.Linear(first, vocab_size)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                for parameter in module.out.parameters():
                    nn.init.zeros_(parameter)
            elif isinstance(module, Modulation):
                nn.init.zeros_(module.map.weight)
                nn.init.zeros_(module.map.bias)
            elif isinstance(module, Block | GlobalAttention):
                for name, parameter in module.named_parameters():
                    if parameter.dim() > 1 and "modulation" not in name:
                        nn.init.normal_(parameter, std=0.02)
            if isinstance(module, GlobalAttention):
                nn.init.zeros_(module.attention.out.weight)
        nn.init.normal_(self.embed.weight, std=self.shape[2] ** -0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def compile_body(self) -> None:
        """Compile the blocks. They share their code, so torch's limit of compilations per function is raised."""
        blocks = [module for module in self.modules() if isinstance(module, ResidualBlock | Block)]
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(blocks))
        for block in blocks:
            block.compile()

    def features(
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, at: Positions | None = None
    ) -> Tensor:
        """See `HeadedNetwork.features`."""
        if tuple(x_t.shape[1:]) != self.shape:
            raise ValueError(f"the network takes images {self.shape}, got {tuple(x_t.shape[1:])}")
        condition = None if self.condition is None else self.condition(noise, label, len(x_t))
        channel_offset = torch.arange(self.shape[2], device=x_t.device) * (self.vocab_size + 1)
        h = self.embed(x_t + channel_offset).sum(3).permute(0, 3, 1, 2)
        if h.device.type == "cpu":  # group norms are faster with the pixels of a channel contiguous
            h = h.contiguous()
        h = self.enter(h)
        skips: list[Tensor] = []
        checkpointing = self.checkpointing and self.training
        for i, level in enumerate(self.down):
            skips.append(h)
            for block in level.children():
                h = run_block(block, checkpointing, h, condition)
                skips.append(h)
            if i < len(self.coarser):
                h = self.coarser[i](h)
        for block in self.middle:
            h = block(h, condition)
        for i, level in reversed(list(enumerate(self.up))):
            if i < len(self.finer):
                h = self.finer[i](h)
            for block in level.children():
                h = run_block(block, checkpointing, torch.cat((h, skips.pop()), 1), condition)
        h = F.silu(self.norm(h)).permute(0, 2, 3, 1)
        features = F.silu(self.channels(h)).view(len(x_t), -1, self.widths[0])
        return features if at is None else at.pick(features)

"""A left-to-right transformer with the blocks of `Transformer`: the autoregressive baseline."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.networks.base import Positions
from unmask.networks.layers import Past
from unmask.networks.reading import Reading
from unmask.networks.transformer import Transformer
from unmask.types import Labels, Times, Tokens


class CausalTransformer(Transformer):
    """A transformer that predicts each token from those before it, in row-major order, as GPT-2 does.

        p(x) = ∏_i p(x_i | x_0, ..., x_{i−1}),   position i reads (begin, x_0, ..., x_{i−1})

    It has the blocks, the sizes and the number of parameters of `Transformer`, with a causal mask. The first row after
    the tokens of its embedding, which is the mask's there, is that of the begin token here; a mask is never read. As a
    `Network` it is a *causal* one: of partly masked tokens the logits at position i are those of p(x_i | x_<i) as long
    as no token before i is masked, whatever stands at i and after it; elsewhere they are NaN. So it is trained and
    measured by `NextToken` and sampled by `LeftToRight`; it completes texts at their end, and cannot fill in holes.

    Args:
        vocab_size: V, number of token values.
        shape: dims of one example. A text may be shorter.
        classes: number of classes; None for a network without labels.
        width: width of the residual stream; a multiple of 2 * heads.
        depth: number of blocks.
        heads: number of attention heads.
        hidden: width inside the gated MLP; 8/3 of `width`, rounded to a multiple of 32, if None.
        dropout: probability of dropping an entry of a residual branch in training.
        absolute_positions: whether to also learn an embedding of each position that is predicted. Recommended for
            images.
        rotary_base: the lowest rotary frequency has a period of about 2π * rotary_base positions.
        checkpointing: whether to compute each block again in the backward pass instead of keeping what is inside.
        convolution: positions, up to its own, of a depthwise convolution before each block; 0 for none.

    Examples:
        >>> network = unmask.CausalTransformer(27, (16,), width=32, depth=2, heads=4)
        >>> unmask.NextToken()(network, torch.zeros(1, 16, dtype=torch.long)).nelbo / 16  # log 27 before training
        tensor([3.2958], dtype=torch.float64)
    """

    causal = True
    any_length = True

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
        dropout: float = 0.0,
        absolute_positions: bool = False,
        rotary_base: float = 10_000.0,
        checkpointing: bool = False,
        convolution: int = 0,
    ) -> None:
        super().__init__(
            vocab_size,
            shape,
            classes,
            width=width,
            depth=depth,
            heads=heads,
            hidden=hidden,
            dropout=dropout,
            absolute_positions=absolute_positions,
            rotary_base=rotary_base,
            checkpointing=checkpointing,
            convolution=convolution,
        )

    def features(
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, at: Positions | None = None
    ) -> Tensor:
        """See `HeadedNetwork.features`; NaN at positions after a masked one."""
        flat = x_t.flatten(1)
        inputs = F.pad(flat[:, :-1], (1, 0), value=self.mask_id)
        condition = None if self.condition is None else self.condition(None, label, len(x_t))
        dims = self._dims(x_t)
        h = self.run_blocks(self._embedded(inputs, 0), dims, self.angles(dims, self.embed.weight), condition, at)
        undefined = (inputs == self.mask_id).cumsum(1) > 1  # the first one is the begin token
        return h.masked_fill((undefined if at is None else at.pick(undefined)).unsqueeze(-1), math.nan)

    def start_reading(self, canvas: Tokens, label: Labels | None = None) -> "CachedReading":
        """Return a reading that keeps keys and values; see `unmask.networks.reading`."""
        return CachedReading(self, self._dims(canvas), label)

    def _dims(self, x: Tokens) -> tuple[int, ...]:
        """Return the dims of examples; raise a ValueError if they are larger than the network's."""
        dims = tuple(x.shape[1:])
        if dims != self.shape and (len(dims) != 1 or len(self.shape) != 1 or dims > self.shape):
            raise ValueError(f"the network takes examples of shape {self.shape}, or shorter texts; got {dims}")
        return dims

    def _embedded(self, inputs: Int[Tensor, "batch n"], start: int) -> Float[Tensor, "batch n width"]:
        """Embed the inputs of the positions from `start` on."""
        h = self.embed(inputs)
        return h if self.embed_position is None else h + self.embed_position.weight[start : start + inputs.shape[1]]


class CachedReading(Reading):
    """A reading that keeps the keys and values of what it has read: each token costs one position.

    Args:
        network: that reads.
        dims: of the examples.
        label: class of each example.
    """

    def __init__(self, network: CausalTransformer, dims: tuple[int, ...], label: Labels | None) -> None:
        self.network, self.dims, self.label = network, dims, label
        self.past = [Past(math.prod(dims)) for _ in range(network.depth)]

    def next(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch vocab"]:
        """See `Reading`."""
        network = self.network
        started = self.past[0].read > 0
        if started and tokens.shape[1] != 1:
            raise ValueError(f"after the first call one token is read at a time, got {tokens.shape[1]}")
        inputs = tokens if started else F.pad(tokens, (1, 0), value=network.mask_id)
        start = self.read + started
        self.read += tokens.shape[1]
        h = network._embedded(inputs, start)
        here = slice(start, start + inputs.shape[1])
        cos, sin = network.angles(self.dims, network.embed.weight)
        condition = None if network.condition is None else network.condition(None, self.label, len(tokens))
        last = torch.arange(len(tokens), device=tokens.device)
        at = None
        if inputs.shape[1] > 1:
            place = torch.full_like(last, inputs.shape[1] - 1)
            at = Positions(last, place)
        h = network.run_blocks(h, self.dims, (cos[here], sin[here]), condition, at, self.past)
        return network.head(h if at is not None else h.squeeze(1))

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Reading`."""
        self.label = None if self.label is None else self.label.index_select(0, rows)
        for past in self.past:
            past.select(rows)

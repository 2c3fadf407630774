"""A network that is called faster: with products in bfloat16, or compiled for inputs of a few sizes."""

import copy
import math
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.networks.base import At, Network, Positions
from unmask.networks.head import HeadedNetwork
from unmask.networks.reading import Reading, start_reading
from unmask.types import Labels, Logits, Times, Tokens

COMPILATIONS = 64
"""Of one function, which torch then no longer compiles; by default it is 8, too few for all sizes of inputs."""


class Accelerated(Network):
    """Call a network with products in bfloat16, or compiled; its predictions are the same but for rounding.

    Compiled code is for one shape of its inputs, and a sampler's shapes differ from step to step. So batches are filled
    up to B, B / 2, B / 4, ... examples, with B the largest batch so far, and the positions of an example that are asked
    for to 1, 4, 16, ..., or all where that is more than half of them. What is filled up is not returned.

    Args:
        network: whose weights it shares, in evaluation mode.
        precision: "32-true" for products in the format of the weights, "bf16-mixed" for products in bfloat16
            (autocast).
        compile: whether the body of the network is compiled: that of a copy with the same weights, so that other uses
            of the network are not affected. The first call takes seconds to minutes.
    """

    def __init__(self, network: Network, precision: str = "32-true", compile: bool = False) -> None:
        super().__init__()
        self.network, self.precision, self.batch = network, precision, 1
        self.vocab_size, self.shape, self.classes = network.vocab_size, network.shape, network.classes
        self.excluded, self.any_length, self.causal = network.excluded, network.any_length, network.causal
        self.compiled: tuple[Network, ...] = (
            (compiled_copy(network),) if compile else ()
        )  # a tuple: not a module of this one
        self.train(network.training)

    def __str__(self) -> str:
        """Say how it is called."""
        dtype = str(next(self.network.parameters()).dtype).removeprefix("torch.")
        return ("bf16-mixed" if self._mixed else dtype) + ", compiled" * bool(self.compiled)

    @property
    def _mixed(self) -> bool:
        return self.precision == "bf16-mixed"

    def forward(
        self,
        x_t: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: At | None = None,
    ) -> Logits:
        """See `Network.forward`."""
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self._mixed):
            if not self.compiled:
                return self.network(x_t, noise, label, at=at)
            limit = max(torch._dynamo.config.recompile_limit, COMPILATIONS)
            with torch._dynamo.config.patch(automatic_dynamic_shapes=False, recompile_limit=limit):
                return self._call_compiled(x_t, noise, label, None if at is None else Positions.of(at))

    def _call_compiled(self, x_t: Tokens, noise: Times | None, label: Labels | None, at: Positions | None) -> Logits:
        network: Any = self.compiled[0]
        headed = isinstance(network, HeadedNetwork)
        count, length = len(x_t), x_t[0].numel()
        self.batch = max(self.batch, count)
        rows = fitting_size(count, self.batch)
        inputs = [None if part is None else fill_up(part, rows) for part in (x_t, noise, label)]
        if at is None:
            return network(*inputs)[:count]
        most = length if at.index is None else at.index.shape[1]
        width = 4 ** math.ceil(math.log(most, 4) - 1e-9)
        if at.index is None or 2 * width > length:
            found = network.features(*inputs) if headed else network(*inputs).flatten(1, -2)
            found = at.pick(found)
        else:
            index = F.pad(at.index, (0, width - most, 0, rows - count))
            slots = Positions(_repeated(rows, width, x_t.device), index.flatten(), index)
            found = network.features(*inputs, slots) if headed else network(*inputs, at=slots)
            kept = torch.arange(count * most, device=x_t.device) if at.kept is None else at.kept
            found = found.index_select(0, kept // most * width + kept % most)
        return network.head(found) if headed else found

    def cross_entropy(
        self,
        x_t: Tokens,
        x: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: Positions,
        weight: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """See `Network.cross_entropy`; it is that of the network itself."""
        return self.network.cross_entropy(x_t, x, noise, label, at=at, weight=weight)

    def start_reading(self, canvas: Tokens, label: Labels | None = None) -> Reading:
        """Return a reading of a causal network; see `unmask.networks.reading`."""
        return AcceleratedReading(start_reading(self.network, canvas, label), self._mixed)


class AcceleratedReading(Reading):
    """A reading with products in bfloat16.

    Args:
        inner: the reading.
        mixed: whether products are in bfloat16.
    """

    def __init__(self, inner: Reading, mixed: bool) -> None:
        self.inner, self.mixed = inner, mixed

    def next(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch vocab"]:
        """See `Reading`."""
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.mixed):
            logits = self.inner.next(tokens)
        self.read = self.inner.read
        return logits

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Reading`."""
        self.inner.select(rows)


def compiled_copy(network: Network) -> Network:
    """Return a copy of a network with the same weights, whose body is compiled when it is first called."""
    tensors = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    copied = copy.deepcopy(network, tensors).eval()
    copied.compile_body()
    return copied


def fitting_size(count: int, largest: int) -> int:
    """Return the smallest of largest, largest / 2, largest / 4, ..., rounded up, that is at least `count`."""
    size = largest
    while size > 1 and (size + 1) // 2 >= count:
        size = (size + 1) // 2
    return size


def fill_up(x: Tensor, rows: int) -> Tensor:
    """Return x (batch, ...) with copies of its first entry after it: (rows, ...)."""
    return x if len(x) == rows else torch.cat((x, x[:1].expand(rows - len(x), *x.shape[1:])))


def _repeated(rows: int, times: int, device: torch.device) -> Int[Tensor, " n"]:
    """Return 0, ..., rows − 1, each several times in turn."""
    return torch.arange(rows, device=device).unsqueeze(1).expand(-1, times).flatten()

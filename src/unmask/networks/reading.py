"""Reading tokens from left to right: what a causal network predicts next, given what it has read."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.networks.base import Network, Positions
from unmask.networks.constrained import Constrained
from unmask.types import Labels, Tokens


class Reading(ABC):
    """The state of a causal network that has read the first tokens of some examples, in row-major order.

    Attributes:
        read: number of tokens of each example that it has read.
    """

    read: int = 0

    @abstractmethod
    def next(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch vocab"]:
        """Read n more tokens of each example, and return the logits of the token after them.

        The first call may read none; every later one reads one token.
        """

    @abstractmethod
    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Go on with some of the examples."""


@runtime_checkable
class Remembers(Protocol):
    """A causal network that need not read again what it has read."""

    def start_reading(self, canvas: Tokens, label: Labels | None = None) -> Reading: ...


class Rereading(Reading):
    """Calls the network on all tokens again for each next one.

    Args:
        network: a causal one.
        canvas: (batch, *dims), whose tokens do not matter.
        label: class of each example.
    """

    def __init__(self, network: Network, canvas: Tokens, label: Labels | None) -> None:
        self.network, self.label, self.dims = network, label, canvas.shape[1:]
        self.x = torch.full_like(canvas, network.mask_id).flatten(1)

    def next(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch vocab"]:
        """See `Reading`."""
        self.x[:, self.read : self.read + tokens.shape[1]] = tokens
        self.read += tokens.shape[1]
        example = torch.arange(len(self.x), device=self.x.device)
        place = torch.full_like(example, self.read)
        none = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        at = Positions(example, place, place.unsqueeze(1))
        return self.network(self.x.unflatten(1, self.dims), none, self.label, at=at)

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Reading`."""
        self.x = self.x.index_select(0, rows)
        self.label = None if self.label is None else self.label.index_select(0, rows)


class Restricted(Reading):
    """The reading of the network that a `Constrained` one holds, with its constraint.

    Args:
        network: says which tokens are allowed.
        inner: the reading of the network in it.
    """

    def __init__(self, network: Constrained, inner: Reading) -> None:
        self.network, self.inner = network, inner

    def next(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch vocab"]:
        """See `Reading`."""
        logits = self.inner.next(tokens)
        self.read = self.inner.read
        return self.network.restrict(logits, self.read)

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Reading`."""
        self.inner.select(rows)


def start_reading(network: Network, canvas: Tokens, label: Labels | None = None, *, cache: bool = True) -> Reading:
    """Return a reading of a causal network, which has read nothing yet.

    Args:
        network: a causal one; with a method `start_reading` of its own (`Remembers`) each token costs one position.
        canvas: (batch, *dims), for its shape and its device.
        label: class of each example.
        cache: whether that method is used; without it the network is called on all tokens again for each next one.
    """
    if cache and isinstance(network, Constrained):
        return Restricted(network, start_reading(network.network, canvas, label))
    if cache and isinstance(network, Remembers):
        return network.start_reading(canvas, label)
    return Rereading(network, canvas, label)

"""The base class of networks, which read partly masked tokens and predict every masked one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.devices import send
from unmask.types import Labels, Logits, Times, Tokens, Where


@dataclass(frozen=True)
class Positions:
    """N selected positions of a batch, as indices rather than flags.

    Building it from flags counts them, which synchronises a GPU; built in advance, it avoids that.

    Attributes:
        example: (N,) index of the example of each position, in increasing order.
        position: (N,) index into the flattened dims, increasing within each example.
        index: (batch, M) the positions of each example, packed to the left and filled up with arbitrary ones, where M
            is the largest number per example. None if examples have many positions, so that packing saves nothing.
        kept: which entries of the flattened `index` are selected positions, in increasing order; None: all of them.

    Examples:
        >>> masked = torch.tensor([[True, False, True], [False, True, False]])
        >>> at = unmask.Positions.of(masked)
        >>> at.example, at.position
        (tensor([0, 0, 1]), tensor([0, 2, 1]))
    """

    example: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    index: Int[Tensor, "examples most"] | None = None
    kept: Int[Tensor, " kept"] | None = None

    @classmethod
    def of(cls, at: "Where | Positions", count: int | None = None, most: int | None = None) -> "Positions":
        """Convert flags (batch, *dims) to positions; `Positions` are returned unchanged.

        Args:
            at: flags, or positions.
            count: number of set flags, if known, which avoids counting them.
            most: with `count`: the largest number of set flags of an example; None: positions are not packed.
        """
        if isinstance(at, Positions):
            return at
        flags = at.flatten(1)
        batch, length = flags.shape
        per_example = flags.sum(1)
        if count is None:
            rows = flags.flatten().nonzero().squeeze(1)
            most = int(per_example.max()) if batch else 0
        else:
            rows = torch.nonzero_static(flags.flatten(), size=count, fill_value=0).squeeze(1)
        example, position = rows // length, rows % length
        if most is None or 2 * most > length:
            return cls(example, position)
        first = (per_example.cumsum(0) - per_example)[example]
        kept = torch.arange(len(rows), device=rows.device) - first + example * most
        index = position.new_zeros(batch * most).scatter(0, kept, position).view(batch, most)
        return cls(example, position, index, kept)

    @classmethod
    def covering(cls, flags: Where, count: int) -> "Positions":
        """Return `count` positions that include those of all set flags, of which there are no more, without waiting."""
        flat, length = flags.flatten(), flags[0].numel()
        spare = count - flat.sum()
        chosen = flat | ((~flat).cumsum(0) <= spare)
        return cls.of(chosen.view(-1, length), min(count, flat.numel()))

    @classmethod
    def one_each(cls, flags: Where) -> "Positions":
        """Return the position of the set flag of each example, of which there is one, without waiting."""
        position = flags.flatten(1).int().argmax(1)
        index = position.unsqueeze(1) if flags[0].numel() > 1 else None
        return cls(torch.arange(len(flags), device=flags.device), position, index)

    def to(self, device: torch.device) -> "Positions":
        """Copy them to a device without waiting for it."""
        parts = (send(self.example, device), send(self.position, device))
        return Positions(*parts, *(None if part is None else send(part, device) for part in (self.index, self.kept)))

    def repeat(self, times: int, batch: int) -> "Positions":
        """Return the positions of a batch that is repeated `times` times."""
        shift = torch.arange(times, device=self.example.device).unsqueeze(1)
        kept = None if self.kept is None or self.index is None else (self.kept + shift * self.index.numel()).flatten()
        index = None if self.index is None else self.index.repeat(times, 1)
        return Positions((self.example + shift * batch).flatten(), self.position.repeat(times), index, kept)

    def pick(self, x: Tensor) -> Tensor:
        """Return x (batch, L, ...) at the N positions: (N, ...)."""
        return x.flatten(0, 1).index_select(0, self.example * x.shape[1] + self.position)

    def spread(self, x: Tensor) -> Tensor:
        """Repeat x (batch, ...), one entry per example, for each of its positions: (N, ...)."""
        return x.index_select(0, self.example)

    def put(self, x: Tensor, batch: int, length: int) -> Tensor:
        """Scatter values (N,) to their positions, the inverse of `pick`: (batch, length), 0 elsewhere."""
        return self.replace(x.new_zeros(batch, length), x)

    def replace(self, x: Tensor, values: Tensor) -> Tensor:
        """Return x (batch, *dims) with other values (N,) at the positions."""
        rows = self.example * x[0].numel() + self.position
        return x.flatten().scatter(0, rows, values).view_as(x)


At = Where | Positions
"""Positions of a batch, as flags or as indices."""


def pick(logits: Tensor, at: At | None) -> Tensor:
    """Return logits (batch, *dims, V) at the positions `at`: (N, V) in row-major order; all of them if `at` is None.

    Examples:
        >>> logits = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
        >>> unmask.pick(logits, torch.tensor([[False, True]]))
        tensor([[2., 3.]])
    """
    if at is None:
        return logits
    return at.pick(logits.flatten(1, -2)) if isinstance(at, Positions) else logits[at]


class Network(nn.Module, ABC):
    """Predict p(x_i | x_t) at masked positions.

    A subclass implements `forward`. Its constructor takes `vocab_size`, `shape` and `classes`, and keeps every argument
    as an attribute of the same name, which is how a network is saved.

    Attributes:
        vocab_size: V; the network embeds V + 1 values, the last of which is the mask, and predicts V.
        shape: dims of one example.
        classes: number of classes, or None for a network without labels. The label `classes` is the null label, which
            stands for an unknown class.
        excluded: tokens that are never predicted: their probability is 0, and in data they are given wherever they
            stand, neither masked nor counted.
        any_length: whether it takes texts of any length up to its shape; others get them filled up (`Padded`).
        causal: whether it is a left-to-right model: the logits at position i depend on the tokens before i alone
            (row-major), and are defined where none of these is masked. On clean tokens one call so gives every factor
            of p(x) = ∏ p(x_i | x_<i). Such a network has `NextToken` and `LeftToRight`, and no other objectives and
            samplers.
        vectors: whether it reads noisy vectors in place of tokens (`unmask.networks.gaussian`).
        passes: network evaluations of one prediction, in evaluation.

    Examples:
        >>> class Unigram(unmask.Network):
        ...     def __init__(self, vocab_size, shape, classes=None):
        ...         super().__init__()
        ...         self.vocab_size, self.shape, self.classes = vocab_size, shape, classes
        ...         self.logits = torch.nn.Parameter(torch.zeros(vocab_size))
        ...     def forward(self, x_t, noise=None, label=None, *, at=None):
        ...         return unmask.pick(self.logits.expand(*x_t.shape, -1), at)
        >>> x = torch.tensor([[3, 1, 4, 1], [2, 0, 2, 3]])
        >>> unmask.TimeFreeELBO()(Unigram(5, (4,)), x).nelbo / 4  # log 5 nats a token
        tensor([1.6094, 1.6094], dtype=torch.float64)
    """

    vocab_size: int
    shape: tuple[int, ...]
    classes: int | None = None
    excluded: tuple[int, ...] = ()
    any_length: bool = False
    causal: bool = False
    vectors: bool = False

    @property
    def passes(self) -> int:
        return 1

    @property
    def mask_id(self) -> int:
        """The value of a masked token, V."""
        return self.vocab_size

    @abstractmethod
    def forward(
        self,
        x_t: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: At | None = None,
    ) -> Logits:
        """Return logits over the V token values.

        Args:
            x_t: partly masked tokens (batch, *dims).
            noise: mask rate 1 − α_t of each example, or t itself under a state-dependent schedule; ignored by networks
                without time conditioning.
            label: class of each example.
            at: return logits at these positions only. A network that computes all logits anyway ends with
                `pick(logits, at)`.

        Returns:
            (batch, *dims, V), or (N, V) for the N positions of `at` in row-major order.
        """

    def compile_body(self) -> None:
        """Compile the parts whose shapes do not change between steps, in place; by default all of `forward`."""
        self.compile()

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
        """Return Σ weight · nll, and nll = −log p(x_i | x_t) in nats at the N positions.

        The sum has a gradient in the network's parameters; the nll has none, and the weights get none.
        """
        logits = self(x_t, noise, label, at=at)
        logits = logits if logits.dtype.itemsize >= 4 else logits.float()
        nll = F.cross_entropy(logits, at.pick(x.flatten(1)), reduction="none")
        return weighted_sum(weight.detach(), nll), nll.detach()


def weighted_sum(weight: Float[Tensor, " n"], nll: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return Σ weight · nll, to which a weight of 0 adds nothing, even where the nll is infinite."""
    return torch.where(weight == 0, 0, weight * nll).sum()


def check_tokens(x: object, count: int, name: str = "tokens") -> None:
    """Raise a ValueError unless x is an int64 tensor, not empty, with values in 0..count-1."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor, got a {type(x).__name__}; torch.tensor(...) makes one of a list")
    if x.dtype != torch.long:
        raise ValueError(f"{name} must be of dtype torch.int64, got {x.dtype}; use x.long()")
    if not x.numel():
        raise ValueError(f"{name} are empty: shape {tuple(x.shape)}")
    if x.min() < 0 or x.max() >= count:
        first = ((x < 0) | (x >= count)).nonzero()[0].tolist()
        raise ValueError(f"{name} must be in 0..{count - 1}, got {x[tuple(first)].item()} at index {first}")


def check_label(label: Tensor | None, classes: int | None, batch: int) -> None:
    """Raise a ValueError unless `label` is None or valid for a network with `classes` classes and a batch."""
    if label is None:
        return
    if classes is None:
        raise ValueError("a label was given, but the network takes none (it was built with classes=None)")
    if len(label) != batch:
        raise ValueError(f"one label per example is needed: got {len(label)} for a batch of {batch}")
    check_tokens(label, classes + 1, "labels")

"""What a network is: it reads partly masked tokens and predicts every hidden one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.types import Labels, Logits, Times, Tokens, Where


@dataclass(frozen=True)
class Positions:
    """Some positions of each example: what flags say, in the form that networks compute with.

    Made beforehand it spares a GPU the synchronisation that counting flags costs.

    Attributes:
        example: (N,) which example each is of; examples and then positions in increasing order.
        position: (N,) its place in the flattened dims.
        index: (batch, M) where every example has few: the positions packed to the left, M the most that an example
            has; any position fills the rest. None where packing would not pay.
        kept: which entries of the flattened index are meant, in increasing order; None: all of them.
    """

    example: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    index: Int[Tensor, "examples most"] | None = None
    kept: Int[Tensor, " kept"] | None = None

    @classmethod
    def of(cls, at: "Where | Positions", count: int | None = None) -> "Positions":
        """Turn flags (batch, *dims) into positions; what is that already is returned as it is.

        Args:
            at: flags.
            count: their number where it is known, which spares counting.
        """
        if isinstance(at, Positions):
            return at
        flags = at.flatten(1)
        batch, length = flags.shape
        if count is not None:
            rows = torch.nonzero_static(flags.flatten(), size=count).squeeze(1)
            return cls(rows // length, rows % length)
        rows = flags.flatten().nonzero().squeeze(1)
        example, position = rows // length, rows % length
        many = flags.sum(1)
        most = int(many.max()) if batch else 0
        if 2 * most > length:
            return cls(example, position)
        kept = torch.arange(len(rows), device=rows.device) - (many.cumsum(0) - many)[example] + example * most
        return cls(
            example, position, position.new_zeros(batch * most).scatter(0, kept, position).view(batch, most), kept
        )

    def repeat(self, times: int, batch: int) -> "Positions":
        """Return the same positions in a batch that is repeated."""
        shift = torch.arange(times, device=self.example.device).unsqueeze(1)
        kept = None if self.kept is None or self.index is None else (self.kept + shift * self.index.numel()).flatten()
        index = None if self.index is None else self.index.repeat(times, 1)
        return Positions((self.example + shift * batch).flatten(), self.position.repeat(times), index, kept)

    def pick(self, x: Tensor) -> Tensor:
        """Return x (batch, L, ...) at the N positions: (N, ...)."""
        return x.flatten(0, 1).index_select(0, self.example * x.shape[1] + self.position)

    def spread(self, x: Tensor) -> Tensor:
        """Repeat what there is one of per example (batch, ...) to its positions: (N, ...)."""
        return x.index_select(0, self.example)

    def put(self, x: Tensor, batch: int, length: int) -> Tensor:
        """Undo `pick` for values (N,): (batch, length), 0 elsewhere."""
        rows = self.example * length + self.position
        return x.new_zeros(batch * length).scatter(0, rows, x).view(batch, length)


At = Where | Positions
"""Positions of a batch, in either form."""


def pick(logits: Tensor, at: At | None) -> Tensor:
    """Return logits (batch, *dims, V) at the positions `at`, (N, V) in row-major order; all of them for None."""
    if at is None:
        return logits
    return at.pick(logits.flatten(1, -2)) if isinstance(at, Positions) else logits[at]


class Network(nn.Module, ABC):
    """Predict p(x_i | x_t) at masked positions.

    A subclass keeps each of its constructor's arguments as an attribute of the same name (that is how it is
    saved), takes `vocab_size`, `shape` and `classes` among them, and writes `forward`.

    Attributes:
        vocab_size: V; the network embeds V + 1 symbols, the last of which is the mask, and predicts V.
        shape: dims of one example.
        classes: number of class labels, None if the network takes no label. The label `classes` is the null
            label, and stands for no label at all.
    """

    vocab_size: int
    shape: tuple[int, ...]
    classes: int | None = None

    @property
    def mask_id(self) -> int:
        """The value that hides a token."""
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
        """Return logits over the V clean values.

        Args:
            x_t: partly masked tokens (batch, *dims).
            noise: the mask rate 1 - alpha_t of each example, or t itself under a state-dependent schedule; a network
                without time conditioning ignores it.
            label: class of each example.
            at: positions that are wanted, as flags or packed. Given, the output head runs only there; a network
                that computes all logits anyway ends with `pick(logits, at)`.

        Returns:
            (batch, *dims, V), or (N, V) for the N positions of `at` in row-major order.
        """

    def compile_body(self) -> None:
        """Compile the part whose shapes stay the same from step to step, in place; by default all of `forward`."""
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
        """Return the sum of weight * nll, and nll = -log p(x_i | x_t) in nats at the N positions.

        The sum has a gradient in the network's parameters; the nll and the weights have none.
        """
        logits = self(x_t, noise, label, at=at)
        logits = logits if logits.dtype.itemsize >= 4 else logits.float()
        nll = F.cross_entropy(logits, at.pick(x.flatten(1)), reduction="none")
        return (weight.detach() * nll).sum(), nll.detach()


def check_tokens(x: Tensor, count: int, name: str = "tokens") -> None:
    """Raise a ValueError unless x is of int64, not empty, and every value in 0..count-1."""
    if x.dtype != torch.long:
        raise ValueError(f"{name} must be of dtype torch.int64, got {x.dtype}; x.long() converts them")
    if not x.numel():
        raise ValueError(f"{name} are empty: shape {tuple(x.shape)}")
    if x.min() < 0 or x.max() >= count:
        wrong = ((x < 0) | (x >= count)).nonzero()[0].tolist()
        raise ValueError(f"{name} must be in 0..{count - 1}, got {x[tuple(wrong)].item()} at index {wrong}")


def check_label(label: Tensor | None, classes: int | None, batch: int) -> None:
    """Raise a ValueError unless `label` fits a network with that many classes and a batch of that size."""
    if label is None:
        return
    if classes is None:
        raise ValueError("a label was given, but the network takes none (it was built with classes=None)")
    if len(label) != batch:
        raise ValueError(f"one label per example is needed: got {len(label)} for a batch of {batch}")
    check_tokens(label, classes + 1, "labels")

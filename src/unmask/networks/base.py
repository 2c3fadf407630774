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
    """Some positions of each example, packed to the left: what flags say, in the form that networks compute with.

    Made beforehand (the samplers do) it spares a GPU the synchronisation that counting flags costs.

    Attributes:
        index: (batch, M) positions in the flattened dims, M the most that an example has; any position fills the rest.
        kept: which entries of the flattened index are meant, in increasing order; None: all of them.
    """

    index: Int[Tensor, "examples most"]
    kept: Int[Tensor, " n"] | None = None

    @classmethod
    def of(cls, at: "Where | Positions") -> "Positions":
        """Pack the flags (batch, *dims); what is packed already is returned as it is."""
        if isinstance(at, Positions):
            return at
        flags = at.flatten(1)
        most = int(flags.sum(1).max()) if len(flags) else 0
        index = flags.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
        return cls(index, flags.gather(1, index).flatten().nonzero().squeeze(1))

    def take(self, x: Tensor) -> Tensor:
        """Return x (batch, L, width) at the packed positions: (batch, M, width)."""
        return x.gather(1, self.index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    def flat(self, x: Tensor) -> Tensor:
        """Return the N meant rows of the packed x (batch, M, width): (N, width)."""
        return x.flatten(0, 1) if self.kept is None else x.flatten(0, 1).index_select(0, self.kept)

    def pick(self, x: Tensor) -> Tensor:
        """Return x (batch, L, width) at the N positions, in row-major order: (N, width)."""
        return self.flat(self.take(x))

    def spread(self, x: Tensor | None) -> Tensor | None:
        """Repeat one vector per example (batch, 1, width) to its positions: (N, width)."""
        return None if x is None else self.flat(x.expand(-1, self.index.shape[1], -1))


At = Where | Positions
"""Positions of a batch, as flags or packed."""


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

    def nll(
        self, x_t: Tokens, x: Tokens, noise: Times | None = None, label: Labels | None = None, *, at: Where
    ) -> Float[Tensor, " n"]:
        """Return -log p(x_i | x_t) in nats at the N positions of `at`, in row-major order."""
        logits = self(x_t, noise, label, at=at)
        logits = logits if logits.dtype.itemsize >= 4 else logits.float()
        return F.cross_entropy(logits, x[at], reduction="none")


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

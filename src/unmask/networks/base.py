"""What a network is: it reads partly masked tokens and predicts every hidden one."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.types import Labels, Logits, Times, Tokens, Where


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
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, *, at: Where | None = None
    ) -> Logits:
        """Return logits over the V clean values.

        Args:
            x_t: partly masked tokens (batch, *dims).
            noise: the mask rate 1 - alpha_t of each example; a network without time conditioning ignores it.
            label: class of each example.
            at: positions that are wanted. Given, the output head runs only there.

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

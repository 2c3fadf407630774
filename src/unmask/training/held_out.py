"""The validation part, in the shares that the passes of a process take of it."""

from typing import NamedTuple

from torch import Tensor

from unmask.data.base import Split
from unmask.data.order import Division


class HeldOut(NamedTuple):
    """One share of some examples that are evaluated together.

    Attributes:
        x: tokens.
        label: their classes, or None.
        number: of the whole batch, which its random numbers follow from.
        share: of the batch that is here; see `unmask.randomness.Share`.
        whole: examples of the whole batch, where its shares are of different sizes.
        counted: whether it is part of the figure; with fewer examples than shares some are there to be in step.
    """

    x: Tensor
    label: Tensor | None
    number: int
    share: int
    whole: int | None
    counted: bool


def held_out(split: Split, division: Division, limit: int) -> list[HeldOut]:
    """Return what a process evaluates: as many batches in every process, as many examples a batch as a step has.

    Args:
        split: the validation part.
        division: of a step among processes.
        limit: examples of the part that are used, evenly spread.
    """
    found = []
    for number, (x, label) in enumerate(split.batches(division.step, limit)):
        whole = len(x) if len(x) % division.shares else None
        for part in range(division.passes):
            counted = division.share(part) < len(x)
            share = division.share(part) if counted else len(x) - 1
            here = slice(share, None, division.shares)
            labels = None if label is None else label[here]
            found.append(HeldOut(x[here], labels, number, share, whole, counted))
    return found

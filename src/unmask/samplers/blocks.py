"""Blocks of a canvas, each finished before the next one starts, and examples that end in one of them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.networks.base import Network
from unmask.types import Tokens, Where


def split_into_blocks(masked: Where, length: int | None, after_prompt: bool = False) -> Iterator[tuple[Where, Where]]:
    """Yield what is masked in each block of `length` positions (None: one block), and what is masked after it.

    Args:
        masked: (batch, *dims).
        length: positions in a block.
        after_prompt: count positions from the first masked one of each example.
    """
    size = masked[0].numel()
    length = length or size
    position = torch.arange(size, device=masked.device).expand(len(masked), -1)
    if after_prompt:
        position = position - masked.flatten(1).int().argmax(1, keepdim=True)
    position = position.view_as(masked)
    for start in range(0, size, length):
        yield masked & (position >= start) & (position < start + length), masked & (position >= start + length)


class Stopped(NamedTuple):
    """A canvas of which some examples have ended.

    Attributes:
        x: tokens, filled up in these examples.
        ended: the examples.
        masked: what is still masked.
    """

    x: Tokens
    ended: Bool[Tensor, " batch"]
    masked: Where


def fill_ended(network: Network, x: Tokens, drawn: Where, ends: Int[Tensor, " tokens"]) -> Stopped:
    """Fill up the examples in which an end token has been drawn, with the first of `ends`."""
    masked = x == network.mask_id
    ended = (torch.isin(x, ends) & drawn).flatten(1).any(1)
    rest = masked & ended.view(-1, *[1] * (x.dim() - 1))
    return Stopped(torch.where(rest, ends[0], x), ended, masked & ~rest)

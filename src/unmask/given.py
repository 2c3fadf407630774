"""Given tokens: conditioned on, neither masked nor counted. In data a given token t is encoded as -1 - t."""

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.types import Tokens, Where


def encode_given(token: int) -> int:
    """Return the encoding −1 − t of a given token t."""
    return -1 - token


def mark_given(x: Tokens, given: Where) -> Int[Tensor, "batch *dims"]:
    """Return the tokens with those flagged in `given` encoded as given."""
    return torch.where(given, -1 - x, x)


def clean_tokens(x: Int[Tensor, "batch *dims"]) -> Tokens:
    """Return the tokens without the encoding: the inverse of `mark_given`."""
    return torch.where(x < 0, -1 - x, x)


def given_and_clean(x: Int[Tensor, "batch *dims"]) -> tuple[Where | None, Tokens]:
    """Return which tokens of a batch are given (None if none is), and the tokens without the encoding."""
    given = x < 0
    return (given, clean_tokens(x)) if given.any() else (None, x)

"""Tokens that are given, not to be learned: in data a given token t stands as -1 - t."""

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.types import Tokens, Where


def mark_given(x: Tokens, given: Where) -> Int[Tensor, "batch *dims"]:
    """Return tokens of which some are marked as given: -1 - t there, t elsewhere."""
    return torch.where(given, -1 - x, x)


def clean_tokens(x: Int[Tensor, "batch *dims"]) -> Tokens:
    """Return the tokens themselves, given or not: the inverse of `mark_given`."""
    return torch.where(x < 0, -1 - x, x)


def given_and_clean(x: Int[Tensor, "batch *dims"]) -> tuple[Where | None, Tokens]:
    """Return which tokens of a batch are given (None: none is), and the tokens themselves."""
    given = x < 0
    return (given, clean_tokens(x)) if given.any() else (None, x)

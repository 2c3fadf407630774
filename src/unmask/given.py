"""Given tokens: conditioned on, neither masked nor counted. In data a given token t is encoded as -1 - t."""

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unmask.types import Tokens, Where

T = TypeVar("T", int, np.ndarray)


def encode_given(token: T) -> T:
    """Return the encoding −1 − t of a given token t, or of several."""
    return -1 - token


def mark_given(x: Tokens, given: Where) -> Int[Tensor, "batch *dims"]:
    """Return the tokens with those flagged in `given` encoded as given."""
    return torch.where(given, -1 - x, x)


def clean_tokens(x: Int[Tensor, "batch *dims"]) -> Tokens:
    """Return the tokens without the encoding: the inverse of `mark_given`."""
    return torch.where(x < 0, -1 - x, x)


def given_and_clean(x: Int[Tensor, "batch *dims"], excluded: tuple[int, ...] = ()) -> tuple[Where | None, Tokens]:
    """Return which tokens of a batch are given (None if none is), and the tokens without the encoding.

    Args:
        x: tokens, some perhaps encoded as given.
        excluded: tokens that are given wherever they stand; see `Network.excluded`.
    """
    given: Where | None = x < 0
    given, x = (given, clean_tokens(x)) if (x < 0).any() else (None, x)
    return add_excluded(given, x, excluded), x


def add_excluded(given: Where | None, x: Tokens, excluded: tuple[int, ...]) -> Where | None:
    """Return which tokens are given, those among them that a network never predicts; None if none is."""
    if not excluded:
        return given
    never = torch.isin(x, torch.tensor(excluded, device=x.device))
    given = never if given is None else given | never
    return given if given.any() else None

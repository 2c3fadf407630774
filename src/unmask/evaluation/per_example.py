"""The likelihood of each example by itself, with its place in the data."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from numpy import ndarray
from torch import Tensor

from unmask.data.base import Split
from unmask.storage.files import replacing


class Bounds(NamedTuple):
    """Negative ELBOs of n examples.

    Attributes:
        nats: of each.
        error: their standard errors over the draws; NaN of a single draw.
        tokens: that are counted of each: those that are not given.
    """

    nats: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    tokens: Int[Tensor, " n"]


def error_of_mean(drawn: Float[Tensor, "draws n"]) -> Float[Tensor, " n"]:
    """Return the standard error of the mean over draws, as if they were independent; NaN of a single one."""
    if len(drawn) < 2:
        return torch.full_like(drawn[0], math.nan, dtype=torch.float64)
    return drawn.double().std(0) / len(drawn) ** 0.5


@dataclass(frozen=True)
class PerExample:
    """The negative ELBO of each example that was measured.

    Args:
        split: that the examples are of.
        index: of each in the split.
        bounds: of each.
    """

    split: Split
    index: Integer[ndarray, " n"]
    bounds: Bounds

    def __len__(self) -> int:
        return len(self.index)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield for each example its index in the split, its place (`Split.place`), its bound and what that is worth.

            {"index": 7, "document": 2, "token": 256, "nats": 301.2, "error": 4.1, "tokens": 128}

        The draws of an example are spread evenly, so that its bound is as a rule better than its error says.
        """
        values = (part.tolist() for part in self.bounds)
        for index, nats, error, tokens in zip(self.index.tolist(), *values, strict=True):
            known = {"nats": nats, "error": None if math.isnan(error) else error, "tokens": tokens}
            yield {"index": index} | self.split.place(index) | known

    def write(self, path: Path | str) -> None:
        """Write the rows as lines of JSON."""
        with replacing(path) as target, open(target, "w", encoding="utf-8") as file:
            for row in self.rows():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

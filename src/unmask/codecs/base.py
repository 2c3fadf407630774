"""What a codec is: between data as people see it and tokens 0..V-1. It is saved with the model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unmask.types import Tokens


@dataclass(frozen=True)
class Codec(ABC):
    """Turn data into tokens and back.

    Attributes:
        vocab_size: V, number of token values. The value V itself stands for an unknown token.
        unit: what one token is called in reports, such as "character".
    """

    unit = "token"

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V, number of token values."""

    @abstractmethod
    def encode(self, data: Any) -> Tensor:
        """Return the tokens of one example."""

    @abstractmethod
    def decode(self, x: Tokens) -> Any:
        """Return the data of a batch of examples."""

    def saved(self, folder: Path) -> "Codec":
        """Write what the codec needs besides its arguments into a model's folder; return the codec as it is there."""
        return self

    def opened(self, folder: Path) -> "Codec":
        """Return the codec of a model's folder, ready to be used from anywhere."""
        return self

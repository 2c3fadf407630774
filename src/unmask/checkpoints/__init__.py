"""Public checkpoints of other people: JSON and tensors alone, no code."""

from unmask.checkpoints.ddit import load
from unmask.checkpoints.layouts import is_public
from unmask.checkpoints.reading import WEIGHT_FILES

__all__ = ["WEIGHT_FILES", "is_public", "load"]

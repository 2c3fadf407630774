"""Completing what is unknown: of one input, or of every line of a file, image of a folder, example of an array."""

from unmask.infilling.filling import Filled, infill_file
from unmask.infilling.single import Infilled, infill_one

__all__ = ["Filled", "Infilled", "infill_file", "infill_one"]

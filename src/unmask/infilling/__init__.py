"""Many inputs at once: complete every line of a file, every image of a folder, every example of an array."""

from unmask.infilling.filling import Filled, infill_file

__all__ = ["Filled", "infill_file"]

"""Figures, pictures, and the live view of a terminal."""

"""Samplers: one family a file."""

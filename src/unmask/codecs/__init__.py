"""Codecs: between data as people see it and tokens 0..V-1."""

from unmask.codecs.atoms import Atoms
from unmask.codecs.base import Codec
from unmask.codecs.classes import allowed_tokens
from unmask.codecs.ended import Ended
from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.codecs.table import Table
from unmask.codecs.text import Bytes, Characters, Text
from unmask.codecs.tokenizer import BPE, Tokenizer

__all__ = [
    "Atoms",
    "BPE",
    "Bytes",
    "Characters",
    "Codec",
    "Ended",
    "Pixels",
    "Symbols",
    "Table",
    "Text",
    "Tokenizer",
    "allowed_tokens",
]

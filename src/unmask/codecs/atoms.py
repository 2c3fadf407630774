"""Molecules in SMILES as atoms, bonds, brackets and ring numbers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.codecs.base import check_batch
from unmask.codecs.text import NoTextError, Text, check_text
from unmask.types import Tokens

ATOM = re.compile(
    r"""
      \[[^\[\]\s]+\]            # an atom in brackets, with its isotope, hydrogens, chirality and charge
    | Br | Cl | [BCNOPSFI]      # atoms that need no brackets
    | [bcnops]                  # aromatic ones
    | \*                        # any atom
    | %\d\d | %\(\d+\) | \d     # the number of a ring that opens or closes
    | -> | <- | [-=#$:~/\\]     # bonds
    | [().>]                    # branches, parts that are not bonded, the arrow of a reaction
    """,
    re.VERBOSE | re.ASCII,
)
"""A token of a SMILES string, after OpenSMILES; with dative bonds."""


@dataclass(frozen=True)
class Atoms(Text):
    """Molecules in SMILES: token i is the i-th of some atoms, bonds, brackets and ring numbers.

    A string is cut as a chemist reads it: [nH], Cl and %12 are one token each.

    Args:
        words: distinct tokens, in order.

    Raises:
        ValueError: there is none, one is there twice, or is no such token.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.words, tuple) or not self.words:
            raise ValueError(f"words must be tokens of SMILES, got {self.words!r}")
        if wrong := [word for word in self.words if not isinstance(word, str) or not ATOM.fullmatch(word)]:
            raise ValueError(f"words must be tokens of SMILES such as C, [nH] or %12, got {wrong[0]!r}")
        if len(self._numbers) < len(self.words):
            twice = next(word for word in self.words if self.words.count(word) > 1)
            raise ValueError(f"words must be distinct, {twice!r} is there twice")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return the tokens of a molecule.

        Raises:
            ValueError: a character that belongs to no token, or a token that is not among `words`; says which, where.
        """
        return torch.tensor(self._encode(check_text(data)), dtype=torch.long)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each molecule."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> list[int]:
        found = ATOM.findall(text)
        if sum(map(len, found)) == len(text):
            try:
                return [self._numbers[word] for word in found]
            except KeyError:
                pass
        at = 0
        for match in ATOM.finditer(text):
            if match.start() > at or match[0] not in self._numbers:
                break
            at = match.end()
        known = ATOM.match(text, at)
        if known is None:
            raise ValueError(
                f"character {text[at]!r} (U+{ord(text[at]):04X}) at column {at + 1} is no part of a SMILES"
            )
        raise ValueError(f"{known[0]!r} at column {at + 1} is none of the {len(self.words)} known tokens of SMILES")

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example, `unknown` standing for a mask."""
        symbols = [*self.words, unknown]
        return ["".join(symbols[i] for i in row) for row in check_batch(x, self.vocab_size).tolist()]


def find_atoms(texts: Iterable[str]) -> Atoms:
    """Return the codec of the tokens that molecules have; what is no token is left to `Atoms.encode` to refuse.

    Raises:
        ValueError: there is no token.
    """
    words: set[str] = set()
    for text in texts:
        words.update(ATOM.findall(text))
    if not words:
        raise NoTextError("there is no SMILES in it")
    return Atoms(tuple(sorted(words)))

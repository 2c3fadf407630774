"""Biological sequences in FASTA: genomes, genes, proteins."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from unmask.codecs.named import ATOMS, CHARACTERS
from unmask.codecs.text import Characters, Text
from unmask.data.encoding import Example
from unmask.data.reading import open_text
from unmask.data.sequences import Sequences

Alphabet = Literal["dna", "rna", "protein"]
Ambiguous = Literal["drop", "keep", "error"]
LETTERS: dict[Alphabet, tuple[str, str]] = {
    "dna": ("ACGT", "BDHKMNRSVWY"),
    "rna": ("ACGU", "BDHKMNRSVWY"),
    "protein": ("ACDEFGHIKLMNPQRSTVWY", "BJOUXZ"),
}
"""Letters of each alphabet, and those that stand for one of several (IUPAC), or for the rare amino acids O and U."""


class Record(NamedTuple):
    """A record of a FASTA file.

    Attributes:
        number: from 1.
        name: the first word of its header.
        first: number of the line after the header.
        lines: of its sequence, as they stand.
        letters: of all lines, in upper case, without white space.
    """

    number: int
    name: str
    first: int
    lines: list[bytes]
    letters: bytes


@dataclass(frozen=True)
class FASTA(Sequences):
    """The records of a FASTA file; or their windows, as for a genome.

    A record is a line that begins with > and the lines up to the next; a sequence may be wrapped. Letters in lower case
    (masked repeats) are read as capitals. A * at the very end of a protein, where translation stops, is left out.

    Args:
        path: the file, plain or compressed.
        length: L, of the rows, in tokens.
        packing: what fills shorter sequences up. `padded`: a token that is given, neither learned nor counted; the
            model holds the distribution of lengths. `filled`: tokens that end a sequence, which are learned.
        tokenizer: None: a token for each letter; a tokenizer's folder, or that of a model, such as one of proteins.
        valid_path: a file to validate on; None: 5 % of `path`, chosen at random, always in the same way.
        test_path: a file to test on; None: as for `valid_path`.
        long: whether a record that is longer than a row is left out (`drop`), cut off (`cut`), or an `error`.
        alphabet: dna (ACGT), rna (ACGU), or protein (the 20 amino acids).
        ambiguous: what becomes of a sequence or window with other letters of IUPAC (N and others; B, J, X, Z, and the
            rare amino acids O and U): it is left out (`drop`), these letters are tokens of their own (`keep`), or it is
            an `error`.
        extra: further characters that are tokens, such as -* for gaps and stops; else these are errors.
        windows: whether records are cut into windows that fill a row and do not overlap; the last of a record is
            shorter.
    """

    alphabet: Alphabet = "dna"
    ambiguous: Ambiguous = "drop"
    extra: str = ""
    windows: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (
            ("alphabet", self.alphabet, Alphabet),
            ("ambiguous", self.ambiguous, Ambiguous),
        ):
            if value not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
        if self.tokenizer == ATOMS:
            raise ValueError("tokenizer atoms is for SMILES; without one each letter is a token")
        taken = "".join(LETTERS[self.alphabet]) + ">"
        for character in self.extra.upper():
            if character in taken or not "!" <= character <= "~" or self.extra.upper().count(character) > 1:
                raise ValueError(
                    f"extra must be characters such as -*, each once, and no letters of {self.alphabet}; got "
                    f"{self.extra!r}"
                )

    @property
    def _letters(self) -> str:
        """Characters that are tokens."""
        sure, ambiguous = LETTERS[self.alphabet]
        return sure + (ambiguous if self.ambiguous == "keep" else "") + self.extra.upper()

    def find_codec(self, name: str | None) -> tuple[Text, bool]:
        return (Characters(self._letters), False) if name in (None, CHARACTERS) else super().find_codec(name)

    @cached_property
    def _chosen(self) -> tuple[Text, bool]:
        return self.find_codec(self.tokenizer)

    @property
    def _window(self) -> int | None:
        """Letters of a window; None: records are not cut."""
        return self.layout.room - self.layout.extra if self.windows else None

    @property
    def reading(self) -> list[Any]:
        return [*super().reading, self._window]

    def examples(self, path: Path) -> Iterator[Example]:
        known, size = self._letters.encode(), self._window
        doubtful = set() if self.ambiguous == "keep" else set(LETTERS[self.alphabet][1])
        left_out, at = 0, 0
        for record in read_records(path):
            letters = record.letters
            if self.alphabet == "protein" and "*" not in self.extra:
                letters = letters.removesuffix(b"*")
            strange = set(map(chr, set(letters.translate(None, known))))
            if wrong := strange - (set() if self.ambiguous == "error" else doubtful):
                raise ValueError(self._explain(path, record, wrong))
            for start in range(0, len(letters), size or max(len(letters), 1)):
                text = (letters if size is None else letters[start : start + size]).decode()
                if strange and not strange.isdisjoint(text):
                    left_out += 1
                elif size is None:
                    yield Example(record.number, text, unit="record")
                else:
                    yield Example(at + start + 1, text, unit="letter")
            if not letters:
                yield Example(record.number, "", unit="record")
            at += len(record.letters)
        if left_out:
            what = "windows" if self.windows else "records"
            warnings.warn(
                f"{path}: {left_out:,} {what} with letters that stand for several (such as "
                f"{LETTERS[self.alphabet][1]}) are left out; --data.ambiguous keep makes these tokens",
                stacklevel=2,
            )

    def _explain(self, path: Path, record: Record, wrong: set[str]) -> str:
        """Return what is said of the first wrong letter of a record."""
        lines = enumerate((line.upper().decode("latin-1") for line in record.lines), record.first)
        places = ((number, column, one) for number, line in lines for column, one in enumerate(line, 1))
        number, column, letter = next(place for place in places if place[2] in wrong)
        where = f"{path}, record {record.number} ({record.name}), line {number}, column {column}"
        if letter in LETTERS[self.alphabet][1]:
            how = "is ambiguous; --data.ambiguous drop leaves such sequences out, keep makes it a token"
        elif letter in "-.*":
            how = f"is a {'stop' if letter == '*' else 'gap'}; --data.extra '{letter}' makes it a token"
        else:
            others = [name for name, (sure, _) in LETTERS.items() if letter in sure and name != self.alphabet]
            how = f"is no letter of {self.alphabet}" + "".join(f"; --data.alphabet {other}?" for other in others)
        return f"{where}: {letter!r} {how}"


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a FASTA file, plain or compressed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file does not begin with a header, or is damaged; names it.
    """
    count, header, first, lines = 0, b"", 0, list[bytes]()
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line[:1] == b">":
                if count:
                    yield _record(count, header, first, lines)
                count, header, first, lines = count + 1, line, number + 1, []
            elif count:
                lines.append(line.rstrip())
            elif line.strip() and line[:1] != b";":
                shown = line.strip()[:20].decode(errors="replace")
                raise ValueError(f"{path}, line {number}: expected a header, a line that begins with >, got {shown!r}")
    if not count:
        raise ValueError(f"{path}: holds no record: no line begins with >")
    yield _record(count, header, first, lines)


def _record(number: int, header: bytes, first: int, lines: list[bytes]) -> Record:
    words = header[1:].decode(errors="replace").split()
    letters = b"".join(lines).translate(None, b" \t\r").upper()
    return Record(number, words[0][:40] if words else "no name", first, lines, letters)

"""Molecules in SMILES, one on each line or in a column of a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.codecs.named import ATOMS
from unmask.codecs.text import Text
from unmask.data.encoding import Example
from unmask.data.formats import Format, check_format, find_format
from unmask.data.reading import lines
from unmask.data.rows import column_names, rows_of, text_of
from unmask.data.sequences import Sequences

SMILES_NAME = "smiles"
"""What the names of columns with SMILES end in."""


@dataclass(frozen=True)
class SMILES(Sequences):
    """Molecules in SMILES: the first word of every line of a text, or a column of CSV, TSV, JSON or Parquet.

    A text may begin with a line that names its columns, the first of which is called smiles (in capitals or not); what
    follows the first word of a line, such as the molecule's name in a .smi file, is not read.

    Args:
        path: the file, plain or compressed.
        length: L, of the rows, in tokens: the most that a molecule can have.
        packing: what fills molecules up. `padded`: a token that is given, neither learned nor counted; the model holds
            the distribution of lengths. `filled`: tokens that end a molecule, which are learned like others.
        tokenizer: None or atoms: the atoms, bonds, brackets and ring numbers that the file has, such as Cl, [nH] and
            %12, each a token; characters; a tokenizer's folder, or that of a model.
        valid_path: a file to validate on; None: 5 % of `path`, chosen at random, always in the same way.
        test_path: a file to test on; None: as for `valid_path`.
        long: whether a molecule that is longer than a row is left out (`drop`), cut off (`cut`), or an `error`.
        column: with the SMILES; None: the first whose name ends in smiles.
        format: text, json, csv, tsv or parquet; found out if None.
    """

    length: int = 64
    column: str | None = None
    format: Format | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_format(self.format)

    def find_codec(self, name: str | None) -> tuple[Text, bool]:
        return super().find_codec(name or ATOMS)

    def examples(self, path: Path) -> Iterator[Example]:
        format = self.format or find_format(path)
        if format == "text":
            if self.column is not None:
                raise ValueError(
                    f"{path}: is read as a text, which has no column {self.column!r}; name its --data.format"
                )
            yield from _first_words(path)
            return
        column = self.column or _find_column(path, format)
        option = "--data.column names the one with SMILES"
        for row in rows_of(path, format, [column], option):
            unit, place = row.place
            yield Example(place, text_of(row, column, option).strip(), unit=unit)


def _first_words(path: Path) -> Iterator[Example]:
    """Yield the first word of each line, but for a first line that names columns."""
    for number, line in enumerate(lines(path), 1):
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        if number > 1 or not word.lower().endswith(SMILES_NAME):
            yield Example(number, word)


def _find_column(path: Path, format: Format) -> str:
    """Return the column that holds SMILES, by its name."""
    if format == "json":
        return SMILES_NAME
    names = column_names(path, format)
    found = [name for name in names if name.lower().strip().endswith(SMILES_NAME)]
    if not found:
        raise ValueError(
            f"{path}: no column has a name that ends in smiles, but there are {', '.join(names)[:200]}; --data.column "
            "names the one with SMILES, --data.format text takes the first word of every line"
        )
    return found[0]

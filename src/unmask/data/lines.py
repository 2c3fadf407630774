"""A text of which every line is an example."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.data.encoding import Example
from unmask.data.reading import lines
from unmask.data.sequences import Sequences


@dataclass(frozen=True)
class Lines(Sequences):
    """A UTF-8 text, plain or compressed, of which every line is an example; empty lines are left out.

    The settings are those of `Sequences`:

    Args:
        path: the file.
        length: L, of the rows, in tokens: the most that a line can have.
        packing: what fills lines up. `padded`: a token that is given, neither learned nor counted; the model holds the
            distribution of lengths. `filled`: tokens that end a text, which are learned like others.
        tokenizer: characters, characters:ABC, bytes, a tokenizer's folder, or that of a model. None: the characters of
            the file if there are at most 256 different ones, else bytes.
        valid_path: a file to validate on; None: 5 % of `path`, chosen at random, always in the same way.
        test_path: a file to test on; None: as for `valid_path`.
        long: whether a line that is longer than a row is left out (`drop`), cut off (`cut`), or an `error`.
    """

    def examples(self, path: Path) -> Iterator[Example]:
        for number, line in enumerate(lines(path), 1):
            yield Example(number, line.removesuffix("\n"))

"""Rows of a file with a part that is given and a part to learn: questions and answers, sources and translations."""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unmask.codecs.chat import Message
from unmask.data.encoding import Example
from unmask.data.formats import Format, check_format, find_format
from unmask.data.rows import BadRowError, Row, field_of, rows_of, text_of
from unmask.data.sequences import Sequences


@dataclass(frozen=True)
class Template:
    """How a text is made of the fields of a row.

    Args:
        text: the name of a field; or a text with names of fields in braces, such as "Question: {question}\nAnswer: ",
            in which {{ and }} are braces.
        option: that gave it, for errors.

    Raises:
        ValueError: it is no such text.
    """

    text: str
    option: str

    def __post_init__(self) -> None:
        _ = self.parts

    @cached_property
    def parts(self) -> list[tuple[str, str | None]]:
        """Pieces of text, each with the field that follows it; None: none does."""
        if not self.text:
            raise ValueError(f"{self.option} must name a field, or be a template with fields in braces")
        try:
            found = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ValueError(f"{self.option} {self.text!r:.80}: {error}; {{{{ and }}}} stand for braces") from None
        if any(how or conversion or name == "" for _, name, how, conversion in found):
            raise ValueError(f"{self.option} {self.text!r:.80}: braces hold the name of a field, as in {{question}}")
        if all(name is None for _, name, _, _ in found):
            return [("", self.text)] if "{" not in self.text and "}" not in self.text else [(self.text, None)]
        return [(before, name) for before, name, _, _ in found]

    @property
    def fields(self) -> list[str]:
        """The fields that are needed."""
        return [name for _, name in self.parts if name is not None]

    def fill(self, row: Row) -> str:
        """Return the text for a row.

        Raises:
            BadRowError: it lacks a field or holds no text there, or all of its fields are empty; says where.
        """
        texts = {name: text_of(row, name, f"{self.option} names the field") for name in self.fields}
        if not any(texts.values()):
            what = f"the field {self.fields[0]!r} is" if len(texts) == 1 else f"the fields {', '.join(texts)} are"
            raise BadRowError(f"{row.where}: {what} empty ({self.option})")
        return "".join(before + (texts[name] if name is not None else "") for before, name in self.parts)


@dataclass(frozen=True)
class Pairs(Sequences):
    """Rows of JSON, CSV, TSV or Parquet with a part that is given and a part to learn.

    What is given is never masked and not counted. What is learned is followed by the token that ends a text. The file
    may be compressed, but for Parquet.

    Args:
        path: the file.
        length: L, of the rows, in tokens: the most that both parts can have together, with the end of the second.
        packing: what fills rows up. `padded`: a token that is given, neither learned nor counted; the model holds the
            distribution of the lengths of what is learned. `filled`: tokens that end a text, which are learned like
            others (LLaDA).
        tokenizer: characters, characters:ABC, bytes, a tokenizer's folder, or that of a model. None: the characters of
            the file if there are at most 256 different ones, else bytes.
        valid_path: a file to validate on; None: 5 % of `path`, chosen at random, always in the same way.
        test_path: a file to test on; None: as for `valid_path`.
        long: whether a row that is too long is left out (`drop`), cut off at its end (`cut`), or an `error`.
        given: the field of the part that is given, or a template of several: "Question: {question}\nAnswer: ". `a.b` is
            the field b of the field a.
        target: the field of the part to learn, or a template.
        messages: in place of both: a field with a conversation, a list of {"role", "content"}. What the assistant says
            last is learned, and all before is given, as the tokenizer's chat template writes it.
        format: text, json, csv, tsv or parquet; found out if None.
    """

    given: str = "prompt"  # type: ignore[assignment]
    target: str = "response"
    messages: str | None = None
    format: Format | None = None

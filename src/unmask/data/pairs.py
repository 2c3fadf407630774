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
from unmask.data.rows import BadRowError, Row, field_of, rows_of, text_of, valid_text
from unmask.data.sequences import Sequences


@dataclass(frozen=True)
class Template:
    r"""How a text is made of the fields of a row.

    Args:
        text: the name of a field; or a text with names of fields in braces, such as "Question: {question}\nAnswer: ",
            in which {{ and }} are braces, and \n and \t, where a backslash is written out, a line end and a tab.
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
        if "{" not in self.text and "}" not in self.text:
            return [("", self.text)]
        if all(name is None for _, name, _, _ in found):
            raise ValueError(f"{self.option} {self.text!r:.80}: names no field in braces")
        return [(before.replace("\\n", "\n").replace("\\t", "\t"), name) for before, name, _, _ in found]

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
    r"""Rows of JSON, CSV, TSV or Parquet with a part that is given and a part to learn.

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

    given: str = "prompt"
    target: str = "response"
    messages: str | None = None
    format: Format | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_format(self.format)
        if self.format == "text":
            raise ValueError("format text has no fields: a file of pairs is json, csv, tsv or parquet")
        _ = self._templates

    @property
    def conditional(self) -> bool:
        return True

    @cached_property
    def _templates(self) -> tuple[Template, Template]:
        return Template(self.given, "--data.given"), Template(self.target, "--data.target")

    def examples(self, path: Path) -> Iterator[Example]:
        given, target = self._templates
        if self.messages is not None:
            fields, option = [self.messages], "--data.messages names the field"
        else:
            fields = list(dict.fromkeys(given.fields + target.fields))
            option = "--data.given and --data.target name the fields"
        for row in rows_of(path, self.format or find_format(path), fields, option):
            unit, place = row.place
            if self.messages is None:
                yield Example(place, target.fill(row), given.fill(row), unit)
            else:
                known, answer = conversation(row, self.messages)
                yield Example(place, answer, known, unit)


def conversation(row: Row, field: str) -> tuple[list[Message], str]:
    """Return the messages in a field of a row up to what the assistant says last, and that.

    Raises:
        BadRowError: there is no such field, no list of messages in it, nothing before what the assistant says last, or
            that is empty, or not valid Unicode; says where.
    """
    messages = field_of(row, field, "--data.messages names the field")
    where = f"{row.where}: the field {field!r}"
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise BadRowError(f'{where} must be a list of messages {{"role": "user", "content": "..."}}')
    for text in (part for message in messages for part in message.values() if isinstance(part, str)):
        valid_text(row, text)
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    if last < 1:
        raise BadRowError(f"{where} must have a message of the assistant, with one before it")
    if not messages[last]["content"]:
        raise BadRowError(f"{where}: what the assistant says last is empty")
    return [dict(message) for message in messages[:last]], messages[last]["content"]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))

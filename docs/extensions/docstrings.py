"""Docstrings as they are written here, for autodoc: plain text, names in backticks, formulas as indented blocks."""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import inspect
from sphinx.util.inspect import stringify_signature

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Examples?|Notes?|Warns):$")
LINKED = re.compile(r"[A-Z]\w*(\.\w+)*|[a-z]\w*\.[\w.]+|[a-z]+_[\w]+")
"""Names that may be classes, functions or modules, unlike those of arguments."""


def inline(line: str) -> str:
    """Turn the text between backticks into links or literals, and what reStructuredText would read into plain text."""
    parts = line.split("`")
    for i, part in enumerate(parts):
        if i % 2 == 0 or i == len(parts) - 1:
            plain = re.sub(r"(?<=[\w\]])_(?=\W|$)", r"\\_", re.sub(r"([*|\\])", r"\\\1", part))
            parts[i] = re.sub(r"\bdocs/([\w-]+)\.md", r":doc:`docs/\1.md </\1>`", plain)
        else:
            parts[i] = f":py:obj:`{part}`" if LINKED.fullmatch(part) else f"``{part}``"
    text = ""
    for i, part in enumerate(parts):  # a role or a literal must end at a word's end
        text += part if i == 0 or i % 2 or not re.match(r"\w", part) else f"\\ {part}"
    return text


def convert(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as napoleon reads them."""
    found: list[str] = []
    section, literal, before = "", -1, ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        text = line.strip()
        if not text:
            found.append("")
            continue
        blank = not found or not found[-1]
        if indent == 0:
            match = SECTION.fullmatch(text)
            section = match[1] if match else "" if blank else section
            literal = -1
        if literal >= 0 and indent < literal:
            literal = -1
        code = section.startswith("Example") and indent
        if (
            literal < 0
            and indent
            and ((not section and blank) or (code and ">>>" not in text and SECTION.match(before)))
        ):
            found += [" " * indent * bool(code) + "::", ""]
            literal = indent
        if literal >= 0:
            found.append("    " * bool(code) + line)
        else:
            found.append(line if code else line[:indent] + inline(text))
        before = text
    return found


def process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Convert a docstring in place, before napoleon reads it."""
    lines[:] = convert(lines)


def sign(
    app: Sphinx, what: str, name: str, obj: Any, options: object, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Return the signature of a class whose constructor is hidden by a base class's, or none if there is none."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    found = inspect.signature(obj.__init__, bound_method=True)
    return stringify_signature(found, unqualified_typehints=True, show_return_annotation=False), None


def skip(app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object) -> bool | None:
    """Leave out what only says that a field of a named tuple is a field."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Take part in autodoc."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

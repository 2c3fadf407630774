"""Chat templates: how a conversation becomes a text with special tokens, as the model was trained with it.

A template is a program of Jinja in a file. It runs in Jinja's sandbox, in which it can reach nothing but the messages,
for a second at most.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from unmask.codecs.tokenizer_settings import CONFIG, TokenizerSettings
from unmask.storage.folders import TEMPLATE
from unmask.storage.limits import check_size

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser

MOST = 1 << 20
"""Bytes of a template, and characters of what it may write beyond the messages."""
FILLING = ("center", "expandtabs", "ljust", "rjust", "zfill")
"""Methods of texts that can write far more than they read."""
REFUSED = (ValueError, TypeError, KeyError, TimeoutError, RecursionError, OverflowError, MemoryError)
"""What a template raises that does what it may not."""
SECONDS = 1.0
Message = Mapping[str, Any]
"""What one says: {"role": "user", "content": "..."}."""


def read_template(folder: Path) -> str | None:
    """Return the chat template of a tokenizer's folder, in which its special tokens have their names; None: none.

    Raises:
        ValueError: a file is damaged, or describes it in another form; names the file.
    """
    settings = TokenizerSettings.read(folder)
    path = folder / TEMPLATE
    if path.is_file():
        check_size(path.stat().st_size, path, MOST)
        template: Any = path.read_text(encoding="utf-8")
    else:
        path, template = folder / CONFIG, settings.config.get("chat_template")
        if isinstance(template, list):
            named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
            template = named.get("default")
    if template is None:
        return None
    if not isinstance(template, str) or len(template) > MOST:
        raise ValueError(f"{path}: chat_template must be a text of at most {MOST:,} characters")
    roles = (
        f"{{%- set {role} = {json.dumps(token, ensure_ascii=False)} %}}\n" for role, token in settings.tokens.items()
    )
    return "".join(roles) + template  # the newline of a line that ends in %} is not written


def render(template: str, messages: Sequence[Message], where: str) -> str:
    """Return the text of a conversation, up to where the answer begins.

    Args:
        template: see `read_template`.
        messages: of the conversation; the last is the user's.
        where: names the template in errors.

    Raises:
        ValueError: the template refuses the messages, is no template, does what the sandbox forbids, or takes too long.
    """
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Marks what the model says, for training: {% generation %} … {% endgeneration %}."""

        tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            plain = isinstance(left, int | float) and isinstance(right, int | float)
            if not plain or (operator == "**" and max(abs(left), abs(right)) > 64):
                raise ValueError(f"{operator} of {left!r:.20} and {right!r:.20}")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return not (isinstance(obj, str) and attr in FILLING) and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> Any:
            if super().wrap_str_format(value) is not None:
                raise ValueError("format of a text")

        def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            if isinstance(getattr(obj, "__self__", None), str) and getattr(obj, "__name__", "") == "replace":
                return _replaced(obj.__self__, *args)
            return super().call(context, obj, *args, **kwargs)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    for name in ("batch", "center", "format", "indent", "wordwrap"):  # these can write far more than they read
        del environment.filters[name]
    environment.filters["replace"] = _replaced
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, **{"ensure_ascii": False} | how)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        compiled = environment.from_string(template)
        with _at_most(SECONDS):
            text = compiled.render(given)
    except (*REFUSED, TemplateError) as error:
        raise ValueError(f"{where}: the chat template refuses this: {' '.join(str(error).split())[:200]}") from None
    if len(text) > MOST + sum(len(str(message)) for message in messages):
        raise ValueError(f"{where}: the chat template writes {len(text):,} characters")
    return text


def _replaced(text: str, old: str, new: str, count: int | None = None) -> str:
    """Return a text with a part of it replaced, if it does not become very long by that."""
    text, old, new = str(text), str(old), str(new)
    count = -1 if count is None else count
    times = text.count(old) if count < 0 else min(count, text.count(old))
    if times * max(0, len(new) - len(old)) > 2 * MOST:
        raise ValueError(f"replace adds more than {2 * MOST:,} characters")
    return text.replace(old, new, count)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in Python code that computes for longer."""
    end = time.thread_time() + seconds

    def check(frame: FrameType, event: str, argument: Any) -> Any:
        if time.thread_time() > end:
            raise TimeoutError(f"it takes more than {seconds:g} s")
        return check

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)

"""Texts that go on from piece to piece: tokens from which each piece comes back exactly, if a tokenizer can do that."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from unmask.codecs.text import check_text

if TYPE_CHECKING:
    import tokenizers


def _folded(text: str) -> str:
    """Return a text without what tells capitals and accents."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in apart if unicodedata.category(c)[0] not in "MC" or c.isspace())


FORMS: tuple[Callable[[str], str], ...] = (str, _folded, lambda text: "".join(_folded(text).split()))
"""A text as it is; without its form; and without spaces, too."""
LETTERS = "xqzkvaeiou0"
"""What a text that goes on is tried to be put behind, first of all."""


@dataclass(frozen=True)
class Joining:
    """How a tokenizer cuts a text that begins, and one that goes on after another.

    Args:
        tokenizer: whose tokens they become.
        encode: cuts a text by itself; its errors say whose tokenizer it is.
    """

    tokenizer: tokenizers.Tokenizer
    encode: Callable[[str], tokenizers.Encoding]

    def first(self, text: str) -> list[int]:
        """Return the tokens of what a text begins with, from which it comes back exactly if it can."""
        if not check_text(text):
            return []
        found = [tokens for tokens in (self.encode(text).ids, self._anchored(text)) if tokens is not None]
        return self._closest(text, [(tokens, self.joined(tokens)) for tokens in found])

    def continued(self, text: str, plain: list[int] | None = None, *, exact: bool = False) -> list[int]:
        """Return the tokens of a text that goes on after another, from which it comes back exactly if it can.

        Args:
            text: that goes on.
            plain: its tokens by itself, where they are known.
            exact: whether to refuse a text that loses more than its form.

        Raises:
            ValueError: it would, with `exact`.
        """
        plain = self.encode(check_text(text)).ids if plain is None else plain
        if (back := self.after(plain)) == text:
            return plain
        anchored = self._anchored(text)
        if anchored is None:
            return self._closest(text, [(plain, back)]) if exact else plain
        return self._closest(text, [(plain, back), (anchored, self.after(anchored))]) if exact else anchored

    def _closest(self, text: str, found: list[tuple[list[int], str]]) -> list[int]:
        """Return those tokens, of several with what comes back from them, from which a text comes back most exactly."""
        for form in FORMS:
            for tokens, back in found:
                if form(back) == form(text):
                    return tokens
        raise ValueError(self._not_kept(text, found[-1][1]))

    def _not_kept(self, text: str, back: str) -> str:
        at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
        start = max(0, at - 20)
        return (
            f"the tokenizer cannot keep this text as it is: {text[start : at + 20]!r} comes back as "
            f"{back[start : at + 20]!r}; give it as it comes back"
        )

    @cached_property
    def anchors(self) -> list[tuple[str, list[int]]]:
        """Short texts that come back exactly, with their tokens: what a text can be said to go on after."""
        single = sorted(token for token in self.tokenizer.get_vocab() if len(token) == 1 and token.isprintable())
        found = []
        for text in dict.fromkeys((*LETTERS, *single[:256])):
            with suppress(ValueError):  # what it does not know at all
                tokens = self.encode(text).ids
                if tokens and self.joined(tokens) == text:
                    found.append((text, tokens))
        return found

    def _anchored(self, text: str) -> list[int] | None:
        """Return the tokens that a text has behind another; None where the two always run together."""
        for before, _ in self.anchors:
            encoding = self.encode(before + text)
            count = sum(stop <= len(before) for _, stop in encoding.offsets)
            inside = encoding.offsets[count:]
            clean = all(stop <= len(before) for _, stop in encoding.offsets[:count])
            if clean and all(start >= len(before) for start, _ in inside):
                return encoding.ids[count:]
        return None

    def joined(self, tokens: list[int]) -> str:
        """Return the text of tokens that a text begins with."""
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def after(self, tokens: list[int]) -> str:
        """Return what tokens add to a text that comes before them."""
        for text, before in self.anchors[:1]:
            whole = self.joined([*before, *tokens])
            if whole.startswith(text):
                return whole[len(text) :]
        return self.joined(tokens)

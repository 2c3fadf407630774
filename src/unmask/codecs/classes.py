"""Sets of tokens by what they are: characters of a class such as 0-9a-f, or numbers."""

import re

import torch
from jaxtyping import Bool
from torch import Tensor

from unmask.codecs.base import Codec
from unmask.codecs.ended import Ended
from unmask.codecs.text import Bytes, Text

PART = "\N{REPLACEMENT CHARACTER}"
"""Stands for a part of a character."""
ESCAPES = {"n": "\n", "t": "\t"}
"""What a letter after a backslash stands for; any other character stands for itself."""
Ranges = list[tuple[str, str]]
"""First and last character of each range of a class."""


def allowed_tokens(
    codec: Codec, allow: str | None = None, forbid: str | None = None, *, special: bool = False
) -> Bool[Tensor, " vocab"]:
    r"""Return which tokens are allowed, for `MaskedDiffusion.sample` and `infill`.

    For texts a class is written as in a regular expression, without the brackets: characters and ranges of them, such
    as `0-9a-f `; \- is a hyphen (so is one at either end), \\ a backslash, \n and \t the end of a line and a tab. A
    token is allowed if all of the characters that it adds to a text are in `allow` and none is in `forbid`. (Many
    tokens begin with a space, which is a character, too.) Tokens that are parts of characters beyond ASCII are not
    allowed by `allow`, and forbidden where `forbid` has any character beyond ASCII. For other data a class is numbers
    of tokens and ranges of them, such as `0-9,12`; for images these are levels.

    Args:
        codec: of the model.
        allow: class of the allowed characters or numbers; None: all.
        forbid: class of those that are not allowed.
        special: whether special tokens, which have no characters, stay allowed beside those of `allow`, as texts that
            end with one need. Without `allow` they are allowed in any case.

    Returns:
        (V,), true where a token is allowed.

    Raises:
        ValueError: a class that names nothing, what the model does not have, or a range backwards; or no token is left.

    Example:
        allowed = allowed_tokens(model.codec, allow="a-z ", forbid="q")
        model.sample(4, allowed=allowed)
    """
    allowed = torch.ones(codec.vocab_size, dtype=torch.bool)
    if isinstance(codec, Text):
        pieces = codec.pieces()
        if allow is not None:
            members = _members(allow, "allow", codec, pieces)
            ruled = [special if not piece else members.issuperset(piece) for piece in pieces]
            allowed &= torch.tensor(ruled)
        if forbid is not None:
            members = _members(forbid, "forbid", codec, pieces)
            if any(last > "\x7f" for _, last in parse_class(forbid, "forbid")):
                members |= {PART}
            allowed &= torch.tensor([members.isdisjoint(piece) for piece in pieces])
        spelt = torch.tensor([bool(piece) for piece in pieces])
    else:
        if allow is not None:
            allowed &= _numbers(allow, "allow", codec.vocab_size)
        if forbid is not None:
            allowed &= ~_numbers(forbid, "forbid", codec.vocab_size)
        spelt = torch.ones_like(allowed)
    if not (allowed & spelt).any():
        given = ", ".join(f"{name} {text!r}" for name, text in (("allow", allow), ("forbid", forbid)) if text)
        raise ValueError(f"{given}: no token of the model is left; all characters of a token must be allowed")
    return allowed


def parse_class(text: str, name: str = "class") -> Ranges:
    """Return the ranges of a class of characters; a single character is a range of itself.

    Args:
        text: see `allowed_tokens`.
        name: of the class, in errors.

    Raises:
        ValueError: the class is empty, a range goes backwards, or a backslash is its last character.
    """
    found = re.findall(r"\\?.", text, re.DOTALL)
    if not found or found[-1] == "\\":
        raise ValueError(f"{name} {text!r}: " + ("ends in a single \\; \\\\ is one" if found else "names no character"))
    signs = [ESCAPES.get(sign[1:], sign[1:]) if len(sign) == 2 else sign for sign in found]
    ranges, i = [], 0
    while i < len(signs):
        last = i + 2 if i + 2 < len(signs) and found[i + 1] == "-" else i
        if signs[i] > signs[last]:
            raise ValueError(f"{name} {text!r}: the range {signs[i]}-{signs[last]} goes backwards")
        ranges.append((signs[i], signs[last]))
        i = last + 1
    return ranges


def _members(text: str, name: str, codec: Text, pieces: list[str]) -> set[str]:
    """Return the characters of a class that occur in tokens; raise a ValueError for a range of which none does."""
    known = set("".join(pieces)) - {PART}
    members: set[str] = set()
    for first, last in parse_class(text, name):
        inside = {c for c in known if first <= c <= last}
        if not inside:
            what = f"character {first!r} (U+{ord(first):04X})" if first == last else f"range {first}-{last}"
            of_bytes = isinstance(codec.codec if isinstance(codec, Ended) else codec, Bytes)
            hint = "; its tokens are bytes, of which those of ASCII are characters" if of_bytes else ""
            raise ValueError(f"{name} {text!r}: the {what} is in no token of the model{hint}")
        members |= inside
    return members


def _numbers(text: str, name: str, count: int) -> Bool[Tensor, " vocab"]:
    """Return which tokens are in a class of numbers."""
    found = torch.zeros(count, dtype=torch.bool)
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            raise ValueError(f"{name} {text!r}: expected numbers and ranges such as 0-9,12; got {part!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f"{name} {text!r}: the range {first}-{last} goes backwards")
        if last >= count:
            raise ValueError(f"{name} {text!r}: the model's tokens are 0..{count - 1}, got {last}")
        found[first : last + 1] = True
    return found

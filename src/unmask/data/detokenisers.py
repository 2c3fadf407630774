"""Turning tokenised texts of the zero-shot sets back into text as people write it."""

import re
from collections.abc import Callable

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


def _heading(match: re.Match[str]) -> str:
    """Close up a heading of WikiText."""
    return f"{match[1].replace(' ', '')} {match[2]} {match[3].replace(' ', '')}"


PUNCTUATION: Rules = (
    (r" ([.,;:!?%)\]}])", r"\1"),
    (r"([(\[{$£€]) ", r"\1"),
    (r" (n't|'(?:s|S|re|ve|ll|d|m)|(?<=n )'t)\b", r"\1"),
)
QUOTES: Rules = ((r'" ([^"\n]*?) "', r'"\1"'), (r"`` ([^`\n]*?) ''", r'"\1"'))
WIKITEXT: Rules = (
    (r" @([-,.])@ ", r"\1"),
    (r"(?m)^ ((?:= )+)(.*?)((?: =)+) *$", _heading),
    (r"(?m)^ | $", ""),
    *QUOTES,
    *PUNCTUATION,
)
PTB: Rules = ((r"(?m)^ | $", ""), (r"# N", "#N"), *PUNCTUATION)
NEWS: Rules = ((r"(?m)^ | $", ""), *QUOTES, *PUNCTUATION)


def replaced(text: str, rules: Rules) -> str:
    """Apply regular expressions one after another."""
    for pattern, new in rules:
        text = re.sub(pattern, new, text)
    return text


def articles(text: str) -> list[str]:
    """Cut WikiText into articles, each of which begins with a line ` = Title = ` between blank lines."""
    heading = r"(?:\A|\A *\n|\n *\n)( = [^=\n][^\n]*[^=\n] = *\n *\n)"
    starts = [match.start(1) for match in re.finditer(heading, text)]
    if not starts or text[: starts[0]].strip():
        starts = [0, *starts]  # what comes before the first title
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]

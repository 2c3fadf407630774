"""What the site takes from the package itself: every command's help, and the shipped configurations."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from importlib import import_module
from importlib.resources import files
from keyword import iskeyword
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from unmask.cli.main import COMMANDS, main


def help_of(*words: str) -> str:
    """Return what a command prints of itself."""
    shown = io.StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        main(list(words))
    if not shown.getvalue():
        raise RuntimeError(f"unmask {' '.join(words)} prints no help")
    return shown.getvalue().rstrip()


def block(kind: str, content: str) -> str:
    """Return a block of code."""
    return f"````{kind}\n{content}\n````\n"


def commands() -> Iterator[str]:
    """Yield a section for each command, and for each of its words where the options depend on them."""
    yield block("text", help_of("--help"))
    for name, text in COMMANDS.items():
        yield f"## unmask {name}\n\n{text[0].upper()}{text[1:]}.\n"
        module = import_module(f"unmask.cli.{name}{'_' * iskeyword(name)}")
        words = getattr(module, "MEASURES", None) or getattr(module, "STUDIES", None) or [""]
        for word in words:
            if word:
                yield f"### unmask {name} {word}\n"
            option = "--help-all" if name == "train" else "--help"
            yield block("text", help_of(name, *[word] * bool(word), option))


def configurations() -> Iterator[str]:
    """Yield a section for each configuration, whose first lines say what it is."""
    for path in sorted(files("unmask.configs").iterdir(), key=lambda path: path.name):
        if not path.name.endswith(".yaml"):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        start = next(i for i, line in enumerate(lines) if not line.startswith("#"))
        said = " ".join(line.lstrip("# ") for line in lines[:start])
        yield f"## {path.name.removesuffix('.yaml')}\n\n{said}\n"
        yield block("yaml", "\n".join(lines[start:]).strip())


def navigation(text: str, folder: Path) -> str:
    """Return the index with those of its optional pages (`page?`) that are there, and all that it does not name."""
    lines = [line for line in text.splitlines() if not line.endswith("?") or (folder / f"{line[:-1]}.md").is_file()]
    lines = [line.removesuffix("?") for line in lines]
    others = sorted(page.stem for page in folder.glob("*.md") if page.stem not in {"index", *lines})
    return "\n".join("\n".join(others) if line == "others" else line for line in lines) + "\n"


PAGES = {"reference/commands": commands, "reference/configurations": configurations}


def add(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add to a page what is generated."""
    if docname == "index":
        source[0] = navigation(source[0], Path(app.srcdir))
    if docname in PAGES:
        source[0] += "\n" + "\n".join(PAGES[docname]())


def setup(app: Sphinx) -> dict[str, Any]:
    """Take part in reading pages."""
    app.connect("source-read", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

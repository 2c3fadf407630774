"""The classes of the package that settings can name, read from its source: importing torch would take seconds."""

import ast
import difflib
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from unmask.storage.plugins import import_named

BASES = {
    "data": ("DataSet",),
    "network": ("Network",),
    "objective": ("Objective",),
    "sampler": ("Sampler",),
    "schedule": ("Schedule", "TokenPolynomial"),
}
"""What an object must derive from, by the last part of the option that names its class."""
SOURCES = ("data", "networks", "objectives", "samplers", "schedules.py")
INTERNAL = ("Accelerated", "GumbelAncestral", "GumbelLeftToRight", "Padded", "Constrained", "Marginal")
"""Of the precision study, and wrappers of other networks: not for settings."""


class Known(NamedTuple):
    """A class of the package.

    Attributes:
        bases: all that it derives from, itself among them.
        arguments: of its constructor, by name.
        abstract: names of the methods that it leaves open.
        signature: its arguments with their types and defaults, a line each.
        doc: its docstring.
    """

    bases: frozenset[str]
    arguments: tuple[str, ...]
    abstract: frozenset[str]
    signature: tuple[str, ...]
    doc: str


@cache
def known_classes() -> dict[str, Known]:
    """Return the classes of the package that a setting can name, with those that they derive from."""
    nodes: dict[str, ast.ClassDef] = {}
    for source in SOURCES:
        path = Path(__file__).parents[1] / source
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            body = ast.parse(file.read_text(encoding="utf-8")).body
            nodes |= {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    found: dict[str, Known] = {}

    def add(name: str) -> Known:
        if name not in found:
            node = nodes[name]
            bases = [add(base.id) for base in node.bases if isinstance(base, ast.Name) and base.id in nodes]
            found[name] = _read_class(node, bases)
        return found[name]

    for name in nodes:
        add(name)
    return found


def _read_class(node: ast.ClassDef, bases: list[Known]) -> Known:
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    marks = {name: {ast.unparse(mark) for mark in item.decorator_list} for name, item in methods.items()}
    own = {name for name, decorators in marks.items() if "abstractmethod" in decorators}
    inherited = (
        frozenset().union(*(base.abstract for base in bases))
        - methods.keys()
        - {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
    )
    if "__init__" in methods:
        arguments = methods["__init__"].args
        lines = [ast.unparse(ast.arguments([], [arg], None, [], [], None, [])) for arg in arguments.args[1:]]
        lines += [ast.unparse(ast.arguments([], [arg], None, [], [], None, [])) for arg in arguments.kwonlyargs]
        names = [arg.arg for arg in (*arguments.args[1:], *arguments.kwonlyargs)]
        defaults: list[ast.expr | None] = [None] * (len(arguments.args) - 1 - len(arguments.defaults))
        defaults += [*arguments.defaults, *arguments.kw_defaults]
        lines = [line + (f" = {ast.unparse(d)}" if d else "") for line, d in zip(lines, defaults, strict=True)]
    else:
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        is_dataclass = any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)
        fields = fields if is_dataclass else []
        kept = {name: line for base in bases for name, line in zip(base.arguments, base.signature, strict=True)}
        kept |= {ast.unparse(item.target): ast.unparse(item) for item in fields}
        names, lines = list(kept), list(kept.values())
    bases_of = frozenset({node.name}).union(*(base.bases for base in bases))
    return Known(bases_of, tuple(names), inherited | own, tuple(lines), ast.get_docstring(node) or "")


def choices_of(option: str) -> dict[str, Known]:
    """Return the classes that can be named by an option, such as `sampler` or `objective.schedule`."""
    bases = BASES.get(option.rpartition(".")[2], ())
    classes = known_classes().items()
    chosen = {name: cls for name, cls in classes if any(base in cls.bases for base in bases)}
    return {name: cls for name, cls in chosen.items() if not cls.abstract and name not in INTERNAL}


def explain(name: str) -> str:
    """Return what there is to know of a class: its arguments and its whole docstring.

    A class of the package is read from its source; the module of another one, named as module.Class, is imported.

    Raises:
        ImportError: there is no such module, or no such class in it.
    """
    if "." not in name:
        known = known_classes()[name]
        lines = [f"  {line}" for line in known.signature]
        return "\n".join((f"{name}(", *lines, ")", "", known.doc))
    module, _, title = name.rpartition(".")
    import_named([module])
    cls = getattr(sys.modules[module], title, None)
    if not inspect.isclass(cls):
        raise ImportError(f"the module {module} has no class {title!r}")
    return f"{title}{inspect.signature(cls)}\n\n{inspect.getdoc(cls) or ''}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" where some known name is close, else nothing."""
    close = difflib.get_close_matches(name, set(known) - {name}, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

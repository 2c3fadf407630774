"""Describe an object by its class and constructor arguments as plain JSON, and build it back.

Every schedule, network, objective, sampler, codec and data set keeps its constructor arguments as attributes of the
same names. A class of unmask is described by its name, one from outside by `module.Class`. A file never causes an
import: a class is looked up among those that are imported already, or whose module the user trusts
(`unmask.storage.plugins`).
"""

import importlib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_type_hints

from unmask.storage.plugins import import_installed, is_trusted

T = TypeVar("T")
FORMER_NAMES = {"BPE": "Tokenizer"}
"""What files of earlier versions call a class, and what it is called now."""


def class_name(cls: type) -> str:
    """Return the name under which a class is described: without its module if it is part of unmask."""
    return cls.__name__ if cls.__module__.split(".")[0] == "unmask" else f"{cls.__module__}.{cls.__qualname__}"


def describe(thing: Any) -> dict[str, Any]:
    """Return {"class": name, argument: value, ...} for an object that keeps its arguments as attributes.

    Raises:
        ValueError: it does not keep one, or keeps a value that JSON cannot hold.
    """
    name = class_name(type(thing))
    found: dict[str, Any] = {"class": name}
    for argument, parameter in inspect.signature(type(thing)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"{name} takes *{argument}: it cannot be saved; name its arguments one by one")
        if not hasattr(thing, argument):
            raise ValueError(f"{name} does not keep its argument {argument!r}: set self.{argument} = {argument}")
        found[argument] = _plain(getattr(thing, argument), f"{name}.{argument}")
    return found


def build(base: type[T] | tuple[type[T], ...], description: Any, where: str, trust: Sequence[str] = ()) -> T:
    """Build the object of a subclass of `base` that `describe` described.

    Args:
        base: what the object must be, or a choice of that.
        description: read from a file, not trusted.
        where: names the file and field in errors.
        trust: modules that may be imported, with all that lies in them.

    Raises:
        ValueError: not a description, an unknown class, one of a module that is not trusted, or arguments that its
            constructor refuses.
    """
    if not isinstance(description, dict) or not isinstance(description.get("class"), str):
        raise ValueError(f'{where}: expected {{"class": name, ...}}, got {description!r:.100}')
    cls = find_class(base, description["class"], where, trust)
    arguments = {key: _tuples(value) for key, value in description.items() if key != "class"}
    for key in [key for key, value in arguments.items() if isinstance(value, dict) and "class" in value]:
        kind = _hints(cls).get(key)  # what it is made of, such as the codec that another one wraps
        if isinstance(kind, type) and kind.__module__ != "builtins":
            arguments[key] = build(kind, arguments[key], f"{where}: {key}", trust)
    try:
        return cls(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: {description['class']}: {error}") from error


def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a constructor's arguments; none where they cannot be told without importing more."""
    try:
        return get_type_hints(cls.__init__)  # type: ignore[misc]
    except NameError:
        return {}


def find_class(base: type[T] | tuple[type[T], ...], name: str, where: str, trust: Sequence[str] = ()) -> type[T]:
    """Return the subclass of `base` that a file names; see `build`."""
    bases = base if isinstance(base, tuple) else (base,)
    known = _by_name(bases)
    name = FORMER_NAMES.get(name, name)
    module = name.rpartition(".")[0]
    if name not in known and module:
        if is_trusted(module, trust):
            importlib.import_module(module)
        elif all(part.isidentifier() for part in module.split(".")):
            import_installed(module)
        known = _by_name(bases)
    if name in known:
        return known[name]
    kind = bases[0].__name__.lower()
    if not module:
        raise ValueError(f"{where}: unknown {kind} {name!r}; known are {', '.join(sorted(known))}")
    if module == "__main__":
        how = "define it before the model is loaded, or move it into a module and train again"
        raise ValueError(f"{where}: the {kind} {name} was defined in a script: {how}")
    if is_trusted(module, trust):
        raise ValueError(f"{where}: the module {module!r} has no {kind} {name.rpartition('.')[2]!r}")
    raise ValueError(
        f"{where}: the {kind} {name} is no part of unmask, and its module is imported only if you name it: "
        f"--import {module}, or trust=[{module!r}] in Python"
    )


def _by_name(bases: Iterable[type[T]]) -> dict[str, type[T]]:
    return {class_name(cls): cls for base in bases for cls in subclasses(base)}


def subclasses(base: type[T]) -> list[type[T]]:
    """Return the classes that can be built: `base` and all that derive from it and are imported."""
    found = [] if inspect.isabstract(base) else [base]
    for subclass in base.__subclasses__():
        found += [cls for cls in subclasses(subclass) if cls not in found]
    return found


def _plain(value: Any, what: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item, what) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item, what) for name, item in value.items()}
    if type(value).__module__ == "builtins":
        raise ValueError(f"{what} is a {type(value).__name__}, which cannot be saved as JSON")
    return describe(value)


def _tuples(value: Any) -> Any:
    """Turn JSON's lists, which is what it makes of tuples, back."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

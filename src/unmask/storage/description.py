"""Describe an object by its class and constructor arguments as plain JSON, and build it back.

Every schedule, network, codec and data set keeps its constructor arguments as attributes of the same names. No code
is ever named by a file: a class is looked up among the subclasses of the expected base that are already imported.
"""

import inspect
from typing import Any, TypeVar

T = TypeVar("T")


def describe(thing: Any) -> dict[str, Any]:
    """Return {"class": name, argument: value, ...} for an object that keeps its arguments as attributes."""
    arguments = inspect.signature(type(thing)).parameters
    return {"class": type(thing).__name__} | {name: _plain(getattr(thing, name)) for name in arguments}


def build(base: type[T] | tuple[type[T], ...], description: Any, where: str) -> T:
    """Build the object of a subclass of `base` that `describe` described.

    Args:
        base: what the object must be, or a choice of that.
        description: read from a file, not trusted.
        where: names the file and field in errors.

    Raises:
        ValueError: not a description, an unknown class, or arguments that its constructor refuses.
    """
    if not isinstance(description, dict) or not isinstance(description.get("class"), str):
        raise ValueError(f'{where}: expected {{"class": name, ...}}, got {description!r:.100}')
    bases = base if isinstance(base, tuple) else (base,)
    known = {name: cls for one in bases for name, cls in subclasses(one).items()}
    name = description["class"]
    if name not in known:
        kind = bases[0].__name__.lower()
        raise ValueError(f"{where}: unknown {kind} {name!r}; known are {', '.join(sorted(known))}")
    arguments = {key: _tuples(value) for key, value in description.items() if key != "class"}
    try:
        return known[name](**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: {name}: {error}") from error


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return describe(value)


def _tuples(value: Any) -> Any:
    """Turn JSON's lists, which is what it makes of tuples, back."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def subclasses(base: type[T]) -> dict[str, type[T]]:
    """Return the classes that can be built, `base` and all that derive from it and are imported, by name."""
    found = {} if inspect.isabstract(base) else {base.__name__: base}
    for subclass in base.__subclasses__():
        found |= subclasses(subclass)
    return found

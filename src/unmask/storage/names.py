"""Checks of class and option names that take no time: a mistyped name is said before torch is imported."""

import json
import re
from argparse import ArgumentError
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unmask.storage.remote import is_remote
from unmask.storage.replacing import is_there
from unmask.storage.signatures import BASES, choices_of, nearest

MARK = "\0\0"
"""What stands before a text that is not to be read as YAML: no argument of a program can have it, and no alphabet."""
NULLS = ("None", "null")


def flattened(tree: Mapping[str, Any], plain: Collection[str], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield the settings of a YAML file as if they were options of a command line."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(value, dict) or name in plain:
            yield name, str(value)
        elif "class_path" in value:
            yield name, str(value["class_path"])
            arguments = value.get("init_args")
            yield from flattened(arguments if isinstance(arguments, dict) else {}, plain, f"{name}.")
        else:
            yield from flattened(value, plain, f"{name}.")


def given_options(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the long options of a command line, without their dashes, and what follows each."""
    for place, argument in enumerate(arguments):
        if argument.startswith("--") and len(argument) > 2:
            name, equals, value = argument[2:].partition("=")
            following = arguments[place + 1] if place + 1 < len(arguments) else None
            yield name, value if equals else following


def check_names(
    options: Iterable[tuple[str, str | None]],
    plain: Collection[str],
    choices: Collection[str],
    own: bool = False,
    context: Iterable[tuple[str, str | None]] = (),
) -> None:
    """Raise a ValueError, with the nearest known name, for a class or an option that is not known.

    Args:
        options: names and values.
        plain: names of all options whose values are no objects.
        choices: names of the options whose values are objects of a class that is named.
        own: whether modules of the user's were imported, whose classes may be named without their module.
        context: settings that were checked before and that these come on top of: they say which classes are meant.
    """
    shown = [(name.replace(".init_args", "").removesuffix(".class_path"), value) for name, value in options]
    chosen: dict[str, str | None] = {name: value for name, value in context if _names_class(name, choices)}
    for name, value in shown:
        if _names_class(name, choices):
            chosen[name] = value
            foreign = own or "." in (value or "") or (value or "").startswith(("{", "null"))
            if not foreign and value is not None and value not in choices_of(name):
                raise ValueError(f"--{name}: unknown class {value!r}{nearest(value, choices_of(name))}")
    for name, _ in shown:
        head, *rest = name.split(".")
        if name in plain or name in chosen or (rest and rest[-1] == "help"):
            continue
        if head not in choices or not rest:
            if inner := sorted(one for one in plain if one.startswith(f"{name}.")):
                raise ValueError(f"--{name} is a group of settings: name one, as in --{inner[0]}")
            arguments = {
                f"--{choice}.{argument}"
                for choice in choices
                for cls in choices_of(choice).values()
                for argument in cls.arguments
            }
            known = {f"--{one}" for one in (*plain, *choices)} | arguments
            last = {f"--{one.rpartition('.')[2].lstrip('-')}" for one in known}
            hint = nearest(f"--{name}", known) or nearest(f"--{name}", last)
            raise ValueError(f"unknown option --{name}{hint}")
        _check_argument(name, head, rest, chosen)


def _names_class(name: str, choices: Collection[str]) -> bool:
    """Return whether an option's value is the name of a class."""
    return name in choices or (name.partition(".")[0] in choices and name.rpartition(".")[2] in BASES)


def _check_argument(name: str, head: str, rest: list[str], chosen: dict[str, str | None]) -> None:
    """Check the name of an argument of a class, such as sampler.steps or objective.schedule.power."""
    key = ".".join((head, *rest[:-1]))
    classes = choices_of(key)
    cls = chosen.get(key)
    if cls in classes:
        known = classes[cls].arguments
    elif cls is not None:  # a class of the user's
        return
    else:
        known = tuple(argument for one in classes.values() for argument in one.arguments) if len(rest) > 1 else ()
    if rest[-1] in known or not classes:
        return
    owners = [title for title, one in classes.items() if rest[-1] in one.arguments]
    if owners:
        how = f"name the class first, as in --{key} {owners[0]}"
        raise ValueError(f"--{name}: {rest[-1]!r} belongs to {', '.join(owners)}: {how}")
    every = {argument for one in classes.values() for argument in one.arguments}
    raise ValueError(f"--{name}: unknown option {rest[-1]!r}{nearest(rest[-1], known or every)}")


def check_paths(settings: Iterable[tuple[str, str | None]]) -> None:
    """Raise a FileNotFoundError for a file of a data set of the package that is not there."""
    chosen = dict(settings)
    if chosen.get("data") in choices_of("data"):
        for name in ("data.path", "data.labels_path", "data.valid_path", "data.test_path"):
            value = chosen.get(name, chosen.get(name.replace("data.", "data.init_args.")))
            if value and value not in NULLS and not is_remote(value) and not is_there(Path(value)):
                raise FileNotFoundError(f"{value}: no such file or folder")
        value = chosen.get("data.tokenizer", chosen.get("data.init_args.tokenizer")) or ""
        if (value.startswith((".", "/")) or value.endswith(".json")) and not Path(value).exists():
            raise FileNotFoundError(f"{value}: no such tokenizer")


def named_modules(given: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return the modules of the classes that a command line names as module.Class: typing that is consent."""
    classes = [value for name, value in given if value and name.removesuffix(".class_path").rpartition(".")[2] in BASES]
    return [value.rpartition(".")[0] for value in classes if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value)]


def unknown_classes(given: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return the names, without a module, of classes that are not unmask's."""
    options = [(name, value) for name, value in given if value and name.rpartition(".")[2] in BASES]
    return [value for name, value in options if value and value.isidentifier() and value not in choices_of(name)]


def as_texts(arguments: list[str], defaults: Mapping[str, Any]) -> list[str]:
    """Mark the values of those arguments of the package's classes that are texts, so that they are not read as YAML.

    Args:
        arguments: of a command line.
        defaults: of the options that name a class: {"class_path": name, ...}, or None.
    """
    chosen = {name: _class_of(value) for name, value in defaults.items()}
    for name, value in given_options(arguments):
        if name in chosen:
            chosen[name] = _class_of(value)
    marked, text = list[str](), False
    for argument in arguments:
        name, equals, value = argument[2:].partition("=")
        if argument.startswith("--"):
            text = _is_text(name, chosen)
            keep = not (text and equals) or value in NULLS
            marked.append(argument if keep else f"--{name}={MARK}{value}")
            text = text and not equals
        else:
            marked.append(f"{MARK}{argument}" if text and argument not in NULLS and argument[:1] != "-" else argument)
            text = False
    return marked


def _class_of(value: Any) -> str | None:
    """Return the name of the class that a setting names: alone, as an object, or as one in JSON."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    name = value.get("class_path") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def _is_text(name: str, chosen: Mapping[str, str | None]) -> bool:
    """Return whether an option is an argument of a class of the package that is a text, or a text or None."""
    head, _, argument = name.replace(".init_args.", ".").partition(".")
    known = choices_of(head).get(chosen.get(head) or "")
    lines = known.signature if known else ()
    return any(re.match(rf"{re.escape(argument)}: str( \| None)?( =|$)", line) for line in lines)


def imports_last(arguments: list[str]) -> list[str]:
    """Move `--import MODULE`, wherever it stands, to the end: models and configurations come first."""
    rest: list[str] = []
    imports: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--import":
            module = next(left, "")
            if not module or module.startswith("-"):
                raise ArgumentError(None, "--import needs the name of a module, or of a .py file")
            imports += [argument, module]
        else:
            (imports if argument.startswith("--import=") else rest).append(argument)
    return [*rest, *imports]


def check_numbers(settings: Iterable[tuple[str, Any]]) -> None:
    """Raise an ArgumentError for a whole number, among settings by name, that no tensor can hold."""
    for name, value in settings:
        if isinstance(value, int) and value.bit_length() > (63 if name.endswith("seed") else 62):
            raise ArgumentError(None, f"--{name.replace('.init_args', '')}: {value} is too large")

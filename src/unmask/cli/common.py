"""What the commands share: parsing in two steps, and what can be said of a model before it is loaded.

Names, plain values and files are checked first, which takes no time. Only then is torch imported, for the options whose
values are objects: `--sampler Ancestral --sampler.steps 8`.
"""

from __future__ import annotations

import importlib
import traceback
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from unmask.configs.reading import check_texts
from unmask.storage.failures import in_short
from unmask.storage.names import (
    MARK,
    as_texts,
    check_names,
    check_numbers,
    check_paths,
    flattened,
    given_options,
    named_modules,
    unknown_classes,
)
from unmask.storage.plugins import import_installed, import_named, installed_modules
from unmask.storage.settings import as_arguments
from unmask.storage.signatures import choices_of, explain, nearest

if TYPE_CHECKING:
    from unmask.model import MaskedDiffusion

HOMES = {
    "data": ("unmask.data", "DataSet"),
    "network": ("unmask.networks", "Network"),
    "objective": ("unmask.objectives", "Objective"),
    "sampler": ("unmask.samplers", "Sampler"),
}
"""Where the base class of each kind of object is: importing the package makes all its classes known."""
IMPORT = "import"
Option = tuple[str, Any, Any, str]
"""Name, type, default and help of an option; a `bool` is a flag."""
MODEL = "folder of a model or a run, or a name on the Hub"
DEVICE: Option = ("device", str, None, "cpu, cuda, cuda:1, ...; a GPU where there is one if not given")
SPEED: tuple[Option, ...] = (
    ("precision", Literal["auto", "32-true", "bf16-mixed"], "auto", "of products; auto: bfloat16 where it is faster"),
    ("compile", bool, False, "compile the network: faster after a minute or so"),
)
"""Of commands that sample; see `unmask.accelerate`."""


class Choice(NamedTuple):
    """An option whose value is an object of a class that is named; see `Parser.choose`."""

    help: str
    default: Any
    required: bool


class Parser(ArgumentParser):
    """The parser of a command; its errors are raised, not printed.

    Args:
        command: after `unmask`; None for a parser that jsonargparse makes for the settings of a class.
        settings: of jsonargparse.ArgumentParser.
    """

    def __init__(self, command: str | None = None, **settings: Any) -> None:
        own: dict[str, Any] = {"prog": f"unmask {command}", "exit_on_error": False, "allow_abbrev": False}
        super().__init__(**(own if command else {}) | settings)
        self.choices: dict[str, Choice] = {}
        self.hidden: tuple[str, ...] = ()
        self.links: dict[str, tuple[str, Callable[[Any], Any]]] = {}

    @property
    def plain(self) -> set[str]:
        """Names of the options whose values are no objects, but for those of groups of options."""
        names = {option[2:] for option in self._option_string_actions if option.startswith("--")}
        return names - {name.rpartition(".")[0] for name in names}

    def choose(self, name: str, help: str, default: Any = None, required: bool = False) -> None:
        """Add an option that names a class, `--sampler Ancestral`, and those of its arguments, `--sampler.steps 8`."""
        self.choices[name] = Choice(help, default, required)

    def add_options(self, *options: Option) -> None:
        """Add plain options."""
        for name, kind, default, text in options:
            flags = ("-n", f"--{name}") if name == "samples" else (f"--{name}",)
            how: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind, "default": default}
            self.add_argument(*flags, help=text, **how)

    def add_classes(self) -> None:
        """Add the options whose values are objects; this imports torch."""
        for name, choice in self.choices.items():
            module, base = HOMES[name]
            cls = getattr(importlib.import_module(module), base)
            how: dict[str, Any] = {} if choice.required and choice.default is None else {"default": choice.default}
            # not add_subclass_arguments, which opens files of the names that it is given
            self.add_argument(f"--{name}", type=cls, required=choice.required, help=choice.help, **how)
        for target, (source, find) in self.links.items():
            self.link_arguments(source, target, compute_fn=find, apply_on="instantiate")

    def explain(self, everything: bool) -> None:
        """Print the help, and exit."""
        for name, choice in self.choices.items():
            classes = ", ".join(choices_of(name))
            text = f"{choice.help}: {classes}, or module.Class of your own. --{name}.help CLASS explains its settings"
            self.add_argument(f"--{name}", metavar="CLASS", help=text)
        for action in self._actions:
            if not everything and action.dest.startswith(self.hidden or ("\0",)):
                action.help = SUPPRESS
        self.print_help()
        raise SystemExit(0)


def parse(
    parser: Parser,
    arguments: list[str],
    tree: Mapping[str, Any] | None = None,
    source: Path | None = None,
    check: Callable[[Namespace], None] | None = None,
) -> Namespace:
    """Parse a command line on top of the settings of a file, cheap checks first.

    Args:
        parser: with all its options.
        arguments: of the command line.
        tree: settings that were read from a file; those of the command line replace them.
        source: that file.
        check: raises an error for plain values and files that are known to be wrong before anything is loaded.

    Raises:
        ArgumentError: in one line, with the nearest known name for one that is not known.
        ImportError: a module of the user's cannot be imported.
    """
    parser.add_argument(f"--{IMPORT}", action="append", metavar="MODULE", help="a module of your own, with classes")
    _answer_help(parser, arguments)
    plain = parser.plain
    given = [*given_options(arguments)]
    if {"preset", "sampler"} <= {name.partition(".")[0] for name, _ in given}:
        raise ArgumentError(None, "--preset is in place of --sampler: give one of the two")
    defaults = {name: choice.default for name, choice in parser.choices.items() if choice.default}
    written = [*flattened(defaults | dict(tree or {}), plain)]
    modules = [value for name, value in given if name == IMPORT and value]
    own = [*unknown_classes(given), *unknown_classes(written)]
    foreign = bool(own) and bool(modules or installed_modules())
    from_file = arguments[:1] + as_arguments(tree or {}, parser.choices, plain)
    with naming(source):
        check_names(written, plain, parser.choices, foreign)
        check_texts(from_file[1:])
    with naming():
        check_texts(as_arguments(defaults, parser.choices, plain))
        check_names(given, plain, parser.choices, foreign, written)
    everything = from_file + arguments[1:] if tree else arguments
    if tree:
        with naming(source):
            _parse(parser, _without_choices(from_file, parser.choices))
    settings = _parse(parser, _without_choices(everything, parser.choices))
    check_paths([*flattened(tree or {}, plain), *given])
    if check is not None:
        check(settings)
    allow_classes([*modules, *named_modules(given)])
    if foreign:
        _check_short_names(own)
    try:
        parser.add_classes()
    except (ImportError, ValueError) as error:  # a default, read from a model's folder, that names another's class
        raise ImportError(in_short(str(error))) from None
    if tree:
        with naming(source):
            _parse(parser, from_file)
    return _parse(parser, everything)


@contextmanager
def naming(source: Path | None = None) -> Iterator[None]:
    """Turn what is wrong with names and settings into an ArgumentError, which names the file that they are from."""
    try:
        yield
    except (ArgumentError, ValueError) as error:
        message = error.message if isinstance(error, ArgumentError) else str(error)
        raise ArgumentError(None, f"{source}: {message}" if source else message) from None


def _parse(parser: Parser, arguments: list[str]) -> Namespace:
    try:
        settings = parser.parse_args(as_texts(arguments, {name: one.default for name, one in parser.choices.items()}))
        for name, value in settings.items():
            if isinstance(value, str) and value.startswith(MARK):
                settings[name] = value.removeprefix(MARK)
        check_numbers(settings.items())
    except ArgumentError as error:
        kinds = {name: base for name, (_, base) in HOMES.items()}
        raise ArgumentError(None, in_short(error.message.replace(MARK, ""), kinds)) from None
    return settings


def _answer_help(parser: Parser, arguments: list[str]) -> None:
    """Print the help that is asked for, if any, and exit."""
    if {"-h", "--help", "--help-all"} & set(arguments):
        parser.explain("--help-all" in arguments)
    for name, value in given_options(arguments):
        option, _, last = name.rpartition(".")
        if last != "help" or option.partition(".")[0] not in parser.choices:
            continue
        if value is None or value.startswith("-"):
            print(f"--{option} is one of: {', '.join(choices_of(option))}; --{option}.help CLASS explains one")
        elif value in choices_of(option) or "." in value:
            print(explain(value))
        else:
            raise ArgumentError(None, f"--{name}: unknown class {value!r}{nearest(value, choices_of(option))}")
        raise SystemExit(0)


def _without_choices(arguments: list[str], choices: Mapping[str, Choice]) -> list[str]:
    """Leave out the options whose values are objects, and what follows each."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if argument.startswith("-") and not argument[1:2].isdigit():
            skip = argument[2:].partition("=")[0].partition(".")[0] in choices
            if not skip:
                kept.append(argument)
            elif "=" in argument:
                skip = False
        elif skip:
            skip = False
        else:
            kept.append(argument)
    return kept


def allow_classes(modules: Iterable[str]) -> None:
    """Import modules, and let settings name the classes of these and of unmask, and no others."""
    names = [name for name in dict.fromkeys(modules) if name.split(".")[0] != "unmask"]
    allowed = ["unmask", *import_named(names), *installed_modules()]
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)


def instantiate(parser: ArgumentParser, settings: Namespace) -> Namespace:
    """Build the objects that the settings describe; an error is the one that a constructor raised, in its own words."""
    try:
        return parser.instantiate(settings)
    except (ValueError, TypeError, OSError, ArgumentError) as error:
        root: BaseException = error
        while (
            _raised_in(root).startswith("jsonargparse") and (deeper := root.__cause__ or root.__context__) is not None
        ):
            root = deeper
        raise (ValueError(str(root)) if isinstance(root, TypeError) else root) from None


def _raised_in(error: BaseException) -> str:
    """Return the name of the module that raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "") if frames else ""


def first(arguments: list[str], what: str) -> str | None:
    """Return the first argument, the model or configuration that defaults come from; None where help is asked for.

    Raises:
        ArgumentError: it is not there.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0]
    if {"-h", "--help", "--help-all"} & set(arguments) or any(
        name.endswith("help") for name, _ in given_options(arguments)
    ):
        return None
    raise ArgumentError(None, f"{what} comes first, before any option" + (f"; got {arguments[0]}" if arguments else ""))


def load_model(path: str, device: str | None, settings: Namespace | None = None) -> MaskedDiffusion:
    """Load a model onto a device; accelerate it if `SPEED` is among the settings of the command."""
    from unmask.acceleration import accelerate
    from unmask.checks import check_compiler
    from unmask.opening import load

    speed = {name: settings[name] for name, *_ in SPEED} if settings and "compile" in settings else {}
    if speed.get("compile"):
        check_compiler()
    model = load(path, device=device)
    return accelerate(model, **speed) if speed else model


def at_least(settings: Namespace, **least: int) -> None:
    """Raise a ValueError for a setting that is below the least that it may be."""
    for name, value in least.items():
        if settings.get(name) is not None and settings[name] < value:
            raise ValueError(f"--{name} must be at least {value}, got {settings[name]}")


def _check_short_names(names: Iterable[str]) -> None:
    """Make the classes of installed plug-ins known, and raise an ArgumentError for a name that two modules have."""
    from unmask.storage.description import subclasses

    import_installed()
    bases = [getattr(importlib.import_module(module), base) for module, base in HOMES.values()]
    for name in names:
        homes = sorted({cls.__module__ for base in bases for cls in subclasses(base) if cls.__name__ == name})
        if len(homes) > 1:
            raise ArgumentError(None, f"{name} is in {' and in '.join(homes)}: give the whole name, {homes[0]}.{name}")

"""What the commands share."""

import difflib
import inspect
import re
import traceback
from argparse import ArgumentError
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from unmask.data.base import DataSet
from unmask.data.cifar10 import CIFAR10  # noqa: F401
from unmask.data.corpus import Corpus  # noqa: F401
from unmask.data.digits import Digits  # noqa: F401
from unmask.data.imagenet64 import ImageNet64  # noqa: F401
from unmask.data.images import Images  # noqa: F401
from unmask.data.mnist import MNIST  # noqa: F401
from unmask.data.pydocs import PyDocs  # noqa: F401
from unmask.data.text8 import Text8  # noqa: F401
from unmask.data.textfile import TextFile  # noqa: F401
from unmask.devices import find_device
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.networks.transformer import Transformer  # noqa: F401
from unmask.networks.unet import UNet  # noqa: F401
from unmask.objectives.base import Objective
from unmask.samplers.ancestral import Ancestral  # noqa: F401
from unmask.samplers.base import Sampler
from unmask.samplers.confidence import EntropyBounded, MostConfident  # noqa: F401
from unmask.samplers.first_hitting import FirstHitting  # noqa: F401
from unmask.samplers.ordered import InOrder  # noqa: F401
from unmask.samplers.remasking import Remasking  # noqa: F401
from unmask.samplers.token import TokenAncestral, TokenFirstHitting  # noqa: F401
from unmask.schedules import Schedule, TokenPolynomial
from unmask.storage.description import subclasses


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" where some known name is close, else nothing."""
    close = difflib.get_close_matches(name, set(known) - {name}, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def new_parser(command: str, **settings: Any) -> ArgumentParser:
    """Make the parser of a command; its errors are raised, not printed."""
    return ArgumentParser(prog=f"unmask {command}", exit_on_error=False, allow_abbrev=False, **settings)


def parse(parser: ArgumentParser, arguments: list[str], config: Path | None = None) -> Namespace:
    """Parse the arguments, on top of the defaults that the parser reads from `config`.

    Raises:
        ArgumentError: in one line, with the nearest known name for one that is not known.
    """
    try:
        parser.get_defaults()
    except (ArgumentError, TypeError) as error:  # jsonargparse raises either for a bad file
        message = error.message if isinstance(error, ArgumentError) else str(error)
        raise ArgumentError(None, f"{config}: {_explain(message, parser)}") from None
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise ArgumentError(None, _explain(error.message, parser)) from None


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
        raise root from None


def _raised_in(error: BaseException) -> str:
    """Return the name of the module that raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "") if frames else ""


def _explain(message: str, parser: ArgumentParser) -> str:
    """Say in a few words what jsonargparse says in many, and add what was probably meant."""
    message = re.sub(r"Problem in default config file '[^']*': ", "", " ".join(message.split()))
    bases = (DataSet, Network, Objective, Sampler, Schedule, TokenPolynomial)
    classes = {name: cls for base in bases for name, cls in subclasses(base).items()}
    names = {name for cls in classes.values() for name in inspect.signature(cls).parameters}
    options = [option for action in parser._actions for option in action.option_strings]
    keys = re.findall(r'Parser key "([^"]+)"', message)
    where = f"{'.'.join(keys)}: " if keys else ""
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"{where}unknown class {found[1]!r}{nearest(found[1], classes)}"
    if found := re.search(r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'", message):
        name = found[1] or found[2]
        if owners := [title for title, cls in classes.items() if name in inspect.signature(cls).parameters]:
            how = f"name the class first, as in --sampler Ancestral{nearest(name, names)}"
            return f"{where}{name!r} belongs to {', '.join(owners)}: {how}"
        known = names | {option.rpartition(".")[2].lstrip("-") for option in options}
        return f"{where or message.split(' does not')[0] + ': '}unknown option {name!r}{nearest(name, known)}"
    if found := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
        return f"unknown option {found[1]}{nearest(found[1], [*options, *(f'--{name}' for name in names)])}"
    if found := re.search(r"Expected a typing.Literal\[(.+?)\]\. Got value: (\S+)", message):
        return f"{where}expected one of {found[1]}, got {found[2]!r}"
    if found := re.search(r"Expected an? (.+?)\. Got value: (\S+)", message):
        return f"{where}expected {found[1].removeprefix('<class ').rstrip('>')}, got {found[2]!r}"
    if found := re.search(r"Given value: NestedArg\(key='(?:init_args\.)?([^'.]+)", message):
        owners = [title for title, cls in classes.items() if found[1] in inspect.signature(cls).parameters]
        belongs = f"{where}{found[1]!r} belongs to {', '.join(owners) or 'no class'}"
        return f"{belongs}: name the class first, and give a value of its type"
    return message


def find_model(path: str) -> str:
    """Return the folder of a model: `path`, or `path`/model for the folder of a run, or a name for the Hub."""
    if Path(path).is_file():
        raise ValueError(f"{path}: is a file; a model is a folder, of a run or as save_pretrained writes it")
    siblings = Path(path).parent
    if not Path(path).exists() and siblings.is_dir() and (hint := nearest(Path(path).name, _names(siblings))):
        raise FileNotFoundError(f"{path}: no such folder{hint}")
    inner = Path(path, "model")
    return str(inner) if inner.is_dir() and not Path(path, "config.json").exists() else path


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir()]


def load_model(path: str, device: str | None) -> MaskedDiffusion:
    """Load a model onto a device, a GPU where there is one if none is named."""
    target = find_device(device)
    return MaskedDiffusion.from_pretrained(find_model(path)).to(target)


def at_least(settings: Namespace, **least: int) -> None:
    """Raise a ValueError for a setting that is below the least that it may be."""
    for name, value in least.items():
        if settings[name] is not None and settings[name] < value:
            raise ValueError(f"--{name} must be at least {value}, got {settings[name]}")


def first(arguments: list[str], what: str) -> str | None:
    """Return the first argument, the model or configuration that defaults come from; None where help is asked for.

    Raises:
        ArgumentError: it is not there.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0]
    if {"-h", "--help"} & set(arguments):
        return None
    raise ArgumentError(None, f"{what} comes first, before any option" + (f"; got {arguments[0]}" if arguments else ""))


def own_data(model: MaskedDiffusion | None) -> dict[str, Any] | None:
    """Return the data that a model was trained with, as jsonargparse wants it."""
    described = dict(model.about.get("data", {})) if model else {}
    name = described.pop("class", None)
    return {"class_path": name, "init_args": described} if name in subclasses(DataSet) else None

"""Samplers as a client names them: {"class": "Ancestral", "steps": 8}; and what there is to be set."""

import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from unmask.kinds import OWN
from unmask.model import MaskedDiffusion
from unmask.noise import Wrapped
from unmask.samplers.base import Sampler
from unmask.samplers.left_to_right import LeftToRight
from unmask.samplers.presets import PRESETS
from unmask.samplers.token import TokenSampler
from unmask.schedules import Schedule, TokenPolynomial
from unmask.storage.description import class_name, describe, subclasses
from unmask.storage.signatures import INTERNAL, nearest

Maker = Callable[..., Sampler]
KINDS: dict[type, str] = {bool: "flag", int: "whole", float: "number", str: "text"}
"""What a value of a setting is called."""


def samplers_of(model: MaskedDiffusion) -> dict[str, Maker]:
    """Return the samplers that a model can have by name, the published procedures among them."""
    known = {class_name(cls): cls for cls in subclasses(Sampler) if cls.__name__ not in INTERNAL}
    if model.kind in OWN:
        return {name: cls for name, cls in known.items() if issubclass(cls, OWN[model.kind][1])}
    if model.network.causal:
        return {name: cls for name, cls in known.items() if issubclass(cls, LeftToRight)}
    learned = isinstance(model.schedule, TokenPolynomial)
    others: tuple[type[Sampler], ...] = (LeftToRight, *(sampler for _, sampler, _ in OWN.values()))
    found: dict[str, Maker] = {
        name: cls
        for name, cls in known.items()
        if issubclass(cls, TokenSampler) == learned and not issubclass(cls, others)
    }
    return found if learned else found | PRESETS


def schedules() -> dict[str, type[Schedule]]:
    """Return the schedules that a client can name, without those that say of which kind a model is."""
    return {class_name(cls): cls for cls in subclasses(Schedule) if not issubclass(cls, Wrapped)}


def explain_settings(make: Maker) -> list[dict[str, Any]]:
    """Return name, kind, default and choices of every setting of a sampler that a client can give.

    A kind is "flag", "whole", "number", "text", "choice", "schedule" or "list".
    """
    found = []
    for name, (hint, default) in _settings(make).items():
        kind, choices, optional = _kind(hint)
        if kind is None:
            continue
        shown = type(default).__name__ if isinstance(default, Schedule) else default
        shown = [*shown] if isinstance(shown, tuple) else shown
        row = {"name": name, "kind": kind, "default": shown, "optional": optional}
        found.append(row | ({"choices": choices} if choices else {}))
    return found


def _settings(make: Maker) -> dict[str, tuple[Any, Any]]:
    """Return the type and the default of each argument of a sampler's class, or of a preset."""
    hints = get_type_hints(make)
    made = {one.name: one for one in fields(make)} if isinstance(make, type) else {}
    found = {}
    for name, parameter in inspect.signature(make).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = None if parameter.default is parameter.empty else parameter.default
        if name in made:
            factory = made[name].default_factory
            default = factory() if factory is not MISSING else made[name].default
        found[name] = (hints.get(name), default)
    return found


def _kind(hint: Any) -> tuple[str | None, list[Any], bool]:
    """Return the kind of a setting (None: it is not served), its choices, and whether it may be null."""
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        optional = len(parts) < len(get_args(hint))
        lists = [part for part in parts if get_origin(part) is tuple]
        hint = lists[0] if lists else parts[0]
    if get_origin(hint) is Literal:
        return "choice", [*get_args(hint)], optional
    if get_origin(hint) is tuple:
        return "list", [], optional
    if isinstance(hint, type) and issubclass(hint, TokenPolynomial):
        return None, [], optional  # it is the model's
    if isinstance(hint, type) and issubclass(hint, Schedule):
        return "schedule", [*schedules()], optional
    return KINDS.get(hint), [], optional


def read_sampler(model: MaskedDiffusion, given: Mapping[str, Any] | None, most: int) -> Sampler:
    """Return the sampler that a client asks for, the model's own if it names none.

    Args:
        model: that is sampled.
        given: {"class": name, setting: value, ...}; the class may be left out.
        most: the largest whole number that a setting may be.

    Raises:
        ValueError: an unknown class or setting, a value of another kind or too large, or what the class refuses.
    """
    values = dict(given or {})
    known = samplers_of(model)
    name = values.pop("class", None)
    if name is None:
        name = class_name(type(model.fit_sampler()))
    if not isinstance(name, str) or name not in known:
        close = nearest(name, known) if isinstance(name, str) else ""
        raise ValueError(f"unknown sampler {name!r:.60}{close}; this model has {', '.join(known)}")
    settings = _settings(known[name])
    for key, value in values.items():
        if key not in settings or _kind(settings[key][0])[0] is None:
            raise ValueError(f"{name} has no setting {key!r:.60}{nearest(key, settings)}")
        values[key] = _value(f"{name}.{key}", settings[key][0], value, most)
    return model.fit_sampler(known[name](**values))


def _value(what: str, hint: Any, value: Any, most: int) -> Any:
    """Return a value as a sampler takes it; raise a ValueError for one of another kind."""
    kind, choices, optional = _kind(hint)
    if value is None and optional:
        return None
    if kind == "schedule":
        return _schedule(what, value)
    if kind == "choice":
        if value not in choices or isinstance(value, bool):
            raise ValueError(f"{what} must be one of {', '.join(map(str, choices))}, got {value!r:.60}")
        return value
    if kind == "flag" and isinstance(value, bool):
        return value
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "list":
        return _list(what, hint, value, most)
    if kind in ("whole", "number"):
        number = _number(what, value, most, whole=kind == "whole")
        return number if kind == "whole" else float(number)
    raise ValueError(f"{what} must be a {kind}, got {value!r:.60}")


def _list(what: str, hint: Any, value: Any, most: int) -> tuple[int | float, ...]:
    """Return numbers as the tuple that a sampler takes: of any length, or of one."""
    parts = get_args(hint) if get_origin(hint) is tuple else next(filter(None, map(get_args, get_args(hint))))
    values = value if isinstance(value, list) else [value]
    if len(values) > most:
        raise ValueError(f"{what} has {len(values)} entries, at most {most} are served")
    if ... not in parts and len(values) != len(parts):
        raise ValueError(f"{what} must have {len(parts)} entries, got {len(values)}")
    numbers = [_number(what, one, most, whole=parts[0] is int) for one in values]
    return tuple(numbers if parts[0] is int else map(float, numbers))


def _number(what: str, value: Any, most: int, *, whole: bool) -> int | float:
    """Return a number that is finite and, if it is whole, no larger than `most`; raise a ValueError for others."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"{what} must be a {'whole ' if whole else ''}number, got {value!r:.60}")
    if isinstance(value, int) and abs(value) > most:
        raise ValueError(f"{what} is {value!r:.60}, at most {most} is served")
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite, got {value}")
    return value


def _schedule(what: str, value: Any) -> Schedule:
    """Return the schedule of a name, or of {"class": name, argument: number, ...}."""
    given = dict(value) if isinstance(value, dict) else {"class": value}
    name = given.pop("class", None)
    known = schedules()
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r:.60}")
    arguments = {key: float(_number(f"{what}.{key}", one, 10**6, whole=False)) for key, one in given.items()}
    try:
        return known[name](**arguments)
    except TypeError:
        raise ValueError(f"{what}: {name} takes no {', '.join(given)}") from None


def sampler_text(sampler: Sampler) -> str:
    """Return a sampler as it is written in Python, with the settings that are not those by default."""
    shown = []
    for name, (hint, default) in _settings(type(sampler)).items():
        value = getattr(sampler, name)
        if _kind(hint)[0] is not None and value != default:
            shown.append(f"{name}={value!r}")
    return f"{type(sampler).__name__}({', '.join(shown)})"


def schedule_text(model: MaskedDiffusion) -> str:
    """Return the name of a model's schedule."""
    return str(describe(model.schedule)["class"])

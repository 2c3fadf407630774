"""Classes by their names or numbers."""

import difflib
from collections.abc import Sequence

import torch

from unmask.types import Labels


def find_labels(name: str | int | None, count: int, classes: int | None, names: Sequence[str]) -> Labels | None:
    """Return the label of each of `count` examples, on the CPU; see `MaskedDiffusion.labels`.

    Args:
        name: a class, by name or number; "all": count / classes examples of each class in turn; None: no label.
        count: number of examples.
        classes: their number; None: there are none.
        names: of the classes, if they have names.

    Raises:
        ValueError: there are no classes, there is no such class, or `count` is no multiple of their number.
    """
    if name is None:
        return None
    if classes is None:
        raise ValueError(f"label {name}: the model was trained without labels")
    if name == "all":
        if count % classes:
            raise ValueError(
                f"label all: the number of examples must be a multiple of the {classes} classes, got {count}"
            )
        return torch.arange(classes).repeat_interleave(count // classes)
    name = str(name)
    number = names.index(name) if name in names else int(name) if name.isdecimal() else classes  # the name comes first
    if number >= classes or (name not in names and any(known.isdecimal() for known in names)):
        known = f"one of {', '.join(names)}" if names else f"in 0..{classes - 1}"
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"label must be {known}, or `all`; got {name}{hint}")
    return torch.full((count,), number)

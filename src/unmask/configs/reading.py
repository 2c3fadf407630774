"""YAML: files of settings, and the texts in them. What their aliases make is counted before it is built."""

from argparse import ArgumentError
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1 << 20
"""Size of the largest file of settings."""
MOST_VALUES = 10_000
"""In a file of settings, or in a shorter text."""


def read_yaml(path: Path, refused: Collection[str] = ()) -> dict[str, Any]:
    """Read the settings of a YAML file.

    Args:
        path: of the file.
        refused: what only a command line can ask for.

    Raises:
        ArgumentError: it is no YAML, too large, holds no settings, or one that is refused.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES:,} bytes: no file of settings")
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        count_values(node, names=True)
        tree = loader.construct_document(node) if node else None
        if not isinstance(tree, dict):
            raise ValueError("expected settings by name, such as `seed: 0`")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ArgumentError(None, f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    for name in refused:
        if name in tree:
            raise ArgumentError(None, f"{path}: {name} is for the command line, not for a file")
    return tree


def check_texts(options: Iterable[str]) -> None:
    """Raise a ValueError for an option, as in --name=value, whose value is the text of too many values."""
    for option in options:
        name, _, text = option.partition("=")
        try:
            values_in(text)
        except ValueError as error:
            raise ValueError(f"{name.removeprefix('--')}: {error}") from None


def values_in(text: str) -> int:
    """Return how many values a text becomes where it is read as YAML, and the texts in it are, too.

    Raises:
        ValueError: more than `MOST_VALUES`, and than it has characters, which only aliases make.
    """
    if "*" not in text:  # without an alias nothing is larger than its text
        return 1
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return 1
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(node, yaml.ScalarNode):
        return 1 if node.value == text else values_in(node.value)
    return count_values(node, max(MOST_VALUES, len(text)))


def count_values(node: yaml.Node | None, most: int = MOST_VALUES, names: bool = False) -> int:
    """Count the values of a document, those that an alias or a merged mapping repeats as often as they are.

    Args:
        node: of the document, in which an alias is the node that it names.
        most: values that there may be.
        names: whether the keys of mappings must be texts.

    Raises:
        ValueError: more values, or other keys.
    """
    known: dict[int, int] = {}

    def count(node: yaml.Node | None) -> int:
        if id(node) not in known:
            known[id(node)] = most  # where it contains itself
            if isinstance(node, yaml.MappingNode):
                if names:
                    _check_keys([key for key, _ in node.value])
                found = 1 + sum(count(value) for _, value in node.value)
            elif isinstance(node, yaml.SequenceNode):
                found = 1 + sum(map(count, node.value))
            else:
                found = values_in(node.value) if isinstance(node, yaml.ScalarNode) else 1
            known[id(node)] = found
        return known[id(node)]

    try:
        found = count(node)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if found > most:
        raise ValueError(f"more than {most:,} values")
    return found


def _check_keys(keys: list[yaml.Node]) -> None:
    for key in keys:
        if key.tag.rpartition(":")[2] not in ("str", "merge"):
            what = f"{key.value:.60}" if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise ValueError(f"expected names that are texts, got {what}")

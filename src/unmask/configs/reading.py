"""YAML: files of settings, and the texts in them. What their aliases make is counted before it is built."""

from argparse import ArgumentError
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1 << 20
"""Size of the largest file of settings."""
MOST_VALUES = 10_000
"""In a file of settings."""


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


def check_text(text: str) -> None:
    """Raise a ValueError for a text that would become more than `MOST_VALUES` values, were it read as YAML."""
    if "*" not in text:  # without an alias nothing is larger than its text
        return
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return
    except RecursionError:
        raise ValueError("nested too deeply") from None
    count_values(node)


def count_values(node: yaml.Node | None, names: bool = False) -> None:
    """Raise a ValueError where aliases and merged mappings make more than `MOST_VALUES` of a few lines.

    Args:
        node: of a document, in which an alias is the node that it names. Texts in it are counted as what they hold.
        names: whether the keys of mappings must be texts.
    """
    known: dict[int, int] = {}

    def count(node: yaml.Node | None) -> int:
        if id(node) not in known:
            known[id(node)] = MOST_VALUES  # where it contains itself
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            if isinstance(node, yaml.ScalarNode):
                check_text(node.value)
            elif isinstance(node, yaml.MappingNode):
                strange = [key for key, _ in inner if key.tag.rpartition(":")[2] not in ("str", "merge")]
                if names and strange:
                    raise ValueError(f"expected names that are texts, got {strange[0].value!r:.60}")
                inner = [part for pair in inner for part in pair]
            known[id(node)] = 1 + sum(map(count, inner))
        return known[id(node)]

    if count(node) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")

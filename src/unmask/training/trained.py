"""Which weights are trained: patterns of names, and what stands for some of them."""

import re
from fnmatch import fnmatchcase

from torch import nn

from unmask.networks.base import Network

LAST = re.compile(r"last:(\d+)")


def freeze_weights(network: Network, trained: str | None, frozen: str | None) -> None:
    """Let only some weights be trained, in place.

    Both settings are patterns with commas between them. A pattern is `embed` (the embedding of tokens), `head` (the
    output embedding), `last:4` (the last four blocks), or the name of a parameter with wildcards, such as
    `blocks.0.*` or `*norm*`. Weights that are one tensor, such as tied embeddings, are frozen if either is.

    Args:
        network: whose parameters are trained at first.
        trained: what is trained, all else being frozen; None: everything.
        frozen: what of that is frozen; None: nothing.

    Raises:
        ValueError: a pattern without a parameter, or nothing is left to train.
    """
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if trained is not None:
        chosen = _matching(network, trained, names, "train")
        for name in names:
            network.get_parameter(name).requires_grad_(name in chosen)
    if frozen is not None:
        for name in _matching(network, frozen, names, "freeze"):
            network.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError("every weight is frozen: nothing is left to train")


def _matching(network: Network, patterns: str, names: list[str], setting: str) -> set[str]:
    """Return the names that some pattern matches."""
    found: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        here = set(names) & _named(network, pattern, names)
        if not here:
            some = ", ".join(names[:: max(1, len(names) // 6)][:6])
            raise ValueError(
                f"{setting}: no weight is called {pattern!r}; known are embed, head, last:4, and names such as {some}"
            )
        found |= here
    return found


def _named(network: Network, pattern: str, names: list[str]) -> set[str]:
    """Return the names of parameters that a pattern stands for."""
    if match := LAST.fullmatch(pattern):
        blocks = max(
            ((name, part) for name, part in network.named_modules() if _is_blocks(part)),
            key=lambda named: sum(parameter.numel() for parameter in named[1].parameters()),
            default=None,
        )
        if blocks is None:
            return set()
        first = len(blocks[1]) - int(match[1])
        inside = tuple(f"{blocks[0]}.{i}." for i in range(max(0, first), len(blocks[1])))
        return {name for name in names if name.startswith(inside)}
    if pattern == "head":
        return {name for name in names if name.startswith("head.")} | _same_as(network, names, "head.")
    if pattern == "embed":
        places = [name for name, part in network.named_modules() if isinstance(part, nn.Embedding)]
        rows = {name: network.get_parameter(f"{name}.weight").shape[0] for name in places}
        most = max(rows.values(), default=0)
        chosen = ["embed"] if "embed" in rows else [name for name, count in rows.items() if count == most]
        return {f"{name}.weight" for name in chosen}
    return {name for name in names if fnmatchcase(name, pattern)}


def _is_blocks(part: nn.Module) -> bool:
    """Return whether a part of a network is a list of its blocks, not one of tables."""
    return isinstance(part, nn.ModuleList) and not all(isinstance(one, nn.Embedding) for one in part)


def _same_as(network: Network, names: list[str], place: str) -> set[str]:
    """Return the names under which tensors in some place are found: tied weights have the name of one place alone."""
    inside = {id(tensor) for name, tensor in network.named_parameters(remove_duplicate=False) if name.startswith(place)}
    return {name for name in names if id(network.get_parameter(name)) in inside}

"""Which layouts of public checkpoints are read, and what identifies each of them.

A layout is identified by what its config.json says, never by what it lacks: the same tensors mean another model in
another layout. SEDD is told the noise and MDLM is not, say.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Family = Literal["mdlm", "sedd", "radd", "bd3lm"]


@dataclass(frozen=True)
class Layout:
    """A layout of public checkpoints.

    Attributes:
        family: whose tensors it has.
        title: what it is called in errors, with what identifies it.
        identifies: whether a config.json is of this layout.
        inside: the name under which the sizes stand in config.json; None: at its top.
        width: what the width of the residual stream is called there.
        length: what the length of a sequence is called there.
    """

    family: Family
    title: str
    identifies: Callable[[dict[str, Any]], bool]
    inside: str | None = "model"
    width: str = "hidden_size"
    length: str = "length"

    def sizes(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the part of config.json that holds the sizes."""
        return config if self.inside is None else config[self.inside]


def _model(config: dict[str, Any]) -> dict[str, Any]:
    model = config.get("model")
    return model if isinstance(model, dict) else {}


def _plain(config: dict[str, Any]) -> bool:
    """Return whether config.json describes a model in `model`, and is neither transformers' nor MDLM's."""
    return bool(_model(config)) and not {"model_type", "parameterization", "algo"} & config.keys()


def _time_free(config: dict[str, Any]) -> bool:
    return "wot" in str(_model(config).get("type", ""))


LAYOUTS = (
    Layout(
        "mdlm",
        "MDLM as on the Hub (model_type: mdlm)",
        lambda config: config.get("model_type") == "mdlm",
        inside=None,
        width="hidden_dim",
        length="model_length",
    ),
    Layout(
        "bd3lm",
        "BD3LM of a single block (model_type: bd3lm, block_size as long as model_length)",
        lambda config: config.get("model_type") == "bd3lm" and config.get("adaln") is False,
        inside=None,
        width="hidden_dim",
        length="model_length",
    ),
    Layout(
        "mdlm",
        "the same with a modulation (adaln: true)",
        lambda config: config.get("model_type") == "bd3lm" and config.get("adaln", True) is not False,
        inside=None,
        width="hidden_dim",
        length="model_length",
    ),
    Layout(
        "mdlm",
        "MDLM as its own code saves it (parameterization: subs, model: {...})",
        lambda config: bool(_model(config)) and "parameterization" in config and "model_type" not in config,
    ),
    Layout(
        "sedd",
        "SEDD (graph: {type: absorb}, model: {...})",
        lambda config: _plain(config) and isinstance(config.get("graph"), dict) and not _time_free(config),
    ),
    Layout("radd", "RADD (model: {type: ddit_wot, ...})", lambda config: _plain(config) and _time_free(config)),
)
RADD = LAYOUTS[-1]


def is_public(config: dict[str, Any]) -> bool:
    """Return whether a config.json is that of other people's code: `load` reads it, or says what can be read."""
    return not {"network", "codec", "schedule"} & config.keys()


def is_layout(config: dict[str, Any]) -> bool:
    """Return whether a config.json is of one of these layouts, or of none but described as these are, in `model`."""
    return _plain(config) or any(layout.identifies(config) for layout in LAYOUTS)


def find_layout(config: dict[str, Any], tensors: Callable[[], Iterable[str]], where: Path) -> Layout:
    """Identify the layout of a checkpoint.

    Args:
        config: the content of config.json.
        tensors: returns the names of the tensors, for what config.json leaves open: RADD's have norms with biases and
            no modulation.
        where: names config.json in errors.

    Raises:
        ValueError: none that is read; lists those that are.
    """
    found = [layout for layout in LAYOUTS if layout.identifies(config)]
    if len(found) == 1:
        _check_kind(config, found[0], where)
        return found[0]
    if not found and _plain(config) and "graph" not in config:
        names = set(tensors())
        if "blocks.0.norm1.bias" in names and not any("adaLN" in name or "sigma_map" in name for name in names):
            return RADD
    model_type = config.get("model_type")
    what = f"model_type {model_type!r} is" if isinstance(model_type, str) else "it is of a layout that is"
    raise ValueError(f"{where}: {what} not read here; read are {'; '.join(layout.title for layout in LAYOUTS)}")


def _check_kind(config: dict[str, Any], layout: Layout, where: Path) -> None:
    """Raise a ValueError where config.json describes another kind of model than this family's."""
    own = {"parameterization": ("subs",), "diffusion": ("absorbing_state",), "backbone": ("dit", "hf_dit")}
    for name, known in own.items() if layout.family == "mdlm" else ():
        value = config.get(name, known[0])
        if value not in known:
            raise ValueError(f"{where}: {name} is {value!r}; only {' and '.join(known)} is read")
    if config.get("model_type") == "bd3lm":
        block, length = config.get("block_size"), config.get("model_length", 1024)
        if block != length or config.get("causal", False):
            raise ValueError(
                f"{where}: blocks of {block!r} in {length}: only a model of a single block is masked as a whole"
            )
    if not isinstance(config.get("time_conditioning", False), bool):
        raise ValueError(f"{where}: time_conditioning must be true or false, got {config['time_conditioning']!r}")
    graph = config.get("graph")
    kind = graph.get("type", "absorb") if isinstance(graph, dict) else "absorb"
    if kind != "absorb":
        raise ValueError(f"{where}: the diffusion is {kind}; only absorb, which masks, is read")


def is_timed(config: dict[str, Any], layout: Layout) -> bool:
    """Return whether the network is told the noise."""
    return layout.family == "sedd" or (layout.family == "mdlm" and config.get("time_conditioning", False))


def least_alpha(config: dict[str, Any], where: Path) -> float:
    """Return alpha at the end of the noise that a network was told: of log-linear noise where config.json has none."""
    noise = config.get("noise")
    kind = noise.get("type", "loglinear") if isinstance(noise, dict) else "loglinear"
    if kind in ("loglinear", "cosine", "cosinesqr"):
        return 1e-3
    if kind in ("geometric", "linear"):
        most = noise.get("sigma_max", 20) if isinstance(noise, dict) else 20
        if not isinstance(most, int | float) or not 0 < most < 700:
            raise ValueError(f"{where}: noise.sigma_max must be a positive number, got {most!r}")
        return math.exp(-float(most))
    raise ValueError(f"{where}: the noise {kind!r} is not known; loglinear, cosine, geometric and linear are")

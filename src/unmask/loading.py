"""Reading a model by its name: the parts of which `MaskedDiffusion` is made. No code is loaded."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from unmask.checkpoints import WEIGHT_FILES, is_layout, is_public
from unmask.checkpoints import load as load_public
from unmask.codecs import Codec
from unmask.networks import Network
from unmask.networks.adapters import Adapter, add_adapter
from unmask.networks.fitting import fit_network
from unmask.noise import Wrapped
from unmask.schedules import Schedule, TokenPolynomial
from unmask.storage.checkpoint import averaged_weights
from unmask.storage.description import build
from unmask.storage.folders import CHECKPOINT, CONFIG, RUN, WEIGHTS, find_folder, is_weights
from unmask.storage.hub import download_model
from unmask.storage.model_files import (
    bounded,
    check_about,
    config_digest,
    finish_saving,
    read_config,
    read_weights,
    tensors_digest,
    verify_files,
    without_memory,
)
from unmask.storage.plugins import import_named


class Parts(NamedTuple):
    """What a model is made of.

    Attributes:
        network: with its weights if `weights` is None.
        codec: ready to be used.
        schedule: None for that of a public checkpoint.
        about: what is known of it.
        weights: to be loaded into the model.
        path: of the file that they were read from.
        folder: that the model lies in; None for a run that did not finish.
        altered: whether the description was changed after the weights were saved.
    """

    network: Network
    codec: Codec
    schedule: Schedule | TokenPolynomial | None
    about: dict[str, Any]
    weights: dict[str, Tensor] | None
    path: Path
    folder: Path | None
    altered: bool = False


def read_model(
    name: str,
    trust: Sequence[str] = (),
    tokenizer: str | None = None,
    verify: bool = False,
    how: Mapping[str, Any] | None = None,
    to_train: bool = False,
    **download: Any,
) -> Parts:
    """Read a model, a run, or a public checkpoint; see `unmask.load`. `how` is for public models alone."""
    import_named(trust)
    if is_weights(name):
        return _read_public(Path(name), name, tokenizer, how)
    folder = find_folder(name)
    if folder is not None and not (folder / CONFIG).exists() and (folder / RUN).is_file():
        return _read_run(folder, trust)
    if folder is None:
        folder = download_model(name, WEIGHT_FILES, **download)
    finish_saving(folder)
    description = read_config(folder / CONFIG)
    if is_public(description):
        both_sides = {"bidirectional": True} if to_train and not is_layout(description) else {}
        return _read_public(folder, name, tokenizer, {**(how or {}), **both_sides})
    if given := [option for option, value in (how or {}).items() if value is not None]:
        raise ValueError(f"{folder}: {', '.join(given)} is for public models; this is one of unmask")
    verify_files(folder, description, verify)
    path = folder / WEIGHTS
    weights, metadata = read_weights(path)
    about = description.get("about") or {}
    if about.get("adapter"):
        built = _build_adapted(description, about["adapter"], folder / CONFIG, folder, trust)
    else:
        with bounded(weights, path):
            built = _build(description, folder / CONFIG, folder, trust)
    digest = config_digest({part: description[part] for part in ("network", "codec", "schedule")})
    altered = metadata.get("config", digest) != digest
    return Parts(*built, about, weights, path, folder, altered)


def _read_public(source: Path, name: str, tokenizer: str | None, how: Mapping[str, Any] | None) -> Parts:
    """Read a public model in a folder, or in a file of weights."""
    network, codec, about = load_public(source, tokenizer, **(how or {}))
    folder = source.parent if source.is_file() else source
    return Parts(network, codec, None, about | {"source": name}, None, folder / CONFIG, folder)


def _read_run(folder: Path, trust: Sequence[str]) -> Parts:
    """Read the averaged weights of the last checkpoint of a run that did not finish."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: a run that has neither a model nor a checkpoint yet")
    description = read_config(folder / RUN)
    weights, step = averaged_weights(path)
    if description.get("adapter"):
        built = _build_adapted(description, description["adapter"], folder / RUN, folder, trust)
    else:
        with bounded(weights, path):
            built = _build(description, folder / RUN, folder, trust)
    print(f"unmask: note: {folder} did not finish: these are its averaged weights at step {step}", file=sys.stderr)
    kept = ("data", "class_names", "objective", "run", "lengths", "start", "adapter")
    about: dict[str, Any] = {str(name): description[name] for name in kept if name in description}
    check_about(about, folder / RUN)
    about |= {"train_sha256": description.get("data_sha256"), "steps": step, "unfinished": True}
    return Parts(*built, about, weights, path, None)


def _build(
    description: dict[str, Any], path: Path, folder: Path, trust: Sequence[str]
) -> tuple[Network, Codec, Schedule | TokenPolynomial]:
    """Build the parts that a file describes; the network without its weights."""
    described = description.get("network")
    own = isinstance(described, dict) and "." not in str(described.get("class"))
    with without_memory() if own else nullcontext():  # others' classes may compute with their weights
        network = build(Network, described, f"{path}: network", trust)
    return network, *_build_others(description, path, folder, trust)


def _build_others(
    description: dict[str, Any], path: Path, folder: Path, trust: Sequence[str]
) -> tuple[Codec, Schedule | TokenPolynomial]:
    """Build the parts of a model beside its network."""
    codec = build(Codec, description.get("codec"), f"{path}: codec", trust).opened(folder)
    kinds: tuple[type, ...] = (Schedule, Wrapped, TokenPolynomial)
    schedule: Any = build(kinds, description.get("schedule"), f"{path}: schedule", trust)
    return codec, schedule


def _build_adapted(
    description: dict[str, Any], adapter: Any, path: Path, folder: Path, trust: Sequence[str]
) -> tuple[Network, Codec, Schedule | TokenPolynomial]:
    """Build the parts of a model that is an adapter: its network is that of another model, whose weights it has.

    Raises:
        ValueError: the other model is not what it was when the adapter was trained.
        FileNotFoundError: it is not there.
    """
    found = Adapter.read(adapter)
    base, expected = adapter.get("base"), adapter.get("base_sha256")
    shape = (description.get("network") or {}).get("shape")
    if not isinstance(base, str) or not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        raise ValueError(f"{path}: about.adapter.base must name the model that it was trained on")
    if Path(base).exists() and Path(base).resolve() in (folder.resolve(), folder.resolve().parent):
        raise ValueError(f"{path}: an adapter of itself; what it was trained on has been replaced")
    try:
        parts = read_model(base, trust, to_train=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: an adapter of the model {base}, which is not there: {error}") from None
    network = whole_network(parts)
    if tensors_digest(network.state_dict()) != expected:
        raise ValueError(f"{path}: an adapter of {base}, whose weights are not what they were when it was trained")
    network = fit_network(network, tuple(shape))
    add_adapter(network, found)
    return network, *_build_others(description, path, folder, trust)


def whole_network(parts: Parts) -> Network:
    """Return a network with its weights."""
    if parts.weights is not None:
        prefix = "network."
        inside = {name.removeprefix(prefix): value for name, value in parts.weights.items() if name.startswith(prefix)}
        parts.network.load_state_dict(inside, assign=True)
    return parts.network

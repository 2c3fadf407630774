"""The files of a model's folder: config.json, which describes it, and its weights."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unmask.storage.files import checksum
from unmask.storage.folders import CONFIG, SAVED, TEMPLATE, TOKENIZER, WEIGHTS
from unmask.storage.objects import read_object
from unmask.storage.sums import verify_file

SUMS = {WEIGHTS: "weights_sha256", TOKENIZER: "tokenizer_sha256", TEMPLATE: "chat_template_sha256"}
"""What config.json calls the SHA-256 of each file beside it."""


def config_digest(description: dict[str, Any]) -> str:
    """Return the SHA-256 of a description, in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors, in hexadecimal: of the names, in order, and the bytes of each."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or facts of a wrong form; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model's folder holds {CONFIG} and {WEIGHTS}")
    description = read_object(path)
    check_about(description.get("about", {}), path, "about")
    return description


def check_about(about: Any, path: Path, name: str | None = None) -> None:
    """Raise a ValueError where what a file says of a model beside its parts is of a wrong form.

    Args:
        about: what was read.
        path: of the file.
        name: under which it lies there; None: it is the whole of it.
    """
    at = "" if name is None else f"{name}."
    if not isinstance(about, dict):
        raise ValueError(f"{path}: {name} must be a JSON object")
    for part in ("data", "run"):
        if not isinstance(about.get(part, {}), dict):
            raise ValueError(f"{path}: {at}{part} must be a JSON object")
    if not isinstance(about.get("measured", []), list):
        raise ValueError(f"{path}: {at}measured must be a list of reports")
    names = about.get("class_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: {at}class_names must be a list of names")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a model, and the metadata beside them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model's folder holds {CONFIG} and {WEIGHTS}")
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            return weights, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or truncated safetensors file: {error}") from error


def file_sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a model's folder, as config.json has them."""
    return {key: checksum(folder / name) for name, key in SUMS.items() if (folder / name).is_file()}


def verify_files(folder: Path, description: dict[str, Any], always: bool = False) -> None:
    """Compare the files of a model's folder with what its config.json says of them; an older one says nothing.

    Raises:
        ValueError: one is not what it was when it was written; names it.
    """
    for name, key in SUMS.items():
        expected = description.get(key)
        if expected is None or not (folder / name).is_file():
            continue
        if not isinstance(expected, str):
            raise ValueError(f"{folder / CONFIG}: {key} must be a SHA-256 in hexadecimal, got {expected!r:.100}")
        verify_file(folder / name, expected, CONFIG, always=always)


@contextmanager
def bounded(weights: dict[str, Tensor], path: Path) -> Iterator[None]:
    """Raise a ValueError as soon as a network is built that has far more parameters than its weights.

    A few bytes of a description can name a network that no memory holds, or that takes days to build. What is counted
    is what is registered: tied embeddings twice, and once more whatever replaces a parameter that was built.
    """
    most, most_tensors = 4 * sum(tensor.numel() for tensor in weights.values()) + (1 << 20), 4 * len(weights) + 100
    count = tensors = 0

    def registered(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal count, tensors
        tensors += 1
        count += parameter.numel() if parameter is not None else 0
        if count > most or tensors > most_tensors:
            raise ValueError(f"has many more parameters than {path} holds")

    handle = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_memory() -> Iterator[None]:
    """Build networks whose weights take no memory until they are loaded (`load_state_dict(..., assign=True)`)."""

    def registered(module: nn.Module, name: str, parameter: Tensor | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(registered)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def saving(folder: Path) -> Iterator[Path]:
    """Yield a folder for all files of a model; when the block ends well, they are in `folder`, else none is.

    The rename of that folder to `.saved` decides: then its files are moved out of it, if need be by who comes next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / SAVED).is_symlink():
        (folder / SAVED).unlink()
    finish_saving(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".saving"))
    try:
        yield temporary
        os.rename(temporary, folder / SAVED)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    finish_saving(folder)


def finish_saving(folder: Path) -> None:
    """Move files that were saved to where they belong, if a kill has kept who saved them from it."""
    saved = folder / SAVED
    if saved.is_dir() and not saved.is_symlink():
        config = saved / CONFIG
        if config.is_file() and SUMS[TEMPLATE] not in read_object(config):
            (folder / TEMPLATE).unlink(missing_ok=True)  # of an earlier model
        for path in sorted(saved.iterdir(), key=lambda path: path.name == CONFIG):  # config.json after the others
            with suppress(FileNotFoundError):  # another process was faster
                os.replace(path, folder / path.name)
        with suppress(FileNotFoundError):
            saved.rmdir()

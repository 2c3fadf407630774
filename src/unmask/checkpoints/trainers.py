"""Checkpoints of the trainers of MDLM, Duo and BD3LM: their tensors and settings, without running their pickles.

Such a .ckpt is a zip archive of a pickle and of the numbers of its tensors. The pickle also holds objects of other
packages, the settings (of omegaconf) and the tokenizer. Nothing of these is imported: the settings are read out of what
the pickle says of them.
"""

import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.checkpoints import ddit
from unmask.codecs.tokenizer import Tokenizer
from unmask.networks.ddit import DDiT
from unmask.storage.limits import check_size
from unmask.storage.pickled import STORED, Made, read_pickle

DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
MOST_PICKLE = 256 << 20


def load(path: Path, tokenizer: str | None = None, averaged: bool = True) -> tuple[DDiT, Tokenizer, dict[str, Any]]:
    """Read a checkpoint: its network, its codec, and what there is to say about it.

    Args:
        path: of the .ckpt.
        tokenizer: what `Tokenizer` reads; GPT-2's from the Hub if None.
        averaged: whether to take the moving average of the weights, which the authors evaluate.

    Raises:
        ValueError: it is damaged, of another trainer, has no average, or its tensors are not those of its settings.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            weights, config, step = _read(archive, path, averaged)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: not a checkpoint of torch: {error}") from None
    network, codec, about = ddit.build(config, weights, path, path, tokenizer or "gpt2")
    return network, codec, about | {"steps": step, "averaged": averaged}


def _read(archive: zipfile.ZipFile, path: Path, averaged: bool) -> tuple[dict[str, Tensor], dict[str, Any], Any]:
    """Return the tensors of the network, the settings, and the number of training steps."""
    name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
    if name is None:
        raise ValueError(f"{path}: not a checkpoint of torch: no data.pkl in it")
    check_size(archive.getinfo(name).file_size, f"{path}/{name}", MOST_PICKLE)
    content = read_pickle(archive.read(name), f"{path}/{name}")
    state = _dict(content.get("state_dict")) if isinstance(content, dict) else {}
    if not any(key.startswith("backbone.") for key in state):
        raise ValueError(f"{path}: no checkpoint of a trainer of MDLM, Duo or BD3LM: it has no tensors backbone.*")
    tensors = {key.replace("_orig_mod.", ""): value for key, value in state.items() if _is_tensor(value)}
    named = [key for key in tensors if _is_parameter(key)]
    if averaged:
        average = _dict(content.get("ema")).get("shadow_params")
        if not isinstance(average, list):
            raise ValueError(f"{path}: holds no moving average; --averaged false takes the weights themselves")
        if len(average) != len(named):
            raise ValueError(f"{path}: averages {len(average)} tensors, the network has {len(named)}")
        for key, value in zip(named, average, strict=True):
            if _shape(value) != _shape(tensors[key]):
                raise ValueError(f"{path}: the average of {key} has shape {_shape(value)}, not {_shape(tensors[key])}")
            tensors[key] = value
    root = name.removesuffix("data.pkl")
    weights = {
        key.removeprefix("backbone."): _tensor(tensors[key], archive, root, path)
        for key in named
        if key.startswith("backbone.")
    }
    modulated = any("adaLN" in key for key in weights)
    return weights, _settings(content, modulated, path), content.get("global_step")


def _is_parameter(name: str) -> bool:
    """Return whether a tensor is a parameter of the network or of the noise, in the order of which averages stand."""
    return name.startswith(("backbone.", "noise.")) and not name.endswith(ddit.IGNORED)


def _settings(content: dict[str, Any], modulated: bool, path: Path) -> dict[str, Any]:
    """Return the settings as the config.json of a published checkpoint has them."""
    config = _plain(_dict(content.get("hyper_parameters")).get("config"))
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ValueError(f"{path}: its hyper_parameters hold no settings of a trainer of MDLM, Duo or BD3LM")
    algorithm = config.pop("algo", None) or {}
    if isinstance(algorithm, dict) and algorithm:
        kind = str(algorithm.get("name"))
        if kind not in ("mdlm", "bd3lm", "sedd"):
            raise ValueError(f"{path}: its algorithm is {kind!r}; only mdlm, bd3lm and sedd mask")
        config |= {key: algorithm[key] for key in ("parameterization", "time_conditioning") if key in algorithm}
        if kind == "bd3lm":
            sizes = config["model"]
            names = {
                "hidden_dim": "hidden_size",
                "model_length": "length",
                "n_blocks": "n_blocks",
                "n_heads": "n_heads",
            }
            block = config.get("block_size", algorithm.get("block_size"))
            found = {ours: sizes.get(theirs) for ours, theirs in names.items()}
            return {"model_type": "bd3lm", "adaln": modulated, "block_size": block} | found
    config.setdefault("parameterization", "subs")
    return config


def _plain(value: Any) -> Any:
    """Return a setting of omegaconf as the plain value that it holds."""
    if not isinstance(value, Made):
        return value
    state = next((part for part in value.state if isinstance(part, dict)), {})
    if "_val" in state:
        return _plain(state["_val"])
    inside = state.get("_content")
    if isinstance(inside, dict):
        return {key: _plain(part) for key, part in inside.items()}
    return [_plain(part) for part in inside] if isinstance(inside, list) else None


def _dict(value: Any) -> dict[str, Any]:
    """Return a dict, or what an OrderedDict was filled with."""
    parts = value.state if isinstance(value, Made) else [value]
    return {key: one for part in parts if isinstance(part, dict) for key, one in part.items() if isinstance(key, str)}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Made) and _name(value.what) == "_rebuild_tensor_v2" and len(value.arguments) >= 4


def _name(what: Any) -> str:
    """Return the last part of a name, as old and new pickles write it."""
    return str(what[1] if isinstance(what, tuple) else what).rpartition(" ")[2]


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.arguments[2]) if _is_tensor(value) else ()


def _tensor(value: Any, archive: zipfile.ZipFile, root: str, path: Path) -> Tensor:
    """Return a tensor, its numbers read from the archive.

    Raises:
        ValueError: it is not described as a tensor is, or its numbers are not there.
    """
    try:
        stored, offset, shape, stride = value.arguments[:4]
        if stored.what != STORED or not all(isinstance(size, int) and size >= 0 for size in (offset, *shape, *stride)):
            raise ValueError("not the numbers of a tensor")
        _, kind, key, _, count = stored.arguments
        dtype = DTYPES[_name(kind)]
        size = count * dtype.itemsize
        entry = archive.getinfo(f"{root}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < size or offset + math.prod(shape) > count:
            raise ValueError("fewer numbers than its shape has")
        numbers = torch.frombuffer(bytearray(archive.read(entry)), dtype=dtype)
        return numbers.as_strided(shape, stride, offset).contiguous()
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: a tensor is damaged: {error}") from None

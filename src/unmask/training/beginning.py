"""What a training begins with: a new network, or the weights of a model that is there."""

import copy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unmask.codecs.ended import Ended
from unmask.codecs.named import written_name
from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.codecs.table import Table
from unmask.codecs.text import Bytes, Characters, Text
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.arrays import Arrays
from unmask.data.base import DataSet
from unmask.data.categories import Categories, csv_line
from unmask.model import MaskedDiffusion
from unmask.networks.adapters import Adapter, add_adapter, has_adapter, merge_adapter
from unmask.networks.base import Network
from unmask.networks.fitting import fit_network
from unmask.schedules import Schedule, TokenPolynomial
from unmask.storage.folders import RUN
from unmask.storage.model_files import tensors_digest
from unmask.training.settings import Run
from unmask.training.trained import freeze_weights

Start = MaskedDiffusion | Path | str


class Beginning(NamedTuple):
    """What is trained.

    Attributes:
        network: with its first weights; those that are not trained need no gradient.
        data: in its tokens.
        schedule: of the model that it is from; None for a new one.
        record: what is kept of that: {"start": {"name", "sha256"}} and perhaps {"adapter": ...}; empty for a new one.
    """

    network: Network
    data: DataSet
    schedule: Schedule | TokenPolynomial | None
    record: dict[str, Any]


def begin(network: Network | dict[str, Any] | None, data: DataSet, start: Start | None, run: Run) -> Beginning:
    """Return what a training begins with; see `unmask.train`.

    Raises:
        ValueError: both a network and a start, or neither; tokens or a shape that do not fit the start; or a pattern of
            weights that stands for none.
        FileNotFoundError: there is no such start.
        ImportError: an adapter is wanted, and the package `peft` is not installed.
    """
    if start is None:
        if not isinstance(network, Network):
            raise ValueError("give a network, or start: the model whose weights are trained further")
        if run.lora is not None:
            raise ValueError("lora is for the weights of a model that is there: give --from MODEL, or start=")
        freeze_weights(network, run.train, run.freeze)
        return Beginning(network.train(), data, None, {})
    if isinstance(network, Network):
        raise ValueError("with start the network comes from there: give None, or settings such as {'dropout': 0.1}")
    model = start if isinstance(start, MaskedDiffusion) else MaskedDiffusion.from_pretrained(start, to_train=True)
    data = in_tokens_of(data, model)
    check_tokens_of(data, model, start)
    record: dict[str, Any] = {"start": _origin(model, start)}
    begun, schedule = model.network, model.schedule
    if isinstance(start, MaskedDiffusion):  # the caller's stays as it is
        begun, schedule = copy.deepcopy((begun, schedule))
    if run.lora is None and has_adapter(begun):
        merge_adapter(begun)
    if run.lora is not None and has_adapter(begun):
        raise ValueError(f"{record['start']['name']} is an adapter itself: unmask import merges it, for a new one")
    fitted = fit_network(begun, data.shape, **(network or {}))
    if run.lora is not None:
        record["adapter"] = _adapt(fitted, run, record["start"])
    else:
        fitted.requires_grad_(True)
        freeze_weights(fitted, run.train, run.freeze)
    _own_weights(fitted, keep_type=run.lora is not None or run.precision in ("bf16-true", "16-true"))
    return Beginning(fitted.train(), data, schedule, record)


def in_tokens_of(data: DataSet, model: MaskedDiffusion) -> DataSet:
    """Return data cut into the tokens of a model, as far as they leave open how they are cut."""
    if not is_dataclass(data):
        return data
    open_settings = {field.name for field in fields(data) if getattr(data, field.name) is None}
    codec, found = model.codec, dict[str, Any]()
    if "tokens" in open_settings and isinstance(codec, Characters | Bytes):
        found["tokens"] = codec.alphabet if isinstance(codec, Characters) else "bytes"
    elif "tokenizer" in open_settings and (name := _tokens_name(model)) is not None:
        found["tokenizer"] = name
    elif isinstance(data, Categories) and "values" in open_settings and isinstance(codec, Table):
        columns = csv_line(codec.columns)
        if data.columns is None or data.resolved().columns == columns:
            found |= {"columns": columns, "values": codec.values}
    elif isinstance(data, Arrays) and "vocab_size" in open_settings and isinstance(codec, Symbols | Pixels):
        fills = data.codec.vocab_size - (data.resolved().vocab_size or 0)
        found["vocab_size"] = max(1, codec.vocab_size - (fills if isinstance(codec, Symbols) else 0))
    return replace(data, **found) if found else data


def _tokens_name(model: MaskedDiffusion) -> str | None:
    """Return the name of the codec of a model as `named_codec` reads it; None: it has no such name, or is not of texts.

    That of the codec itself, if it can be written out; else the folder of the model, or of the unfinished run, or what
    the tokenizer was read from.
    """
    codec = model.codec.codec if isinstance(model.codec, Ended) else model.codec
    name = written_name(model.codec)
    if name is None and model.folder is not None:
        return str(model.folder.resolve())
    if name is None and isinstance(codec, Tokenizer):
        source = Path(codec.source)
        return str(source.parent.resolve()) if (source.parent / RUN).is_file() and source.is_file() else codec.source
    return name


def check_tokens_of(data: DataSet, model: MaskedDiffusion, start: Start) -> None:
    """Raise a ValueError, with what to do, unless the data have the tokens of a model."""
    if data.codec == model.codec:
        return
    name = str((model.folder or "the model in memory") if isinstance(start, MaskedDiffusion) else start)
    tokens = name if model.folder is not None or not isinstance(start, MaskedDiffusion) else _tokens_name(model)
    shown = "FOLDER" if tokens is None else tokens if tokens == name else repr(tokens)
    plain = model.codec.codec if isinstance(model.codec, Ended) else model.codec
    how = f"unmask prepare FILE --tokenizer {shown} --out CORPUS makes a corpus of its tokens"
    if "tokenizer" in {field.name for field in fields(data)}:
        how = f"--data.tokenizer {shown} cuts them as that model does"
    elif not (isinstance(model.codec, Text) and isinstance(data.codec, Text)):
        how = "the vocabulary cannot change with the weights"
    elif isinstance(model.codec, Characters | Bytes) and "tokens" in {field.name for field in fields(data)}:
        how = "without --data.tokens they are cut as that model does"
    elif not isinstance(plain, Tokenizer):
        how = "lines of a file are cut as that model does by unmask train lines --data.path FILE --from ..."
    raise ValueError(f"{data.name} has the tokens {data.codec}, but {name} those of {model.codec}: {how}")


def _origin(model: MaskedDiffusion, start: Start) -> dict[str, Any]:
    """Return what is kept of a start: its name, and the checksum of its network's weights."""
    name = "a model in memory" if isinstance(start, MaskedDiffusion) else str(start)
    if not isinstance(start, MaskedDiffusion) and Path(name).exists():
        name = str(Path(name).resolve())
    elif isinstance(start, MaskedDiffusion) and model.folder is not None:
        name = str(model.folder.resolve())
    return {"name": name, "sha256": tensors_digest(model.network.state_dict())}


def _adapt(network: Network, run: Run, origin: dict[str, Any]) -> dict[str, Any]:
    """Put an adapter on a network; return its description, with what it belongs to."""
    if run.train is not None or run.freeze is not None:
        raise ValueError("an adapter alone is trained: give either lora, or train and freeze")
    if origin["name"] == "a model in memory":
        raise ValueError("an adapter is saved with the name of what it belongs to: save the model first, and load it")
    targets = tuple(part.strip() for part in run.lora_targets.split(",")) if run.lora_targets else ()
    adapter = Adapter(run.lora or 0, run.lora_alpha, targets, run.lora_dropout or 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        add_adapter(network, adapter)
    return adapter.describe() | {"base": origin["name"], "base_sha256": origin["sha256"]}


def _own_weights(network: Network, keep_type: bool) -> None:
    """Give what is trained memory of its own, in float32 unless its type is kept; what is not trained stays mapped.

    Half precision loses updates that are small beside the weights.
    """
    if not keep_type:
        network.float()
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()

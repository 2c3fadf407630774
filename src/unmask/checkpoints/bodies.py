"""Read public models whose networks are models of `transformers`. JSON and tensors alone, no code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unmask.checkpoints.families import LEFT_TO_RIGHT, Config, Family, Weights, find_family
from unmask.checkpoints.reading import read_weights
from unmask.codecs.tokenizer import Tokenizer
from unmask.networks.pretrained import SHIFTED, Pretrained
from unmask.networks.transformers_models import (
    DECODERS,
    check_config,
    input_embedding,
    model_class,
    positions,
    quiet,
    read_settings,
    said_of,
)
from unmask.storage.model_files import bounded

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

UNUSED = re.compile(
    r"(^|\.)pooler\.|^cls\.(?!predictions\.)|^classifier\.|sop_classifier|contact_head\.|position_ids$|inv_freq$"
    r"|\.attn\.(masked_)?bias$"
)
"""Tensors beside a network: of other tasks, or that are computed."""
ADAPTER = "adapter_config.json"


def load(
    folder: Path,
    config: Config,
    where: Path,
    *,
    tokenizer: str | None = None,
    bidirectional: bool = False,
    shifted: bool | None = None,
    length: int | None = None,
) -> tuple[Pretrained, Tokenizer, dict[str, Any]]:
    """Read a model: its network, its codec, and what there is to say about it.

    Args:
        folder: with the weights, and the files of a tokenizer; or the file of the weights beside these.
        config: the content of its config.json; empty where it has none.
        where: names it in errors.
        tokenizer: what `Tokenizer` reads, in place of the folder's own.
        bidirectional: whether to make a left-to-right model see both sides.
        shifted: whether position i is predicted at position i − 1; None: as the family was trained, yes for a
            left-to-right model.
        length: of the longest sequence; None: what the model was trained with.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, the model is of no family that is read, a tensor is missing, unknown or of a
            wrong shape, or the tokenizer has no mask or belongs to another model.
    """
    causal = bidirectional and config.get("model_type") in DECODERS and config.get("is_causal", True) is not False
    family = LEFT_TO_RIGHT if causal else find_family(config, lambda: read_weights(folder)[1], where)
    path, weights = read_weights(folder)
    if (path.parent / ADAPTER).is_file():
        raise ValueError(f"{path.parent / ADAPTER}: adapters are not read; merge it first (merge_and_unload)")
    with naming(where, family):
        settings = family.settings(config, weights)
        state = family.weights(weights, settings)
        known = family.mask(config, weights)
        if known is not None and type(known) is not int:
            raise ValueError(f"mask_token_id must be the number of a token, got {known!r:.40}")
    codec = Tokenizer.from_folder(folder.parent if folder.is_file() else folder, tokenizer)
    model = fill_model(settings, state, path, where)
    mask = codec.mask if known is None else known
    if mask is None and not causal:
        raise ValueError(f"{where}: neither config.json nor the tokenizer names a mask token: it is no masked model")
    mask = add_mask(model, codec.vocab_size) if mask is None else mask
    shifted = config.get(SHIFTED, family.shifted) if shifted is None else shifted
    with naming(where, family):
        network = Pretrained(
            codec.vocab_size,
            (fit_length(length, model.config, family),),
            body=model,
            mask=mask,
            special=tuple(token for token in codec.special if token != mask) if family.special else (),
            padding=codec.padding if family.special else None,
            shifted=bool(shifted),
        )
    return network.eval(), codec, {"layout": family.name, "published_config": config}


def facts(folder: Path, config: Config, where: Path) -> dict[str, Any]:
    """Return what a model is, as far as its files tell without building it.

    Args:
        folder: with the weights, and the files of a tokenizer.
        config: the content of its config.json.
        where: names it in errors.

    Raises:
        ValueError, FileNotFoundError, ImportError: see `load`.
    """
    path, weights = read_weights(folder)
    causal = config.get("model_type") in DECODERS and config.get("is_causal", True) is not False
    family = LEFT_TO_RIGHT if causal else find_family(config, lambda: weights, where)
    codec = Tokenizer.from_folder(folder)
    with naming(where, family):
        settings = read_settings(family.settings(config, weights))
        known = family.mask(config, weights)
        mask = codec.mask if known is None else known
        name = None if mask is None else codec.tokenizer.id_to_token(mask)
        around = " ".join((*codec.before, "...", *codec.after)) if any(codec.wrap) else "nothing"
        return {
            "family": "left to right" if causal else family.name,
            "model_type": settings.model_type,
            "sees": "the left side alone; --from, or import --bidirectional, makes it see both"
            if causal
            else "both sides",
            "mask": "none; it gets one" if mask is None else f"{mask}" + (f" ({name})" if name else ""),
            "predicted_at": "the position before" if config.get(SHIFTED, family.shifted) else "the position itself",
            "length": fit_length(None, settings, family),
            "vocabulary": codec.vocab_size,
            "around_each_text": around,
            "weights": path.name,
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "dtype": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in weights.values()})),
        }


@contextmanager
def naming(where: Path, family: Family) -> Iterator[None]:
    """Turn what is wrong with settings and tensors into a ValueError that names the file and the family."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise ValueError(f"{where}: not as {family.name} has it: {type(error).__name__} {error}") from None


def add_mask(model: PreTrainedModel, token: int) -> int:
    """Make a token the mask, and return it: it begins as the mean of the others.

    A row is added where there is none, in an output embedding of its own, too, though the mask is never predicted: else
    transformers draws it at random, and a model would not be the same each time that it is read.
    """
    added = token >= len(input_embedding(model).weight)
    if added:
        model.resize_token_embeddings(token + 1, mean_resizing=False)
    head = model.get_output_embeddings()
    with torch.no_grad():
        matrices = [input_embedding(model).weight]
        if added and isinstance(head, torch.nn.Linear):
            matrices += [part for part in (head.weight, head.bias) if part is not None and part is not matrices[0]]
        for matrix in matrices:
            matrix[token] = matrix[:token].float().mean(0).to(matrix.dtype)
    return token


def fit_length(length: int | None, config: PreTrainedConfig, family: Family) -> int:
    """Return the length of the longest sequence: the one that is asked for, or that the model was trained on.

    Raises:
        ValueError: the model has no positions for it, or does not say how many it has.
    """
    rows, rotary = positions(config)
    if length is None:
        return min(rows, family.length or rows)
    if length < 1 or (length > rows and not rotary):
        raise ValueError(f"length must be at least 1, and the model has positions for {rows} tokens; got {length}")
    return length


def fill_model(settings: Config, state: Weights, path: Path, where: Path) -> Any:
    """Build a model of `transformers` around tensors, which are not copied.

    Raises:
        ValueError: a tensor is missing, unknown or of a wrong shape; or settings that the model refuses.
    """
    dtype = next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32)
    try:
        wanted = read_settings(settings)
        check_config(wanted)
        kind: Any = model_class(wanted.model_type)
        with quiet(), bounded(state, path):
            model, report = kind.from_pretrained(
                None,
                config=wanted,
                state_dict=state,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
    except ImportError:
        raise
    except Exception as error:  # whatever the package raises for settings that do not fit each other
        raise ValueError(f"{where}, {path.name}: {said_of(error)}") from None
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise ValueError(f"{path}: the tensor {name} has shape {tuple(found)}, {where.name} says {tuple(expected)}")
    for what, names in (("missing", report["missing_keys"]), ("unknown", report["unexpected_keys"])):
        if wrong := sorted(name for name in names if not UNUSED.search(name)):
            raise ValueError(
                f"{path}: of a {settings['model_type']} {len(wrong)} tensors are {what}, the first {wrong[0]}"
            )
    return model

"""Models of the package `transformers`: which kinds work, and how they are built from their settings alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MASKED = (
    "albert",
    "bert",
    "camembert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "esm",
    "eurobert",
    "megatron-bert",
    "modernbert",
    "mpnet",
    "nomic_bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
)
"""Kinds of masked language models, as `model_type` in their config.json."""
DECODERS = (
    "gemma",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "olmoe",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "starcoder2",
)
"""Kinds of left-to-right models that see both sides with `is_causal: false` in their config.json."""
OFFSET = (
    "camembert",
    "data2vec-text",
    "esm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)
"""Kinds whose positions begin after that of the padding."""
ROTARY = ("eurobert", "modernbert", "nomic_bert", *(kind for kind in DECODERS if kind != "gpt2"))
"""Kinds that have no table of positions, which takes no longer sequence."""
NOT_SETTINGS = (
    "_attn_implementation",
    "_attn_implementation_internal",
    "_name_or_path",
    "_experts_implementation",
    "_model_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "dtype",
    "experts_implementation",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "quantization_config",
    "return_dict",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "use_cache",
)
"""Of a config.json: what does not describe the network, changes what its calls return, or could name code."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep `transformers` from saying what is said here, or nobody needs to know."""
    from transformers.utils import logging as said

    level, bar = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity(logging.CRITICAL)
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if bar:
            said.enable_progress_bar()


def build_model(settings: dict[str, Any]) -> PreTrainedModel:
    """Build a model of `transformers` from the content of its config.json, with weights at random.

    Raises:
        ValueError: see `check_config`; or settings that the model refuses.
    """
    config = read_settings(settings)
    check_config(config)
    try:
        return model_class(config.model_type)(config)
    except Exception as error:  # whatever the package raises for settings that do not fit each other
        raise ValueError(f"a {config.model_type} cannot have these settings: {said_of(error)}") from error


def said_of(error: Exception) -> str:
    """Return what an error of another package says, in one line, with its kind where it says little."""
    text = " ".join(str(error).split())[:200]
    return text if " " in text else f"{type(error).__name__} {text}"


def model_class(model_type: str) -> type[PreTrainedModel]:
    """Return the class of a kind of model.

    Raises:
        ImportError: the package `transformers` is not installed.
    """
    import transformers
    from transformers.models.auto import modeling_auto as names

    mapping = (
        names.MODEL_FOR_MASKED_LM_MAPPING_NAMES if model_type in MASKED else names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    return getattr(transformers, mapping[model_type])


def read_settings(settings: dict[str, Any]) -> PreTrainedConfig:
    """Return the content of a config.json as `transformers` has it, without what could name code.

    Raises:
        ValueError: `transformers` has no such kind of model, or the settings are of a wrong form.
        ImportError: the package `transformers` is not installed.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kept = {name: value for name, value in settings.items() if name not in NOT_SETTINGS}
    kind = kept.pop("model_type", None)
    check_kind(kind)
    try:
        return CONFIG_MAPPING[kind].from_dict(kept)
    except Exception as error:  # whatever the package raises for a value of a wrong form
        raise ValueError(f"a {kind} cannot have these settings: {said_of(error)}") from error


def plain_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what `read_settings` reads, as plain values."""
    settings = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in settings.items() if name not in NOT_SETTINGS}


def check_kind(kind: Any) -> None:
    """Raise a ValueError for a kind of model that is not known to work."""
    if kind not in MASKED and kind not in DECODERS:
        raise ValueError(
            f"a model of the kind {kind!r} is not known to work; masked language models are {', '.join(MASKED)}; "
            f"decoders {', '.join(DECODERS)}"
        )


def check_config(config: PreTrainedConfig) -> None:
    """Raise a ValueError for a model whose logits are not those of both sides, by its output embedding alone.

    That is: a kind that is not known to work, a decoder that sees what is to the left alone, a masked model that was
    made a decoder, or one that does more to its logits.
    """
    kind = config.model_type
    check_kind(kind)
    if kind in DECODERS and getattr(config, "is_causal", True):
        raise ValueError(
            f"a {kind} sees what is to the left alone; with is_causal: false in its config.json before it is "
            "built it sees both sides, and can learn to be a masked model"
        )
    for name in ("is_decoder", "add_cross_attention"):
        if kind in MASKED and getattr(config, name, False):
            raise ValueError(f"a {kind} with {name}: true sees what is to the left alone: it is no masked model")
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1):
            raise ValueError(f"{kind} with {name}: {getattr(config, name)} is not supported")


def positions(config: PreTrainedConfig) -> tuple[int, bool]:
    """Return for how many tokens a model has positions, and whether they are rotary, so that it takes more, too.

    Raises:
        ValueError: its settings do not say.
    """
    rows = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not isinstance(rows, int):
        raise ValueError("config.json has no max_position_embeddings, the length of the longest sequence")
    rows -= config.pad_token_id + 1 if config.model_type in OFFSET else 0
    return rows, config.model_type in ROTARY or getattr(config, "position_embedding_type", None) == "rotary"


def find_output_embedding(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """Return the name of the module that maps features to logits, and the module."""
    linear = model.get_output_embeddings()
    place = next((name for name, module in model.named_modules() if module is linear), None)
    if place is None or not isinstance(linear, nn.Linear):
        raise ValueError(f"{type(model).__name__} does not end in a linear map from features to logits")
    return place, linear


def input_embedding(model: PreTrainedModel) -> nn.Embedding:
    """Return the module that maps tokens to vectors."""
    found = model.get_input_embeddings()
    if not isinstance(found, nn.Embedding):
        raise ValueError(f"{type(model).__name__} does not begin with an embedding of tokens")
    return found


def find_bias(parent: nn.Module, linear: nn.Linear) -> Literal["linear", "parent", "both"]:
    """Return which has the bias of the logits: the linear map, the module that it is in, or both the same."""
    bias = parent._parameters.get("bias")
    if bias is None:
        return "linear"
    if linear.bias is not None and linear.bias is not bias:
        raise ValueError(f"{type(parent).__name__} has another bias than its output embedding")
    return "parent" if linear.bias is None else "both"

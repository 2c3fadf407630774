"""Which public models are read as a model of `transformers`, and what identifies each family of them.

A family is identified by what its config.json says, or by the names of its tensors, never by what is missing. Nothing
of the code that these models bring along is needed: their networks are models of `transformers` under other names.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from unmask.checkpoints.layouts import LAYOUTS
from unmask.networks.transformers_models import DECODERS, MASKED

Config = dict[str, Any]
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """A family of public models.

    Attributes:
        name: in reports.
        title: in errors, with what identifies it.
        identifies: whether a config.json is of this family.
        tensors: names of tensors that must be there, too, for a family that its config.json does not tell from others.
        settings: returns the config.json of the model of `transformers` that it is; its arguments are the published one
            and the tensors. It raises a ValueError for a model that this is not.
        weights: returns the tensors under the names of `transformers`.
        shifted: see `Pretrained`.
        mask: returns its token for a mask, from config.json and the tensors; None: the tokenizer knows it.
        length: of the sequences that it was trained on; None: all that config.json allows.
        special: whether the tokenizer's special tokens are never predicted.
    """

    name: str
    title: str
    identifies: Callable[[Config], bool]
    settings: Callable[[Config, Weights], Config]
    weights: Callable[[Weights, Config], Weights] = field(default=lambda weights, settings: weights)
    shifted: bool = False
    mask: Callable[[Config, Weights], int | None] = field(default=lambda config, weights: config.get("mask_token_id"))
    length: int | None = None
    special: bool = False
    tensors: tuple[str, ...] = ()


def find_family(config: Config, tensors: Callable[[], Iterable[str]], where: Path | str) -> Family:
    """Return the family that a model is of.

    Args:
        config: the content of its config.json.
        tensors: returns the names of its tensors, which are read only if they are needed.
        where: names config.json in errors.

    Raises:
        ValueError: none that is read, or a left-to-right model; says what can be done.
    """
    for family in FAMILIES:
        if family.identifies(config) and (not family.tensors or {*family.tensors} <= set(tensors())):
            return family
    model_type = config.get("model_type")
    if model_type in DECODERS:
        raise ValueError(
            f"{where}: a {model_type} that sees what is to the left alone, not a masked model; unmask import SOURCE "
            "OUT --bidirectional makes it see both sides, from where it can be trained"
        )
    what = f"model_type {model_type!r} is" if isinstance(model_type, str) else "it is of a kind that is"
    titles = [one.title for one in (*LAYOUTS, *FAMILIES)]
    raise ValueError(f"{where}: {what} not read here; read are {'; '.join(titles)}")


def renamed(*rules: tuple[str, str]) -> Callable[[Weights, Config], Weights]:
    """Return a function that renames tensors: each rule replaces what matches a regular expression."""

    def rename(weights: Weights, settings: Config) -> Weights:
        found = {}
        for name, value in weights.items():
            for old, new in rules:
                name = re.sub(old, new, name)
            found[name] = value
        return found

    return rename


def require(config: Config, where: str, **expected: Any) -> None:
    """Raise a ValueError where a config.json has another value than the one that is read; it may have none."""
    for name, value in expected.items():
        known = value if isinstance(value, tuple) else (value,)
        if config.get(name, known[0]) not in known:
            raise ValueError(f"{where} with {name}: {config[name]!r} is not read; {name}: {known[0]!r} is")


def _llada(config: Config, _: Weights) -> Config:
    require(
        config,
        "LLaDA",
        activation_type=("silu", "swiglu"),
        alibi=False,
        attention_layer_norm=False,
        bias_for_layer_norm=(False, None),
        block_group_size=1,
        block_type="llama",
        clip_qkv=None,
        include_bias=False,
        include_qkv_bias=(False, None),
        input_emb_norm=False,
        layer_norm_type="rms",
        layer_norm_with_affine=True,
        rope=True,
        scale_logits=False,
    )
    heads = config["n_heads"]
    return {
        "model_type": "llama",
        "is_causal": False,
        "vocab_size": config.get("embedding_size") or config["vocab_size"],
        "hidden_size": config["d_model"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": 1 if config.get("multi_query_attention") else config.get("n_kv_heads") or heads,
        "intermediate_size": config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * config["d_model"],
        "max_position_embeddings": config["max_sequence_length"],
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},
        "rms_norm_eps": config["rms_norm_eps"],
        "tie_word_embeddings": config.get("weight_tying", False),
        "eos_token_id": config.get("eos_token_id"),
        "pad_token_id": config.get("pad_token_id"),
    }


LLADA_NAMES = renamed(
    (r"^model\.transformer\.wte\.", "model.embed_tokens."),
    (r"^model\.transformer\.ln_f\.", "model.norm."),
    (r"^model\.transformer\.ff_out\.", "lm_head."),
    (r"^model\.transformer\.blocks\.", "model.layers."),
    (r"\.attn_norm\.", ".input_layernorm."),
    (r"\.ff_norm\.", ".post_attention_layernorm."),
    (r"\.([qkv]_proj)\.", r".self_attn.\1."),
    (r"\.attn_out\.", ".self_attn.o_proj."),
    (r"\.ff_proj\.", ".mlp.gate_proj."),
    (r"\.up_proj\.", ".mlp.up_proj."),
    (r"\.ff_out\.", ".mlp.down_proj."),
)


def _bidirectional(model_type: str | None = None) -> Callable[[Config, Weights], Config]:
    def settings(config: Config, _: Weights) -> Config:
        return config | {"is_causal": False} | ({"model_type": model_type} if model_type else {})

    return settings


def _a2d(config: Config, _: Weights) -> Config:
    return config | {"is_causal": False, "model_type": str(config["model_type"]).removeprefix("a2d-")}


def _diffugpt(config: Config, weights: Weights) -> Config:
    rows = len(weights["embed_tokens.weight"])
    tied = "lm_head.weight" not in weights
    return config | {"is_causal": False, "vocab_size": rows, "tie_word_embeddings": tied}


DIFFUGPT_NAMES = renamed((r"^embed_tokens\.", "transformer.wte."), (r"^denoise_model\.", "transformer."))


def _smdm(_: Config, weights: Weights) -> Config:
    rows, width = weights["transformer.wte.weight"].shape
    hidden = len(weights["transformer.h.0.mlp.swiglu.w1.weight"])
    if len(weights["transformer.h.0.attn.attn.weight"]) != 3 * width:
        raise ValueError("SMDM with fewer keys than queries is not read")
    head = 80 if (width, hidden) == (640, 1600) else 64 if width <= 1024 else 128  # as in the published sizes
    return {
        "model_type": "llama",
        "is_causal": False,
        "vocab_size": rows,
        "hidden_size": width,
        "num_hidden_layers": len({name.split(".")[2] for name in weights if name.startswith("transformer.h.")}),
        "num_attention_heads": width // head,
        "num_key_value_heads": width // head,
        "intermediate_size": hidden,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }


SMDM_NAMES = renamed(
    (r"^transformer\.wte\.", "model.embed_tokens."),
    (r"^transformer\.ln_f\.", "model.norm."),
    (r"^transformer\.h\.", "model.layers."),
    (r"\.norm_1\.", ".input_layernorm."),
    (r"\.norm_2\.", ".post_attention_layernorm."),
    (r"\.attn\.proj\.", ".self_attn.o_proj."),
    (r"\.mlp\.swiglu\.w1\.", ".mlp.gate_proj."),
    (r"\.mlp\.swiglu\.w2\.", ".mlp.up_proj."),
    (r"\.mlp\.swiglu\.w3\.", ".mlp.down_proj."),
)


def _smdm_weights(weights: Weights, settings: Config) -> Weights:
    """Cut the queries, keys and values apart, which stand head by head; the head has no row for the mask."""
    width, heads, found = settings["hidden_size"], settings["num_attention_heads"], {}
    for name, value in SMDM_NAMES(weights, settings).items():
        if name.endswith(".attn.attn.weight"):
            stem = name.removesuffix("attn.attn.weight") + "self_attn."
            parts = value.view(heads, 3, width // heads, width).unbind(1)
            for letter, part in zip("qkv", parts, strict=True):
                found[f"{stem}{letter}_proj.weight"] = part.reshape(width, width)
        else:
            found[name] = value
    head = found["lm_head.weight"]
    missing = settings["vocab_size"] - len(head)
    found["lm_head.weight"] = head if missing == 0 else _with_rows(head, missing)
    return found


def _with_rows(matrix: Tensor, count: int) -> Tensor:
    """Return a matrix with rows of zeros at its end."""
    whole = matrix.new_zeros(len(matrix) + count, matrix.shape[1])
    whole[: len(matrix)] = matrix
    return whole


FAMILIES = (
    Family(
        "masked language model",
        f"masked language models of transformers (model_type: {', '.join(MASKED)})",
        lambda config: config.get("model_type") in MASKED,
        lambda config, weights: config,
        special=True,
    ),
    Family(
        "llada",
        "LLaDA (model_type: llada)",
        lambda config: config.get("model_type") == "llada",
        _llada,
        LLADA_NAMES,
    ),
    Family(
        "dream",
        "Dream and DiffuCoder (model_type: Dream)",
        lambda config: config.get("model_type") == "Dream",
        _bidirectional("qwen2"),
        shifted=True,
        length=2048,
    ),
    Family(
        "a2d",
        "left-to-right models that dllm made bidirectional (model_type: a2d-qwen3, ...)",
        lambda config: (
            str(config.get("model_type")).removeprefix("a2d-") in DECODERS
            and str(config.get("model_type")).startswith("a2d-")
        ),
        _a2d,
    ),
    Family(
        "diffugpt",
        "DiffuGPT (model_type: gpt2, and tensors denoise_model.*)",
        lambda config: config.get("model_type") == "gpt2",
        _diffugpt,
        DIFFUGPT_NAMES,
        shifted=True,
        tensors=("denoise_model.wpe.weight", "embed_tokens.weight"),
    ),
    Family(
        "smdm",
        "SMDM (tensors transformer.h.0.attn.attn.weight and mlp.swiglu, without a config.json)",
        lambda config: not config,
        _smdm,
        _smdm_weights,
        mask=lambda config, weights: len(weights["transformer.wte.weight"]) - 1,
        tensors=("transformer.wte.weight", "transformer.h.0.attn.attn.weight", "transformer.h.0.mlp.swiglu.w1.weight"),
    ),
    Family(
        "bidirectional decoder",
        f"decoders with is_causal: false (model_type: {', '.join(DECODERS)})",
        lambda config: config.get("model_type") in DECODERS and config.get("is_causal", True) is False,
        lambda config, weights: config,
    ),
)
LEFT_TO_RIGHT = Family(
    "made bidirectional",
    "left-to-right models that are made bidirectional",
    lambda config: config.get("model_type") in DECODERS,
    _bidirectional(),
    shifted=True,
)
"""What a left-to-right model becomes; only where that is asked for."""

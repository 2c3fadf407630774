"""Read public checkpoints of masked diffusion models: MDLM, SEDD and RADD. JSON and tensors alone, no code.

They are one transformer in the layouts that `unmask.checkpoints.layouts` lists. MDLM's was trained with its noise set
to zero, so that its modulation is constant: it is folded into the weights, which gives RADD's, exactly. With
`time_conditioning` it is told the noise, as SEDD's is.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from unmask.checkpoints.layouts import Family, Layout, find_layout, is_public, is_timed, least_alpha
from unmask.checkpoints.reading import CONFIG, WEIGHT_FILES, read_config, read_weights
from unmask.codecs.tokenizer import PAIRS, TOKENIZER, Tokenizer
from unmask.networks.ddit import FREQUENCIES, DDiT

__all__ = ["WEIGHT_FILES", "Sizes", "fold", "is_public", "load", "names"]
IGNORED = ("rotary_emb.inv_freq", "sampling_eps_min", "sampling_eps_max", "block_diff_mask")
"""Buffers that are not weights."""


class Sizes(NamedTuple):
    """Of a checkpoint.

    Attributes:
        rows: of the embedding: the vocabulary and the mask.
        width: of the residual stream.
        depth: number of blocks.
        hidden: width inside the perceptrons.
        condition: width of the embedding of the noise, 0 without one.
    """

    rows: int
    width: int
    depth: int
    hidden: int
    condition: int


def names(layout: Family, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all weights of a layout, without the prefix `backbone.` that MDLM has."""
    rows, width, depth, hidden, condition = sizes
    found: dict[str, tuple[int, ...]] = {"vocab_embed.embedding": (rows, width)}

    def add(name: str, out: int, inside: int, bias: bool) -> None:
        found[f"{name}.weight"] = (out, inside)
        if bias:
            found[f"{name}.bias"] = (out,)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = (width,)
        if layout == "radd":
            found[f"{name}.bias"] = (width,)

    timed = layout != "radd"
    if timed:
        add("sigma_map.mlp.0", condition, 2 * FREQUENCIES, True)
        add("sigma_map.mlp.2", condition, condition, True)
    for i in range(depth):
        norm(f"blocks.{i}.norm1")
        add(f"blocks.{i}.attn_qkv", 3 * width, width, False)
        add(f"blocks.{i}.attn_out", width, width, False)
        norm(f"blocks.{i}.norm2")
        add(f"blocks.{i}.mlp.0", hidden, width, True)
        add(f"blocks.{i}.mlp.2", width, hidden, True)
        if timed:
            add(f"blocks.{i}.adaLN_modulation", 6 * width, condition, True)
    norm("output_layer.norm_final")
    add("output_layer.linear", rows, width, True)
    if timed:
        add("output_layer.adaLN_modulation", 2 * width, condition, True)
    return found


def load(folder: Path, tokenizer: str | None = None) -> tuple[DDiT, Tokenizer, dict[str, Any]]:
    """Read a checkpoint: its network, its codec, and what there is to say about it.

    Args:
        folder: with config.json, and model.safetensors or pytorch_model.bin.
        tokenizer: what `Tokenizer` reads; the folder's own if None and it has one, else GPT-2's from the Hub.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or of no known layout, or a tensor is missing, unknown or of a wrong shape; names
            it.
    """
    where, config = folder / CONFIG, read_config(folder)
    layout = find_layout(config, lambda: _stripped(read_weights(folder)[1]), where)
    path, weights = read_weights(folder)
    weights = {name: value.float() for name, value in _stripped(weights).items()}
    sizes = _sizes(weights, layout.family, path)
    _check(weights, names(layout.family, sizes), sizes, path, layout.family)
    settings = layout.sizes(config)
    _agree(config, settings, layout, sizes, where)
    heads, length = settings.get("n_heads"), settings.get(layout.length, 1024)
    if not isinstance(heads, int) or heads < 1 or not isinstance(length, int) or length < 1:
        raise ValueError(f"{where}: expected whole numbers for n_heads and the length, got {heads} and {length}")
    timed = is_timed(config, layout)
    try:
        network = DDiT(
            sizes.rows - 1,
            (length,),
            width=sizes.width,
            depth=sizes.depth,
            heads=heads,
            hidden=sizes.hidden,
            condition=sizes.condition if timed else None,
            eps=least_alpha(config, where) if timed else 1e-3,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    frequencies = weights.get(IGNORED[0])
    if frequencies is not None and frequencies.shape != (sizes.width // heads // 2,):
        raise ValueError(f"{path}: {IGNORED[0]} has {frequencies.numel()} frequencies, which {heads} heads do not")
    folded = layout.family == "mdlm" and not timed
    network.load_state_dict(_renamed(fold(weights, sizes.depth) if folded else weights))
    own = any((folder / name).is_file() for name in (TOKENIZER, *(vocab for vocab, _ in PAIRS)))
    codec = Tokenizer(tokenizer or (str(folder) if own else "gpt2"))
    try:
        _ = codec.tokenizer
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; unmask import SOURCE OUT --tokenizer FOLDER converts with another") from None
    about = {"layout": layout.family, "folded": folded, "published_config": config}
    return network.eval(), codec, about


def _agree(config: dict[str, Any], settings: dict[str, Any], layout: Layout, sizes: Sizes, where: Path) -> None:
    """Raise a ValueError where config.json says other than the tensors."""
    claims = {layout.width: sizes.width, "n_blocks": sizes.depth, "vocab_size": sizes.rows}
    for name, found in claims.items():
        for part in (settings, config):
            if part.get(name, found) != found:
                raise ValueError(f"{where}: {name} is {part[name]}, but the tensors have {found}")
    if config.get("tokens", sizes.rows - 1) != sizes.rows - 1:
        raise ValueError(f"{where}: tokens is {config['tokens']}, but the tensors have {sizes.rows - 1} and the mask")


def _stripped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the prefix that a wrapper of the network puts before their names."""
    return {name.removeprefix("backbone."): value for name, value in weights.items()}


def _sizes(weights: dict[str, Tensor], layout: Family, path: Path) -> Sizes:
    def shape(name: str) -> torch.Size:
        if name not in weights:
            raise ValueError(f"{path}: the tensor {name} is missing")
        return weights[name].shape

    for name, dims in (("vocab_embed.embedding", 2), ("sigma_map.mlp.0.weight", 2), ("blocks.0.mlp.0.weight", 2)):
        if name in weights and weights[name].dim() != dims:
            raise ValueError(f"{path}: the tensor {name} has shape {tuple(weights[name].shape)}, expected {dims} axes")
    rows, width = shape("vocab_embed.embedding")
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    condition = 0 if layout == "radd" else shape("sigma_map.mlp.0.weight")[0]
    return Sizes(rows, width, depth, shape("blocks.0.mlp.0.weight")[0], condition)


def _check(
    weights: dict[str, Tensor], expected: dict[str, tuple[int, ...]], sizes: Sizes, path: Path, layout: Family
) -> None:
    """Raise a ValueError for a tensor that is missing, unknown, or of a wrong shape."""
    for name, shape in expected.items():
        if name not in weights:
            raise ValueError(f"{path}: the tensor {name} is missing")
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"{path}: the tensor {name} has shape {tuple(weights[name].shape)}, expected {shape}")
    for name, value in weights.items():
        if name in IGNORED:
            if (
                name == IGNORED[0]
                and value.dim() == 1
                and not torch.allclose(value, _inverse_frequencies(value.shape[0]), rtol=1e-4)
            ):
                raise ValueError(f"{path}: {name} has other rotary frequencies than 10000^(-2k / head)")
        elif name not in expected:
            raise ValueError(f"{path}: the tensor {name} is unknown; a {layout} of {sizes.depth} blocks has none")
        elif not value.isfinite().all():
            raise ValueError(f"{path}: the tensor {name} holds a value that is not finite")


def _inverse_frequencies(count: int) -> Tensor:
    return 10_000.0 ** (-torch.arange(count) / count)


def fold(weights: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Fold the modulation of a network whose noise is always zero into its other weights.

    A norm's gain w becomes w (1 + scale) and its bias shift; what is gated has its last map multiplied by the gate.
    """
    found = dict(weights)
    sinusoids = torch.cat((torch.ones(FREQUENCIES), torch.zeros(FREQUENCIES))).double()

    def multiply(name: str, by: Tensor) -> None:
        found[name] = (weights[name].double() * by).to(weights[name].dtype)

    def linear(name: str, x: Tensor) -> Tensor:
        return found.pop(f"{name}.weight").double() @ x + found.pop(f"{name}.bias").double()

    def into_norm(name: str, shift: Tensor, scale: Tensor) -> None:
        multiply(f"{name}.weight", 1 + scale)
        found[f"{name}.bias"] = shift.to(found[f"{name}.weight"].dtype)

    condition = silu(linear("sigma_map.mlp.2", silu(linear("sigma_map.mlp.0", sinusoids))))
    for i in range(depth):
        block = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(f"{block}.adaLN_modulation", condition).chunk(6)
        into_norm(f"{block}.norm1", shift1, scale1)
        into_norm(f"{block}.norm2", shift2, scale2)
        multiply(f"{block}.attn_out.weight", gate1.unsqueeze(1))
        multiply(f"{block}.mlp.2.weight", gate2.unsqueeze(1))
        multiply(f"{block}.mlp.2.bias", gate2)
    into_norm("output_layer.norm_final", *linear("output_layer.adaLN_modulation", condition).chunk(2))
    return found


RENAMED: tuple[tuple[str, str], ...] = (
    ("vocab_embed.embedding", "embed.weight"),
    ("sigma_map.", "noise."),
    ("attn_qkv", "attention.qkv"),
    ("attn_out", "attention.out"),
    ("output_layer.norm_final", "norm"),
    ("output_layer.linear", "head"),
    ("output_layer.adaLN_modulation", "modulation.map"),
    ("adaLN_modulation", "modulation.map"),
)


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names of `DDiT`, without the mask's row of the head: it is never predicted."""
    found = {}
    for name, value in weights.items():
        if name in IGNORED:
            continue
        ours = name
        for old, new in RENAMED:
            ours = ours.replace(old, new)
        found[ours] = (value[:-1] if ours.startswith("head.") else value).contiguous()
    return found

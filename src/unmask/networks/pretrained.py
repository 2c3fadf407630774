"""Models of the package `transformers` as networks: masked language models, and decoders made bidirectional."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.networks.base import Positions
from unmask.networks.head import HeadedNetwork
from unmask.networks.transformers_models import (
    build_model,
    check_config,
    find_bias,
    find_output_embedding,
    input_embedding,
    plain_settings,
    quiet,
)
from unmask.types import Labels, Times, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHIFTED = "shifted_logits"
"""Of a config.json that was exported: whether position i is predicted at position i − 1."""


class Pretrained(HeadedNetwork):
    """A masked language model of `transformers`, or a decoder of it that sees both sides, as a network.

    A masked diffusion model without time is a masked language model (FHS, section 3), so that all of these have a
    bound, exact samplers, and whatever else there is for networks. The output embedding is computed at the positions
    that are asked for alone. Sequences may have any length up to `shape`. Only classes of `transformers` itself are
    built, never code that a model brings along.

    Args:
        vocab_size: V, number of token values: those of the tokenizer. The model may have more rows than that.
        shape: (length,), the longest sequence.
        classes: not supported; None.
        body: the model's config.json, or the model itself. Decoders need `is_causal: false`, set before they are built.
        mask: the model's own token for a mask; not predicted.
        special: further tokens that are never predicted, such as those around each example.
        padding: a token that is hidden from the others: what short examples are filled up with.
        shifted: whether position i is predicted at position i − 1, as left-to-right models do it; the first at itself.
        gradient_checkpointing: whether to save memory in training, for time.

    Raises:
        ValueError: a kind of model that is not known to work, a decoder that sees the left side alone, or a token that
            the model does not have.
        ImportError: the package `transformers` is not installed.

    Examples:
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        >>> body = {"model_type": "bert", "vocab_size": 11, **sizes}
        >>> network = unmask.Pretrained(11, (16,), body=body, mask=10)
        >>> network(unmask.all_masked(2, network.shape, network.mask_id)).shape
        torch.Size([2, 16, 11])
    """

    any_length = True

    def __init__(
        self,
        vocab_size: int,
        shape: tuple[int, ...],
        classes: int | None = None,
        *,
        body: dict[str, Any] | PreTrainedModel,
        mask: int,
        special: tuple[int, ...] = (),
        padding: int | None = None,
        shifted: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if classes is not None:
            raise ValueError(f"Pretrained takes no class labels, got classes={classes}")
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"shape must be (length,), got {shape}")
        model = build_model(body) if isinstance(body, dict) else body
        check_config(model.config)
        rows = len(input_embedding(model).weight)
        named = {"mask": (mask,), "special": special, "padding": () if padding is None else (padding,)}
        for name, tokens in named.items():
            if not all(0 <= token < rows for token in tokens):
                raise ValueError(f"{name}: the model has the tokens 0..{rows - 1}, got {tokens}")
        self.vocab_size, self.shape, self.classes = vocab_size, tuple(shape), None
        self.body, self.mask, self.special, self.padding = plain_settings(model.config), mask, tuple(special), padding
        self.shifted, self.gradient_checkpointing = shifted, gradient_checkpointing
        self.excluded = tuple(sorted({token for token in (mask, *special) if token < vocab_size}))
        if gradient_checkpointing:
            model.activation_checkpointing_enable()
        model.config.use_cache = False  # decoders keep keys and values for the next token, of which there is none
        self.model = model
        self._place, linear = find_output_embedding(model)
        if not 1 <= vocab_size <= len(linear.weight):
            raise ValueError(
                f"the model predicts {len(linear.weight)} tokens, the tokenizer has {vocab_size}: it is another's"
            )
        self.head: OutputEmbedding = OutputEmbedding(linear, vocab_size, self.excluded)
        self.tied = linear.weight is input_embedding(model).weight
        self._bias_place = find_bias(self._parent, linear)
        self._take_out()
        self.register_state_dict_post_hook(_leave_tied_head_out)
        self.register_load_state_dict_pre_hook(_add_tied_head)
        self.register_load_state_dict_post_hook(_tie_head)

    @property
    def _parent(self) -> nn.Module:
        """The module that the output embedding is in."""
        return self.model.get_submodule(self._place.rpartition(".")[0])

    @property
    def input_name(self) -> str:
        """The name of the input embedding's weight."""
        weight = input_embedding(self.model).weight
        return next(name for name, parameter in self.model.named_parameters(prefix="model") if parameter is weight)

    def compile_body(self) -> None:
        """Compile the model, which sees every position: its shapes do not change between steps."""
        self.model.compile()

    def features(
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, at: Positions | None = None
    ) -> Tensor:
        """See `HeadedNetwork.features`."""
        if label is not None:
            raise ValueError("a label was given, but Pretrained takes none")
        if x_t.shape[1] > self.shape[0]:
            raise ValueError(f"the model takes sequences of at most {self.shape[0]} tokens, got {x_t.shape[1]}")
        ids = x_t.masked_fill(x_t == self.mask_id, self.mask)
        seen = None if self.padding is None else (ids != self.padding).long()
        h = self.model(input_ids=ids, attention_mask=seen, return_dict=True).logits
        if self.shifted:
            h = torch.cat((h[:, :1], h[:, :-1]), 1)
        return h if at is None else at.pick(h)

    @contextmanager
    def whole(self) -> Iterator[PreTrainedModel]:
        """Yield the model of `transformers` with its output embedding in its place."""
        parent, linear = self._parent, self.head.linear
        setattr(parent, self._place.rpartition(".")[2], linear)
        if self._bias_place != "linear":
            delattr(parent, "bias")
            parent.register_parameter("bias", linear.bias)
        if self._bias_place == "parent":
            linear.register_parameter("bias", None)
        try:
            yield self.model
        finally:
            self._take_out()

    def _take_out(self) -> None:
        """Take the output embedding, with its bias, out of the model, which then returns what goes into it."""
        parent = self._parent
        setattr(parent, self._place.rpartition(".")[2], nn.Identity())
        if self._bias_place == "parent":
            self.head.linear.register_parameter("bias", parent._parameters["bias"])
        if self._bias_place != "linear":
            delattr(parent, "bias")
            parent.__dict__["bias"] = 0.0  # some add it

    def export(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors as `transformers` has them, for other engines.

        Also in config.json are `is_causal: false` of a decoder, `mask_token_id`, and `shifted_logits`.
        """
        with self.whole() as model, quiet():
            model.save_pretrained(folder)
        path = Path(folder, "config.json")
        known = json.loads(path.read_text(encoding="utf-8")) | {"mask_token_id": self.mask, SHIFTED: self.shifted}
        path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


class OutputEmbedding(nn.Module):
    """The linear map from features to logits: of the tokenizer's tokens alone, −inf for those never predicted.

    Args:
        linear: of the model; it may have more rows than there are tokens.
        vocab_size: V.
        excluded: tokens that are never predicted.
    """

    def __init__(self, linear: nn.Linear, vocab_size: int, excluded: tuple[int, ...]) -> None:
        super().__init__()
        self.linear, self.vocab_size = linear, vocab_size
        bound = torch.zeros(vocab_size).index_fill(0, torch.tensor(excluded, dtype=torch.long), -math.inf)
        self.register_buffer("excluded", bound, persistent=False)
        self.excluded: Tensor

    @property
    def weight(self) -> Float[Tensor, "vocab width"]:
        """The rows of the tokens."""
        return self.linear.weight[: self.vocab_size]

    @property
    def bias(self) -> Float[Tensor, " vocab"]:
        """What is added to the logits: −inf for tokens that are never predicted."""
        excluded = self.excluded.to(self.linear.weight.dtype)
        return excluded if self.linear.bias is None else self.linear.bias[: self.vocab_size] + excluded

    def forward(self, h: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocab"]:
        return F.linear(h, self.weight, self.bias)


def _leave_tied_head_out(network: Pretrained, state: dict[str, Any], prefix: str, _: Any) -> None:
    if network.tied:
        del state[f"{prefix}head.linear.weight"]


def _add_tied_head(network: Pretrained, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if network.tied and prefix + network.input_name in state:
        state[f"{prefix}head.linear.weight"] = state[prefix + network.input_name]


def _tie_head(network: Pretrained, _: Any) -> None:
    if network.tied:
        network.head.linear.weight = input_embedding(network.model).weight

"""Byte-pair encoding: text as the pieces that a tokenizer has learned."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Int
from torch import Tensor

from unmask.codecs.text import Text
from unmask.storage.files import replacing
from unmask.types import Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What tokenizers call the end of a text."""


@dataclass(frozen=True, eq=False)
class BPE(Text):
    """Text as the tokens of a byte-pair encoding, GPT-2's for one. Two are equal that cut every text alike.

    All that stands in a text is text: `<|endoftext|>` written there is not the token that ends a text. The tokenizer is
    read on first use, and saved with a model.

    Args:
        source: a tokenizer.json; a folder that holds one, or vocab.json and merges.txt, or encoder.json and vocab.bpe;
            or a name on the Hugging Face Hub, such as gpt2.
        sha256: what its `checksum` must be; None: anything.
    """

    source: str = "gpt2"
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source:
            raise ValueError(f"source must name a tokenizer, got {self.source!r}")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read on first use.

        Raises:
            FileNotFoundError: no such file, nor such a name within reach on the Hub.
            ValueError: a file is no tokenizer, or not the one that was expected.
            ImportError: the package `tokenizers` is not installed.
        """
        tokenizer = load_tokenizer(self.source)
        found = fingerprint(tokenizer)
        if self.sha256 is not None and found != self.sha256:
            raise ValueError(
                f"{self.source}: not the tokenizer that belongs here: its content has {found[:12]}…, expected "
                f"{self.sha256[:12]}…"
            )
        return tokenizer

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of all that decides how texts are cut, in hexadecimal; the same whatever files it came from."""
        return self.sha256 or fingerprint(self.tokenizer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BPE) and self.checksum == other.checksum

    def __hash__(self) -> int:
        return hash(self.checksum)

    @cached_property
    def vocab_size(self) -> int:
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def end(self) -> int:
        """The token that ends a text.

        Raises:
            ValueError: there is none of a known name.
        """
        known = {token.content: i for i, token in self.tokenizer.get_added_tokens_decoder().items()}
        found = [known[name] for name in ENDS if name in known]
        if not found:
            raise ValueError(f"{self.source}: has no token that ends a text, such as {', '.join(ENDS)}")
        return found[0]

    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return the tokens of a text; none is added at its ends."""
        return torch.tensor(self.tokenizer.encode(data, add_special_tokens=False).ids, dtype=torch.long)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of many texts, which are cut on all cores."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example; bytes that are no UTF-8 become U+FFFD, a mask becomes `unknown`."""
        return [self._decode(row, unknown) for row in x.tolist()]

    def _decode(self, row: list[int], unknown: str) -> str:
        parts: list[str] = []
        known: list[int] = []
        for token in row:
            if token == self.vocab_size:
                parts += [self.tokenizer.decode(known, skip_special_tokens=False), unknown]
                known = []
            else:
                known.append(token)
        return "".join((*parts, self.tokenizer.decode(known, skip_special_tokens=False)))

    def saved(self, folder: Path) -> BPE:
        """Write tokenizer.json into a model's folder; return the codec as it is there."""
        with replacing(folder / TOKENIZER) as path:
            path.write_text(self.tokenizer.to_str(), encoding="utf-8")
        return BPE(TOKENIZER, self.checksum)

    def opened(self, folder: Path) -> BPE:
        """Return the codec of a model's folder. Nothing but its tokenizer.json is ever read."""
        if self.source != TOKENIZER or self.sha256 is None:
            raise ValueError(f"{folder}: the codec must be {TOKENIZER} of the same folder with its sha256, got {self}")
        there = replace(self, source=str(folder / TOKENIZER))
        _ = there.tokenizer  # an error belongs here
        return there


def load_tokenizer(source: str) -> Tokenizer:
    """Load a tokenizer from files or the Hub; see `BPE`. JSON and text are read, no code."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError("byte-pair encoding needs the package tokenizers: pip install 'unmask[text]'") from None
    path = Path(source)
    if path.is_dir():
        pairs = [(path / vocab, path / merges) for vocab, merges in PAIRS]
        if (path / TOKENIZER).is_file():
            path = path / TOKENIZER
        elif pair := next((pair for pair in pairs if all(part.is_file() for part in pair)), None):
            return _ready(_from_pair(*pair))
        else:
            names = " or ".join(" and ".join(pair) for pair in PAIRS)
            raise FileNotFoundError(f"{path}: holds no {TOKENIZER}, nor {names}")
    elif not path.is_file():
        if path.suffix == ".json" or path.is_absolute() or source.startswith("."):
            raise FileNotFoundError(f"{path}: no such file")
        path = _download(source)
    try:
        return _ready(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"{path}: not a tokenizer, or damaged: {error}") from None


def _ready(tokenizer: Tokenizer) -> Tokenizer:
    """Keep a tokenizer from cutting off, filling up, or reading special tokens in a text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None  # merges at random are for training
    return tokenizer


def _from_pair(vocab: Path, merges: Path) -> Tokenizer:
    """Build GPT-2's kind of tokenizer, on bytes, from its two files."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    try:
        model = models.BPE.from_file(str(vocab), str(merges))
    except Exception as error:
        raise ValueError(f"{vocab}, {merges}: not a byte-pair encoding, or damaged: {error}") from None
    tokenizer = Tokenizer(model)
    missing = set(pre_tokenizers.ByteLevel.alphabet()) - tokenizer.get_vocab().keys()
    if missing:
        raise ValueError(f"{vocab}: lacks {len(missing)} of the 256 bytes, such as {min(missing)!r}: not on bytes")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [name for name in ENDS if name in tokenizer.get_vocab()]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ends])
    return tokenizer


def _download(source: str) -> Path:
    """Return the tokenizer.json of a repository on the Hub."""
    try:
        return Path(hf_hub_download(source, TOKENIZER))
    except HFValidationError:
        raise FileNotFoundError(f"{source}: no such file or folder") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{source}: no such folder, and its {TOKENIZER} is not to be had from the Hub ({reason}); without a "
            "network give the folder of a copy"
        ) from None


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 of what decides how texts are cut and put together, not of what only says where a piece is."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    model = content["model"]
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model.get("merges") or []]
    parts = {
        "vocab": sorted(tokenizer.get_vocab(with_added_tokens=True).items()),
        "scores": model["vocab"] if isinstance(model.get("vocab"), list) else None,  # of a unigram model
        "merges": merges,
        "model": {name: value for name, value in model.items() if value and name not in ("vocab", "merges", "dropout")},
        "added": [[token["id"], token["special"] or token] for token in content.get("added_tokens") or []],
        "normalizer": _plain(content.get("normalizer")),
        "pre_tokenizer": _plain(content.get("pre_tokenizer")),
        "decoder": (content.get("decoder") or {}).get("type"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _plain(step: Any) -> Any:
    """Return a step of a tokenizer without the settings that change no token."""
    if isinstance(step, dict) and step.get("type") == "ByteLevel":
        known = {name: step.get(name, default) for name, default in (("add_prefix_space", True), ("use_regex", True))}
        return {"type": "ByteLevel"} | known
    if isinstance(step, dict):
        return {name: _plain(value) for name, value in step.items() if name != "trim_offsets"}
    return [_plain(part) for part in step] if isinstance(step, list) else step

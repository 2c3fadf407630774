"""Reading the files of tokenizers: JSON and text alone, no code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from unmask.storage.limits import check_size

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.decoders import Decoder

TOKENIZER = "tokenizer.json"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
MOST = 256 << 20
"""Bytes of a tokenizer's file."""
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What tokenizers call the end of a text."""


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
    check_size(path.stat().st_size, path, MOST)
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
    if tokenizer.decoder is None and (decoder := _find_decoder(json.loads(tokenizer.to_str()))) is not None:
        tokenizer.decoder = decoder
    return tokenizer


def _find_decoder(content: dict[str, Any]) -> Decoder | None:
    """Return what undoes how a tokenizer without a decoder cuts texts; None where nothing is known to."""
    from tokenizers import decoders

    model, step = content["model"], content.get("pre_tokenizer") or {}
    steps = {part["type"]: part for part in step.get("pretokenizers", [step]) if part}
    if "ByteLevel" in steps:
        return decoders.ByteLevel()
    if "Metaspace" in steps:
        names = ("replacement", "prepend_scheme", "split")
        return decoders.Metaspace(**{name: steps["Metaspace"][name] for name in names if name in steps["Metaspace"]})
    if model["type"] == "WordPiece":
        return decoders.WordPiece(prefix=model["continuing_subword_prefix"], cleanup=False)
    if model.get("end_of_word_suffix"):
        return decoders.BPEDecoder(suffix=model["end_of_word_suffix"])
    normalizer = content.get("normalizer") or {}
    if any(part.get("content") == "▁" for part in normalizer.get("normalizers", [normalizer]) if part):
        undone = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        return decoders.Sequence(undone)
    return None


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

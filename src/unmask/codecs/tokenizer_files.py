"""Reading the files of tokenizers: JSON and text alone, no code."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from unmask.codecs.tokenizer_settings import ADDED, CONFIG, ROLES_FILE, TokenizerSettings
from unmask.codecs.vocabularies import from_pair, from_vocab, library_errors, mark_special
from unmask.storage.limits import check_size

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.decoders import Decoder

TOKENIZER = "tokenizer.json"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
VOCAB, TEMPLATE = "vocab.txt", "chat_template.jinja"
FILES = (TOKENIZER, "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", VOCAB, CONFIG, ROLES_FILE, ADDED, TEMPLATE)
"""Files that tokenizers are read from."""
OTHERS = {
    "*.model": "a SentencePiece model",
    "*.tiktoken": "a vocabulary for tiktoken",
    "tokenization_*.py": "code for a tokenizer of its own",
}
"""Files of tokenizers that are not read."""
PROBES = ("a", "A", "0")
"""Texts of one token in most tokenizers."""
MOST = 256 << 20
"""Bytes of a tokenizer's file."""
CHAT_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eot|>", "<|end|>", "<end_of_turn>")
"""What tokenizers call the end of a turn in a conversation."""
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]", *CHAT_ENDS)
"""What tokenizers call the end of a text."""


def load_tokenizer(source: str) -> Tokenizer:
    """Load a tokenizer from files or the Hub; see `Tokenizer`. JSON and text are read, no code."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError("tokenizers need the package tokenizers: pip install 'unmask[text]'") from None
    path = find_source(source)
    if path.is_dir() and not (path / TOKENIZER).is_file():
        return _ready(_build(path))
    folder = path if path.is_dir() else None
    path = folder / TOKENIZER if folder else path
    check_size(path.stat().st_size, path, MOST)
    with library_errors(f"{path}: not a tokenizer, or damaged"):
        tokenizer = Tokenizer.from_file(str(path))
    if folder:
        _complete(tokenizer, TokenizerSettings.read(folder))
    return _ready(tokenizer)


def find_source(source: str) -> Path:
    """Return the file or the folder that a tokenizer is read from.

    Raises:
        FileNotFoundError: no such file or folder, nor such a name within reach on the Hub.
    """
    path = Path(source)
    if path.is_dir() or path.is_file():
        return path
    if path.suffix == ".json" or path.is_absolute() or source.startswith("."):
        raise FileNotFoundError(f"{path}: no such file")
    return _download(source)


def _build(folder: Path) -> Tokenizer:
    """Build the tokenizer of a folder without a tokenizer.json."""
    settings = TokenizerSettings.read(folder)
    pair = next((pair for pair in PAIRS if all((folder / part).is_file() for part in pair)), None)
    if pair is not None:
        tokenizer = from_pair(folder / pair[0], folder / pair[1], settings)
        mark_special(tokenizer, ENDS)
    elif (folder / VOCAB).is_file():
        tokenizer = from_vocab(folder / VOCAB, settings)
    else:
        names = " or ".join(" and ".join(pair) for pair in PAIRS)
        raise FileNotFoundError(f"{folder}: holds no {TOKENIZER}, nor {names}, nor {VOCAB}{_other(folder)}")
    _complete(tokenizer, settings)
    return tokenizer


def _other(folder: Path) -> str:
    """Say what to do about a tokenizer in files that are not read."""
    for pattern, what in OTHERS.items():
        for path in sorted(folder.glob(pattern)):
            return (
                f"; {path.name} is {what}, which is not read: save it as {TOKENIZER} where transformers reads it "
                "(AutoTokenizer.from_pretrained(...).save_pretrained(...)), or name another tokenizer (--tokenizer, or "
                "tokenizer= in Python)"
            )
    return ""


def _complete(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """Add the tokens that only the files beside a tokenizer know of.

    Raises:
        ValueError: one cannot have the number that they say.
    """
    from tokenizers import AddedToken

    known = {word.content for word in tokenizer.get_added_tokens_decoder().values()}
    for word in settings.added:
        if word.content not in known:
            tokenizer.add_tokens([AddedToken(word.content, **word.how)])
        if (found := tokenizer.token_to_id(word.content)) != word.id:
            raise ValueError(
                f"{settings.folder}: its files do not belong together: the token {word.content!r} should be number "
                f"{word.id}, but would have {found}"
            )


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


def _download(source: str) -> Path:
    """Return a folder with the tokenizer's files of a repository on the Hub."""
    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except HFValidationError:
        raise FileNotFoundError(f"{source}: no such file or folder") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{source}: no such folder, and its tokenizer is not to be had from the Hub ({reason}); without a "
            "network give the folder of a copy"
        ) from None


def read_roles(tokenizer: Tokenizer, source: str) -> dict[str, Any]:
    """Return the tokens with a role, as arguments of `unmask.codecs.tokenizer.Tokenizer`.

    Args:
        tokenizer: loaded from `source`.
        source: see `load_tokenizer`.
    """
    path = find_source(source)
    settings = TokenizerSettings.read(path if path.is_dir() else path.parent)
    known = tokenizer.get_vocab(with_added_tokens=True)
    before, after = _find_wrapping(tokenizer, source)
    return {
        "end_token": settings.named("eos_token", known),
        "before": before,
        "after": after,
        "padding_token": settings.named("pad_token", known),
        "mask_token": settings.named("mask_token", known),
    }


def _find_wrapping(tokenizer: Tokenizer, source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the special tokens that a tokenizer's post-processor puts before a text, and after it."""
    letters = (token for token in tokenizer.get_vocab() if len(token) == 1)
    for text in (*PROBES, *islice(letters, 16)):
        try:
            with library_errors(source):
                inside = tokenizer.encode(text, add_special_tokens=False).ids
        except ValueError:  # it knows neither this letter nor what to put in place of it
            continue
        if not inside:
            continue
        with library_errors(f"{source}: cannot cut a text into tokens"):
            whole = tokenizer.encode(text)
        added = whole.special_tokens_mask
        if 0 not in added:
            continue
        names = []
        for i in whole.ids:
            if (name := tokenizer.id_to_token(i)) is None:
                raise ValueError(f"{source}: its post-processor adds a token {i} that is not in its vocabulary")
            names.append(name)
        return tuple(names[: added.index(0)]), tuple(names[len(added) - added[::-1].index(0) :])
    return (), ()


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

"""Tokenizers that are built from the older files of vocabularies: JSON and text, no code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.codecs.tokenizer_settings import NAMES, TokenizerSettings
from unmask.storage.limits import check_size
from unmask.storage.objects import MOST_JSON

if TYPE_CHECKING:
    import tokenizers

BRACKETED = re.compile(r"\[.+\]|<.+>")
"""What special tokens look like in a list of tokens."""
GPT2 = {"", "GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "PreTrainedTokenizer"}
QWEN2 = {"Qwen2Tokenizer", "DreamTokenizer"}
QWEN2_WORDS = (  # a contraction; letters; a digit; punctuation; ends of lines; spaces
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Raise a ValueError that says `what` in place of whatever the package tokenizers raises, panics among it."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from None


def from_pair(vocab: Path, merges: Path, settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """Build a byte-pair encoding of bytes, GPT-2's or Qwen2's kind, from its two files.

    Raises:
        ValueError: the files are damaged, not on bytes, or for a tokenizer of another class.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    kind = settings.kind
    if kind not in GPT2 | QWEN2:
        raise ValueError(
            f"{settings.folder}: a {kind} is not known how to build from {vocab.name} and {merges.name}; save it "
            "with transformers as tokenizer.json, or name another tokenizer (--tokenizer, or tokenizer= in Python)"
        )
    for path in (vocab, merges):
        check_size(path.stat().st_size, path, MOST_JSON)
    with library_errors(f"{vocab}, {merges}: not a byte-pair encoding, or damaged"):
        model = models.BPE.from_file(str(vocab), str(merges))
    tokenizer = Tokenizer(model)
    missing = set(pre_tokenizers.ByteLevel.alphabet()) - tokenizer.get_vocab().keys()
    if missing:
        raise ValueError(f"{vocab}: lacks {len(missing)} of the 256 bytes, such as {min(missing)!r}: not on bytes")
    spaced = bool(settings.flag("add_prefix_space", False))
    if kind in QWEN2:
        tokenizer.normalizer = normalizers.NFC()
        words = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
        on_bytes = pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, on_bytes])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    known = tokenizer.get_vocab()
    if {"<s>", "</s>", "<mask>"} <= known.keys():  # RoBERTa's kind
        _wrap(tokenizer, "<s>", "</s>")
        mark_special(tokenizer, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


def from_vocab(path: Path, settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """Build a tokenizer from the list of its tokens, one on each line: WordPiece, as BERT's, or single characters.

    Where every ordinary token is one character, as proteins' are, each character is a token, and spaces between them
    are left out.

    Raises:
        ValueError: of another kind, or damaged; names the file.
    """
    check_size(path.stat().st_size, path, MOST_JSON)
    try:
        with path.open(encoding="utf-8") as file:
            vocab = {token: i for i, line in enumerate(file) if (token := line.rstrip("\r\n"))}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid UTF-8: {error}") from None
    bracketed = [token for token in vocab if BRACKETED.fullmatch(token)]
    ordinary = vocab.keys() - set(bracketed)
    unknown = settings.named("unk_token", vocab)
    if unknown is None:
        raise ValueError(f"{path}: has no token for what is unknown, such as [UNK] or <unk>")
    if any(len(token) > 2 and token.startswith("##") for token in ordinary):
        tokenizer = _wordpiece(vocab, unknown, settings, any(token != token.lower() for token in ordinary))
        special = [name for role in {**NAMES, **settings.tokens} if (name := settings.named(role, vocab))]
    elif ordinary and all(len(token) == 1 for token in ordinary):
        tokenizer, special = _characters(vocab, unknown), bracketed
    else:
        raise ValueError(
            f"{path}: neither of WordPiece (no token begins with ##) nor of single characters: it is read by code of "
            "its own; save it as tokenizer.json, or name another tokenizer (--tokenizer, or tokenizer= in Python)"
        )
    mark_special(tokenizer, special)
    first = settings.named("cls_token", vocab)
    last = settings.named("sep_token", vocab) or settings.named("eos_token", vocab)
    if first and last:
        _wrap(tokenizer, first, last)
    return tokenizer


def _wordpiece(vocab: dict[str, int], unknown: str, settings: TokenizerSettings, cased: bool) -> tokenizers.Tokenizer:
    """Build BERT's kind; where no file says whether it lower-cases, it does if its vocabulary has no capitals."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.flag("tokenize_chinese_chars", True)),
        strip_accents=settings.flag("strip_accents", None),
        lowercase=bool(settings.flag("do_lower_case", not cased)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _characters(vocab: dict[str, int], unknown: str) -> tokenizers.Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=unknown))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def mark_special(tokenizer: tokenizers.Tokenizer, special: Iterable[str]) -> None:
    """Mark tokens of the vocabulary as special."""
    from tokenizers import AddedToken

    vocab = tokenizer.get_vocab()
    names = sorted({token for token in special if token in vocab}, key=vocab.__getitem__)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in names])


def _wrap(tokenizer: tokenizers.Tokenizer, before: str, after: str) -> None:
    """Have a tokenizer put one special token before every text, and one after it."""
    from tokenizers.processors import TemplateProcessing

    numbers = [(token, tokenizer.token_to_id(token)) for token in (before, after)]
    tokenizer.post_processor = TemplateProcessing(single=[before, "$A", after], special_tokens=numbers)

"""What the files beside a tokenizer say of it, such as which special token has which role. JSON is read, no code."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.storage.objects import read_object

CONFIG, ROLES_FILE, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
NAMES = {
    "mask_token": ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>", "<|MASK|>"),
    "pad_token": ("[PAD]", "<pad>", "<|pad|>"),
    "unk_token": ("[UNK]", "<unk>", "<|unk|>"),
    "cls_token": ("[CLS]", "<cls>"),
    "sep_token": ("[SEP]", "<sep>", "<eos>"),
}
"""What tokens of each role are called where no file says so."""


@dataclass(frozen=True)
class AddedWord:
    """A token that was added to a vocabulary.

    Attributes:
        id: its number.
        content: its text.
        how: settings of `tokenizers.AddedToken`.
    """

    id: int
    content: str
    how: dict[str, bool]


@dataclass(frozen=True)
class TokenizerSettings:
    """The files of one folder.

    Attributes:
        folder: that they lie in.
        config: tokenizer_config.json; empty if there is none.
        tokens: the token of each role that is named, such as mask_token.
        added: tokens that were added to the vocabulary, by number.
    """

    folder: Path
    config: dict[str, Any]
    tokens: dict[str, str]
    added: tuple[AddedWord, ...]

    @classmethod
    def read(cls, folder: Path) -> TokenizerSettings:
        """Read what is there.

        Raises:
            ValueError: a file is not JSON, or a token is described in another form; names the file.
        """
        config, roles, added_ids = (
            read_object(folder / name) if (folder / name).is_file() else {} for name in (CONFIG, ROLES_FILE, ADDED)
        )
        tokens = {}
        for path, content in ((folder / ROLES_FILE, roles), (folder / CONFIG, config)):
            for role, value in content.items():
                if role.endswith("_token") and value is not None and not isinstance(value, bool):
                    tokens[role] = _content(value, f"{path}: {role}")
        added = [*_decoder(config, folder / CONFIG), *_added(added_ids, set(tokens.values()), folder)]
        found = {word.content: word for word in reversed(added)}
        return cls(folder, config, tokens, tuple(sorted(found.values(), key=lambda word: word.id)))

    def named(self, role: str, vocabulary: Container[str]) -> str | None:
        """Return the token of a role, as it is named or by a well-known name; None if the vocabulary has none."""
        names = (self.tokens[role],) if role in self.tokens else NAMES.get(role, ())
        return next((name for name in names if name in vocabulary), None)

    def flag(self, name: str, default: bool | None) -> bool | None:
        """Return a setting of tokenizer_config.json that is true or false.

        Raises:
            ValueError: it is something else.
        """
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{self.folder / CONFIG}: {name} must be true or false, got {value!r:.60}")
        return default if value is None else value

    @property
    def kind(self) -> str:
        """The class that reads the tokenizer in transformers, whether or not it is the fast one."""
        return str(self.config.get("tokenizer_class") or "").removesuffix("Fast")


def _content(value: Any, what: str) -> str:
    """Return the text of a token, which is written by itself or as {"content": ...}."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise ValueError(f"{what} must be the text of a token, got {value!r:.60}")
    return text


def _decoder(config: dict[str, Any], path: Path) -> list[AddedWord]:
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise ValueError(f"{path}: added_tokens_decoder must be a JSON object, got {decoder!r:.60}")
    return [_word(number, value, value, f"{path}: added_tokens_decoder") for number, value in decoder.items()]


def _added(content: dict[str, Any], special: set[str], folder: Path) -> list[AddedWord]:
    where = str(folder / ADDED)
    return [_word(number, text, {"special": text in special}, where) for text, number in content.items()]


def _word(number: Any, text: Any, how: Any, where: str) -> AddedWord:
    if isinstance(number, bool) or not str(number).isascii() or not str(number).isdecimal() or len(str(number)) > 9:
        raise ValueError(f"{where}: {number!r:.60} is not the number of a token")
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    flags = {name: how[name] for name in names if name in how} if isinstance(how, dict) else {}
    if not all(isinstance(value, bool) for value in flags.values()):
        raise ValueError(f"{where}: token {number} has settings that are neither true nor false: {flags}")
    return AddedWord(int(number), _content(text, f"{where}: token {number}"), {"normalized": False} | flags)

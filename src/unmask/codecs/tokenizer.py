"""Text as the tokens of a tokenizer: byte-pair encodings, WordPiece, Unigram."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.codecs.base import check_batch
from unmask.codecs.chat import Message, read_template, render
from unmask.codecs.joining import Joining
from unmask.codecs.text import Text, check_text
from unmask.codecs.tokenizer_files import ENDS, PAIRS, TOKENIZER, find_source, fingerprint, load_tokenizer, read_roles
from unmask.codecs.vocabularies import library_errors
from unmask.storage.files import replacing
from unmask.storage.folders import TEMPLATE
from unmask.types import Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tokenizers

__all__ = ["BPE", "PAIRS", "TOKENIZER", "Tokenizer"]


PRIVATE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))
"""Characters that no text has a meaning for."""


@dataclass(frozen=True, eq=False)
class Tokenizer(Text):
    """Text as the tokens of a tokenizer of the package `tokenizers`: byte-pair encodings, WordPiece, Unigram, letters.

    All that stands in a text is text: `<|endoftext|>` written there is not the token that ends a text. The tokenizer is
    read on first use, and saved with a model. `from_folder` also finds out which special tokens it has. Two are equal
    that cut every text alike, and put the same tokens around examples.

    Every text comes back as it was from tokenizers on bytes (GPT-2's, RoBERTa's, Llama 3's, Qwen's but for the form of
    accents) and of Llama 2's kind. Those that put a ▁ in place of spaces (T5's, ALBERT's) lose spaces at the beginning,
    and some in a row; WordPiece, as BERT's, loses all spaces in a row, and the uncased kind capitals and accents, too;
    vocabularies of single characters lose all spaces. What a tokenizer does not know at all becomes its unknown token.

    Args:
        source: a tokenizer.json; a folder that holds one, or vocab.json and merges.txt, or encoder.json and vocab.bpe,
            or vocab.txt; or a name on the Hugging Face Hub, such as gpt2.
        sha256: what its `checksum` must be; None: anything.
        end_token: the token that ends a text; found by its name if None.
        before: special tokens that every example begins with, such as ("[CLS]",).
        after: special tokens that every example ends with, such as ("[SEP]",).
        padding_token: the token that fills examples up, such as [PAD]; None: none is for that alone.
        mask_token: the tokenizer's own mask, such as [MASK]. In canvases and samples the mask is the value V
            nevertheless; a network that knows this token puts it there.

    Examples:
        >>> import tokenizers
        >>> words = tokenizers.models.WordLevel({"a": 0, "cat": 1, "[UNK]": 2}, unk_token="[UNK]")
        >>> made = tokenizers.Tokenizer(words)
        >>> made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        >>> made.save("tokenizer.json")
        >>> unmask.Tokenizer("tokenizer.json").encode("a cat")
        tensor([0, 1])
    """

    source: str = "gpt2"
    sha256: str | None = None
    end_token: str | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    padding_token: str | None = None
    mask_token: str | None = None

    @classmethod
    def from_folder(cls, folder: Path | str, source: str | None = None) -> Tokenizer:
        """Return the codec of a folder as `transformers` saves it, with the roles of its special tokens.

        Roles are read from tokenizer_config.json, special_tokens_map.json and added_tokens.json, else known by their
        names. `before` and `after` are what the tokenizer's own post-processor puts around a text.

        Args:
            folder: of the tokenizer; its tokenizer.json, or a name on the Hub, does too.
            source: another tokenizer, in any of these forms, to be read in its place.

        Raises:
            FileNotFoundError: there is no tokenizer, or none that is read; says what to do.
            ValueError: a file is damaged, or does not belong to the others; names it.
        """
        codec = cls(str(folder) if source is None else source)
        found = replace(codec, **read_roles(codec.tokenizer, codec.source))
        found.__dict__["tokenizer"] = codec.tokenizer  # not to be read twice
        return found

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source:
            raise ValueError(f"source must name a tokenizer, got {self.source!r}")
        for name in ("before", "after"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(token, str) for token in value):
                raise ValueError(f"{name} must be texts of tokens, got {value!r:.60}")
        for name in ("end_token", "padding_token", "mask_token"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be the text of a token, got {getattr(self, name)!r:.60}")

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer, read on first use.

        Raises:
            FileNotFoundError: no such file, nor such a name within reach on the Hub.
            ValueError: a file is not a tokenizer, or not the one that was expected.
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
        if not isinstance(other, Tokenizer):
            return False
        return (self.checksum, self.before, self.after) == (other.checksum, other.before, other.after)

    def __hash__(self) -> int:
        return hash((self.checksum, self.before, self.after))

    @cached_property
    def vocab_size(self) -> int:
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def end(self) -> int:
        """The token that ends a text.

        Raises:
            ValueError: there is none of the name that was given, or none of a known name.
        """
        known = {token.content: i for i, token in self.tokenizer.get_added_tokens_decoder().items()}
        special = f"its special tokens are {', '.join(known)[:200]}" if known else "it has no special tokens"
        if self.end_token is not None:
            found = self.tokenizer.token_to_id(self.end_token)
            if found is None:
                raise ValueError(f"{self.source}: has no token {self.end_token!r}; {special}")
            return found
        named = [known[name] for name in ENDS if name in known]
        if not named:
            raise ValueError(
                f"{self.source}: has no token that ends a text, such as {', '.join(ENDS)}; {special}; --end-token NAME "
                "says which one ends a text"
            )
        return named[0]

    def _number(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"{self.source}: has no token {token!r}")
        return found

    @cached_property
    def wrap(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens that every example begins with, and tokens that it ends with."""
        return tuple(map(self._number, self.before)), tuple(map(self._number, self.after))

    @cached_property
    def padding(self) -> int | None:
        """The token that fills examples up."""
        return None if self.padding_token is None else self._number(self.padding_token)

    @cached_property
    def mask(self) -> int | None:
        """The number of the tokenizer's own mask; in canvases V stands for a mask."""
        return None if self.mask_token is None else self._number(self.mask_token)

    @cached_property
    def unknown_token(self) -> str | None:
        """What stands for a piece of text that the tokenizer does not know; None: it knows all."""
        model = json.loads(self.tokenizer.to_str())["model"]
        number = model.get("unk_id")
        return model.get("unk_token") if number is None else self.tokenizer.id_to_token(number)

    @cached_property
    def special(self) -> tuple[int, ...]:
        """Numbers of all special tokens: those that the tokenizer marks, and those with a role."""
        found = {i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        named = (self.end_token, self.padding_token, self.mask_token, *self.before, *self.after)
        found |= {self._number(token) for token in named if token is not None}
        return tuple(sorted(found))

    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return the tokens of a text; none is added at its ends."""
        return torch.tensor(self._encode(check_text(data)).ids, dtype=torch.long)

    def _encode(self, text: str) -> tokenizers.Encoding:
        try:
            with library_errors(f"{self.source}: cannot cut {text!r:.60} into tokens"):
                return self.tokenizer.encode(text, add_special_tokens=False)
        except ValueError:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"not valid Unicode: {text!r:.60}") from None
            raise

    @cached_property
    def chat_template(self) -> str | None:
        """How a conversation becomes a text (see `unmask.codecs.chat`); None for a tokenizer without one."""
        try:
            path = find_source(self.source)
        except FileNotFoundError:
            return None
        return read_template(path if path.is_dir() else path.parent)

    @cached_property
    def _with_special(self) -> tokenizers.Tokenizer:
        """The tokenizer, for texts in which special tokens are written out."""
        return type(self.tokenizer).from_str(self.tokenizer.to_str())

    def encode_chat(self, messages: str | Sequence[Message]) -> Int[Tensor, " length"]:
        """Return the tokens of a conversation, up to where the answer begins.

        A special token that is written in a message is text, as everywhere.

        Args:
            messages: of the conversation, each {"role": "system", "user" or "assistant", "content": text}; or what the
                user says.

        Raises:
            ValueError: the tokenizer has no chat template, or this refuses the messages.
        """
        if self.chat_template is None:
            raise ValueError(f"{self.source}: has no chat template: it is no chat model; give a text instead")
        messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        contents = [check_text(message.get("content")) for message in messages]
        names = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        written = [name for name in names if any(name in content for content in contents)]
        taken = set("".join((self.chat_template, *names, *contents)))
        spare = (chr(i) for i in PRIVATE if chr(i) not in taken)
        hidden = {name: next(spare) for name in sorted(written, key=len, reverse=True)}
        for name, place in hidden.items():
            contents = [content.replace(name, place) for content in contents]
        moved = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
        text = render(self.chat_template, moved, self.source)
        return torch.tensor(self._encode_shown(text, set(names), hidden), dtype=torch.long)

    def _encode_shown(self, text: str, names: set[str], hidden: dict[str, str]) -> list[int]:
        """Return the tokens of a text in which special tokens are tokens, but for those that are hidden.

        Args:
            text: with special tokens written out.
            names: of them.
            hidden: what stands in the text for the names of special tokens that are text.
        """
        encoding = self._with_special.encode(text, add_special_tokens=False)
        if not hidden:
            return encoding.ids
        ids: list[int] = []
        inside: list[int] = []
        start = 0
        for token, (a, b) in [*zip(encoding.ids, encoding.offsets, strict=True), (-1, (len(text), len(text)))]:
            if token >= 0 and text[a:b].strip() not in names:
                inside.append(token)
                continue
            part = text[start:a]
            for name, place in hidden.items():
                part = part.replace(place, name)
            if part != text[start:a]:  # cut as a text that goes on
                inside = self.continued(part) if start else self._encode(part).ids
            ids += [*inside, token]
            start, inside = b, []
        return ids[:-1]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of many texts, which are cut on all cores."""
        try:
            with library_errors(self.source):
                return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        except ValueError:  # one of them is at fault, which says so by itself
            return [self._encode(text).ids for text in texts]

    def encode_pieces(self, pieces: Sequence[str]) -> list[Int[Tensor, " length"]]:
        """Return the tokens of each piece of a text that goes on from piece to piece, with unknown tokens between them.

        Decoding gives back each piece exactly if the tokenizer can, else in the form that it has for it, such as in
        lower case: a tokenizer that begins every text with a space adds none within, and a piece that begins in a word
        continues it.

        Raises:
            ValueError: a piece would lose more than its form, such as a letter that the tokenizer does not know; shows
                what would become of it.
        """
        found = [self._joining.first(pieces[0])] if pieces else []
        found += [self.continued(piece, exact=True) if piece else [] for piece in pieces[1:]]
        return [torch.tensor(tokens, dtype=torch.long) for tokens in found]

    @cached_property
    def _joining(self) -> Joining:
        return Joining(self.tokenizer, self._encode)

    def continued(self, text: str, plain: list[int] | None = None, *, exact: bool = False) -> list[int]:
        """Return the tokens of a text that goes on after another; see `Joining.continued`."""
        return self._joining.continued(text, plain, exact=exact)

    def pieces(self) -> list[str]:
        """Return the characters that each token adds to a text that it goes on; see `Text.pieces`.

        A space that every token adds, as with vocabularies of single characters, is left out.
        """
        anchors = self._joining.anchors
        text, before = anchors[0] if anchors else ("", [])
        known = {*self.tokenizer.get_vocab(with_added_tokens=True).values()}.difference(self.special)
        rows = [[*before, token] if token in known else [] for token in range(self.vocab_size)]
        alone = [[token] if token in known else [] for token in range(self.vocab_size)]
        found, plain = (self.tokenizer.decode_batch(some, skip_special_tokens=False) for some in (rows, alone))
        pairs = zip(found, plain, strict=True)
        pieces = [after[len(text) :] if after.startswith(text) else by_itself for after, by_itself in pairs]
        spaced = all(piece[:1] == " " for piece in pieces if piece)
        return [piece[1:] for piece in pieces] if spaced else pieces

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example; bytes that are not UTF-8 become U+FFFD, a mask becomes `unknown`."""
        return [self._decode(row, unknown) for row in check_batch(x, self.vocab_size).tolist()]

    def _decode(self, row: list[int], unknown: str) -> str:
        parts: list[str] = []
        known: list[int] = []
        for token in [*row, self.vocab_size]:
            if token == self.vocab_size:
                if known:
                    parts.append(self._joining.after(known) if parts else self._joining.joined(known))
                parts.append(unknown)
                known = []
            else:
                known.append(token)
        return "".join(parts[:-1])

    def saved(self, folder: Path) -> Tokenizer:
        """Write tokenizer.json into a model's folder; return the codec as it is there."""
        with replacing(folder / TOKENIZER) as path:
            path.write_text(self.tokenizer.to_str(), encoding="utf-8")
        if self.chat_template is not None:
            with replacing(folder / TEMPLATE) as path:
                path.write_text(self.chat_template, encoding="utf-8")
        return replace(self, source=TOKENIZER, sha256=self.checksum)

    def opened(self, folder: Path) -> Tokenizer:
        """Return the codec of a model's folder. Nothing but its tokenizer.json and its chat template is read."""
        if self.source != TOKENIZER or self.sha256 is None:
            raise ValueError(f"{folder}: the codec must be {TOKENIZER} of the same folder with its sha256, got {self}")
        there = replace(self, source=str(folder / TOKENIZER))
        _ = there.special, there.wrap, there.padding, there.mask  # an error belongs here
        return there


BPE = Tokenizer
"""The name that `Tokenizer` had."""

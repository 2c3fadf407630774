"""The index of a prepared corpus: which shards it has, and what they were made of."""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unmask.storage.files import checksum, replacing
from unmask.storage.folders import INDEX
from unmask.storage.limits import check_size
from unmask.storage.objects import MOST_JSON
from unmask.storage.replacing import settle

FORMAT = 1
SKIPPED = "skipped.txt"
"""What was left out of a corpus, one line each."""
ROLES = ("before", "after", "padding_token", "mask_token")
"""Special tokens of a tokenizer that an index names."""
SUFFIXES = (".bin", ".ends.npy")


@dataclass(frozen=True)
class Shard:
    """A part of a corpus: whole documents, each followed by the token that ends a text.

    Attributes:
        name: of its files: NAME.bin holds the tokens, NAME.ends.npy how many there are up to each document's end.
        documents: how many.
        tokens: how many, the ends among them.
        pieces: that were read for it, empty documents among them.
        sha256: of the tokens' file and of the ends' file.
    """

    name: str
    documents: int
    tokens: int
    pieces: int
    sha256: tuple[str, str]


@dataclass(frozen=True)
class Index:
    """What a prepared folder says of itself.

    Attributes:
        key: what its tokens depend on: source, tokenizer, size of the shards.
        dtype: of the tokens.
        end: the token that ends a text.
        shards: those that are complete, in order.
        complete: whether all documents are there.
        empty: documents that were left out because they are empty.
        skipped: rows that were left out because they hold no text; SKIPPED lists them.
        tokenizer_sha256: of its file; None in a corpus of before that was recorded.
        roles: its special tokens by role (see `unmask.codecs.tokenizer.Tokenizer`); None in a corpus of before that was
            recorded.
    """

    key: dict[str, Any]
    dtype: str
    end: int
    shards: tuple[Shard, ...]
    complete: bool
    empty: int
    skipped: int = 0
    tokenizer_sha256: str | None = None
    roles: dict[str, Any] | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        """Documents of all shards."""
        return sum(shard.documents for shard in self.shards)

    def summary(self, folder: Path) -> str:
        """Say what a corpus holds."""
        empty = f", {self.empty:,} empty ones left out" if self.empty else ""
        if self.skipped:
            empty += f", {self.skipped:,} rows without a text left out ({folder / SKIPPED} lists them)"
        shards = f"{len(self.shards):,} shard{'s' if len(self.shards) != 1 else ''}"
        return f"{folder}: {self.documents:,} documents{empty}, {self.tokens:,} tokens in {shards}"

    def write(self, folder: Path) -> None:
        """Write the index."""
        with replacing(folder / INDEX) as path:
            content = {"format": FORMAT, "unmask": version("unmask"), **asdict(self)}
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Read the index of a folder.

        Raises:
            FileNotFoundError: the folder or the index is not there.
            ValueError: far too large, damaged, or of another format.
        """
        path = folder / INDEX
        if not path.is_file():
            settle(folder, seconds=60.0)
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: no prepared corpus ({INDEX}) there; unmask prepare makes one")
        check_size(path.stat().st_size, path, MOST_JSON)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError("of another format")
            content.pop("unmask")
            shards = tuple(Shard(**shard | {"sha256": tuple(shard["sha256"])}) for shard in content.pop("shards"))
            if not all(map(_is_described, shards)):
                raise ValueError("a shard is not described as it should be")
            index = cls(**content, shards=shards)
            counts = (index.end, index.empty, index.skipped)
            numbers = all(type(count) is int and count >= 0 for count in counts) and type(index.complete) is bool
            if index.dtype not in ("<u2", "<u4") or not isinstance(index.key["tokenizer"], str) or not numbers:
                raise ValueError("the tokens are not described as they should be")
            if index.roles is not None and not _are_roles(index.roles):
                raise ValueError(f"the special tokens must be {', '.join(ROLES)}")
            return index
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: damaged, or not an index: {error}; prepare it anew with --overwrite") from None


def _is_described(shard: Shard) -> bool:
    """Return whether all that an index says of a shard has the form that it should have."""
    counts = all(type(count) is int and count > 0 for count in (shard.documents, shard.tokens, shard.pieces))
    sums = len(shard.sha256) == len(SUFFIXES) and all(isinstance(digest, str) for digest in shard.sha256)
    return counts and sums and isinstance(shard.name, str) and shard.name.isalnum()


def _are_roles(roles: Any) -> bool:
    """Return whether all that an index says of special tokens has the form that it should have."""
    if not isinstance(roles, dict) or set(roles) != set(ROLES):
        return False
    several = [tokens for name in ROLES[:2] for tokens in (roles[name] if isinstance(roles[name], list) else [0])]
    single = [roles[name] for name in ROLES[2:] if roles[name] is not None]
    return all(isinstance(token, str) for token in (*several, *single))


def check_sizes(folder: Path, index: Index) -> None:
    """Raise a ValueError unless every shard is there, as long as the index says."""
    for shard in index.shards:
        path = folder / f"{shard.name}.bin"
        size, wanted = path.stat().st_size if path.is_file() else 0, shard.tokens * np.dtype(index.dtype).itemsize
        if size != wanted or not (folder / f"{shard.name}.ends.npy").is_file():
            what = f"{size} bytes, expected {wanted}" if path.is_file() else "missing"
            raise ValueError(f"{path}: truncated or damaged shard ({what}); prepare it anew with --overwrite")


def verify(folder: Path) -> Index:
    """Read every shard and compare its checksum; raise a ValueError for the first that is not as it was written."""
    index = Index.read(folder)
    check_sizes(folder, index)
    for shard in tqdm(index.shards, desc="verifying", unit="shard", delay=2):
        for suffix, expected in zip(SUFFIXES, shard.sha256, strict=True):
            path = folder / f"{shard.name}{suffix}"
            if checksum(path) != expected:
                raise ValueError(f"{path}: damaged: its SHA-256 is not what the index says; prepare it anew")
    return index


def corpus_checksum(index: Index) -> str:
    """Return the SHA-256 of all tokens and ends, from those of the shards."""
    content = [shard.sha256 for shard in index.shards]
    return hashlib.sha256(json.dumps([index.dtype, index.end, content]).encode()).hexdigest()

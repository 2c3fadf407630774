"""A text as one long array of tokens, encoded once into a file that is memory-mapped from then on."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmask.codecs.base import Codec
from unmask.codecs.text import Bytes, Characters, UnknownCharacterError
from unmask.data.base import Part, Windows
from unmask.data.reading import characters, check_file
from unmask.storage.description import build, describe
from unmask.storage.files import checksum, replacing
from unmask.storage.folders import cache_folder

READER = 2
"""Of what `characters` makes of a file: part of the cache's key."""


def find_codec(path: Path) -> Characters | Bytes:
    """Choose how to cut a text into tokens: by its own alphabet if that has at most 256 characters, else by bytes."""
    alphabet: set[str] = set()
    for text in characters(path):
        alphabet |= set(text)
        if len(alphabet) > 256:
            return Bytes()
    if not alphabet:
        raise ValueError(f"{path}: the file is empty")
    return Characters("".join(sorted(alphabet)))


@dataclass(frozen=True)
class EncodedText:
    """A text as tokens.

    Attributes:
        codec: that encoded it.
        tokens: a read-only memory map.
        md5: of the text in UTF-8, as `characters` gives it.
    """

    codec: Codec
    tokens: np.memmap
    md5: str


def encoded(path: Path, codec: Codec | None = None) -> EncodedText:
    """Return a text file as tokens, by the codec that `find_codec` chooses if none is given.

    The text is encoded once, into the cache. The key holds the content of the file and the codec, so nothing stale is
    ever used.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, not UTF-8, empty, or has a character outside the codec's alphabet.
    """
    check_file(path)
    key = json.dumps([READER, checksum(path), path.suffix, None if codec is None else describe(codec)])
    index = cache_folder() / "texts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    return _open(index) or _encode(path, codec or find_codec(path), index)


def _open(index: Path) -> EncodedText | None:
    """Return an encoded text from the cache; None where it is not there, or damaged."""
    try:
        entry = json.loads(index.read_text(encoding="utf-8"))
        codec = build(Codec, entry["codec"], str(index))
        tokens: np.memmap = np.memmap(index.with_suffix(".bin"), dtype=_dtype(codec), mode="r")
        return EncodedText(codec, tokens, entry["md5"]) if len(tokens) == entry["tokens"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _dtype(codec: Codec) -> np.dtype:
    return np.dtype(np.uint8 if codec.vocab_size <= 256 else "<u4")


def _encode(path: Path, codec: Codec, index: Path) -> EncodedText:
    """Write the tokens of a text beside `index`, then `index` itself, and open them."""
    md5, position, line, column, count = hashlib.md5(usedforsecurity=False), 0, 0, 0, 0
    with replacing(index.with_suffix(".bin")) as target, open(target, "wb") as file:
        for text in characters(path):
            try:
                tokens = codec.encode(text).numpy().astype(_dtype(codec))
            except UnknownCharacterError as error:
                raise ValueError(f"{path}: {error.after(position, line, column)}") from None
            file.write(tokens.tobytes())
            md5.update(text.encode())
            position, count = position + len(text), count + len(tokens)
            if "\n" in text:
                line, column = line + text.count("\n"), len(text) - text.rfind("\n") - 1
            else:
                column += len(text)
        if not position:
            raise ValueError(f"{path}: the file is empty")
    with replacing(index) as target:
        entry = {"codec": describe(codec), "md5": md5.hexdigest(), "tokens": count, "source": str(path)}
        target.write_text(json.dumps(entry))
    opened = _open(index)
    if opened is None:
        raise OSError(f"{index}: the cache was just written and cannot be read; is another program clearing it?")
    return opened


def check_lengths(length: int, stride: int | None) -> None:
    """Raise a ValueError unless both are at least 1."""
    for name, value in (("length", length), ("stride", stride)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def cut(text: EncodedText, part: Part, length: int, stride: int | None) -> Windows:
    """Cut a text by position into 90 % to train, 5 % to validate, 5 % to test, and the part into windows.

    The parts that are measured are cut into pieces that do not overlap; windows to train on start every `stride`
    tokens, a 16th of the length unless given. The part `all` is the whole text.
    """
    n = len(text.tokens)
    bounds = {"train": (0, n * 90 // 100), "valid": (n * 90 // 100, n * 95 // 100), "test": (n * 95 // 100, n)}
    bounds["all"] = (0, n)
    start, end = bounds[part]
    step = (stride or max(1, length // 16)) if part == "train" else length
    tokens = text.tokens
    mapped: np.memmap = np.memmap(
        str(tokens.filename), tokens.dtype, mode="r", offset=start * tokens.itemsize, shape=(end - start,)
    )
    try:
        return Windows(mapped, length, step, start)
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from None

"""Separate texts as tokens, encoded once into files that are memory-mapped from then on."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from unmask.codecs.atoms import Atoms
from unmask.codecs.base import Codec
from unmask.codecs.chat import Message
from unmask.codecs.named import FROM_TEXTS, codec_key
from unmask.codecs.text import Bytes, Characters, Text, UnknownCharacterError
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.ragged import Table
from unmask.storage.description import build, describe
from unmask.storage.files import checksum, replacing
from unmask.storage.folders import cache_folder

READER = 1
"""Of what files are read as: part of the cache's key."""
Tokens = Sequence[int] | np.ndarray
ADVICE = "; --data.tokenizer bytes takes every text"
"""Where the tokens were found from a file, and another one has characters that it lacks."""
BATCH = 4096
"""Examples that are cut into tokens at a time."""


class Example(NamedTuple):
    """An example of a file.

    Attributes:
        place: its number in the file, as people count lines or records.
        text: to be learned.
        given: what comes before it and is given: a text, or the messages of a conversation.
        unit: what its place is called.
    """

    place: int
    text: str
    given: str | Sequence[Message] = ""
    unit: str = "line"


@dataclass(frozen=True)
class EncodedExamples:
    """The examples of a file as tokens.

    Attributes:
        path: of the file.
        codec: that encoded them.
        tokens: of all of them, a read-only memory map.
        table: where each one's tokens end, how many are given, its place, a hash; a read-only memory map.
        empty: examples that were left out because they are empty.
        unit: what a place in the file is called.
    """

    path: str
    codec: Text
    tokens: np.memmap
    table: Table
    empty: int
    unit: str


def encoded_examples(
    path: Path, settings: Any, read: Callable[[], Iterator[Example]], codec: Text | Callable[[], Text], name: Any = None
) -> EncodedExamples:
    """Return the examples of a file as tokens; empty ones are left out.

    They are encoded once, into the cache. The key holds the content of the file, the settings and the codec, so nothing
    stale is ever used.

    Args:
        path: of the file.
        settings: plain values that decide what is read of it.
        read: yields its examples.
        codec: encodes them; or finds one, from these examples and `name` alone.
        name: of a codec that is to be found.

    Raises:
        ValueError: a text that cannot be encoded, or nothing is left; names the file and the place.
    """
    of = codec_key(codec) if isinstance(codec, Codec) else name
    key = json.dumps([READER, settings, checksum(path), path.suffix, of])
    index = cache_folder() / "examples" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    known = codec if isinstance(codec, Codec) else None
    found = _open(index, path, known)
    if found is None:
        _encode(path, read, known or codec(), index, ADVICE if name in FROM_TEXTS else "")  # type: ignore[operator]
        found = _open(index, path, known)
    if found is None:
        raise OSError(f"{index}: the cache was just written and cannot be read; is another program clearing it?")
    return found


def _open(index: Path, path: Path, codec: Text | None) -> EncodedExamples | None:
    """Return encoded examples from the cache; None where they are not there, or damaged."""
    try:
        entry = json.loads(index.read_text(encoding="utf-8"))
        codec = codec or build(Text, entry["codec"], str(index))
        tokens: np.memmap = np.memmap(index.with_suffix(".bin"), dtype=_dtype(codec), mode="r")
        table: Table = np.memmap(index.with_suffix(".table"), dtype="<i8", mode="r").reshape(-1, 4)
        whole = len(tokens) == entry["tokens"] == table[-1, 0] and len(table) == entry["examples"]
        return EncodedExamples(str(path), codec, tokens, table, entry["empty"], entry["unit"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _dtype(codec: Codec) -> np.dtype:
    return np.dtype(np.uint8 if codec.vocab_size <= 1 << 8 else "<u2" if codec.vocab_size <= 1 << 16 else "<u4")


def _encode(path: Path, read: Callable[[], Iterator[Example]], codec: Text, index: Path, advice: str) -> None:
    """Write the tokens of examples beside `index`, then `index` itself."""
    entry: dict[str, Any] = {"codec": describe(codec), "examples": 0, "tokens": 0, "empty": 0, "unit": "line"}
    shown = iter(tqdm(read(), desc=f"encoding {path.name}", unit="example", unit_scale=True, delay=2))
    with (
        replacing(index.with_suffix(".bin")) as tokens_path,
        replacing(index.with_suffix(".table")) as table_path,
        open(tokens_path, "wb") as tokens_file,
        open(table_path, "wb") as table_file,
    ):
        while examples := list(islice(shown, BATCH)):
            kept = [example for example in examples if example.text]
            entry["empty"] += len(examples) - len(kept)
            if kept:
                entry["unit"] = kept[0].unit
                _write(encode_examples(codec, kept, path, advice), kept, _dtype(codec), tokens_file, table_file, entry)
        if not entry["examples"]:
            raise ValueError(
                f"{path}: holds no example" + (f", but {entry['empty']} empty ones" * bool(entry["empty"]))
            )
    with replacing(index) as target:
        target.write_text(json.dumps(entry | {"source": str(path)}))


def _write(
    encoded: Iterable[tuple[Tokens, int]],
    examples: Sequence[Example],
    dtype: np.dtype,
    tokens_file: BinaryIO,
    table_file: BinaryIO,
    entry: dict[str, Any],
) -> None:
    """Write some examples, and count them in `entry`; one of which no token is left counts as empty."""
    rows = []
    for (tokens, given), example in zip(encoded, examples, strict=True):
        if len(tokens) == given:
            entry["empty"] += 1
            continue
        content = np.asarray(tokens, dtype="<u4")
        tokens_file.write(content.astype(dtype).tobytes())
        entry["tokens"] += len(tokens)
        digest = hashlib.blake2b(content.tobytes() + given.to_bytes(8, "little"), digest_size=8).digest()
        rows.append((entry["tokens"], given, example.place, int.from_bytes(digest, "little", signed=True)))
    table_file.write(np.array(rows, dtype="<i8").tobytes())
    entry["examples"] += len(rows)


def encode_examples(
    codec: Text, examples: Sequence[Example], path: Path | str, advice: str = ""
) -> Iterator[tuple[Tokens, int]]:
    """Yield the tokens of each example, and how many of them are given; `advice` ends what is said of unknown ones.

    Raises:
        ValueError: a text that cannot be encoded; names the file and the place.
    """
    try:
        found = _encode_together(codec, examples)
    except ValueError:  # one of them is at fault, which says so by itself
        found = None
    if found is not None:
        yield from found
        return
    for example in examples:
        where = f"{path}, {example.unit} {example.place}"
        try:
            yield encode_example(codec, example)
        except UnknownCharacterError as error:
            raise ValueError(
                f"{where}: character {error.character!r} (U+{ord(error.character):04X}) is not in the alphabet "
                f"{error.alphabet!r:.80}{advice}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def _encode_together(codec: Text, examples: Sequence[Example]) -> list[tuple[Tokens, int]] | None:
    """Return what `encode_example` returns for each, where many at a time are faster; None where they are not."""
    if isinstance(codec, Tokenizer | Atoms) and not any(example.given for example in examples):
        return [(tokens, 0) for tokens in codec.encode_many([example.text for example in examples])]
    givens = [example.given for example in examples if isinstance(example.given, str)]
    if not isinstance(codec, Characters | Bytes) or len(givens) < len(examples):
        return None
    texts = [example.text for example in examples]
    size = len if isinstance(codec, Characters) else (lambda text: len(text.encode()))
    counts = [list(map(size, givens)), list(map(size, texts))]
    tokens = codec.encode("".join(part for pair in zip(givens, texts, strict=True) for part in pair)).numpy()
    stops = np.cumsum(np.array(counts).sum(0))
    return list(zip(np.split(tokens, stops[:-1]), counts[0], strict=True))


def encode_example(codec: Text, example: Example) -> tuple[Tokens, int]:
    """Return the tokens of an example, and how many of them are given: those that `infill` has for such a prefix."""
    given, text = example.given, example.text
    if isinstance(given, str):
        if codec.unit == "token" and given[-1:] == " ":  # a space belongs to the token after it
            given, text = given[:-1], f" {text}"
        known = codec.encode_pieces([given])[0].tolist() if given else []
    elif isinstance(codec, Tokenizer):
        known = codec.encode_chat(given).tolist()
    else:
        raise ValueError(f"a conversation needs a tokenizer with a chat template, and the tokens are {codec.unit}s")
    if known and isinstance(codec, Tokenizer):
        return [*known, *codec.continued(text)], len(known)
    return [*known, *codec.encode(text).tolist()], len(known)

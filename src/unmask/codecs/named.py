"""The codec of texts that a setting names."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from unmask.codecs.atoms import Atoms, find_atoms
from unmask.codecs.base import Codec
from unmask.codecs.ended import Ended
from unmask.codecs.text import Bytes, Characters, NoTextError, Text
from unmask.codecs.tokenizer import Tokenizer
from unmask.storage.description import build
from unmask.storage.folders import CONFIG, MODEL, RUN
from unmask.storage.objects import read_object

CHARACTERS, BYTES, ATOMS = "characters", "bytes", "atoms"
EXACTLY = "exactly:"
"""What stands before the name of the codec of a model that has no token that ends a text: none is added to it."""
FROM_TEXTS = (None, CHARACTERS, ATOMS)
"""What names a codec that is found from the texts themselves."""
MOST_CHARACTERS = 256
"""Characters of an alphabet that is chosen without being asked for."""


def find_alphabet(texts: Iterable[str], most: int | None = None) -> Characters | None:
    """Return the codec of the characters that texts have; None if they have more than `most`.

    Raises:
        ValueError: there is no character.
    """
    alphabet: set[str] = set()
    for text in texts:
        alphabet |= set(text)
        if most is not None and len(alphabet) > most:
            return None
    if not alphabet:
        raise NoTextError("there is no text in it")
    return Characters("".join(sorted(alphabet)))


def named_codec(name: str | None, texts: Callable[[], Iterable[str]] | None = None) -> tuple[Text, bool]:
    """Return the codec that a setting names, and whether it is that of a model, which decides the number of tokens.

    Args:
        name: one of

            - None: the characters of the texts if they have at most 256 different ones, else bytes;
            - `characters`: those of the texts, however many;
            - `characters:abc`: those that follow the colon;
            - `bytes`: those of UTF-8;
            - `atoms`: the atoms, bonds and ring numbers of molecules in SMILES that the texts have;
            - `atoms:C N [nH]`: those that follow the colon;
            - `exactly:characters:abc`, and so on: the codec of a model, to which no token is added that ends a text;
            - the folder of a model of unmask, or of a run: its codec;
            - what `Tokenizer.from_folder` reads: a folder, a tokenizer.json, or a name on the Hugging Face Hub.
        texts: gives the texts that are to be encoded; called only where they decide.

    Raises:
        FileNotFoundError: no such tokenizer.
        ValueError: it is damaged, or no codec of texts; or there are no texts to choose it by.
    """
    if name in FROM_TEXTS:
        if texts is None:
            raise ValueError(f"the tokenizer {name} needs texts that it is to be found from")
        if name == ATOMS:
            return find_atoms(texts()), False
        found = find_alphabet(texts(), MOST_CHARACTERS if name is None else None)
        return found or Bytes(), False
    written = _written(name.removeprefix(EXACTLY))
    if written is not None:
        return written, name.startswith(EXACTLY)
    if name.startswith(EXACTLY):
        raise ValueError(f"tokenizer {name}: {EXACTLY} is for characters:ABC, bytes, and atoms:C N")
    described = _described(Path(name))
    if described is None:
        return _tokenizer(name), False
    codec = build(Codec, described[1]["codec"], f"{described[0]}: codec").opened(described[0].parent)
    if not isinstance(codec, Text):
        raise ValueError(f"{name}: the tokens of this model are no text, but {codec}")
    return codec, True


def _written(name: str) -> Text | None:
    """Return the codec that a name writes out; None for another name."""
    kind, colon, symbols = name.partition(":")
    if kind == CHARACTERS and colon:
        return Characters(symbols)
    if kind == ATOMS and colon:
        return Atoms(tuple(symbols.split()))
    return Bytes() if name == BYTES else None


def written_name(codec: Codec) -> str | None:
    """Return the name that writes a codec out, so that it depends on no file; None for a tokenizer.

    To what `named_codec` makes of it, without `exactly:`, a token is added that ends a text.
    """
    plain = codec.codec if isinstance(codec, Ended) else codec
    exactly = "" if plain is not codec else EXACTLY
    if isinstance(plain, Characters):
        return f"{exactly}{CHARACTERS}:{plain.alphabet}"
    if isinstance(plain, Atoms):
        return f"{exactly}{ATOMS}:{' '.join(plain.words)}"
    return f"{exactly}{BYTES}" if isinstance(plain, Bytes) else None


def codec_key(codec: Codec) -> str:
    """Return what decides the tokens of a text, as JSON."""
    from unmask.storage.description import describe

    found = describe(codec)
    if isinstance(codec, Tokenizer):
        found |= {"source": None, "sha256": codec.checksum}
    return json.dumps(found)


def _described(path: Path) -> tuple[Path, dict] | None:
    """Return the file that describes a model of unmask in a folder, and what it says; None: it is no such folder."""
    for file in (path / CONFIG, path / MODEL / CONFIG, path / RUN):
        if file.is_file():
            content = read_object(file)
            if isinstance(content.get("codec"), dict):
                return file, content
    return None


def _tokenizer(name: str) -> Tokenizer:
    try:
        return Tokenizer.from_folder(name)
    except FileNotFoundError as error:
        known = f"{CHARACTERS}, {CHARACTERS}:ABC, {BYTES}, {ATOMS}, a tokenizer's folder, or that of a model"
        raise FileNotFoundError(f"tokenizer {name}: {error} (known are {known})") from None

"""Canvases: what is known of an example, and the mask's value V where it is to be drawn."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unmask.codecs.base import Codec
from unmask.codecs.chat import Message
from unmask.codecs.pixels import Pixels
from unmask.codecs.table import Table
from unmask.codecs.text import Text, UnknownCharacterError
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.picture import open_image
from unmask.networks.base import check_tokens
from unmask.storage.arrays import map_array

HOLE = "\N{LIGHT SHADE}"
Canvas = Int[Tensor, "*dims"]
"""Tokens of one example, V where unknown."""


def make_canvas(
    codec: Codec,
    shape: tuple[int, ...],
    *,
    text: str | None = None,
    text_file: Path | str | None = None,
    prefix: str | None = None,
    suffix: str | None = None,
    unknown: int | None = None,
    placeholder: str | None = None,
    image: Path | str | None = None,
    mask: Path | str | None = None,
    array: Path | str | None = None,
    row: Mapping[str, str | None] | str | None = None,
    chat: str | Sequence[Message] | None = None,
    system: str | None = None,
) -> Int[Tensor, "..."]:
    """Return the examples that are to be completed, (n, *dims), from one of the forms in which they can be given.

    Args:
        codec: of the model.
        shape: dims of its examples.
        text: see `text_canvas`; so is `placeholder`.
        text_file: a UTF-8 file with such a text.
        prefix, suffix, unknown: what comes before and after a number of unknown tokens.
        image, mask: see `image_canvas`.
        array: see `array_canvas`.
        row: what is known of a row of a table; see `Table.canvas`.
        chat: what the user says, or a conversation; `unknown` tokens of the answer follow (see `chat_canvas`).
        system: what a conversation begins with.

    Raises:
        ValueError: nothing is given, or what does not fit the model.
        FileNotFoundError: a file is not there.
    """
    if array is not None:
        tokens = array_canvas(codec, array, shape)
        return tokens if tokens.dim() > len(shape) else tokens.unsqueeze(0)
    if image is not None and mask is not None:
        return image_canvas(codec, image, mask, shape).unsqueeze(0)
    if row is not None:
        if not isinstance(codec, Table):
            raise ValueError(f"a row was given, but the model's tokens are {codec}")
        return codec.canvas(row).unsqueeze(0)
    if chat is not None:
        return chat_canvas(codec, chat, unknown or 0, shape[0], system).unsqueeze(0)
    if unknown is not None:
        return around_holes(codec, [(prefix or "", unknown), (suffix or "", 0)], shape[0]).unsqueeze(0)
    text = read_text(text_file) if text_file is not None else text
    if text is None:
        raise ValueError("nothing to complete was given: a text, a prefix or suffix, an image with a mask, or an array")
    return text_canvas(codec, text, shape[0], placeholder).unsqueeze(0)


def by_shape(canvases: Iterable[Tensor]) -> list[list[int]]:
    """Return the numbers of the canvases of each shape, in the order in which the shapes come."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, canvas in enumerate(canvases):
        found.setdefault(tuple(canvas.shape), []).append(i)
    return list(found.values())


def text_canvas(codec: Codec, text: str, length: int, placeholder: str | None = None) -> Canvas:
    """Return the tokens of a text with holes.

    Args:
        codec: of the model.
        text: in which [4] stands for four unknown tokens and, for codecs of characters or bytes, _ for one.
        length: most tokens that there may be, those of the model's sequences; what the codec puts around every example,
            such as [CLS] and [SEP], counts too.
        placeholder: one character that stands for one unknown token; [4] is then text like any other.

    Raises:
        ValueError: the codec is not of texts, a hole of no token, nothing is unknown, or the text is too long.
    """
    if not isinstance(codec, Text):
        raise ValueError(f"a text was given, but the model's tokens are {codec}")
    if placeholder is not None and len(placeholder) != 1:
        raise ValueError(f"placeholder must be one character, got {placeholder!r}")
    parts = _known_parts(text, placeholder or ("" if codec.unit == "token" else "_"), counted=placeholder is None)
    _check_characters(codec, text, parts)
    return around_holes(codec, [(text[start:stop], count) for start, stop, count in parts], length)


def chat_canvas(
    codec: Codec, chat: str | Sequence[Message], unknown: int, length: int, system: str | None = None
) -> Canvas:
    """Return the tokens of a conversation as the model was trained with it, followed by those of the unknown answer.

    Args:
        codec: of the model, a `Tokenizer` with a chat template.
        chat: what the user says, or messages; see `Tokenizer.encode_chat`.
        unknown: number of tokens of the answer.
        length: most tokens that there may be.
        system: a message of the system to begin with.

    Raises:
        ValueError: the model is no chat model, nothing is unknown, or the conversation is too long.
    """
    known = encode_messages(codec, as_messages(chat, system))
    if unknown < 1:
        raise ValueError("a conversation needs a number of unknown tokens for the answer, such as 64")
    if len(known) + unknown > length:
        raise ValueError(
            f"the conversation has {len(known)} tokens and the answer {unknown}, the model's sequences have {length}"
        )
    return torch.cat((known, torch.full((unknown,), codec.vocab_size)))


def as_messages(chat: str | Sequence[Message], system: str | None = None) -> list[Message]:
    """Return a conversation as messages: what the user says, or messages, after one of the system if it is given."""
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, *([{"role": "user", "content": chat}] if isinstance(chat, str) else chat)]


def encode_messages(codec: Codec, messages: Sequence[Message]) -> Int[Tensor, " known"]:
    """Return the tokens of a conversation up to where the answer begins; raise a ValueError for no chat model."""
    if not isinstance(codec, Tokenizer):
        raise ValueError(f"a conversation was given, but the model's tokens are {codec}")
    return codec.encode_chat(messages)


def answer(codec: Codec, tokens: Int[Tensor, " length"]) -> str:
    """Return the text of an answer, up to the first special token, which ends it."""
    if not isinstance(codec, Tokenizer):
        raise ValueError(f"answers are texts of a tokenizer, but the model's tokens are {codec}")
    ends = torch.isin(tokens, torch.tensor(codec.special, device=tokens.device)).nonzero()
    return codec.decode(tokens[: int(ends[0]) if len(ends) else len(tokens)].unsqueeze(0))[0].strip()


_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextmanager
def kept_notes() -> Iterator[list[str]]:
    """Keep what `around_holes` has to say of texts in the list that this yields, off standard error."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def _note(text: str) -> None:
    notes = _notes.get()
    if notes is None:
        print(f"unmask: note: {text}", file=sys.stderr)
    else:
        notes.append(text)


def around_holes(codec: Codec, pieces: Sequence[tuple[str, int]], length: int | None) -> Canvas:
    """Return the tokens of some texts, each followed by a number of unknown tokens; see `text_canvas`.

    A text that comes back otherwise, as from a tokenizer that lower-cases, is shown as that on standard error. With a
    length of None there may be any number of tokens.
    """
    if not isinstance(codec, Text):
        raise ValueError(f"a text was given, but the model's tokens are {codec}")
    if wrong := [count for _, count in pieces if count < 0] or ([0] if not any(count for _, count in pieces) else []):
        nothing = "nothing is unknown in the text: [4] stands for four unknown tokens, or the placeholder for one"
        raise ValueError(f"got {wrong[0]}" if wrong[0] else nothing)
    if codec.unit == "token":  # a space belongs to the token after it, which is for the model to find
        pieces = [(known[:-1] if count and known[-1:] == " " else known, count) for known, count in pieces]
    encoded = codec.encode_pieces([known for known, _ in pieces])
    parts = [(tokens, count) for tokens, (_, count) in zip(encoded, pieces, strict=True)]
    if length is not None:
        _check_length(codec, sum(len(known) + count for known, count in parts), length)
    inside = torch.cat([part for known, count in parts for part in (known, torch.full((count,), codec.vocab_size))])
    whole = "".join(known + HOLE * count for known, count in pieces)
    if (shown := codec.decode(inside.unsqueeze(0), HOLE)[0]) != whole:
        _note(f"the tokenizer does not keep the form of this text: it reads {shown!r}")
    return codec.wrapped(inside)


def _check_length(codec: Codec, count: int, length: int) -> None:
    """Raise a ValueError for a text of more tokens than there may be, with what goes around it."""
    around = sum(map(len, codec.wrap))
    if count + around > length:
        what = f"{count + around} tokens" + (f", {around} of them around it" if around else "")
        raise ValueError(f"the text has {what}, the model's sequences have {length}: shorten it")


def cut_holes(text: str, hole: str, counted: bool) -> list[tuple[str, int]]:
    """Cut a text at its holes; return each known piece and how many unknown tokens follow it.

    Args:
        text: with holes.
        hole: a character for one unknown token, or nothing.
        counted: whether [n] stands for n unknown tokens.
    """
    return [(text[start:stop], count) for start, stop, count in _known_parts(text, hole, counted)]


def _known_parts(text: str, hole: str, counted: bool) -> list[tuple[int, int, int]]:
    """Return where each known piece of a text starts and stops, and how many unknown tokens follow it."""
    forms = [re.escape(hole)] * bool(hole) + [r"\[(\d+)\]"] * counted
    parts, at = [], 0
    for match in re.finditer("|".join(forms), text):
        count = int(match[1]) if counted and match[1] else 1
        if count < 1:
            raise ValueError(f"{match[0]} at offset {match.start()} stands for no token; with a placeholder it is text")
        parts.append((at, match.start(), count))
        at = match.end()
    return [*parts, (at, len(text), 0)]


def _check_characters(codec: Text, text: str, parts: Sequence[tuple[int, int, int]]) -> None:
    """Raise an UnknownCharacterError, with its place in the whole text, for a piece that cannot be encoded."""
    for start, stop, _ in parts:
        try:
            codec.encode(text[start:stop])
        except UnknownCharacterError as error:
            before = text[:start]
            raise error.after(start, before.count("\n"), start - before.rfind("\n") - 1) from None


def read_text(path: Path | str) -> str:
    """Read a UTF-8 file; a newline at its end is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").removesuffix("\n")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8: {error}") from None


def image_canvas(codec: Codec, image: Path | str, mask: Path | str, shape: tuple[int, ...]) -> Canvas:
    """Return the tokens of an image file.

    Args:
        codec: of the model.
        image: the file of an image of the model's size.
        mask: that of an image of the same size, white where `image` is unknown.
        shape: (height, width, channels) of the model's images.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the codec is not of images, a file is no image or of another size, or nothing is unknown.
    """
    if not isinstance(codec, Pixels):
        raise ValueError(f"an image was given, but the model's tokens are {codec}")
    tokens = codec.encode(_read_image(image, shape))
    unknown = torch.from_numpy(_read_image(mask, (*shape[:2], 1)) > 127)
    if not unknown.any():
        raise ValueError(f"{mask}: nothing is white, so nothing is unknown: there is nothing to draw")
    return torch.where(unknown, codec.vocab_size, tokens)


def _read_image(path: Path | str, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    height, width, channels = shape
    pixels = open_image(path, str(path))
    if pixels.shape[:2] != (height, width):
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise ValueError(f"{path}: the image is {size}, the model's are {width}x{height}")
    if channels == 1 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return np.broadcast_to(pixels, shape)


def array_canvas(codec: Codec, path: Path | str, shape: tuple[int, ...]) -> Int[Tensor, "..."]:
    """Return the tokens of a .npy file: of one example (*dims), or of several (n, *dims); -1 where unknown.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no array of integers of such a shape, a token out of range, or nothing is unknown.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    array = map_array(Path(path))
    if shape not in (array.shape, array.shape[1:]):
        raise ValueError(
            f"{path}: expected integers of shape {shape}, or (examples, *{shape}), got {array.dtype} {array.shape}"
        )
    return known_tokens(codec, array, f"{path}: ")


def known_tokens(codec: Codec, array: np.ndarray, where: str = "") -> Int[Tensor, "..."]:
    """Return the tokens of an array in which -1 stands for an unknown one.

    Raises:
        ValueError: no integers, a token out of range, or nothing is unknown; begins with `where`.
    """
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{where}expected integers, got {array.dtype}")
    if array.dtype == np.uint64:  # whose largest value would become -1
        array = np.minimum(array, np.iinfo(np.int64).max)
    tokens = torch.from_numpy(array.astype(np.int64))
    tokens = torch.where(tokens == -1, codec.vocab_size, tokens)
    check_tokens(tokens, codec.vocab_size + 1, f"{where}tokens")
    if not (tokens == codec.vocab_size).any():
        raise ValueError(f"{where}no token is -1, so nothing is unknown: there is nothing to draw")
    return tokens

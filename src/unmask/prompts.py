"""Prompts: what a text begins with, followed by as many unknown tokens as the model says that there may be."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from unmask.canvas import around_holes, encode_messages
from unmask.codecs.base import Codec
from unmask.codecs.chat import Message
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.randomness import Generators, seeded, uniform
from unmask.types import Labels, Tokens

Prompt = str | Sequence[Message] | Int[Tensor, " known"]
"""A text, the messages of a conversation, or the tokens that a row begins with."""
LENGTHS = 2
"""The last of the integers that seed the lengths of an example."""


class Prompted(NamedTuple):
    """A prompt, followed by unknown tokens.

    Attributes:
        canvas: (n, length), masked where unknown.
        log_p: of the number of unknown tokens of each example, in nats, given all numbers that it may have; 0 where it
            was not drawn.
    """

    canvas: Tokens
    log_p: Float64[Tensor, " n"]


def prompt_tokens(codec: Codec, prompt: Prompt) -> Int[Tensor, " known"]:
    """Return the tokens that a row begins with: those of a prompt, after what the codec puts before every text.

    A space at the end of a text is left out where tokens begin with one: it is for the model to find.

    Raises:
        ValueError: the codec is not of texts, or cannot encode it; or is of no chat model.
    """
    if isinstance(prompt, Tensor):
        return prompt
    if not isinstance(prompt, str):
        return encode_messages(codec, prompt)
    canvas = around_holes(codec, [(prompt, 1)], length=None)
    return canvas[: int((canvas == codec.vocab_size).nonzero()[0])]


def prompt_canvas(
    model: MaskedDiffusion,
    prompt: Prompt,
    n: int = 1,
    generator: Generators | int = None,
    *,
    length: int | tuple[int, int] | None = None,
    label: Labels | None = None,
) -> Prompted:
    """Return n canvases of a prompt that goes on for as many tokens as the model says.

    A model that knows how long its examples are draws the length of each: that of the answer for a model of prompts and
    answers (`Pairs`), else that of the whole text, given that it is longer than the prompt. Of the lengths alone: how
    likely they make the prompt is not weighed, as it is for a hole such as [1-6]. For a model that learned the token
    that ends a text (packing `filled`) the rest of the row is unknown, and `MaskedDiffusion.decode` cuts it there.

    Args:
        model: of texts.
        prompt: see `Prompt`.
        n: number of canvases.
        generator: of the lengths; or a seed, of which example i has a generator of its own.
        length: a number of tokens, or a range from which it is drawn: of the answer, or of the whole text, the prompt
            among it, but not what the codec puts around every text. None: any.
        label: class of each example, which its length may depend on.

    Raises:
        ValueError: see `prompt_tokens`; the model does not know how long its texts are, and no length is given; or none
            of the lengths has room for the prompt.

    Example:
        canvas, log_p = prompt_canvas(model, "17+25=", 4, seed)
        texts = model.decode(model.infill(canvas, generator=unmask.generators(seed, 4)))
    """
    known, lengths = prompt_tokens(model.codec, prompt).to(model.device), model.lengths
    if len(model.shape) != 1:
        raise ValueError(f"a text was given, but the model is of examples of shape {model.shape}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    before, after = model.codec.wrap if isinstance(prompt, str | Tensor) else ((), ())
    answers = model.conditional
    if lengths is not None and answers and lengths.ended and after == (lengths.fill,):
        after = ()  # the token that ends a text is one of those that are learned
    counted = 0 if answers else len(known) + len(after)  # tokens of n that are known
    around = 0 if answers else len(before) + len(after)
    most = model.shape[0] - (len(known) + len(after) - counted)
    first, last = _within(length, counted + 1, most, around, len(known), model.shape[0])
    if lengths is None or isinstance(length, int):
        if length is None and not model.filled:
            raise ValueError(
                "the model does not know how long its texts are: give the number of unknown tokens (--unknown, or "
                '"unknown" in a line)'
            )
        if isinstance(length, tuple):
            raise ValueError(f"length {length[0]}-{length[1]}: the model does not know how long its texts are")
        count = torch.full((n,), last, device=model.device)
        log_p = torch.zeros(n, dtype=torch.float64, device=model.device)
    else:
        count, log_p = _draw(lengths, n, generator, label, first, last, model.device)
    unknown = count - counted
    return Prompted(_canvas(model, known, unknown, after), log_p)


def _within(
    length: int | tuple[int, int] | None, least: int, most: int, around: int, known: int, row: int
) -> tuple[int, int]:
    """Return the smallest and the largest length, of those that were asked for, for which there is room.

    Args:
        length: that was asked for.
        least, most: for which there is room.
        around: tokens around a text, which `length` leaves out.
        known: tokens of the prompt.
        row: tokens of the model's sequences.
    """
    if least > most:
        raise ValueError(f"the prompt has {known} tokens, which leaves no room in the model's sequences of {row}")
    if length is None:
        return least, most
    low, high = (length, length) if isinstance(length, int) else length
    first, last = max(low + around, least), min(high + around, most)
    if first > last or not 1 <= low <= high:
        said = f"{low}-{high}" if isinstance(length, tuple) else length
        raise ValueError(f"length {said}: after this prompt it is in {least - around}..{most - around}")
    return first, last


def _draw(
    lengths: Lengths,
    n: int,
    generator: Generators | int,
    label: Labels | None,
    first: int,
    last: int,
    device: torch.device,
) -> tuple[Int[Tensor, " n"], Float64[Tensor, " n"]]:
    """Draw n lengths in first..last; return them, and log p of each given that it is there."""
    if isinstance(generator, int):
        generator = [seeded(generator, i, LENGTHS) for i in range(n)]
    drawn = lengths.draw(uniform((n,), generator, device), label, first, last)
    return drawn, lengths.log_p(drawn, label) - lengths.log_share(first, last, n, label).to(device)


def _canvas(
    model: MaskedDiffusion, known: Int[Tensor, " known"], unknown: Int[Tensor, " n"], after: tuple[int, ...]
) -> Tokens:
    """Return rows of known tokens, numbers of unknown ones, and what goes after these, filled up to one length."""
    n, lengths, start = len(unknown), model.lengths, len(known)
    if lengths is None:  # all are of one length
        whole, fill = start + int(unknown[0]) + len(after), 0
    else:
        whole, fill = model.shape[0], lengths.fill
    position = torch.arange(whole, device=model.device)
    stop = start + unknown.unsqueeze(1)
    x = torch.where(position < stop, model.network.mask_id, fill)
    x[:, :start] = known
    if after:
        ends = torch.tensor(after, device=x.device).expand(n, -1)
        x.scatter_(1, stop + torch.arange(len(after), device=x.device), ends)
    return x


def next_commands(model: MaskedDiffusion, folder: str, more: str = "") -> str:
    """Return commands to go on with, a line each: how the model is measured, and how it is sampled.

    Args:
        model: that is in the folder, or will be.
        folder: of a model or a run.
        more: what each command needs beside it, such as " --import module".
    """
    data = model.about.get("data")
    lines = [f"evaluate {folder}"]
    if data is None:
        lines = [f"prepare FILE --tokenizer {folder} --out CORPUS"]
        lines.append(f"evaluate {folder} --data Corpus --data.path CORPUS --data.length {model.shape[0]}")
    how = "prefix PROMPT" if data is None or data.get("messages") is None else "chat QUESTION"
    lines.append(f"infill {folder} --{how}" if model.conditional else f"sample {folder}")
    return "\n".join(f"  unmask {line}{more}" for line in lines)

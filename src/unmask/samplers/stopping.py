"""Stopping early: an answer that has ended needs no more network calls."""

from dataclasses import replace

from unmask.codecs.base import Codec
from unmask.codecs.ended import find_end
from unmask.codecs.tokenizer import Tokenizer
from unmask.samplers.base import Sampler
from unmask.samplers.left_to_right import LeftToRight
from unmask.samplers.unmasking import Unmasking


def end_tokens(codec: Codec) -> tuple[int, ...]:
    """Return the tokens that end an answer: that which ends a text, and all special ones of a tokenizer."""
    end = find_end(codec)
    special = codec.special if isinstance(codec, Tokenizer) else ()
    return tuple(dict.fromkeys((*(() if end is None else (end,)), *special)))


def stop_early(sampler: Sampler, codec: Codec, *, needed: bool = False) -> Sampler:
    """Return a sampler in blocks with `stop_at` set to the tokens that end an answer; any other as it is.

    Args:
        sampler: of which `stop_at` is kept if it is given.
        codec: of the model.
        needed: whether to refuse a sampler that cannot stop early.

    Raises:
        ValueError: it is refused.
    """
    ends = end_tokens(codec)
    if isinstance(sampler, Unmasking | LeftToRight) and sampler.block_length is not None and ends:
        return sampler if sampler.stop_at is not None else replace(sampler, stop_at=ends)
    if needed:
        what = (
            "a sampler in blocks, such as --sampler.block_length 32"
            if ends
            else "a tokenizer with special tokens, or an end"
        )
        raise ValueError(f"stopping early takes {what}")
    return sampler

"""A byte-pair encoding of 256 bytes, a few merges and an end of text, as files."""

import json
from pathlib import Path

from tokenizers import pre_tokenizers

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("Ġ", "a"), ("Ġa", "n"), ("i", "n")]
END = "<|endoftext|>"


def write_bpe(
    folder: Path, merges: list[tuple[str, str]] = MERGES, names: tuple[str, str] = ("vocab.json", "merges.txt")
) -> Path:
    """Write the two files of a tokenizer of GPT-2's kind; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges), END]
    (folder / names[0]).write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / names[1]).write_text("\n".join(lines) + "\n")
    return folder

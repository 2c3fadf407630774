"""Corpora from files or from a data set of the Hub, in one call: what `unmask prepare` does."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unmask.codecs.tokenizer import Tokenizer
from unmask.data.documents import Boundary, Files, Hub
from unmask.data.formats import Format
from unmask.data.index import Index
from unmask.data.prepare import prepare, replace_corpus


def prepare_corpus(
    out: Path | str,
    files: Sequence[str] = (),
    *,
    tokenizer: str = "gpt2",
    end_token: str | None = None,
    format: Format | None = None,
    field: str = "text",
    boundary: Boundary = "file",
    skip_bad: bool = False,
    hub: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    part: str | None = None,
    shard_tokens: int = 1 << 26,
    overwrite: bool = False,
) -> Index:
    """Tokenise documents, once, into a folder of memory-mapped shards with an index and checksums.

    What was interrupted goes on where it was when the same is asked for again.

    Args:
        out: folder for the corpus.
        files: see `Files`; so are format, field, boundary and skip_bad.
        tokenizer: see `Tokenizer.from_folder`.
        end_token: the token that ends a text; found by its role or its name if None.
        hub: in place of files: a data set on the Hugging Face Hub, streamed; config, revision and part say what of it
            (see `Hub`).
        shard_tokens: tokens of a shard, about.
        overwrite: whether to replace a corpus that is in `out`, once the new one is complete.

    Raises:
        FileNotFoundError: a file, a tokenizer or a data set cannot be had.
        ValueError: files and a data set, or neither; a damaged file; or `out` holds something else.
    """
    if bool(files) == bool(hub):
        raise ValueError("give files, or --hub NAME" + (", not both" if hub else "; --help says more"))
    for option, value in (("config", config), ("revision", revision), ("part", part)):
        if value and not hub:
            raise ValueError(f"--{option} is for --hub")
    if hub and format:
        raise ValueError("--format is for files")
    source: Files | Hub
    if hub:
        source = Hub(hub, config, revision, part or "train", field, skip_bad)
    else:
        source = Files(tuple(files), field, boundary, format, skip_bad)
        _ = source.files
    codec = Tokenizer.from_folder(tokenizer)
    codec = codec if end_token is None else replace(codec, end_token=end_token)
    _ = codec.end  # what is wrong with it should be known before anything is deleted
    return (replace_corpus if overwrite else prepare)(source, codec, Path(out), shard_tokens)

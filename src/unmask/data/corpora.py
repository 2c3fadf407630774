"""Corpora from files or from a data set of the Hub, in one call: what `unmask prepare` does."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unmask.codecs.tokenizer import Tokenizer
from unmask.data.documents import Boundary, Files, Hub
from unmask.data.formats import Format
from unmask.data.index import Index
from unmask.data.merging import Merged
from unmask.data.parts import Part, prepare_part, read_shard
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
    shard: str | None = None,
) -> Index | Part:
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
        shard: 2/8 prepares the second of eight parts, on any machine; `merge_corpus` puts them together.

    Returns:
        what the corpus holds, or its part.

    Raises:
        FileNotFoundError: a file, a tokenizer or a data set cannot be had.
        ValueError: files and a data set, or neither; a damaged file; or `out` holds something else.
    """
    if shard is not None:
        read_shard(shard)
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
    if shard is not None:
        return prepare_part(source, codec, Path(out), shard_tokens, *read_shard(shard), overwrite)
    return (replace_corpus if overwrite else prepare)(source, codec, Path(out), shard_tokens)


def merge_corpus(out: Path | str, overwrite: bool = False) -> Index:
    """Put the parts of a corpus together: byte for byte what one machine would have prepared.

    The parts lie beside `out`, in the folder `out`.parts, and stay there.

    Args:
        out: folder for the corpus, as it was named for the parts.
        overwrite: whether to replace a corpus that is in `out`, once the new one is complete.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: a part is damaged, or was prepared with other settings; or `out` holds something else.

    Example:
        for i in (1, 2):  # each on a machine of its own
            prepare_corpus("data/books", ["books.jsonl"], shard=f"{i}/2")
        merge_corpus("data/books")
    """
    merged = Merged(Path(out))
    shard_tokens = merged.parts[0].key["shard_tokens"]
    index = (replace_corpus if overwrite else prepare)(merged, merged.codec, Path(out), shard_tokens)
    if index.documents != (count := sum(part.documents for part in merged.parts)):
        raise ValueError(f"{out}: {index.documents:,} documents, but its parts have {count:,}; give --overwrite")
    return index

"""unmask prepare: cut documents into tokens, once, for training and evaluation."""

import time
from pathlib import Path
from typing import Literal

from unmask.cli.common import Parser, parse
from unmask.codecs.tokenizer import BPE
from unmask.data.documents import Files, Hub
from unmask.data.prepare import Index, prepare, replace_corpus, verify


def prepare_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(
        "prepare",
        description="Cut documents into tokens, once, into a folder of memory-mapped shards with an index and "
        "checksums. What was interrupted goes on where it was when the same command is given again.",
        epilog="Examples: unmask prepare articles.jsonl --out data/articles; "
        "unmask prepare --hub Skylion007/openwebtext --revision refs/convert/parquet --out data/openwebtext. "
        "Then: unmask train openwebtext --data.path data/articles",
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="texts, lines of JSON (.jsonl) or Parquet; texts and JSON may be compressed (.gz, .bz2, .xz)",
    )
    parser.add_argument("--out", type=str, required=True, help="folder for the corpus")
    parser.add_argument(
        "--tokenizer",
        type=str,
        default="gpt2",
        help="a tokenizer.json, a folder with one or with vocab.json and merges.txt, or a name on the Hub",
    )
    parser.add_argument("--field", type=str, default="text", help="of a row of JSON or Parquet that holds the text")
    parser.add_argument(
        "--boundary",
        type=Literal["file", "blank_line", "line"],
        default="file",
        help="what ends a document in a text file: the file itself, a blank line, or every line",
    )
    parser.add_argument("--hub", type=str, help="in place of files: a data set on the Hugging Face Hub, streamed")
    parser.add_argument("--config", type=str, help="for --hub: which of its configurations")
    parser.add_argument("--revision", type=str, help="for --hub: a commit or branch, such as refs/convert/parquet")
    parser.add_argument("--part", type=str, help="for --hub: which of its splits; train if not given")
    parser.add_argument("--shard_tokens", type=int, default=1 << 26, help="tokens of a shard, about")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a corpus that is in the way, once the new is there"
    )
    parser.add_argument("--verify", action="store_true", help="only compare the checksums of the corpus at --out")
    return parser


def run(arguments: list[str]) -> None:
    """Run `unmask prepare`."""
    settings = parse(prepare_parser(), arguments)
    out = Path(settings.out)
    if settings.verify:
        print(summary(out, verify(out)))
        return
    if bool(settings.files) == bool(settings.hub):
        raise ValueError("give files, or --hub NAME" + (", not both" if settings.hub else "; --help says more"))
    for option in ("config", "revision", "part"):
        if settings[option] and not settings.hub:
            raise ValueError(f"--{option} is for --hub")
    source: Files | Hub
    if settings.hub:
        source = Hub(settings.hub, settings.config, settings.revision, settings.part or "train", settings.field)
    else:
        source = Files(tuple(settings.files), settings.field, settings.boundary)
        for path in source.paths:
            if not Path(path).is_file():
                raise FileNotFoundError(f"{path}: no such file")
    codec = BPE(settings.tokenizer)
    _ = codec.tokenizer  # what is wrong with it should be known before anything is deleted
    start = time.monotonic()
    index = (replace_corpus if settings.overwrite else prepare)(source, codec, out, settings.shard_tokens)
    print(summary(out, index))
    print(f"{time.monotonic() - start:.1f} s. Next:\n  unmask train openwebtext --data.path {out}")


def summary(folder: Path, index: Index) -> str:
    """Say what a corpus holds."""
    empty = f", {index.empty:,} empty ones left out" if index.empty else ""
    shards = f"{len(index.shards):,} shard{'s' if len(index.shards) != 1 else ''}"
    return f"{folder}: {index.documents:,} documents{empty}, {index.tokens:,} tokens in {shards}"

"""unmask prepare: cut documents into tokens, once, for training and evaluation."""

import time
from pathlib import Path
from typing import Literal

from unmask.cli.common import Parser, parse
from unmask.codecs.tokenizer import BPE
from unmask.data.documents import Files, Hub
from unmask.data.formats import Format
from unmask.data.prepare import SKIPPED, Index, prepare, replace_corpus, verify


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
        help="texts, JSON, CSV, TSV or Parquet, or folders of them; all but Parquet may be compressed (.gz, .bz2, .xz, "
        ".zst, .zip of one file)",
    )
    parser.add_argument("--out", type=str, required=True, help="folder for the corpus")
    parser.add_argument(
        "--tokenizer",
        type=str,
        default="gpt2",
        help="a tokenizer.json, a folder with one or with vocab.json and merges.txt, or a name on the Hub",
    )
    parser.add_argument("--end-token", "--end_token", type=str, help="its token that ends a text, such as [SEP]")
    parser.add_argument("--format", type=Format, help="of the files, where their names and contents do not tell")
    parser.add_argument("--field", type=str, default="text", help="of a row that holds the text; a.b is field b of a")
    parser.add_argument(
        "--skip-bad", "--skip_bad", action="store_true", help="leave out rows without a text, and list them in --out"
    )
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
        if settings.format:
            raise ValueError("--format is for files")
        part, bad = settings.part or "train", settings.skip_bad
        source = Hub(settings.hub, settings.config, settings.revision, part, settings.field, bad)
    else:
        how = (settings.field, settings.boundary, settings.format, settings.skip_bad)
        source = Files(tuple(settings.files), *how)
        _ = source.files
    codec = BPE(settings.tokenizer, end_token=settings.end_token)
    _ = codec.end  # what is wrong with it should be known before anything is deleted
    start = time.monotonic()
    index = (replace_corpus if settings.overwrite else prepare)(source, codec, out, settings.shard_tokens)
    print(summary(out, index))
    print(f"{time.monotonic() - start:.1f} s. Next:\n  unmask train openwebtext --data.path {out}")


def summary(folder: Path, index: Index) -> str:
    """Say what a corpus holds."""
    empty = f", {index.empty:,} empty ones left out" if index.empty else ""
    if index.skipped:
        empty += f", {index.skipped:,} rows without a text left out ({folder / SKIPPED} lists them)"
    shards = f"{len(index.shards):,} shard{'s' if len(index.shards) != 1 else ''}"
    return f"{folder}: {index.documents:,} documents{empty}, {index.tokens:,} tokens in {shards}"

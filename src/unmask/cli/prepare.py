"""unmask prepare: tokenise documents, once, for training and evaluation."""

import time
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from unmask.cli.common import Option, Parser, parse

OPTIONS: tuple[Option, ...] = (
    ("tokenizer", str, "gpt2", "a tokenizer.json, a folder with one or with vocab.json and merges.txt, or a Hub name"),
    ("format", Literal["text", "json", "csv", "tsv", "parquet"], None, "of the files, where they do not tell"),
    ("field", str, "text", "of a row that holds the text; a.b is field b of a"),
    ("boundary", Literal["file", "blank_line", "line"], "file", "what ends a document in a text file"),
    ("hub", str, None, "in place of files: a data set on the Hugging Face Hub, streamed"),
    ("config", str, None, "for --hub: which of its configurations"),
    ("revision", str, None, "for --hub: a commit or branch, such as refs/convert/parquet"),
    ("part", str, None, "for --hub: which of its splits; train if not given"),
    ("shard_tokens", int, 1 << 26, "tokens of a shard, about"),
    ("overwrite", bool, False, "replace a corpus that is in the way, once the new is there"),
    ("shard", str, None, "2/8 prepares the second of eight parts, each on any machine; --merge puts them together"),
)


def run(arguments: list[str]) -> None:
    """Run `unmask prepare`."""
    parser = Parser(
        "prepare",
        description="Tokenise documents, once, into a folder of memory-mapped shards with an index and checksums. What "
        "was interrupted goes on where it was when the same command is given again.",
        epilog="Examples: unmask prepare articles.jsonl --out data/articles; "
        "unmask prepare --hub Skylion007/openwebtext --revision refs/convert/parquet --out data/openwebtext. "
        "Then: unmask train openwebtext --data.path data/articles",
    )
    text = "texts, JSON, CSV, TSV or Parquet, or folders of them; all but Parquet may be compressed (.gz, .bz2, .xz, "
    parser.add_argument("files", metavar="FILE", nargs="*", help=f"{text}.zst, .zip of one file)")
    parser.add_argument("--out", type=str, required=True, help="folder for the corpus")
    parser.add_argument("--end-token", "--end_token", type=str, help="its token that ends a text, such as [SEP]")
    text = "leave out rows without a text, and list them in --out"
    parser.add_argument("--skip-bad", "--skip_bad", action="store_true", help=text)
    parser.add_options(*OPTIONS, ("verify", bool, False, "only compare the checksums of the corpus at --out"))
    parser.add_options(("merge", bool, False, "put the parts beside --out together, as one machine would have made it"))
    settings = parse(parser, arguments, check=check)
    start, out = time.monotonic(), Path(settings.out)
    from unmask.data.corpora import merge_corpus, prepare_corpus
    from unmask.data.index import verify

    if settings.verify:
        print(verify(out).summary(out))
        return
    chosen = {name: settings[name] for name in ("end_token", "skip_bad", *(name for name, *_ in OPTIONS))}
    found = merge_corpus(out, settings.overwrite) if settings.merge else prepare_corpus(out, settings.files, **chosen)
    print(found.summary(out))
    if settings.shard:
        print(f"When all parts are beside it:\n  unmask prepare --merge --out {out}")
        return
    print(f"{time.monotonic() - start:.1f} s. Next:\n  unmask train openwebtext --data.path {out}")


def check(settings: Namespace) -> None:
    """Raise an error for a file that is not there, or for --merge with what has been decided before."""
    if settings.merge and (settings.files or settings.hub or settings.shard):
        raise ValueError("--merge takes --out alone: what its parts are of was said when they were prepared")
    for name in settings.files:
        if not Path(name).exists():
            raise FileNotFoundError(f"{name}: no such file or folder")

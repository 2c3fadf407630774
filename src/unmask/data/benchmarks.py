"""Texts that a model has not been trained on: the sets of the zero-shot tables, each as it is read and cut here.

Perplexity per token depends on all of it: what stands in for the tokenised text, where texts end, how they fill
sequences. So each set says what it does, and the protocol of every figure repeats it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unmask.codecs.tokenizer import BPE
from unmask.data.corpus import PACKED, Packed, Packing, Shards
from unmask.data.documents import Files, Hub, Piece
from unmask.data.prepare import check_sizes, prepare
from unmask.data.text import cache_folder

Ends = Literal["document", "line"]
COMPRESSED = ("", ".gz", ".bz2", ".xz")

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


def _heading(match: re.Match[str]) -> str:
    """Close up a heading of WikiText."""
    return f"{match[1].replace(' ', '')} {match[2]} {match[3].replace(' ', '')}"


PUNCTUATION: Rules = (
    (r" ([.,;:!?%)\]}])", r"\1"),
    (r"([(\[{$£€]) ", r"\1"),
    (r" (n't|'(?:s|S|re|ve|ll|d|m)|(?<=n )'t)\b", r"\1"),
)
QUOTES: Rules = ((r'" ([^"\n]*?) "', r'"\1"'), (r"`` ([^`\n]*?) ''", r'"\1"'))
WIKITEXT: Rules = (
    (r" @([-,.])@ ", r"\1"),
    (r"(?m)^ ((?:= )+)(.*?)((?: =)+) *$", _heading),
    (r"(?m)^ | $", ""),
    *QUOTES,
    *PUNCTUATION,
)
PTB: Rules = ((r"(?m)^ | $", ""), (r"# N", "#N"), *PUNCTUATION)
NEWS: Rules = ((r"(?m)^ | $", ""), *QUOTES, *PUNCTUATION)


def replaced(text: str, rules: Rules) -> str:
    """Apply regular expressions one after another."""
    for pattern, new in rules:
        text = re.sub(pattern, new, text)
    return text


def articles(text: str) -> list[str]:
    """Cut WikiText into articles, each of which begins with a line ` = Title = ` between blank lines."""
    heading = r"(?:\A|\A *\n|\n *\n)( = [^=\n][^\n]*[^=\n] = *\n *\n)"
    starts = [match.start(1) for match in re.finditer(heading, text)]
    if not starts or text[: starts[0]].strip():
        starts = [0, *starts]  # what comes before the first title
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


@dataclass(frozen=True)
class Benchmark:
    """A set of the zero-shot tables.

    Attributes:
        title: as tables call it.
        files: names under which its test part is known, without what compressed files end with.
        hub: where the Hub has it, None where only a script would load it.
        split: which part is used.
        rules: what turns its tokens into text again.
        detokeniser: those in words.
        document: what a document is.
        parts: cuts the text of a file into documents; None where a line, or a row, is one.
        folder: a part of the name of the folder that its files are in, where other sets have files of the same names.
    """

    title: str
    files: tuple[str, ...]
    hub: Hub | None
    split: str
    rules: Rules
    detokeniser: str
    document: str
    parts: Callable[[str], list[str]] | None = None
    folder: str = ""


WIKI_FILES = ("wiki.test.raw", "wiki.test.tokens")
WIKI_RULES = "@-@ @,@ @.@ joined, headings and quotes closed up, punctuation and contractions moved to their words"
BENCHMARKS = {
    "lambada": Benchmark(
        "LAMBADA",
        ("lambada_test.jsonl", "lambada_test_en.jsonl"),
        Hub("EleutherAI/lambada_openai", "en", part="test"),
        "test, OpenAI's detokenised version",
        (),
        "none needed",
        "passage",
    ),
    "wikitext2": Benchmark(
        "WikiText2",
        WIKI_FILES,
        Hub("Salesforce/wikitext", "wikitext-2-raw-v1", part="test"),
        "test",
        WIKITEXT,
        WIKI_RULES,
        "article",
        articles,
        "wikitext-2",
    ),
    "ptb": Benchmark(
        "PTB",
        ("ptb.test.txt",),
        None,
        "test, Mikolov's version with <unk> and N",
        PTB,
        "punctuation and contractions moved to their words; <unk> and N kept",
        "the whole text",
        lambda text: [text],
    ),
    "wikitext103": Benchmark(
        "WikiText103",
        WIKI_FILES,
        Hub("Salesforce/wikitext", "wikitext-103-raw-v1", part="test"),
        "test, the same text as WikiText2's",
        WIKITEXT,
        WIKI_RULES,
        "article",
        articles,
        "wikitext-103",
    ),
    "lm1b": Benchmark(
        "1BW",
        ("news.en.heldout-00000-of-00050", "lm1b_test.txt", "1bw_test.txt"),
        None,
        "test: the held-out shard 0",
        NEWS,
        "quotes closed up, punctuation and contractions moved to their words",
        "sentence",
    ),
    "ag_news": Benchmark(
        "AG News",
        ("ag_news_test.jsonl", "ag_news_test.parquet"),
        Hub("fancyzhx/ag_news", part="test"),
        "test",
        (),
        "none",
        "item",
    ),
}


class Texts:
    """The documents of a benchmark.

    Args:
        name: of the benchmark.
        root: folder that holds its files, itself or in a folder of its own; None: the Hub.
        ends: what a text ends with: `document`, or `line`: every line of the file, as SEDD's, MDLM's and RADD's scripts
            have it.

    Raises:
        FileNotFoundError: no such file there, or the Hub has it as a script alone; says what is wanted.
    """

    def __init__(self, name: str, root: str | None, ends: Ends = "document") -> None:
        self.benchmark, self.ends = BENCHMARKS[name], ends
        wanted = ", ".join(self.benchmark.files)
        if root is None:
            if self.benchmark.hub is None:
                raise FileNotFoundError(
                    f"{self.benchmark.title}: the Hub has only a script that loads it: get {wanted} and give its "
                    "folder as --root"
                )
            self.source: Files | Hub = self.benchmark.hub
        else:
            if not Path(root).is_dir():
                raise FileNotFoundError(f"{root}: no such folder")
            path = find_file(Path(root), self.benchmark)
            if path is None:
                raise FileNotFoundError(f"{self.benchmark.title}: none of {wanted} in {root}")
            self.source = Files((str(path),))

    def identity(self) -> dict[str, Any]:
        """Return what the documents are known by: the SHA-256 of all of them."""
        content = hashlib.sha256(json.dumps(self.documents).encode()).hexdigest()
        return {"title": self.benchmark.title, "documents": content}

    @property
    def file(self) -> str:
        """What it is read from."""
        return Path(self.source.paths[0]).name if isinstance(self.source, Files) else f"{self.source.name} on the Hub"

    def __iter__(self) -> Iterator[Piece]:
        """Yield the documents."""
        yield from (Piece(text, True) for text in self.documents)

    @cached_property
    def documents(self) -> list[str]:
        """The documents, as text again."""
        lines, parts = list(self._lines()), self.benchmark.parts
        texts = parts("\n".join(lines)) if self.ends == "document" and parts is not None else lines
        return [replaced(text, self.benchmark.rules).strip("\n") for text in texts]

    def _lines(self) -> Iterator[str]:
        """Yield the lines of the file, or the rows of the data set."""
        held = ""
        for piece in self.source:
            held += piece.text
            if piece.last:
                if isinstance(self.source, Files) and not _has_rows(self.source.paths[0]):
                    yield from held.removesuffix("\n").split("\n")
                else:
                    yield held.removesuffix("\n")
                held = ""


def _has_rows(path: str) -> bool:
    return any(suffix in Path(path).suffixes for suffix in (".jsonl", ".parquet"))


def find_file(root: Path, benchmark: Benchmark) -> Path | None:
    """Return the first of a set's files, compressed or not, in a folder, or in the folders in it.

    Of files of one name in several folders the one in the set's own folder is taken.
    """
    for name in benchmark.files:
        for suffix in COMPRESSED:
            found = [
                path for path in (root / f"{name}{suffix}", *sorted(root.glob(f"*/{name}{suffix}"))) if path.is_file()
            ]
            own = [path for path in found if benchmark.folder and benchmark.folder in path.parent.name.lower()]
            if found:
                return (own or found)[0]
    return None


def sequences(texts: Texts, codec: BPE, length: int, packing: Packing) -> Packed:
    """Return all documents as sequences of tokens; they are cut once, into the cache.

    Raises:
        ValueError: there are fewer tokens than one sequence has.
    """
    key = json.dumps([texts.identity(), codec.checksum])
    folder = cache_folder() / "zeroshot" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        index = prepare(texts, codec, folder, wait=True)
        shards = Shards(folder, index)
        check_sizes(folder, index)
        _ = shards.ends
    except ValueError:  # damaged, or half made: made again
        shutil.rmtree(folder, ignore_errors=True)
        index = prepare(texts, codec, folder, wait=True)
        shards = Shards(folder, index)
    try:
        return PACKED[packing](shards, 0, index.documents, length)
    except ValueError as error:
        raise ValueError(f"{texts.benchmark.title}: {error}") from None

"""Texts that a model has not been trained on: the sets of the zero-shot tables, each as it is read and cut here.

Perplexity per token depends on all of it: what stands in for the tokenised text, where texts end, how they fill
sequences. So each set says what it does, and the protocol of every figure repeats it.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unmask.codecs.tokenizer import Tokenizer
from unmask.data.detokenisers import NEWS, PTB, WIKITEXT, Rules, articles, replaced
from unmask.data.documents import Files, Hub, Piece
from unmask.data.index import check_sizes
from unmask.data.packing import PACKED, Packed, Packing, Shards
from unmask.data.prepare import prepare
from unmask.data.reading import COMPRESSED, characters, lines, visible_files
from unmask.data.sliding import Sliding
from unmask.storage.folders import cache_folder

Ends = Literal["document", "line"]


@dataclass(frozen=True)
class Benchmark:
    """A set of the zero-shot tables.

    Attributes:
        title: as tables call it.
        files: names under which its test part is distributed, without what compressed files end with.
        hub: where the Hub has it, None where only a script would load it.
        split: which part is used.
        rules: what turns its tokens into text again.
        detokeniser: those in words.
        document: what a document is.
        parts: cuts the text of a file into documents; None where a line, or a row, is one.
        folder: a part of the name of a folder that its files are in, where other sets have files of the same names.
        shared: names that many sets' files have: they are taken only in a folder of that name.
        public: SHA-256 of the public files, unpacked and with line ends of Unix.
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
    shared: tuple[str, ...] = ()
    public: tuple[str, ...] = ()


WIKI_FILES = ("wiki.test.raw", "wiki.test.tokens")
WIKI_PUBLIC = (  # wiki.test.raw, the same in both sets; wiki.test.tokens of WikiText-2
    "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
    "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
)
PARQUET = ("test-00000-of-00001.parquet",)
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
        public=("4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",),
        folder="lambada",
        shared=PARQUET,
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
        PARQUET,
        WIKI_PUBLIC,
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
        public=("dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",),
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
        PARQUET,
        WIKI_PUBLIC[:1],
    ),
    "lm1b": Benchmark(
        "1BW",
        ("news.en.heldout-00000-of-00050", "lm1b_test.txt", "1bw_test.txt"),
        None,
        "test, by its name the held-out shard 0",
        NEWS,
        "quotes closed up, punctuation and contractions moved to their words",
        "sentence",
    ),
    "ag_news": Benchmark(
        "AG News",
        ("ag_news_test.jsonl", "ag_news_test.parquet", "ag_news_test.csv"),
        Hub("fancyzhx/ag_news", part="test"),
        "test",
        (),
        "none",
        "item",
        folder="ag_news",
        shared=("test.csv", *PARQUET),
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

    @cached_property
    def provenance(self) -> str:
        """Whether the file is known to be the public one, by its content: a name alone proves nothing."""
        if isinstance(self.source, Files) and self.benchmark.public:
            digest = hashlib.sha256()
            try:
                for text in characters(Path(self.source.paths[0])):
                    digest.update(text.encode())
            except ValueError:
                return UNVERIFIED
            digest.update(b"\n")  # which `characters` takes off
            if digest.hexdigest() in self.benchmark.public:
                return f"verified copy (sha256 {digest.hexdigest()[:12]}…)"
        return UNVERIFIED

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
        format = self.source.files[0][2] if isinstance(self.source, Files) else None
        if isinstance(self.source, Files) and format == "csv" and _is_ag_news(Path(self.source.paths[0])):
            yield from _ag_news_rows(Path(self.source.paths[0]))
            return
        held = ""
        for piece in self.source:
            held += piece.text
            if piece.last:
                yield from held.split("\n") if format == "text" else [held.removesuffix("\n")]
                held = ""


UNVERIFIED = "unverified copy"


def _is_ag_news(path: Path) -> bool:
    """Return whether a table begins with a class, as AG News does, not with the names of its columns."""
    return "".join(next(csv.reader(lines(path)), [])[:1]).isdecimal()


def _ag_news_rows(path: Path) -> Iterator[str]:
    """Yield the items of AG News as it is distributed: class, title and text without a line that names them."""
    for number, cells in enumerate(csv.reader(lines(path), strict=True), 1):
        if len(cells) != 3 or cells[0] not in ("1", "2", "3", "4"):
            raise ValueError(f"{path}, item {number}: expected class 1 to 4, title and text, got {str(cells)[:80]}")
        yield f"{cells[1]} {cells[2]}"


def find_file(root: Path, benchmark: Benchmark) -> Path | None:
    """Return the first of a set's files, compressed or not, in a folder or anywhere in the folders in it.

    Of files of one name in several folders the one in the set's own folder is taken, else the one nearest to `root`.
    """
    files = sorted(visible_files(root), key=lambda path: (len(path.parts), path))
    for name in (*benchmark.files, *benchmark.shared):
        found = [path for path in files if _plain_name(path) == name.lower()]
        own = [path for path in found if benchmark.folder and benchmark.folder in _folders(path, root)]
        if name in benchmark.shared:
            found = own
        if found:
            return (own or found)[0]
    return None


def _plain_name(path: Path) -> str:
    """Return a file's name in lower case, without the suffix of its compression."""
    name = path.name.lower()
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)


def _folders(path: Path, root: Path) -> str:
    """Return the names of the folders that a file is in, from `root` on, in lower case."""
    return "/".join((root.resolve().name, *path.relative_to(root).parts[:-1])).lower().replace("agnews", "ag_news")


def sequences(texts: Texts, codec: Tokenizer, length: int, packing: Packing, stride: int | None = None) -> Packed:
    """Return all documents as sequences of tokens; they are cut once, into the cache.

    Args:
        texts: of a set.
        codec: cuts them into tokens.
        length: of a sequence.
        packing: how they fill sequences.
        stride: of windows that overlap, see `Sliding`, in place of a packing; None: none do.

    Raises:
        ValueError: there are fewer tokens than one sequence has, or a stride that is out of range.
    """
    key = json.dumps([texts.identity(), codec.checksum, *codec.wrap])
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
        if stride is not None:
            return Sliding(shards.fit(codec), 0, index.documents, length, stride)
        return PACKED[packing](shards.fit(codec), 0, index.documents, length)
    except ValueError as error:
        raise ValueError(f"{texts.benchmark.title}: {error}") from None

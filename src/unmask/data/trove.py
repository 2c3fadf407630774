"""Preparing a corpus as steps of a datatrove pipeline, which its executors run on one machine, on SLURM or on Ray.

    cut = [JsonlReader("texts"), CutIntoTokens("data/texts", "gpt2", "texts of May")]
    first = LocalPipelineExecutor(cut, tasks=8, logging_dir="logs/cut")
    LocalPipelineExecutor([MergeParts("data/texts")], logging_dir="logs/merge", depends=first).run()

Task r of n writes part r + 1 of n (`unmask.data.parts`). The shards are those of `unmask prepare` with the same files,
if the reader names the file of each document, as those of datatrove do: parts are put together in the order of these.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from unmask.codecs.tokenizer import Tokenizer
from unmask.data.corpora import merge_corpus
from unmask.data.documents import Boundary, Files, in_pieces
from unmask.data.formats import Format
from unmask.data.parts import Unit, new_part, part_folder, write_part

UNNAMED = "?"
"""In place of the name of a document's file, where there is none."""


class ReadFiles(PipelineStep):
    """Read documents from files as `unmask prepare` does: texts, JSON, CSV, TSV or Parquet, compressed or not.

    Args:
        files: see `unmask.data.documents.Files`; so are field, boundary and format. File i is task i mod n's.
    """

    name = "unmask"
    type = "📖 - READER"

    def __init__(
        self, files: Sequence[str], field: str = "text", boundary: Boundary = "file", format: Format | None = None
    ) -> None:
        super().__init__()
        self.source = Files(tuple(files), field, boundary, format)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that came before, and those of this task's files."""
        yield from data or ()
        for u, pieces in enumerate(self.source.files_apart(1) or ()):
            if u % world_size != rank:
                continue
            path, held = str(self.source.files[u][1]), ""
            number = 0
            for piece in pieces:
                held += piece.text
                if piece.last:
                    document = Document(held, f"{path}/{number}", metadata={"file_path": path})
                    self.stat_update("documents")
                    self.update_doc_stats(document)
                    yield document
                    held, number = "", number + 1


class CutIntoTokens(PipelineStep):
    """Cut documents into tokens, and write them as a part of a corpus; nothing comes out of this step.

    Args:
        out: folder for the corpus; parts lie beside it, in `out`.parts.
        tokenizer: see `Tokenizer.from_folder`.
        source: what the documents are called in the corpus; it is part of what identifies this.
        shard_tokens: tokens of a shard, about.
        end_token: the token that ends a text; found by its role or its name if None.
    """

    name = "unmask"
    type = "🔢 - TOKENIZER"

    def __init__(
        self, out: Path | str, tokenizer: str, source: str, shard_tokens: int = 1 << 26, end_token: str | None = None
    ) -> None:
        super().__init__()
        self.out, self.tokenizer, self.source = Path(out), tokenizer, source
        self.shard_tokens, self.end_token = shard_tokens, end_token

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the part of this task, anew if it was begun before.

        Raises:
            ValueError: a document was lost on the way, or the tokenizer has no token that ends a text.
        """
        codec = Tokenizer.from_folder(self.tokenizer)
        codec = codec if self.end_token is None else replace(codec, end_token=self.end_token)
        part = new_part({"datatrove": self.source}, codec, self.shard_tokens, rank + 1, world_size)
        read = [0, 0]
        units = _units(data or (), rank, world_size, read)
        with self.track_time("task"):
            part = write_part(units, codec, part_folder(self.out, rank + 1, world_size), part, overwrite=True)
        tokens = sum(chunk.tokens for chunk in part.chunks) + part.documents
        if part.documents > read[0] or part.documents < read[0] - read[1]:
            raise ValueError(f"{self.out}: {read[0]} documents were read, {part.documents} written")
        self.stat_update("documents", value=part.documents, unit="task")
        self.stat_update("tokens", value=tokens, unit="task")


def _units(data: Iterable[Document], rank: int, world: int, read: list[int]) -> Iterator[Unit]:
    """Yield the documents of each file as a unit; count those that are read, and those of them without a text."""
    seen: dict[str, int] = {}

    def pieces(documents: Iterable[Document]) -> Iterator[Any]:
        for document in documents:
            read[0] += 1
            read[1] += not document.text
            yield from in_pieces(document.text)

    for path, documents in groupby(data, lambda one: str(one.metadata.get("file_path") or UNNAMED)):
        order = (path, rank + world * seen.get(path, 0))
        seen[path] = seen.get(path, 0) + 1
        yield Unit(order, pieces(documents), [])


class MergeParts(PipelineStep):
    """Put the parts of a corpus together, in one task, after all tasks of `CutIntoTokens`.

    Args:
        out: folder for the corpus.
    """

    name = "unmask, all parts"
    type = "🔢 - TOKENIZER"

    def __init__(self, out: Path | str) -> None:
        super().__init__()
        self.out = Path(out)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the corpus in place of what is there; see `unmask.data.corpora.merge_corpus`."""
        if rank:
            return
        index = merge_corpus(self.out, overwrite=True)
        self.stat_update("documents", value=index.documents, unit="corpus")
        self.stat_update("tokens", value=index.tokens, unit="corpus")

"""Preparing a corpus with datatrove gives the shards of `unmask prepare`."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'unmask[datatrove]'")
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import CSVReader

from small_bpe import write_bpe
from unmask.data.corpora import prepare_corpus
from unmask.data.corpus import Corpus
from unmask.data.trove import CutIntoTokens, MergeParts, ReadFiles


@pytest.mark.parametrize("ours", [True, False])
def test_the_corpus_is_that_of_prepare(ours: bool, tmp_path: Path) -> None:
    """Their reader and ours, in three tasks; every document once, in the order of the files."""
    bpe = str(write_bpe(tmp_path / "bpe"))
    (tmp_path / "in").mkdir()
    for i in range(5):
        texts = [f"the man {i} in an inn {j}" * (j % 4 + 1) for j in range(9 if i != 2 else 0)]
        (tmp_path / "in" / f"{i}.csv").write_text("text,n\n" + "".join(f'"{text}",1\n' for text in texts))
    files = [str(path) for path in sorted((tmp_path / "in").iterdir())]
    one = prepare_corpus(tmp_path / "one", files, tokenizer=bpe, shard_tokens=300)
    reader: Any = ReadFiles(files) if ours else CSVReader(str(tmp_path / "in"))
    out = tmp_path / "x"
    cut = [reader, CutIntoTokens(out, bpe, "texts", shard_tokens=300)]
    first = LocalPipelineExecutor(cut, tasks=3, workers=1, logging_dir=str(tmp_path / "logs"))
    last = LocalPipelineExecutor([MergeParts(out)], logging_dir=str(tmp_path / "logs2"), depends=first)
    last.run()
    assert one.documents == 36 and Corpus(str(out), 16).shards.index.documents == 36
    assert len(one.shards) > 2 and Corpus(str(out), 16).shards.index.shards == one.shards
    for path in (tmp_path / "one").glob("0*"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    again = LocalPipelineExecutor(
        [reader, LambdaFilter(lambda one: "0" in one.id[-2:]), CutIntoTokens(out, bpe, "texts", 300)],
        tasks=2,
        workers=1,
        logging_dir=str(tmp_path / "logs3"),
    )
    again.run()
    with pytest.raises(ValueError, match="was prepared with another number of parts"):
        MergeParts(out).run()

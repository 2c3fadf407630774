"""A corpus that is prepared in parts is byte for byte that of one machine."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.data import documents, parts
from unmask.data.corpora import merge_corpus, prepare_corpus
from unmask.data.documents import Files, Hub, Piece
from unmask.data.merging import Merged
from unmask.data.parts import Part, part_folder, parts_folder, prepare_part
from unmask.data.prepare import prepare

SHARD = 300


@pytest.fixture
def bpe(tmp_path: Path) -> Tokenizer:
    return Tokenizer(str(write_bpe(tmp_path / "bpe")))


def write_files(folder: Path, count: int) -> list[str]:
    """Write some files with 60 documents in all, empty ones among them, and rows without a text."""
    folder.mkdir(exist_ok=True)
    names = [folder / f"{i}.jsonl" for i in range(count)]
    for i, name in enumerate(names):
        rows: list[dict[str, Any]] = [{"text": f"the man {j} in" * (j % 7)} for j in range(i, 60, count)]
        rows[len(rows) // 2 : 1] = [{"other": 1}]
        name.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": None}]))
    return [str(name) for name in names]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("count", "of"), [(1, 1), (1, 3), (3, 4), (5, 2), (7, 7)])
def test_parts_give_the_corpus_of_one(
    bpe: Tokenizer, tmp_path: Path, count: int, of: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file for all parts, or a file at least for each; units of some documents; long documents in pieces."""
    monkeypatch.setattr(parts, "BATCH", 100)
    names = write_files(tmp_path / "in", count)
    how: dict[str, Any] = {"tokenizer": bpe.source, "skip_bad": True, "shard_tokens": SHARD}
    one = prepare_corpus(tmp_path / "one", names, **how)
    for number in reversed(range(1, of + 1)):
        prepare_corpus(tmp_path / "x", names, **how, shard=f"{number}/{of}")
    merged = merge_corpus(tmp_path / "x")
    assert content(tmp_path / "x") == content(tmp_path / "one") and merged == one
    assert {"index.json", "skipped.txt", "tokenizer.json", "00002.bin"} <= content(tmp_path / "x").keys()
    whole = Merged(tmp_path / "x")
    assert sum(part.documents for part in whole.parts) == one.documents == 60 - merged.empty
    assert of == 1 or sum(part.documents > 0 for part in whole.parts) > 1  # they share it
    assert merge_corpus(tmp_path / "x", overwrite=True) == one and content(tmp_path / "x") == content(tmp_path / "one")


def test_long_documents_and_a_hub(bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BATCH", 100)
    monkeypatch.setattr(documents, "PIECE", 5000)
    (tmp_path / "in").mkdir()
    for i in range(3):
        text = " ".join(f"then {j * i}" for j in range(3000 if i == 1 else 4))
        (tmp_path / "in" / f"{i}.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "an inn"}))
    for source in (Files((str(tmp_path / "in"),)), Hub(str(tmp_path / "in"))):
        kind = type(source).__name__
        one = prepare(source, bpe, tmp_path / f"one{kind}", SHARD)
        for number in (1, 2):
            prepare_part(source, bpe, tmp_path / kind, SHARD, number, 2)
        assert merge_corpus(tmp_path / kind) == one and one.documents == 6
        assert sum(shard.pieces for shard in one.shards) > 8
        assert content(tmp_path / kind) == content(tmp_path / f"one{kind}")


class Failing(Files):
    """Files of which reading is cut off."""

    def __iter__(self) -> Iterator[Piece]:
        for i, piece in enumerate(super().__iter__()):
            if i == 40:
                raise OSError("the disk is gone")
            yield piece


def test_what_was_interrupted_goes_on(bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BATCH", 60)
    names = tuple(write_files(tmp_path / "in", 1))
    source = Files(names, skip_bad=True)
    with pytest.raises(OSError, match="the disk is gone"):
        prepare_part(Failing(names, skip_bad=True), bpe, tmp_path / "x", 100, 1, 2)
    place = part_folder(tmp_path / "x", 1, 2)
    begun = Part.read(place)
    assert begun.chunks and not begun.complete
    prepare_part(source, bpe, tmp_path / "x", 100, 2, 2)
    with pytest.raises(ValueError, match=r"00001-of-00002: its preparation was interrupted; the same unmask prepare"):
        merge_corpus(tmp_path / "x")
    first = (place / "00000.bin").stat().st_mtime_ns
    done = prepare_part(source, bpe, tmp_path / "x", 100, 1, 2)
    assert done.chunks[: len(begun.chunks)] == begun.chunks and (place / "00000.bin").stat().st_mtime_ns == first
    assert prepare_part(source, bpe, tmp_path / "x", 100, 1, 2) == done  # is there already
    prepare(source, bpe, tmp_path / "one", 100)
    merge_corpus(tmp_path / "x")
    assert content(tmp_path / "x") == content(tmp_path / "one")


def test_what_is_refused(bpe: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_files(tmp_path / "in", 4)
    out = tmp_path / "x"
    command = ["prepare", *names, "--skip-bad", "--tokenizer", bpe.source, "--out", str(out)]
    merge = ["prepare", "--merge", "--out", str(out)]

    def refused(arguments: list[str]) -> str:
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    for wrong in ("5/4", "0/4", "4", "a/b", "1/0"):
        assert f"--shard {wrong}: there is no such part; the parts are 1/" in refused([*command, "--shard", wrong])
    assert "x.parts: no parts of a corpus there; unmask prepare ... --shard 1/8 makes one" in refused(merge)
    assert "--merge takes --out alone" in refused([*command, "--merge"])
    for number in (1, 2):
        assert main([*command, "--shard", f"{number}/2"]) == 0
    assert "part 2/2" in (shown := capsys.readouterr().out) and "unmask prepare --merge --out" in shown
    shutil.copytree(parts_folder(out), tmp_path / "whole")

    def again() -> None:
        shutil.rmtree(parts_folder(out))
        shutil.copytree(tmp_path / "whole", parts_folder(out))

    shutil.rmtree(part_folder(out, 2, 2))
    assert "x.parts: part 2/2 is missing; the same unmask prepare with --shard 2/2 makes it" in refused(merge)
    again()
    other = ["prepare", *names[1:], "--skip-bad", "--tokenizer", bpe.source, "--out", str(out), "--shard", "2/2"]
    assert "00002-of-00002: was prepared with another source; give --overwrite" in refused(other)
    assert main([*other, "--overwrite"]) == 0
    assert "00002-of-00002: was prepared with another source than 00001-of-00002; prepare it anew" in refused(merge)
    again()
    assert main([*command, "--shard", "3/3"]) == 0
    assert "was prepared with another number of parts than 00001-of-00002" in refused(merge)
    again()
    tokens = part_folder(out, 2, 2) / "00000.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2] + b"\0\0")
    assert "00000.bin: damaged: its SHA-256 is not what part.json says; prepare this part anew" in refused(merge)
    again()
    shutil.rmtree(out)
    shutil.rmtree(part_folder(out, 2, 2))
    shutil.copytree(part_folder(out, 1, 2), part_folder(out, 2, 2))
    assert "00002-of-00002: holds part 1/2; name it as it was" in refused(merge)
    replace(Part.read(part_folder(out, 1, 2)), number=2).write(part_folder(out, 2, 2))
    assert "x.parts: parts 1 and 2 hold the same documents" in refused(merge)
    again()
    assert main(merge) == 0
    assert prepare_corpus(tmp_path / "one", names, tokenizer=bpe.source, skip_bad=True).documents > 50
    assert content(out) == content(tmp_path / "one")

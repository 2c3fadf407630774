import bz2
import gzip
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

import unmask
from kill import killed_at
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.tokenizer import TOKENIZER, Tokenizer
from unmask.data import documents
from unmask.data.base import Split
from unmask.data.corpus import Corpus
from unmask.data.documents import Files, Hub, Piece, cut_documents
from unmask.data.prepare import LOCK, Index, prepare, replace_corpus, verify
from unmask.storage.files import checksum
from unmask.storage.replacing import is_there, settle

WORDS = ["the", "man", "in", "a", "thin", "hat", "and", "an", "inn", "then", "there"]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(str(write_bpe(tmp_path_factory.mktemp("bpe"))))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Forty documents of 1 to 30 words."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(40)]


def write_json(path: Path, texts: list[str]) -> Path:
    content = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)).encode()
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    with opener(path, "wb") as file:
        file.write(content)
    return path


@pytest.fixture(scope="module")
def corpus(bpe: Tokenizer, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The forty documents in several shards."""
    folder = tmp_path_factory.mktemp("corpus")
    path = write_json(folder / "forty.jsonl", texts)
    index = prepare(Files((str(path),)), bpe, folder / "made", shard_tokens=200)
    assert len(index.shards) > 3
    return folder / "made"


def stream(bpe: Tokenizer, texts: list[str]) -> list[int]:
    return [token for text in texts for token in (*bpe.encode(text).tolist(), bpe.end)]


def rows(split: Split) -> list[list[int]]:
    return split[np.arange(len(split))][0].tolist()


# --- documents


def whole(pieces: Any) -> list[str]:
    found = [""]
    for piece in pieces:
        found[-1] += piece.text
        if piece.last:
            found.append("")
    assert found.pop() == ""
    return found


def test_documents_of_every_kind(tmp_path: Path, texts: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [write_json(tmp_path / name, texts) for name in ("a.jsonl", "a.jsonl.gz", "a.ndjson.bz2")]
    pq.write_table(pa.table({"text": texts, "n": range(40)}), tmp_path / "a.parquet")
    for path in (*files, tmp_path / "a.parquet"):
        assert whole(Files((str(path),))) == texts
    (tmp_path / "a.txt").write_text("\n\n".join(texts) + "\n")
    assert whole(Files((str(tmp_path / "a.txt"),), boundary="blank_line")) == texts
    (tmp_path / "b.txt").write_text("\n".join(texts))
    assert whole(Files((str(tmp_path / "b.txt"),), boundary="line")) == texts
    assert whole(Files((str(tmp_path / "b.txt"), str(files[0])), boundary="file")) == ["\n".join(texts), *texts]


@pytest.mark.parametrize("boundary", ["file", "blank_line", "line"])
def test_documents_do_not_depend_on_how_the_text_comes(boundary: documents.Boundary) -> None:
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(rng.choices("ab \n\t", (3, 3, 1, 3, 1), k=30))
        cuts = sorted(rng.choices(range(31), k=rng.randint(0, 6)))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 30], strict=True)]
        assert whole(cut_documents(parts, boundary)) == whole(cut_documents([text], boundary))
    expected = {"file": [text], "line": text.rstrip("\n").split("\n")}
    expected["blank_line"] = re.split(r"\n(?:[ \t\r]*\n)+", text.rstrip("\n"))
    assert whole(cut_documents([text], boundary)) == expected[boundary]


def test_a_document_that_is_too_long_to_be_held(
    bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = random.Random(2)
    text = " ".join(rng.choices([*WORDS, "x\n\ny", "the  man"], k=3000))
    monkeypatch.setattr(documents, "PIECE", 500)
    pieces = list(cut_documents([text[i : i + 700] for i in range(0, len(text), 700)], "file"))
    assert max(len(piece.text) for piece in pieces) <= 500 and "".join(piece.text for piece in pieces) == text
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    tokens = [token for piece in pieces for token in bpe.encode(piece.text).tolist()]
    assert tokens == bpe.encode(text).tolist()  # cutting changed none
    path = write_json(tmp_path / "long.jsonl", [text, "the"])
    assert whole(Files((str(path),))) == [text, "the"]
    index = prepare(Files((str(path),)), bpe, tmp_path / "made")
    assert index.documents == 2 and index.tokens == len(tokens) + 1 + 2


def test_what_is_wrong_with_documents_is_said_with_its_place(tmp_path: Path, texts: list[str]) -> None:
    path = write_json(tmp_path / "a.jsonl", texts)
    lines = path.read_text().splitlines()
    for line, message in (
        ('{"text": "half', "a.jsonl, line 3: not valid JSON"),
        ('{"words": "x"}', "a.jsonl, line 3: has no field 'text', but words; --field names"),
        ('["x"]', "a.jsonl, line 3: expected an object with fields, got list"),
        ('{"text": 5}', "a.jsonl, line 3: the field 'text' must be a text, got int"),
        ('{"text": "\\ud800"}', "a.jsonl, line 3: not valid Unicode"),
    ):
        path.write_text("\n".join([*lines[:2], line, *lines[3:]]))
        with pytest.raises(ValueError, match=re.escape(message)):
            list(Files((str(path),)))
    whole_file = write_json(tmp_path / "b.jsonl.gz", texts).read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(ValueError, match=r"b.jsonl.gz: damaged or truncated"):
        list(Files((str(tmp_path / "b.jsonl.gz"),)))
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"c.parquet: not a Parquet file, or damaged"):
        list(Files((str(tmp_path / "c.parquet"),)))
    with pytest.raises(FileNotFoundError, match=r"gone.txt: no such file"):
        list(Files(("gone.txt",)))


def test_a_data_set_as_on_the_hub(tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_json(tmp_path / "set" / "train.jsonl", texts)
    assert whole(Hub(str(tmp_path / "set"))) == texts
    with pytest.raises(ValueError, match=r"set.*(test|split)"):
        list(Hub(str(tmp_path / "set"), part="other"))
    with pytest.raises(ValueError, match=r"set, row 0: has no field 'words', but text, n"):
        list(Hub(str(tmp_path / "set"), field="words"))


# --- prepare


def test_no_token_is_lost_or_doubled(bpe: Tokenizer, texts: list[str], corpus: Path) -> None:
    index = verify(corpus)
    data = Corpus(str(corpus), length=4)
    assert data.shards.read(0, len(data.shards)).tolist() == stream(bpe, texts)
    assert (index.documents, index.tokens, index.empty) == (40, len(stream(bpe, texts)), 0)
    ends = data.shards.ends
    assert (data.shards.read(0, len(data.shards))[ends - 1] == bpe.end).all() and len(ends) == 40
    assert data.codec == bpe and (corpus / TOKENIZER).is_file()


def test_empty_documents_are_left_out(bpe: Tokenizer, tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.jsonl", ["", "the man", "", "an inn", ""])
    index = prepare(Files((str(path),)), bpe, tmp_path / "made", shard_tokens=1)
    assert (index.documents, index.empty, len(index.shards)) == (2, 3, 2)
    write_json(path, ["", ""])
    with pytest.raises(ValueError, match="there is no document that is not empty"):
        prepare(Files((str(path),)), bpe, tmp_path / "none")
    assert not (tmp_path / "none").exists()


KILLED = """
import os, sys
import unmask.data.prepare as module
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.documents import Files
source, bpe, out, after = sys.argv[1:]
fill, shards = module._fill, []
def dying(file, *rest):
    if len(shards) == int(after):
        file.write(b"half"), file.flush()
        os._exit(9)
    shards.append(1)
    return fill(file, *rest)
module._fill = dying
module.prepare(Files((source,)), Tokenizer(bpe), __import__("pathlib").Path(out), 200)
"""


@pytest.mark.parametrize("after", [0, 2])
def test_what_was_killed_goes_on_to_identical_bytes(
    after: int, bpe: Tokenizer, texts: list[str], corpus: Path, tmp_path: Path
) -> None:
    path = write_json(tmp_path / "forty.jsonl", texts)
    arguments = [str(path), bpe.source, str(tmp_path / "made"), str(after)]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode == 9
    assert len(Index.read(tmp_path / "made").shards) == after
    with pytest.raises(ValueError, match="its preparation was interrupted; the same unmask prepare again"):
        Corpus(str(tmp_path / "made")).split("train")
    prepare(Files((str(path),)), bpe, tmp_path / "made", shard_tokens=200)
    names = {entry.name for entry in corpus.iterdir()}
    assert {entry.name for entry in (tmp_path / "made").iterdir()} == names
    for name in names:
        assert (tmp_path / "made" / name).read_bytes() == (corpus / name).read_bytes(), name


def test_another_preparation_is_not_mixed_in(bpe: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    path, out = write_json(tmp_path / "a.jsonl", texts), tmp_path / "made"
    first = prepare(Files((str(path),)), bpe, out)
    before = (out / "00000.bin").stat().st_mtime_ns
    assert prepare(Files((str(path),)), bpe, out) == first  # is there already
    assert (out / "00000.bin").stat().st_mtime_ns == before
    other = Tokenizer(str(write_bpe(tmp_path / "other", [("t", "h")])))
    for changed, source, codec in (
        ("tokenizer", Files((str(path),)), other),
        ("source", Files((str(write_json(tmp_path / "b.jsonl", texts[1:])),)), bpe),
        ("source", Files((str(path),), field="words"), bpe),
    ):
        with pytest.raises(ValueError, match=f"prepared with another {changed}; name another --out"):
            prepare(source, codec, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="holds something else, not a corpus"):
        prepare(Files((str(path),)), bpe, tmp_path / "full")


def test_a_corpus_is_replaced_only_by_a_whole_one(bpe: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    path, out = write_json(tmp_path / "a.jsonl", texts), tmp_path / "made"
    prepare(Files((str(path),)), bpe, out)
    before = (out / "00000.bin").read_bytes()
    path.write_text('{"text": "the"}\n{"text": broken}\n')
    with pytest.raises(ValueError, match="line 2: not valid JSON"):
        replace_corpus(Files((str(path),)), bpe, out, 1000)
    assert (out / "00000.bin").read_bytes() == before
    write_json(path, texts[:5])
    assert replace_corpus(Files((str(path),)), bpe, out, 1000).documents == 5
    assert Corpus(str(out), 4).shards.index.documents == 5
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.jsonl", "made"}
    for name in ("thesis.txt", ".git"):
        (out / name).write_text("precious")
        with pytest.raises(ValueError, match=f"holds {name}, which is no part of a corpus, so nothing is deleted"):
            replace_corpus(Files((str(path),)), bpe, out, 1000)
        assert (out / name).read_text() == "precious"
        (out / name).unlink()


def corpus_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_kill_at_any_move_of_an_overwrite_leaves_one_corpus_whole(
    bpe: Tokenizer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = (
        Files((str(write_json(tmp_path / name, part)),)) for name, part in (("a.jsonl", texts), ("b.jsonl", texts[:9]))
    )
    prepare(before, bpe, tmp_path / "old", 300)
    prepare(after, bpe, tmp_path / "new", 300)
    old, new = corpus_files(tmp_path / "old"), corpus_files(tmp_path / "new")
    seen: list[bool] = []
    for k in range(1, 1000):
        home = tmp_path / f"home{k}"
        shutil.copytree(tmp_path / "old", home / "x")
        killed = killed_at(k, monkeypatch, lambda home=home: replace_corpus(after, bpe, home / "x", 300))
        index = Index.read(home / "x")  # as whoever trains on it
        found = {name: content for name, content in corpus_files(home / "x").items() if name != LOCK}
        assert found in (old, new), f"a mixture after a kill at move {k}"
        assert index.documents == (40 if found == old else 9)
        seen.append(found == new)
        assert prepare(before if found == old else after, bpe, home / "x", 300).complete  # the next start
        assert os.listdir(home) == ["x"] and LOCK not in os.listdir(home / "x")
        replace_corpus(after, bpe, home / "x", 300)  # and a later --overwrite
        assert corpus_files(home / "x") == new and os.listdir(home) == ["x"]
        if not killed:
            break
    assert k > 20 and seen == sorted(seen) and set(seen) == {False, True}


def test_an_overwrite_that_fails_keeps_the_corpus(bpe: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    source = Files((str(write_json(tmp_path / "a.jsonl", texts)),))
    prepare(source, bpe, tmp_path / "x", 300)
    before = corpus_files(tmp_path / "x")
    (tmp_path / "bad.jsonl").write_text('{"text": "the man"}\n{"text": 5}\n')
    with pytest.raises(ValueError, match="line 2"):
        replace_corpus(Files((str(tmp_path / "bad.jsonl"),)), bpe, tmp_path / "x", 300)
    assert corpus_files(tmp_path / "x") == before
    (tmp_path / ".x.old").mkdir()  # as a kill leaves it
    (tmp_path / "x").rename(tmp_path / ".x.old" / "y")
    shutil.move(tmp_path / ".x.old", tmp_path / "aside")
    (tmp_path / "aside" / "y").rename(tmp_path / ".x.old")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("precious")
    with pytest.raises(ValueError, match="holds something else, not the corpus that waits in"):
        replace_corpus(source, bpe, tmp_path / "x", 300)
    assert (tmp_path / "x" / "mine").exists() and corpus_files(tmp_path / ".x.old") == before


def test_folders_that_only_look_as_if_they_waited_are_left_alone(tmp_path: Path) -> None:
    for name in (".x.old", ".x.new", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("precious")
    assert not is_there(tmp_path / "x") and main(["info", str(tmp_path / "x")]) == 1
    with pytest.raises(ValueError, match=r"\.x\.old: is no corpus, though it has the name of one that waits"):
        settle(tmp_path / "x")
    (tmp_path / ".y.new").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"\.y\.new: is a link, not a corpus"):
        settle(tmp_path / "y")
    for name in (".x.old", ".x.new", "mine"):
        assert (tmp_path / name / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("command", ["info", "evaluate"])
def test_commands_find_a_corpus_that_a_kill_left_half_replaced(
    command: str, bpe: Tokenizer, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(Files((str(write_json(tmp_path / "a.jsonl", texts)),)), bpe, tmp_path / "x", 300)
    (tmp_path / "x").rename(tmp_path / ".x.old")
    x, words = str(tmp_path / "x"), ["info", str(tmp_path / "x")]
    if command == "evaluate":
        network = unmask.Transformer(bpe.vocab_size, (6,), width=8, depth=1, heads=2)
        unmask.MaskedDiffusion(network, bpe).save_pretrained(tmp_path / "m")
        words = ["evaluate", str(tmp_path / "m"), "--data", "Corpus", "--data.path", x, "--data.length", "6"]
        words += ["--draws", "1", "--limit", "2"]
    assert main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "x" / "index.json").is_file() and not (tmp_path / ".x.old").exists()


def test_an_overwrite_through_a_link_keeps_the_link(bpe: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    source = Files((str(write_json(tmp_path / "a.jsonl", texts)),))
    prepare(source, bpe, tmp_path / "big" / "x", 300)
    (tmp_path / "x").symlink_to(tmp_path / "big" / "x")
    replace_corpus(source, bpe, tmp_path / "x", 10**6)
    assert (tmp_path / "x").is_symlink() and len(Index.read(tmp_path / "big" / "x").shards) == 1


def test_one_process_at_a_time(bpe: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.jsonl", texts)
    (tmp_path / "made").mkdir()
    with FileLock(tmp_path / "made" / LOCK), pytest.raises(ValueError, match="another process is preparing it"):
        prepare(Files((str(path),)), bpe, tmp_path / "made")
    assert prepare(Files((str(path),)), bpe, tmp_path / "made").documents == 40
    with FileLock(tmp_path / ".made.lock"), pytest.raises(ValueError, match="another process is replacing it"):
        replace_corpus(Files((str(path),)), bpe, tmp_path / "made", 100)
    with FileLock(tmp_path / "made" / LOCK), pytest.raises(ValueError, match="another process is preparing it"):
        replace_corpus(Files((str(path),)), bpe, tmp_path / "made", 100)
    assert Index.read(tmp_path / "made").documents == 40


def test_a_folder_of_data_is_known_by_its_content(tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "set").mkdir()
    path = write_json(tmp_path / "set" / "a.jsonl", texts)
    first = Hub(str(tmp_path / "set")).identity()
    assert Hub(str(tmp_path / "set")).identity() == first
    write_json(path, texts[::-1])
    assert Hub(str(tmp_path / "set")).identity() != first


# --- packing and splits


def test_packing_by_hand(bpe: Tokenizer, tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.jsonl", ["the man", "an inn", "in", "the"] * 10)
    prepare(Files((str(path),)), bpe, tmp_path / "made", shard_tokens=30)
    tokens = stream(bpe, ["the man", "an inn", "in", "the"] * 9)  # what trains
    end, x = bpe.end, tokens
    first = bpe.encode("the man").tolist()
    assert len(first) == 4 and x[4] == end

    def split(packing: Any, length: int) -> Split:
        return Corpus(str(tmp_path / "made"), length, packing).split("train")

    assert rows(split("concatenated", 7)) == [x[i : i + 7] for i in range(0, len(x) - 6, 7)]
    assert rows(split("wrapped", 7)) == [[end, *x[i : i + 5], end] for i in range(0, len(x) - 4, 5)]
    padded = rows(split("padded", 4))
    assert padded[:2] == [first, [end, *[-1 - end] * 3]]  # cut where it is full, and filled up
    assert [token for row in padded for token in row if token >= 0] == x  # each token once
    for row in padded:
        count = sum(token >= 0 for token in row)
        assert end not in row[: count - 1] and row[count:] == [-1 - end] * (4 - count)
    texts = ["the man", "an inn", "in", "the"] * 10
    for packing in ("concatenated", "wrapped", "padded"):
        part = Corpus(str(tmp_path / "made"), 4, packing).split("test" if packing == "padded" else "all")
        for index in range(len(part)):
            row, place = [t for t in part[np.array([index])][0][0].tolist() if t >= 0], part.place(index)
            row = row[1:-1] if packing == "wrapped" else row
            rest = stream(bpe, texts[place["document"] :])[place["token"] :]
            assert row == rest[: len(row)], (packing, place)
    assert [part.place(i) for i in range(2)] == [{"document": 38, "token": 0}, {"document": 39, "token": 0}]
    assert Corpus(str(tmp_path / "made"), 4, "padded").has_given and not Corpus(str(tmp_path / "made"), 4).has_given


def test_sequences_do_not_depend_on_the_shards(bpe: Tokenizer, texts: list[str], corpus: Path, tmp_path: Path) -> None:
    path = write_json(tmp_path / "forty.jsonl", texts)
    for i, size in enumerate((1, 77, 10_000)):
        prepare(Files((str(path),)), bpe, tmp_path / str(i), shard_tokens=size)
        for packing in ("concatenated", "wrapped", "padded"):
            one, other = (Corpus(str(folder), 9, packing).split("train") for folder in (corpus, tmp_path / str(i)))
            assert rows(one) == rows(other)


def test_splits_are_by_documents(bpe: Tokenizer, texts: list[str], corpus: Path) -> None:
    def documents_of(part: Any, by: Any) -> list[list[int]]:
        found: list[int] = [t for row in rows(Corpus(str(corpus), 3, "padded", by).split(part)) for t in row if t >= 0]
        return " ".join(map(str, found)).split(f" {bpe.end}")  # type: ignore[return-value]

    by_hand = [" ".join(map(str, bpe.encode(text).tolist())) for text in texts]
    for part, first, last in (("train", 0, 36), ("valid", 36, 38), ("test", 38, 40)):
        assert [text.strip() for text in documents_of(part, "90-5-5")] == [*by_hand[first:last], ""]
    with pytest.raises(ValueError, match="40 documents are too few for the split last-2-percent"):
        Corpus(str(corpus), 3, split_by="last-2-percent").split("valid")
    with pytest.raises(ValueError, match="40 documents are too few for the split last-100000"):
        Corpus(str(corpus), 3, split_by="last-100000").split("train")


def test_the_last_two_percent(bpe: Tokenizer, tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.jsonl", [WORDS[i % 11] for i in range(250)])
    prepare(Files((str(path),)), bpe, tmp_path / "made", shard_tokens=100)
    data = Corpus(str(tmp_path / "made"), 8, "padded", "last-2-percent")
    assert [len(data.split(part)) for part in ("train", "valid", "test")] == [245, 5, 5]
    assert rows(data.split("valid")) == rows(data.split("test"))


def test_checksums_tell_what_is_different(corpus: Path, bpe: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    path = write_json(tmp_path / "forty.jsonl", [*texts[:-1], texts[0]])
    prepare(Files((str(path),)), bpe, tmp_path / "made", shard_tokens=200)
    splits = [Corpus(str(corpus), 4).split("train"), Corpus(str(corpus), 5).split("train")]
    splits += [Corpus(str(corpus), 5, "wrapped").split("train"), Corpus(str(corpus), 4).split("test")]
    splits += [Corpus(str(tmp_path / "made"), 4).split("train")]
    assert len({split.checksum for split in splits}) == len(splits)
    assert Corpus(str(corpus), 4).split("train").checksum == splits[0].checksum


def test_workers_map_the_files_themselves(corpus: Path) -> None:
    split = Corpus(str(corpus), 6).split("train")
    before = rows(split)
    sent = pickle.dumps(split)
    assert len(sent) < 20_000 and rows(pickle.loads(sent)) == before


def test_damaged_corpora_are_refused(corpus: Path, tmp_path: Path) -> None:
    import shutil

    def copy(name: str) -> Path:
        shutil.copytree(corpus, tmp_path / name)
        return tmp_path / name

    with pytest.raises(FileNotFoundError, match=r"nowhere: no prepared corpus \(index.json\) there; unmask prepare"):
        Corpus(str(tmp_path / "nowhere")).split("train")
    one = copy("truncated") / "00001.bin"
    one.write_bytes(one.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"00001.bin: truncated or damaged shard \(\d+ bytes, expected \d+\)"):
        Corpus(str(tmp_path / "truncated"), 4).split("train")
    one = copy("flipped") / "00001.bin"
    one.write_bytes(b"\1\1" + one.read_bytes()[2:])
    with pytest.raises(ValueError, match=r"00001.bin: damaged: its SHA-256"):
        verify(tmp_path / "flipped")
    one = copy("ends") / "00001.ends.npy"
    one.write_bytes(one.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"00001.ends.npy: damaged"):
        Corpus(str(tmp_path / "ends"), 4).split("train")
    np.save(copy("permuted") / "00001.ends.npy", np.load(corpus / "00001.ends.npy")[::-1])
    index = json.loads((corpus / "index.json").read_text())
    index["shards"][1]["sha256"][1] = checksum(tmp_path / "permuted" / "00001.ends.npy")
    (tmp_path / "permuted" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"00001.ends.npy: damaged: not the ends of \d+ documents"):
        Corpus(str(tmp_path / "permuted"), 4).split("train")
    (copy("missing") / "00000.ends.npy").unlink()
    with pytest.raises(ValueError, match=r"truncated or damaged shard"):
        Corpus(str(tmp_path / "missing"), 4).split("train")
    for content in ("{", '{"format": 2}', '{"format": 1, "unmask": "0", "shards": [{"name": "../x"}]}', "[]"):
        (copy(f"index{hash(content)}") / "index.json").write_text(content)
        with pytest.raises(ValueError, match=r"index.json: damaged, or not an index"):
            Corpus(str(tmp_path / f"index{hash(content)}")).split("train")
    other = write_bpe(tmp_path / "other", [("t", "h")])
    (copy("swapped") / TOKENIZER).write_text(Tokenizer(str(other)).tokenizer.to_str())
    with pytest.raises(ValueError, match="tokenizer.json: damaged: its SHA-256 is not what index.json says"):
        _ = Corpus(str(tmp_path / "swapped"), 4).codec.vocab_size
    with pytest.raises(ValueError, match="fewer than one sequence of length 100000"):
        Corpus(str(corpus), 100_000).split("train")
    for settings, message in (
        (dict(packing="wrapped", length=2), "packing wrapped needs a length of at least 3"),
        (dict(path=""), "no corpus was named"),
    ):
        with pytest.raises(ValueError, match=message):
            Corpus(**{"path": str(corpus), **settings})


# --- the command


def test_prepare_train_evaluate_sample(bpe: Tokenizer, texts: list[str], tmp_path: Path, capsys: Any) -> None:
    path, out = write_json(tmp_path / "forty.jsonl", texts * 4), str(tmp_path / "made")
    prepared = ["prepare", str(path), "--tokenizer", bpe.source]
    assert main([*prepared, "--out", out]) == 0
    shown = capsys.readouterr().out
    assert "160 documents" in shown and f"unmask train openwebtext --data.path {out}" in shown
    assert main(["prepare", "--out", out, "--verify"]) == 0
    small = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--data.length", "12"]
    small += ["--batch_size", "4", "--workers", "0", "--compile", "false", "--precision", "32-true"]
    small += ["--trainer.accelerator", "cpu", "--trainer.max_steps", "3", "--trainer.accumulate_grad_batches", "1"]
    small += ["--trainer.enable_progress_bar", "false", "--evaluate_every", "2", "--evaluate_examples", "4"]
    for packing in ("concatenated", "padded"):
        run = str(tmp_path / packing)
        here = ["--data.path", out, "--data.split_by", "90-5-5", "--data.packing", packing, "--out", run]
        assert main(["train", "openwebtext", *here, *small]) == 0
        capsys.readouterr()
        assert main(["evaluate", run, "--draws", "2", "--json", str(tmp_path / "e.json")]) == 0
        report = json.loads((tmp_path / "e.json").read_text())
        (row,) = report["rows"]
        assert report["protocol"]["data_settings"]["packing"] == packing and "perplexity_per_token" in row
        assert row["tokens_per_example"] == 12 if packing == "concatenated" else row["tokens_per_example"] < 12
        assert main(["sample", run, "-n", "2", "--out", str(tmp_path / "s.txt"), "--gif", str(tmp_path / "s.gif")]) == 0
        assert main(["sample", run, "-n", "1", "--live"]) == 0
        capsys.readouterr()
        assert main(["infill", run, "the [3] in", "-n", "1"]) == 0
        assert capsys.readouterr().out.startswith("the") and not capsys.readouterr().err
        assert main(["infill", run, "the [999999999999]"]) == 1
        assert "the text has 1000000000000 tokens" in capsys.readouterr().err
    assert main([*prepared, "--out", out, "--shard_tokens", "100", "--overwrite"]) == 0
    for arguments, message in (
        ([*prepared, "--out", out], "was prepared with another shard_tokens"),
        (["prepare", "--out", out], "give files, or --hub NAME"),
        ([*prepared, "--out", out, "--hub", "x/y"], "give files, or --hub NAME, not both"),
        ([*prepared, "--out", out, "--revision", "x"], "--revision is for --hub"),
        (["prepare", "gone.txt", "--out", out], "gone.txt: no such file"),
        ([*prepared, "--out", str(tmp_path), "--overwrite"], "which is no part of a corpus, so nothing is deleted"),
        (["evaluate", run, "--data.split_by", "odd"], "expected one of '90-5-5', 'last-2-percent', 'last-100000'"),
        ([*prepared, "--out", out, "--shard_tokens", "0"], "shard_tokens must be at least 1, got 0"),
    ):
        capsys.readouterr()
        assert main(arguments) in (1, 2)
        assert message in capsys.readouterr().err
    other = Tokenizer(str(write_bpe(tmp_path / "other", [("t", "h")])))
    prepare(Files((str(path),)), other, tmp_path / "foreign")
    assert (
        main(["evaluate", run, "--data", "Corpus", "--data.path", str(tmp_path / "foreign"), "--data.length", "12"])
        == 1
    )
    assert "but the model was trained on Tokenizer(" in capsys.readouterr().err


def test_pieces_say_what_they_are() -> None:
    assert list(cut_documents([], "file")) == [Piece("", True)]

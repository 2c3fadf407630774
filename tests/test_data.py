import bz2
import gzip
import hashlib
import http.server
import os
import pickle
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.codecs.text import Bytes, Characters
from unmask.data import text8
from unmask.data.arrays import Arrays
from unmask.data.base import DataSet, Examples, Windows
from unmask.data.digits import Digits
from unmask.data.pydocs import PyDocs
from unmask.data.text import encoded
from unmask.data.text8 import Text8
from unmask.data.textfile import TextFile

WORDS = "the quick brown fox jumps over the lazy dog and then it rests\n" * 200


def whole(data: DataSet, part: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    split = data.split(part)  # type: ignore[arg-type]
    return split[np.arange(len(split))]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(WORDS)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of the files in tmp_path/www."""
    (tmp_path / "www").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "www"))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_digits() -> None:
    data = Digits()
    parts = [whole(data, part) for part in ("train", "valid", "test")]
    assert [len(x) for x, _ in parts] == [1297, 200, 300]
    assert parts[0][0].shape[1:] == data.shape == (8, 8, 1)
    assert (data.codec, data.classes) == (Pixels(17), 10)
    everything = torch.cat([x for x, _ in parts])
    assert everything.min() == 0 and everything.max() == 16
    assert len(everything.flatten(1).unique(dim=0)) == 1797  # no image is in two parts
    assert torch.cat([label for _, label in parts if label is not None]).bincount().min() > 170
    assert Digits(labels=False).classes is None and whole(Digits(labels=False), "test")[1] is None
    assert data.split("test").checksum == Digits().split("test").checksum != data.split("train").checksum


def test_pydocs() -> None:
    data = PyDocs(length=64)
    lengths = {part: len(data.split(part).tokens) for part in ("train", "valid", "test")}  # type: ignore[arg-type,attr-defined]
    assert 0.8 < lengths["train"] / sum(lengths.values()) < 0.97 and min(lengths.values()) > 2000
    x, _ = data.split("valid")[np.array([0])]
    assert len(data.codec.decode(x)[0]) == 64


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zip"])
def test_textfile_finds_its_alphabet_and_cuts_by_position(text: Path, suffix: str) -> None:
    raw = text.read_bytes()
    path = text.with_name(f"words.txt{suffix}")
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("words", raw)
    elif suffix:
        path.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}[suffix](raw))
    data = TextFile(str(path), length=50, stride=50)
    assert data.codec == Characters("".join(sorted(set(WORDS))))
    n = len(WORDS) - 1  # the line end at the very end is no part of the text
    for part, start, end in (
        ("train", 0, n * 9 // 10),
        ("valid", n * 9 // 10, n * 95 // 100),
        ("test", n * 95 // 100, n),
    ):
        pieces = data.codec.decode(whole(data, part)[0])
        assert "".join(pieces) == WORDS[start : start + (end - start) // 50 * 50]
    assert data.resolved().tokens == data.codec.alphabet
    assert data.resolved().split("test").checksum == data.split("test").checksum


def test_textfile_of_many_characters_is_read_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "all.txt"
    path.write_text("".join(chr(0x4E00 + i) for i in range(300)) * 5)
    data = TextFile(str(path), length=30)
    assert data.codec == Bytes() and data.resolved().tokens == "bytes"
    assert TextFile(str(path), length=30, tokens=path.read_text()[:300]).codec.vocab_size == 300


def test_training_windows_overlap_and_measured_ones_do_not(text: Path) -> None:
    data = TextFile(str(text), length=32)
    train, valid = data.split("train"), data.split("valid")
    assert (train.stride, valid.stride) == (2, 32)  # type: ignore[attr-defined]
    x, _ = train[np.array([0, 1])]
    assert torch.equal(x[0, 2:], x[1, :-2])


def test_text_is_encoded_once_and_again_when_it_changes(text: Path) -> None:
    first = TextFile(str(text)).text
    cache = Path(os.environ["UNMASK_CACHE"], "texts")
    stamp = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert isinstance(first.tokens, np.memmap)
    TextFile(str(text)).text  # noqa: B018
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == stamp
    text.write_text(WORDS.replace("fox", "cat"))
    second = TextFile(str(text))
    assert "cat" in second.codec.decode(whole(second, "test")[0])[0]
    assert first.md5 != second.text.md5 == hashlib.md5(text.read_bytes().removesuffix(b"\n")).hexdigest()


def test_splits_travel_to_workers_without_their_data(text: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(90_000).reshape(-1, 3) % 7)
    for data in (TextFile(str(text), length=32), Arrays(str(tmp_path / "x.npy"))):
        split = data.split("train")
        sent = pickle.dumps(split)
        again = pickle.loads(sent)
        assert torch.equal(again[np.arange(9)][0], split[np.arange(9)][0])
    x = np.memmap(tmp_path / "big", np.uint8, "w+", shape=(1_000_000,))
    assert len(pickle.dumps(Windows(x, 10, 1))) < 1000


def test_text8_official_and_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("anarchism originated as a term of abuse " * 500)[:20_000]
    path = tmp_path / "text8.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text8", words)
    data = Text8(str(path), length=100)
    assert (data.codec.vocab_size, data.shape, data.name) == (27, (100,), "text8.zip (not text8)")
    assert [len(data.split(part).tokens) for part in ("train", "valid", "test")] == [18_000, 1000, 1000]  # type: ignore[arg-type,attr-defined]
    monkeypatch.setattr(text8, "MD5", hashlib.md5(words.encode()).hexdigest())
    assert data.name == "text8"


def test_text8_is_downloaded_verified_and_kept(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "own"))
    words = b"abc " * 1000
    served = tmp_path / "www" / "text8.zip"
    with zipfile.ZipFile(served, "w") as archive:
        archive.writestr("text8", words)
    size, md5 = served.stat().st_size, hashlib.md5(words).hexdigest()
    kept = tmp_path / "own" / "downloads"
    with pytest.raises(ConnectionError, match=r"cannot download .*nothing.zip .*give --data.path"):
        text8.download(f"{server}/nothing.zip", size, md5)
    with pytest.raises(ValueError, match=rf"text8.zip: {size} bytes were downloaded, {size + 1} are expected"):
        text8.download(f"{server}/text8.zip", size + 1, md5)
    with pytest.raises(ValueError, match="text8.zip: the text has MD5 .*, expected 0000; the download is damaged"):
        text8.download(f"{server}/text8.zip", size, "0000")
    assert list(kept.iterdir()) == []
    path = text8.download(f"{server}/text8.zip", size, md5)
    assert path.read_bytes() == served.read_bytes()
    served.unlink()
    assert text8.download(f"{server}/text8.zip", size, md5) == path  # no second download


def test_wiki27_through_text8(shared_data: Path) -> None:
    data = Text8(str(shared_data / "text8_TRUNCATED_first6877825.txt.bz2"))
    assert data.name.endswith("(not text8)")
    assert data.codec.decode(data.split("train")[np.array([0])][0])[0].startswith(" anarchism originated as a term")


def test_arrays(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 5, (100, 2, 3)).astype(np.uint8)
    labels = np.arange(100) % 4
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "both.npz", x=x, labels=labels)
    np.savez(tmp_path / "split.npz", train=x[:80], valid=x[80:90], test=x[90:])
    plain, labelled = Arrays(str(tmp_path / "x.npy")), Arrays(str(tmp_path / "both.npz"))
    beside = Arrays(str(tmp_path / "x.npy"), labels_path=str(tmp_path / "labels.npy"))
    assert (plain.codec, plain.shape, plain.classes) == (Symbols(5), (2, 3), None)
    assert (labelled.classes, beside.classes) == (4, 4)
    rows = torch.cat([whole(plain, part)[0] for part in ("train", "valid", "test")])
    assert sorted(map(str, rows.tolist())) == sorted(map(str, x.tolist()))
    for data in (labelled, beside):
        got, classes = whole(data, "test")
        assert len(got) == 5
        for example, label in zip(got, classes, strict=True):
            assert any((x[i] == example.numpy()).all() for i in np.flatnonzero(labels == int(label)))
    assert len(Arrays(str(tmp_path / "split.npz")).split("valid")) == 10
    assert plain.resolved().vocab_size == 5
    np.save(tmp_path / "images.npy", x.reshape(100, 2, 3, 1))
    assert Arrays(str(tmp_path / "images.npy"), images=True, vocab_size=16).codec == Pixels(16)


@pytest.mark.parametrize(
    ("array", "settings", "message"),
    [
        (np.zeros((30, 3)), {}, "x must be integers, got dtype float64"),
        (np.zeros(30, int), {}, r"x must have the shape \(examples, \*dims\), got \(30,\)"),
        (np.full((30, 3), -2), {}, r"x must be at least 0, got -2 at index \[0, 0\]"),
        (np.eye(30, dtype=int) * 9, {"vocab_size": 5}, r"below vocab_size=5, got 9 at index \[0, 0\]"),
        (np.zeros((30, 3), int), {"images": True}, r"images must have the shape .* got \(30, 3\)"),
        (np.zeros((5, 3), int), {}, "at least 20 examples are needed for three parts, got 5"),
        (np.zeros((0, 3), int), {}, "x is empty"),
        (np.array([[None]]), {}, "damaged, or not plain arrays"),
    ],
)
def test_arrays_refuse(tmp_path: Path, array: np.ndarray, settings: dict, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=message):
        Arrays(str(tmp_path / "x.npy"), **settings).split("train")


def test_array_files_refuse(tmp_path: Path) -> None:
    def split(name: str, **settings: str) -> None:
        Arrays(str(tmp_path / name), **settings).split("train")

    with pytest.raises(FileNotFoundError, match="nothing.npy: no such file"):
        split("nothing.npy")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"x.csv: expected a .npy or .npz file"):
        split("x.csv")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match=r"x.npz: damaged"):
        split("x.npz")
    np.savez(tmp_path / "y.npz", tokens=np.zeros((30, 2), int))
    with pytest.raises(ValueError, match="no array named 'x', only tokens"):
        split("y.npz")
    np.savez(tmp_path / "z.npz", train=np.zeros((30, 2), int), valid=np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="no array named 'test', only train, valid; the part all is there"):
        Arrays(str(tmp_path / "z.npz")).split("test")
    np.savez(tmp_path / "w.npz", x=np.zeros((30, 2), int), labels=np.zeros(29, int))
    with pytest.raises(ValueError, match=r"labels must have the shape \(30,\), got \(29,\)"):
        split("w.npz")
    with pytest.raises(ValueError, match="labels_path is for a file without labels"):
        split("w.npz", labels_path=str(tmp_path / "w.npz"))
    np.savez(tmp_path / "typo.npz", x=np.zeros((30, 2), int), givn=np.zeros((30, 2), bool))
    with pytest.warns(
        UserWarning, match=r"typo.npz: givn not read; the names known here are given, labels, lengths, x$"
    ):
        split("typo.npz")
    np.savez(
        tmp_path / "more.npz",
        train=np.zeros((30, 2), int),
        train_given=np.zeros((30, 2), bool),
        lengths=np.ones(30, int),
    )
    with pytest.warns(
        UserWarning, match="more.npz: lengths not read; .* train, train_given, train_labels, train_lengths$"
    ):
        split("more.npz")


def test_texts_refuse(tmp_path: Path) -> None:
    def split(content: bytes, name: str = "t.txt", **settings: object) -> None:
        (tmp_path / name).write_bytes(content)
        TextFile(str(tmp_path / name), **settings).split("train")  # type: ignore[arg-type]

    with pytest.raises(FileNotFoundError, match="gone.txt: no such file"):
        TextFile(str(tmp_path / "gone.txt")).codec  # noqa: B018
    with pytest.raises(ValueError, match=r"t.txt: byte 0xff at offset 3 is not UTF-8"):
        split(b"abc\xff")
    with pytest.raises(ValueError, match=r"t.txt: byte 0xe2 at offset 2 is not UTF-8"):
        split(b"ab\xe2\x82")
    with pytest.raises(ValueError, match="t.txt: the file is empty"):
        split(b"")
    with pytest.raises(ValueError, match="train: the text has 90 tokens, fewer than one sequence of length 256"):
        split(b"a" * 100)
    with pytest.raises(ValueError, match=r"t.txt: character 'C' \(U\+0043\) at offset 2 .* not in the alphabet 'ab'"):
        split(b"abC" * 1000, tokens="ab")
    with pytest.raises(ValueError, match=r"t.gz: damaged or truncated archive"):
        split(gzip.compress(os.urandom(5000))[:2000], "t.gz")
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        TextFile("x", length=0)
    (tmp_path / "t8.txt").write_text("Anarchism " * 1000)
    with pytest.raises(ValueError, match="character 'A'"):
        Text8(str(tmp_path / "t8.txt")).split("train")


def test_batches_in_order_and_a_spread_few() -> None:
    split = Examples(np.arange(10).reshape(10, 1))
    assert torch.cat([x for x, _ in split.batches(4)]).flatten().tolist() == list(range(10))
    assert torch.cat([x for x, _ in split.batches(4, limit=5)]).flatten().tolist() == [0, 2, 4, 6, 8]


def test_a_damaged_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "t.txt").write_text("abcd" * 500)
    whole = len(encoded(tmp_path / "t.txt").tokens)
    (tokens,) = (tmp_path / "cache" / "texts").glob("*.bin")
    (index,) = (tmp_path / "cache" / "texts").glob("*.json")
    for damage in (lambda: tokens.write_bytes(b"\0" * 7), lambda: index.write_text(""), lambda: index.write_text("{}")):
        damage()
        assert len(encoded(tmp_path / "t.txt").tokens) == whole

"""Corpora and models elsewhere give what they give here, through a cache that is bounded and checked."""

import json
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

import unmask
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.corpora import prepare_corpus
from unmask.data.corpus import Corpus
from unmask.data.order import Division, Order
from unmask.data.packing import WINDOW, Packed
from unmask.data.remote import RemoteShards
from unmask.exporting import export
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.storage.checkpoint import checkpoint_step, save_tree
from unmask.storage.folders import CHECKPOINT, cache_folder
from unmask.storage.remote import fetch_folder, is_file_name, upload_folder
from unmask.storage.shard_cache import LIMIT
from unmask.training import pull
from unmask.training.mirroring import Mirroring
from unmask.training.run import COMPARED

PLACE = "memory://bucket/texts"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of many small shards."""
    folder = tmp_path_factory.mktemp("elsewhere")
    rng = np.random.default_rng(0)
    rows = ({"text": " ".join(rng.choice(["the", "man", "inn", "then"], rng.integers(5, 40)))} for _ in range(600))
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bpe = str(write_bpe(folder / "bpe"))
    index = prepare_corpus(folder / "made", [str(folder / "t.jsonl")], tokenizer=bpe, shard_tokens=400)
    assert len(index.shards) > 3 * WINDOW
    return folder / "made"


@pytest.fixture
def elsewhere(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same, elsewhere, and an empty cache."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    yield upload_folder(made, PLACE)
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def rows(split: Any, indices: Any = None) -> torch.Tensor:
    return split[np.arange(len(split)) if indices is None else indices][0]


def cached() -> list[Path]:
    return [path for path in (cache_folder() / "shards").iterdir() if path.name[0] != "."]


def kept() -> int:
    """Return how many bytes the cache holds, while other threads take some away."""
    total = 0
    for path in cached():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


@pytest.mark.parametrize("packing", ["wrapped", "padded"])
def test_it_holds_what_is_here(made: Path, elsewhere: str, packing: Any) -> None:
    here, there = (Corpus(path, 16, packing) for path in (str(made), elsewhere))
    assert there.name == "texts" and there.codec == here.codec and there.lengths == here.lengths
    for part in ("train", "test", "all"):
        ours, theirs = here.split(part), there.split(part)  # type: ignore[arg-type]
        assert theirs.checksum == ours.checksum and torch.equal(rows(theirs), rows(ours))
        assert theirs.place(len(theirs) - 1) == ours.place(len(ours) - 1)
    again = pickle.loads(pickle.dumps(there.split("test")))  # as a worker process gets it
    assert torch.equal(rows(again), rows(here.split("test")))


def test_training_reads_some_shards_at_a_time(
    made: Path, elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each epoch has every sequence, each shard is fetched about once, the cache stays small, and all is repeatable."""
    sizes = [path.stat().st_size for path in made.glob("*.bin")]
    ends = sum(path.stat().st_size for path in made.glob("*.ends.npy"))
    room = ends + 2.5 * WINDOW * max(sizes)
    monkeypatch.setenv(LIMIT, str(room / 1e9))
    split = Corpus(elsewhere, 16).split("all")
    assert isinstance(split, Packed) and isinstance(split.shards, RemoteShards)
    batches = len(split) // 8
    order = Order(split, Division(8), seed=1, start=lambda: 0)
    seen = []
    for _, indices in zip(range(batches), order, strict=False):
        seen.append((indices, rows(split, indices)))
        assert kept() <= room + 4 * max(sizes)  # that many come at once
    everything = np.concatenate([indices for indices, _ in seen])
    assert len(set(everything.tolist())) == len(everything) == batches * 8
    here = Corpus(str(made), 16).split("all")
    assert all(torch.equal(x, rows(here, indices)) for indices, x in seen)
    fetched = [name for name in split.shards.cache.fetched if name.endswith(".bin")]
    assert len(sizes) <= len(fetched) < 1.6 * len(sizes)
    assert len(np.unique(split._shard(seen[0][0]))) > 4  # shuffled
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "another machine"))
    later = Corpus(elsewhere, 16).split("all")
    for indices, (expected, x) in zip(Order(later, Division(8), seed=1, start=lambda: 60), seen[60:90], strict=False):
        assert np.array_equal(indices, expected) and torch.equal(rows(later, indices), x)
    few = Corpus(str(made), 16).split("test")
    same = Corpus(elsewhere, 16).split("test")  # of few shards: in the order that it has here
    a, b = (next(iter(Order(one, Division(4), 0, lambda: 0))) for one in (len(few), same))
    assert np.array_equal(a, b)


def test_shards_come_before_they_are_read(elsewhere: str) -> None:
    split = Corpus(elsewhere, 16).split("all")
    assert isinstance(split, Packed) and isinstance(split.shards, RemoteShards)
    indices = split.shuffled(np.random.default_rng(0))
    split.expect(indices[:4])
    assert split.shards.cache.pool is not None
    split.shards.cache.pool.shutdown(wait=True)
    names = {split.shards.index.shards[i].name + ".bin" for i in split.windows[1]}
    assert names <= set(split.shards.cache.fetched) and len(split.shards.cache.fetched) < 2 * WINDOW + 70


def test_what_is_wrong_is_a_line(
    made: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = fsspec.filesystem("memory")

    def fails(error: type[Exception], match: str, path: str = elsewhere) -> None:
        with pytest.raises(error, match=match) as found:
            rows(Corpus(path, 16).split("all"))
        assert "\n" not in str(found.value)

    fails(FileNotFoundError, "memory://bucket/none: no such file or folder", "memory://bucket/none")
    fails(ValueError, "nothing://a/b: Protocol not known: nothing", "nothing://a/b")
    memory.pipe("/bucket/texts/00003.bin", b"\0" * (made / "00003.bin").stat().st_size)
    fails(ValueError, "memory://bucket/texts/00003.bin: damaged: its SHA-256 is not what it should be")
    assert not [path for path in cached() if path.read_bytes()[:4] == b"\0" * 4]
    memory.rm("/bucket/texts/00003.bin")
    fails(FileNotFoundError, "memory://bucket/texts/00003.bin: no such file")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(memory), "ls", refuse)
    fails(ConnectionError, "memory://bucket/texts: cannot be read: Access Denied; are the credentials right?")
    monkeypatch.undo()
    monkeypatch.setenv(LIMIT, "none")
    fails(ValueError, "UNMASK_CACHE_GB must be a positive number of gigabytes, got 'none'")
    monkeypatch.delenv(LIMIT)
    assert main(["evaluate", "memory://bucket/none"]) == 1
    assert capsys.readouterr().err == (
        "unmask: error: memory://bucket/none: no such file or folder, or no right to see it\n"
    )


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "a/b", "/x", "..\\x", "C:x", "a\0b", 5, None])
def test_a_name_that_is_read_is_no_path(name: Any) -> None:
    assert is_file_name("tokenizer.json") and not is_file_name(name)


def test_models(made: Path, elsewhere: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are written when they are finished, and fetched anew when they have changed."""
    codec = Tokenizer(str(made / "tokenizer.json"))
    torch.manual_seed(0)
    model = MaskedDiffusion(Transformer(codec.vocab_size, (16,), width=16, depth=1, heads=2), codec)
    model.save_pretrained("memory://bucket/m")
    found = unmask.load("memory://bucket/m")
    assert found.weights_sha256 == model.weights_sha256 and found.codec.encode("the inn").tolist()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert model.push_to_hub("memory://bucket/m") == "memory://bucket/m"
    assert unmask.load("memory://bucket/m").weights_sha256 == model.weights_sha256 != found.weights_sha256
    model.save_pretrained(tmp_path / "run" / "model")
    upload_folder(tmp_path / "run", "memory://bucket/run")  # a run, whose model is meant
    assert unmask.load("memory://bucket/run").weights_sha256 == model.weights_sha256
    data = ["--data", "Corpus", "--data.path", elsewhere, "--data.length", "16"]
    assert main(["evaluate", "memory://bucket/run", *data, "--draws", "1", "--limit", "8"]) == 0
    assert "texts" in capsys.readouterr().out
    assert main(["push", str(made), "memory://bucket/again"]) == 0
    assert capsys.readouterr().out == "memory://bucket/again\n"
    assert Corpus("memory://bucket/again", 16).split("all").checksum == Corpus(elsewhere, 16).split("all").checksum
    for options, said in (
        (["me/corpus"], "is a corpus: give a URL"),
        (["memory://bucket/c", "--private"], "on the Hub"),
        (["memory://bucket/m"], "memory://bucket/m: holds something else (config.json); name another place"),
    ):
        assert main(["push", str(made), *options]) == 1
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"again: holds something else \(index.json\)"):
        model.save_pretrained("memory://bucket/again")
    fsspec.filesystem("memory").pipe_file("/bucket/m/..\\..\\x.json", b"{}")  # a path on Windows
    folder = fetch_folder("memory://bucket/m", tmp_path / "fetched", lambda name: True)
    assert not [path for path in folder.iterdir() if "x.json" in path.name] and (folder / "config.json").is_file()
    with pytest.raises(ValueError, match="only Pretrained is exported"):
        export(model, "memory://bucket/e")


def test_a_real_server(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3, by moto's server and s3fs."""
    server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'unmask[dev]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        known = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
        for name, value in (known | {"DEFAULT_REGION": "us-east-1"}).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
        fsspec.filesystem("s3").mkdir("bucket")
        few, bpe = tmp_path / "few", str(made.parent / "bpe")
        prepare_corpus(few, [str(made.parent / "t.jsonl")], tokenizer=bpe, shard_tokens=5000)
        here, there = (Corpus(path, 16).split("all") for path in (str(few), upload_folder(few, "s3://bucket/texts")))
        assert there.checksum == here.checksum and torch.equal(rows(there), rows(here))
        model = MaskedDiffusion(Transformer(5, (4,), width=8, depth=1, heads=2), unmask.Symbols(5))
        model.push_to_hub("s3://bucket/model")
        assert unmask.load("s3://bucket/model").weights_sha256 == model.weights_sha256
        run = tmp_path / "run"
        for step in (1, 2):
            save_tree({"global_step": step}, run / CHECKPOINT)
            (run / "run.json").write_text(json.dumps({"id": "a"} | {name: {} for name in COMPARED}))
            mirroring = Mirroring(run, "s3://bucket/run", "a")
            mirroring.check(step - 1, False)
            mirroring.begin(step)
            mirroring.finish(step)
        assert pull("s3://bucket/run", tmp_path / "pulled") == 2
        assert checkpoint_step(tmp_path / "pulled" / CHECKPOINT) == 2
        assert len(fsspec.filesystem("s3").find("bucket/run")) == 3  # the list, and no file of the first step
        with pytest.raises((FileNotFoundError, ConnectionError), match="^s3://nobucket/run"):
            Mirroring(run, "s3://nobucket/run", "a").check(-1, False)
        with pytest.raises(FileNotFoundError, match="s3://bucket/none: no such file or folder"):
            Corpus("s3://bucket/none", 16).split("all")
        with pytest.raises((FileNotFoundError, ConnectionError), match="^s3://nobucket/m: "):
            unmask.load("s3://nobucket/m")
    finally:
        running.stop()
        fsspec.filesystem("s3").clear_instance_cache()

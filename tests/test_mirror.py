"""A run has a copy elsewhere, which `unmask pull` brings back."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import unmask
from unmask.cli.main import main
from unmask.storage import mirror as mirror_module
from unmask.storage.checkpoint import load_tree
from unmask.storage.files import checksum
from unmask.storage.mirror import Mirror, read_mirror, send, versioned, write_mirror
from unmask.storage.remote import MIRROR, put
from unmask.training import pull
from unmask.training.mirroring import Mirroring

URL = "memory://bucket/run"
TINY = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
TINY += ["--trainer.enable_progress_bar", "false", "--checkpoint_every", "2", "--evaluate_every", "100"]


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is elsewhere, and nothing in the cache."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    yield
    memory = fsspec.filesystem("memory")
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


def train(out: Path, *more: str, steps: int = 4) -> int:
    return main(["train", "digits", *TINY, "--out", str(out), "--trainer.max_steps", str(steps), *more])


def names_there() -> set[str]:
    return {name.removeprefix("/bucket/run/") for name in fsspec.filesystem("memory").find("/bucket/run")}


def there() -> dict[str, bytes]:
    """Return the files of the run that the copy holds; nothing else is there."""
    memory, mirror = fsspec.filesystem("memory"), read_mirror(URL)
    assert mirror is not None and names_there() == mirror.names | {MIRROR}
    return {path: memory.cat_file(f"/bucket/run/{versioned(path, sha)}") for path, sha in mirror.files.items()}


def here(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def step_of(out: Path) -> int:
    return load_tree(out / "checkpoints" / "last.safetensors")["global_step"]


def test_the_copy_is_the_run_and_can_be_used_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(out, "--mirror", URL) == 0
    assert there() == here(out) and "checkpoints/last.safetensors" in there() and "model/config.json" in there()
    assert "bucket" not in (out / "model" / "config.json").read_text()  # nor in what is published of it
    capsys.readouterr()
    assert main(["evaluate", URL, "--draws", "1", "--limit", "4"]) == 0
    before = here(out)
    shutil.rmtree(out)
    assert main(["pull", URL, str(out)]) == 0
    assert f"{out} holds step 4. Next:\n  unmask train {out} --resume --mirror {URL}" in capsys.readouterr().out
    assert here(out) == before
    assert main(["train", str(out), "--resume", "--mirror", URL, "--trainer.max_steps", "6"]) == 0
    whole = tmp_path / "whole"
    assert train(whole, steps=6) == 0
    ours, theirs = (load_tree(folder / "checkpoints" / "last.safetensors") for folder in (out, whole))
    assert ours["global_step"] == 6
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name
    assert there() == here(out)


def test_an_unfinished_run_elsewhere_is_a_model(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(out, "--keep_best", "true", "--evaluate_every", "2") == 0
    shutil.rmtree(out / "model")
    send(out, URL, "a", 4)
    model = unmask.load(URL)
    assert torch.equal(model.state_dict()["network.head.weight"], unmask.load(out).state_dict()["network.head.weight"])
    cached = {path.name for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert cached == {"last.safetensors"}  # what is not needed is not fetched


def test_another_start_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a new machine, whose disk is empty, it would begin again: the copy is not to be lost by that."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    out = tmp_path / "run"
    assert main(["pull", URL, str(out)]) == 1 and not out.exists()
    assert f"{URL}: no copy of a run, no model and no corpus is there" in capsys.readouterr().err
    assert train(out, "--mirror", URL, steps=2) == 0  # there was nothing yet: it begins
    before = there()
    shutil.rmtree(out)
    for more in ([], ["--overwrite"]):
        assert train(out, "--mirror", URL, *more) == 1 and not out.exists()
        assert f"{URL} holds another run, at step 2: give --overwrite" in capsys.readouterr().err
    assert there() == before
    assert main(["pull", URL, str(out)]) == 0
    assert train(out, "--mirror", URL, steps=4) == 0
    assert step_of(out) == 4 and there() == here(out)


def test_an_older_folder_does_not_replace_a_later_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, old = tmp_path / "run", tmp_path / "old"
    assert train(out, "--mirror", URL, steps=2) == 0
    shutil.copytree(out, old)
    assert train(out, "--mirror", URL, "--resume", steps=4) == 0
    before = there()
    assert train(old, "--mirror", URL, "--resume", steps=6) == 1
    line = f"{URL} is at step 4, {old} at 2: bring it here first, with unmask pull {URL} {old}"
    assert line in capsys.readouterr().err and there() == before and step_of(old) == 2
    assert pull(URL, old) == 4 and here(old) == here(out)
    (old / "loss.png").unlink()
    assert pull(URL, old) == 4 and (old / "loss.png").is_file()  # it is as far, but not whole
    assert train(old, "--resume", steps=6) == 0
    assert f"note: the run is copied there no more: give --mirror {URL}" in capsys.readouterr().err
    assert there() == before and pull(URL, old) == 6
    damaged = old / "checkpoints" / "last.safetensors"
    damaged.write_bytes(b"")
    assert pull(URL, old) == 4 and step_of(old) == 4
    assert train(tmp_path / "other") == 0
    with pytest.raises(ValueError, match=f"{tmp_path / 'other'}: holds something else than the run at {URL}"):
        pull(URL, tmp_path / "other")


def test_a_run_that_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of the old run go, others stay; without --overwrite nothing is touched."""
    assert train(tmp_path / "a", "--mirror", URL, "--keep_best", "true", "--evaluate_every", "2") == 0
    before = there()
    assert "checkpoints/best.safetensors" in before
    assert train(tmp_path / "b", "--mirror", URL) == 1
    assert f"{URL} holds another run, at step 4: give --overwrite, or another --mirror" in capsys.readouterr().err
    assert there() == before and not (tmp_path / "b").exists()
    fsspec.filesystem("memory").pipe_file("/bucket/run/notes.txt", b"mine")
    assert train(tmp_path / "b", "--mirror", URL, "--overwrite") == 0
    assert "notes.txt" in names_there()
    fsspec.filesystem("memory").rm_file("/bucket/run/notes.txt")
    assert there() == here(tmp_path / "b")


def test_training_does_not_wait_and_goes_on_over_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy that takes long is not queued behind; one that fails is said, and made up for at the end."""
    last = tmp_path / "checkpoints" / "last.safetensors"
    last.parent.mkdir()
    (tmp_path / "run.json").write_text("{}")
    last.write_text("{}")
    mirroring, free, put = Mirroring(tmp_path, URL, "a"), threading.Event(), []
    mirroring.check(-1, False)
    memory = MemoryFileSystem  # of which each thread has an instance
    original = memory.put_file

    def slow(self: Any, source: str, target: str, **more: Any) -> None:
        free.wait(30)
        put.append(target)
        original(self, source, target, **more)

    monkeypatch.setattr(memory, "put_file", slow)
    mirroring.begin(1)
    assert not mirroring.done(0.01)
    last.unlink()
    last.write_text("[1]")
    mirroring.begin(2)  # the first is still under way
    free.set()
    assert mirroring.done(30.0)
    assert len(put) == 2 and there()["checkpoints/last.safetensors"] == b"{}"  # as it was at that checkpoint
    monkeypatch.setattr(memory, "put_file", lambda *_: (_ for _ in ()).throw(OSError("no route")))
    mirroring.begin(3)
    assert mirroring.done(30.0) and read_mirror(URL).step == 1  # type: ignore[union-attr]
    mirroring.begin(4)
    assert f"warning: {URL}/checkpoints/last-" in (said := capsys.readouterr().err)
    assert "cannot be written: no route" in said and "training goes on" in said
    with pytest.raises(ConnectionError, match=f"no route.*the run is whole in {tmp_path}"):
        mirroring.finish(4)
    monkeypatch.setattr(memory, "put_file", original)
    mirroring.finish(4)
    assert there()["checkpoints/last.safetensors"] == b"[1]" and read_mirror(URL).step == 4  # type: ignore[union-attr]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    monkeypatch.setattr("unmask.training.mirroring.contents", lambda out: (_ for _ in ()).throw(OSError("disk full")))
    mirroring.begin(5)
    with pytest.raises(ConnectionError, match="disk full"):
        mirroring.finish(5)


def test_a_copy_that_is_cut_off_is_the_one_before_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever write elsewhere is the last: the list is of one checkpoint, whole, and the next copy clears up."""
    memory = fsspec.filesystem("memory")
    versions = [{"run.json": "1", "checkpoints/last.safetensors": "one", "model/x": "same"}]
    versions += [{"run.json": "2", "checkpoints/last.safetensors": "two", "model/x": "same", "loss.png": "new"}]
    for number, version in enumerate(versions):
        for name, text in version.items():
            (tmp_path / str(number) / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / str(number) / name).write_text(text)
    originals = {name: getattr(memory, name) for name in ("put_file", "mv", "rm_file")}
    for most in range(9):  # three files come, two go, and the list is replaced three times
        send(tmp_path / "0", URL, "a", 1)
        calls = iter(range(most))

        def limited(name: str, calls: Iterator[int]) -> Any:
            def call(*args: Any, **more: Any) -> Any:
                if (name != "rm_file" or "/." not in args[0]) and next(calls, None) is None:
                    raise KeyboardInterrupt
                return originals[name](*args, **more)

            return call

        with monkeypatch.context() as patch:
            for name in originals:
                patch.setattr(memory, name, limited(name, calls))
            try:
                send(tmp_path / "1", URL, "a", 2)
            except KeyboardInterrupt:
                pass
            else:
                assert most == 8, "not every write was cut off"
        mirror = read_mirror(URL)
        assert mirror is not None
        stored = {path: f"/bucket/run/{versioned(path, sha)}" for path, sha in mirror.files.items()}
        found = {path: memory.cat_file(name).decode() for path, name in stored.items()}
        assert found == versions[mirror.step - 1], most
        send(tmp_path / "1", URL, "a", 3)
        assert there() == {name: text.encode() for name, text in versions[1].items()}, most
        memory.rm("/bucket", recursive=True)


def test_a_run_that_ends_early_is_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a loss that is not finite leaves is the last checkpoint, and a note in run.json: also in the copy."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        calls, original = iter(range(100)), unmask.Transformer.cross_entropy

        def poor(self: Any, *args: Any, **more: Any) -> Any:
            loss, nll = original(self, *args, **more)
            return loss * (float("nan") if next(calls) == 3 else 1.0), nll

        patch.setattr(unmask.Transformer, "cross_entropy", poor)
        assert train(out, "--mirror", URL, steps=8) == 1
    assert "the loss is nan" in capsys.readouterr().err
    assert json.loads(there()["run.json"])["stopped"]["step"] == 2 and there() == here(out)


def test_models_and_corpora_are_pulled_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run") == 0
    assert main(["push", str(tmp_path / "run"), "memory://bucket/model"]) == 0
    capsys.readouterr()
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_text("cut off")  # by a kill: it is fetched anew
    assert main(["pull", "memory://bucket/model", str(model)]) == 0
    assert capsys.readouterr().out == f"{model}\n"
    assert here(model).keys() == {"README.md", "config.json", "model.safetensors"}
    unmask.load(model)
    with pytest.raises(ValueError, match=f"{model}: is not empty; name another folder"):
        pull("memory://bucket/model", model)
    with pytest.raises(ValueError, match="is not empty"):
        pull("memory://bucket/model", tmp_path / "run")
    with pytest.raises(ValueError, match="is no folder of this machine"):
        pull("memory://bucket/model", "memory://bucket/again")
    for url in ("me/model", "memory://", "s3:///", "://x"):
        with pytest.raises(ValueError, match="what is pulled must be a URL of a folder, such as s3://bucket/run"):
            pull(url, tmp_path / "new")
    with pytest.raises(ValueError, match="'' is no folder of this machine"):
        pull("memory://bucket/model", "")
    assert train(tmp_path / "other", "--mirror", "memory://bucket/model") == 1  # a model is not a run's copy
    assert "memory://bucket/model holds something else (config.json): give another" in capsys.readouterr().err
    assert train(tmp_path / "other", "--mirror", URL) == 0
    assert main(["push", str(tmp_path / "run"), URL]) == 1
    assert f"{URL}: holds the copy of a run (mirror.json)" in capsys.readouterr().err


SUM = 64 * "a"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "",
        '{"run": "a", "step": "4"}',
        '{"run": "a", "step": 4, "files": {"run.json": "x"}}',
        f'{{"run": "a", "step": 4, "files": {{"../run.json": "{SUM}"}}}}',
        f'{{"run": "a", "step": 4, "files": {{"/etc/run.json": "{SUM}"}}}}',
        f'{{"run": "a", "step": 4, "files": {{".git/hooks/x": "{SUM}"}}}}',
        f'{{"run": "a", "step": 4, "files": ["{SUM}"]}}',
        '{"run": "a", "step": 4, "unused": ["a/../../b-0123456789abcdef"]}',
        '{"run": "a", "step": 4, "unused": ["notes.txt"]}',
        '{"run": "a", "step": 4, "unused": "abc"}',
        '{"run": "a", "more": 1}',
        "[" * 10_000,
    ],
)
def test_a_list_that_is_no_list(text: str, tmp_path: Path) -> None:
    """Nothing is written outside the folder, nothing is removed outside the copy."""
    fsspec.filesystem("memory").pipe_file(f"/bucket/run/{MIRROR}", text.encode())
    with pytest.raises(ValueError, match=f"{URL}/{MIRROR}: damaged"):
        pull(URL, tmp_path / "run")
    with pytest.raises(ValueError, match=f"{URL}/{MIRROR}: damaged"):
        unmask.load(URL)
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_is_not_taken(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--mirror", URL, steps=2) == 0
    name = versioned("run.json", read_mirror(URL).files["run.json"])  # type: ignore[union-attr]
    fsspec.filesystem("memory").pipe_file(f"/bucket/run/{name}", b"{}")
    with pytest.raises(ValueError, match=f"{URL}/{name}: damaged: its SHA-256"):
        pull(URL, tmp_path / "new")
    write_mirror(URL, Mirror("a"))
    with pytest.raises(FileNotFoundError, match=f"{URL}: no checkpoint of a run was copied there yet"):
        pull(URL, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mirror", "elsewhere"], "mirror must be a URL of a folder, such as s3://bucket/run; got 'elsewhere'"),
        (["--mirror", "memory://"], "mirror must be a URL of a folder, such as s3://bucket/run; got 'memory://'"),
        (["--mirror", "nowhere://a"], "nowhere"),
        (["--out", "s3://bucket/run"], "out must be a folder of this machine, got s3://bucket/run"),
    ],
)
def test_refusals(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", *options) != 0
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_file_cannot_ask_for_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(f"data: Digits\nnetwork: Transformer\nmirror: {URL}\n")
    assert main(["train", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "mirror is for the command line, not for a file" in capsys.readouterr().err
    assert train(tmp_path / "run", "--mirror", URL, steps=2) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["mirror"] == URL and record["run"]["mirror"] is None  # --resume copies nothing by itself


def test_an_older_process_does_not_write_over_a_newer_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine that was suspended, and wakes up after another one has gone on."""
    for name, text in (("run.json", "{}"), ("checkpoints/last.safetensors", "1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    old, new = Mirroring(tmp_path, URL, "a"), Mirroring(tmp_path, URL, "a")
    old.check(-1, False)
    old.begin(100)
    assert old.done(30.0)
    new.check(100, False)
    (tmp_path / "checkpoints" / "last.safetensors").write_text("2")
    new.begin(900)
    assert new.done(30.0)
    before = there()
    old.begin(101)
    assert old.done(30.0)
    old.begin(102)
    with pytest.raises(ConnectionError, match=f"{URL}: another process has written mirror.json"):
        old.finish(103)
    assert there() == before and read_mirror(URL).step == 900  # type: ignore[union-attr]


def test_a_list_that_is_cut_off_on_a_disk_is_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, run = f"file://{tmp_path / 'copy'}", tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("1")
    before = send(run, url, "a", 1)
    (run / "run.json").write_text("2")

    def full(self: Any, path: str, value: bytes, **more: Any) -> None:
        Path(path).write_bytes(value[: len(value) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "pipe_file", full)
        with pytest.raises(ConnectionError, match=r"mirror.json: cannot be written: .*No space left on device$"):
            send(run, url, "a", 2)
    assert read_mirror(url) == before and {path.name for path in (tmp_path / "copy").iterdir()} == {
        MIRROR,
        *before.names,
    }


def test_pull_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(tmp_path / "run", "--mirror", URL) == 0
    original = mirror_module.fetch
    for most in range(len(there())):
        out, calls = tmp_path / str(most), iter(range(most))

        def limited(*args: Any, calls: Any = calls) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(mirror_module, "fetch", limited)
            with pytest.raises(KeyboardInterrupt):
                pull(URL, out)
        assert not (out / "checkpoints" / "last.safetensors").exists()  # so that nothing goes on from there
        assert pull(URL, out) == 4 and here(out) == here(tmp_path / "run")


def test_a_run_that_replaces_another_one_goes_on_before_its_first_copy(tmp_path: Path) -> None:
    out = tmp_path / "b"
    assert train(tmp_path / "a", "--mirror", URL, steps=2) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmask.training.mirroring.send", lambda *_: (_ for _ in ()).throw(OSError("no route")))
        assert train(out, "--mirror", URL, "--overwrite", steps=2) == 1
    assert read_mirror(URL).step == 2 and step_of(out) == 2  # type: ignore[union-attr]
    assert train(out, "--mirror", URL, "--resume", steps=4) == 0
    assert there() == here(out)


def test_what_is_gone_elsewhere_is_sent_again(tmp_path: Path) -> None:
    """Such as by a rule of a bucket that removes old files."""
    out = tmp_path / "run"
    assert train(out, "--mirror", URL, steps=2) == 0
    model = versioned("model/config.json", read_mirror(URL).files["model/config.json"])  # type: ignore[union-attr]
    fsspec.filesystem("memory").rm_file(f"/bucket/run/{model}")
    assert train(out, "--mirror", URL, "--resume", steps=2) == 0
    assert there() == here(out)


def test_the_copy_is_not_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    for place in (out, out / "checkpoints", tmp_path):
        assert train(out, "--mirror", f"file://{place}") == 1
        assert "lies in the run's folder" in capsys.readouterr().err and not out.exists()


def test_a_run_is_pulled_into_an_empty_folder(tmp_path: Path) -> None:
    """Whatever a list names, files of the user's stay as they are."""
    assert train(tmp_path / "run", "--mirror", URL, steps=2) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=f"{tmp_path / 'mine'}: holds something else than the run"):
        pull(URL, tmp_path / "mine")
    new, mirror = tmp_path / "new", read_mirror(URL)
    assert mirror is not None and pull(URL, new) == 2
    (new / "notes.txt").write_text("mine")
    text = tmp_path / "hostile.txt"
    text.write_text("hostile")
    sha = checksum(text)
    put(text, f"{URL}/{versioned('notes.txt', sha)}")
    write_mirror(URL, replace(mirror, step=3, files=mirror.files | {"notes.txt": sha}))
    assert pull(URL, new) == 3 and (new / "notes.txt").read_text() == "mine"

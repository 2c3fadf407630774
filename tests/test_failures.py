"""What nobody expected is one line and a report, and what unpacks to more than memory holds is refused before."""

import io
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import unmask
from unmask.cli import info
from unmask.cli.main import main
from unmask.data.index import Index
from unmask.storage.arrays import map_array, read_arrays
from unmask.storage.failures import explain_failure
from unmask.storage.limits import check_size
from unmask.storage.model_files import config_digest
from unmask.training.run import read_record


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "unexpected KeyError: 'x'; this is a bug"),
        (RecursionError("too deep"), "unexpected RecursionError: too deep"),
        (MemoryError(), "out of memory; a smaller --batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nmore"), "out of memory: "),
        (AssertionError(), "unexpected AssertionError; this is a bug"),
    ],
)
def test_what_nobody_expected_is_one_line_and_a_report(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(_: list[str]) -> None:
        raise error

    monkeypatch.setattr(info, "run", fail)
    assert main(["info", "x"]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"unmask: error: {said}") and line.count("\n") == 1
    (path,) = re.findall(r"; (/\S+\.txt) says where it happened", line)
    report = Path(path).read_text()
    assert "Traceback" in report and type(error).__name__ in report and "in fail" in report
    for arguments in (["info", "x", "--debug"], ["--debug", "info", "x"]):
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("Traceback") and "in fail" in err and err.splitlines()[-1].startswith("unmask: error:")
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "file"))  # where nothing can be written
    assert main(["info", "x"]) == 1
    assert "says where it happened" in capsys.readouterr().err


def test_errors_that_are_expected_have_no_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["info", str(tmp_path / "none")]) == 1
    assert "says where it happened" not in capsys.readouterr().err
    assert main(["info", str(tmp_path / "none"), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def npz(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def test_an_array_that_unpacks_to_too_much_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, x=np.zeros((1000, 1000), dtype=np.int64))
    assert bomb.stat().st_size < 100_000
    monkeypatch.setenv("UNMASK_MOST_BYTES", "1000000")
    with pytest.raises(ValueError, match=r"holds 8,000,128 bytes, more than the 1,000,000 .*BYTES=8000128"):
        read_arrays(bomb)
    monkeypatch.setenv("UNMASK_MOST_BYTES", "8000128")
    assert read_arrays(bomb)["x"].shape == (1000, 1000)
    monkeypatch.delenv("UNMASK_MOST_BYTES")
    with pytest.raises(ValueError, match="holds 5,000,000,000 bytes, more than the 4,294,967,296"):
        check_size(5 * 10**9, "x")
    file = io.BytesIO()
    np.save(file, np.zeros((3, 4), dtype=np.int64))
    lie = file.getvalue().replace(b"(3, 4), }      ", b"(9999999, 4), }")
    assert len(lie) == len(file.getvalue()) != lie.count(b"(3, 4)")
    with pytest.raises(ValueError, match="x.npy in it is shorter than its header says"):
        read_arrays(npz(tmp_path / "lie.npz", "x.npy", lie))
    for name, content, message in (
        ("x", b"text", "x in it is no array"),
        ("x.npy", b"text", "damaged, or not plain arrays"),
        ("x.npy", b"", "damaged, or not plain arrays"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arrays(npz(tmp_path / "bad.npz", name, content))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects.npy: damaged, or not plain arrays"):
        map_array(tmp_path / "objects.npy")
    with pytest.raises(ValueError, match=r"bomb.npz: damaged, or not plain arrays: expected one array, got an archive"):
        map_array(bomb)


def test_a_network_that_its_weights_cannot_fill_is_not_built(tmp_path: Path) -> None:
    """It would take all memory, or days."""
    torch.manual_seed(0)
    model = unmask.MaskedDiffusion(unmask.Transformer(5, (6,), width=8, depth=1, heads=2), unmask.Symbols(5))
    model.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    for change in ({"depth": 10**9}, {"width": 4096}):
        described = {part: dict(whole[part]) for part in ("network", "codec", "schedule")}
        described["network"] |= change
        save_file(weights, tmp_path / "model.safetensors", metadata={"config": config_digest(described)})
        (tmp_path / "config.json").write_text(json.dumps(described))
        with pytest.raises(ValueError, match="config.json: network: Transformer: has many more parameters than"):
            unmask.load(tmp_path)


def test_a_pipe_is_refused_and_nothing_waits_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = unmask.MaskedDiffusion(unmask.Transformer(5, (6,), width=8, depth=1, heads=2), unmask.Symbols(5))
    model.save_pretrained(tmp_path / "m")
    model.save_pretrained(tmp_path / "of_a_pipe")
    (tmp_path / "of_a_pipe" / "model.safetensors").unlink()
    pipe, folder, inside = str(tmp_path / "pipe.npy"), str(tmp_path / "m"), str(tmp_path / "of_a_pipe")
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / "of_a_pipe" / "model.safetensors")
    for arguments in (
        ["train", pipe],
        ["prepare", pipe, "--out", str(tmp_path / "c")],
        ["infill", folder, "--array", pipe],
        ["evaluate", folder, "--data", "Arrays", "--data.path", pipe],
        ["evaluate", folder, "--data", "TextFile", "--data.path", pipe],
        ["evaluate", folder, "--data", "CIFAR10", "--data.path", pipe],
        ["info", pipe],
        ["info", inside],
        ["sample", pipe],
        ["sample", inside],
        ["sample", folder, "--sampler.steps", "1e22", "--sampler", "Ancestral"],
    ):
        assert main(arguments) in (1, 2)
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and err.startswith("unmask: error:") and "unexpected" not in err


class Damaged(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise ValueError("corpus/00000.bin: damaged: its SHA-256 is not what index.json says")


@pytest.mark.parametrize("message", ["", "a.csv: is wrong\nhint: use --field"])
def test_messages_of_processes_that_load_data_are_whole(message: str) -> None:
    trace = "Traceback (most recent call last):\n  File 'x', line 1\n    raise ValueError: x\n"
    last = f"ValueError: {message}" if message else "ValueError"
    error = ValueError(f"Caught ValueError in DataLoader worker process 0.\nOriginal {trace}{last}\n")
    assert explain_failure(error, "train") == (message or "ValueError", 1)


def test_a_package_that_is_missing_is_named_if_it_is_known() -> None:
    named = ModuleNotFoundError("No module named 'matplotlib.pyplot'", name="matplotlib.pyplot")
    said = "train needs the package 'matplotlib', which is not installed: pip install 'unmask[train]'"
    assert explain_failure(named, "train") == (said, 1)
    assert explain_failure(ModuleNotFoundError("needs a module"), "train") == ("needs a module", 1)


def test_an_error_of_a_process_that_loads_data_is_one_line() -> None:
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker") as caught:
        next(iter(torch.utils.data.DataLoader(Damaged(), num_workers=1)))
    said, status = explain_failure(caught.value, "train")
    assert (said, status) == ("corpus/00000.bin: damaged: its SHA-256 is not what index.json says", 1)


def test_a_record_or_an_index_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    """Of 65 MiB, sparse, so that nothing is written."""
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "run" / "run.json", tmp_path / "run" / "index.json"):
        with open(path, "wb") as file:
            file.truncate(65 << 20)
    said = "json: holds 68,157,440 bytes, more than the 67,108,864 that are read; UNMASK_MOST_BYTES=68157440"
    with pytest.raises(ValueError, match=f"run.{said}"):
        read_record(tmp_path / "run")
    with pytest.raises(ValueError, match=f"index.{said}"):
        Index.read(tmp_path / "run")


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "model", "--draws", "?", "--data", "Arrays", "--data.path", "x.npy"],
        ["sample", "model", "--sampler", "Ancestral", "--sampler.steps", "?", "--out", "s.npy"],
        ["train", "arrays", "--data.path", "x.npy", "--network.width", "?", "--dry-run"],
    ],
)
def test_a_number_that_no_tensor_holds_is_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((40, 6), dtype=int))
    network = unmask.Transformer(5, (6,), width=8, depth=1, heads=2)
    unmask.MaskedDiffusion(network, unmask.Symbols(5)).save_pretrained("model")
    option = arguments[arguments.index("?") - 1]
    for huge in ("9" * 30, str(2**63 - 1)):
        assert main([huge if part == "?" else part for part in arguments]) == 2
        assert capsys.readouterr().err == f"unmask: error: {option}: {huge} is too large\n"

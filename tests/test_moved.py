"""Runs that began with the weights of a model: they stand by themselves when that is gone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import unmask
from small_bpe import write_bpe
from test_lengths import TINY
from unmask import MaskedDiffusion, Transformer
from unmask.cli.main import main
from unmask.codecs import Bytes, Characters, Codec, Pixels, Symbols, Tokenizer
from unmask.codecs.atoms import Atoms
from unmask.codecs.ended import Ended
from unmask.codecs.table import Table
from unmask.data import Arrays, Categories, Lines
from unmask.evaluation.data import measured_data
from unmask.training.beginning import check_tokens_of, in_tokens_of

pytestmark = pytest.mark.filterwarnings("ignore:.*(more than one part|longer than)")
FROM = TINY[6:]


def save(codec: Codec, folder: Path, length: int = 8) -> str:
    torch.manual_seed(0)
    MaskedDiffusion(Transformer(codec.vocab_size, (length,), width=8, depth=1, heads=1), codec).save_pretrained(folder)
    return str(folder)


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(f"{text}\n" for text in texts))
    return str(path)


@pytest.mark.parametrize(
    ("codec", "data", "name"),
    [
        (Characters("\nCNO:"), "Lines", "exactly:characters:\nCNO:"),
        (Ended(Characters("CNO")), "Lines", "characters:CNO"),
        (Bytes(), "Lines", "exactly:bytes"),
        (Ended(Bytes()), "Lines", "bytes"),
        (Ended(Atoms(("C", "N", "O"))), "SMILES", "atoms:C N O"),
        (Atoms(("C", "N", "O")), "SMILES", "exactly:atoms:C N O"),
    ],
)
def test_a_run_does_not_need_the_folder_that_its_tokens_are_from(
    codec: Codec, data: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = save(codec, tmp_path / "base"), tmp_path / "run"
    path = write(tmp_path / "a.txt", ["C" * (i % 5 + 1) + "NO"[i % 2] for i in range(60)])
    arguments = ["train", "lines", "--data", data, "--data.path", path, "--data.length", "8", "--from", base, *FROM]
    assert main([*arguments, "--out", str(out)]) == 0
    assert json.loads((out / "run.json").read_text())["data"]["tokenizer"] == name
    shutil.rmtree(base)
    model = unmask.load(out, device="cpu")
    assert model.codec == codec and measured_data(model, None).codec == codec
    assert main(["evaluate", str(out), "--limit", "2", "--device", "cpu"]) == 0, capsys.readouterr().err


def test_a_run_takes_its_own_copy_of_a_tokenizer_that_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save(Tokenizer.from_folder(write_bpe(tmp_path / "bpe")), tmp_path / "base")
    out = tmp_path / "run"
    path = write(tmp_path / "a.txt", [f"the man {i}" for i in range(60)])
    assert (
        main(["train", "lines", "--data.path", path, "--data.length", "32", "--from", base, *FROM, "--out", str(out)])
        == 0
    )
    before = unmask.evaluation.likelihood(unmask.load(out, device="cpu"), limit=4).rows
    shutil.rmtree(base)
    shutil.rmtree(tmp_path / "bpe")
    assert unmask.evaluation.likelihood(unmask.load(out, device="cpu"), limit=4).rows == before
    assert main(["evaluate", str(out), "--limit", "2", "--device", "cpu"]) == 0, capsys.readouterr().err


def test_training_goes_on_without_the_tokenizer_that_was_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bpe, out = write_bpe(tmp_path / "bpe"), str(tmp_path / "run")
    path = write(tmp_path / "a.txt", [f"the man {i}" for i in range(60)])
    more = ["--data.path", path, "--data.length", "32", "--data.tokenizer", str(bpe), *TINY, "--out", out]
    assert main(["train", "lines", *more]) == 0
    shutil.rmtree(bpe)
    assert main(["train", out, "--resume", "--trainer.max_steps", "5"]) == 0, capsys.readouterr().err


def in_memory(codec: Codec, length: int = 8) -> MaskedDiffusion:
    return MaskedDiffusion(Transformer(codec.vocab_size, (length,), width=8, depth=1, heads=1), codec)


def test_tables_and_arrays_have_the_tokens_of_a_start(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["b,a", *(f"{i % 2},{'xy'[i % 2]}" for i in range(40))])
    model = in_memory(Table(("a", "b"), (("w", "x", "y"), ("0", "1", "2"))), 2)
    data = in_tokens_of(Categories(path), model)
    assert data.codec == model.codec and data.split("all")[np.arange(2)][0].tolist() == [[1, 3], [2, 4]]
    assert in_tokens_of(Categories(path, columns="a, b"), model).codec == model.codec
    for settings in ({"columns": "b,a"}, {"missing": "given"}, {"values": (("0", "1"), ("x", "y"))}):
        other = in_tokens_of(Categories(path, **settings), model)
        with pytest.raises(ValueError, match="the model in memory those of .*: the vocabulary cannot change"):
            check_tokens_of(other, model, model)
    x = np.arange(120).reshape(30, 4) % 3
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, lengths=np.full(30, 3))
    np.save(tmp_path / "p.npy", x.reshape(30, 2, 2, 1))
    model = in_memory(Symbols(7), 4)
    for name, settings, codec in (
        ("x.npy", {}, Symbols(7)),
        ("x.npz", {}, Symbols(7)),
        ("p.npy", {"images": True}, Pixels(7)),
    ):
        arrays = in_tokens_of(Arrays(str(tmp_path / name), **settings), in_memory(codec, 4))
        assert arrays.codec == codec and arrays.resolved() == arrays
    with pytest.raises(ValueError, match="below vocab_size=2, got 2"):
        _ = in_tokens_of(Arrays(str(tmp_path / "x.npy")), in_memory(Symbols(2), 4)).codec


def test_models_in_memory_and_unfinished_runs_have_names_for_their_tokens(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", [f"the man {i}" for i in range(60)])
    bpe = Tokenizer.from_folder(write_bpe(tmp_path / "bpe"))
    for codec in (Ended(Characters("thema n0123456789X")), Bytes(), bpe):
        model = in_memory(codec)
        data = in_tokens_of(Lines(path, 32), model)
        assert data.codec == codec and data.tokenizer is not None
        other = Lines(path, 32, tokenizer="characters")
        with pytest.raises(
            ValueError, match="the model in memory those of .*--data.tokenizer '.+' cuts them"
        ) as caught:
            check_tokens_of(other, model, model)
        assert "None" not in str(caught.value).partition(": --data")[2]
    out = tmp_path / "run"
    more = ["--data.path", path, "--data.length", "32", "--data.tokenizer", str(tmp_path / "bpe"), *TINY]
    assert main(["train", "lines", *more, "--out", str(out)]) == 0
    shutil.rmtree(out / "model")
    model = unmask.load(out, device="cpu")
    assert model.folder is None
    data = in_tokens_of(Lines(path, 32), model)
    assert data.tokenizer == str(out.resolve()) and data.codec == model.codec

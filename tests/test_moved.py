"""Runs that began with the weights of a model: they stand by themselves when that is gone."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import unmask
from small_bpe import write_bpe
from test_lengths import TINY
from unmask import MaskedDiffusion, Transformer
from unmask.cli.main import main
from unmask.codecs import Bytes, Characters, Codec, Tokenizer
from unmask.codecs.atoms import Atoms
from unmask.codecs.ended import Ended
from unmask.evaluation.data import measured_data

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

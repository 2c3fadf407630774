"""Models of texts that are filled up to one length: the lengths are drawn, the filling is given, texts end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import unmask
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.lengths import Lengths
from unmask.networks.padded import Padded

TINY = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--batch_size", "8"]
TINY += ["--precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TINY += ["--trainer.max_steps", "3", "--evaluate_examples", "8", "--ema", "0.5", "--checkpoint_every", "2"]


def test_lengths_are_drawn_from_their_histogram() -> None:
    lengths = Lengths(9, (5, 0, 3, 2))
    u = unmask.randomness.uniform((20_000,), unmask.randomness.seeded(0), torch.device("cpu"))
    n = lengths.draw(u)
    counts = torch.bincount(n, minlength=5)[1:].tolist()
    assert counts[1] == 0
    assert chisquare([counts[0], counts[2], counts[3]], [10_000, 6_000, 4_000]).pvalue > 1e-3
    assert lengths.draw(torch.tensor([0.0, 0.4999999, 0.5, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 1, 3, 4]
    assert lengths.canvas(torch.tensor([1, 4]), 7).tolist() == [[7, 9, 9, 9], [7, 7, 7, 7]]
    assert lengths.cut(torch.tensor([3, 9, 4, 9, 9])).tolist() == [3, 9, 4] and not len(
        lengths.cut(torch.tensor([9, 9]))
    )
    assert Lengths.read(json.loads(json.dumps(lengths.describe()))) == lengths and Lengths.read(None) is None
    for wrong in ({"fill": 1}, {"fill": 1, "counts": []}, {"fill": 1, "counts": [-1, 2]}, [3]):
        with pytest.raises(ValueError, match="about.lengths: expected the fill token and counts"):
            Lengths.read(wrong)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of documents of different lengths, each in a sequence by itself."""
    folder = tmp_path_factory.mktemp("padded")
    write_bpe(folder / "tokenizer")
    texts = ["the cat", "the cat sat on the mat", "a dog", "the dog ran to the cat and sat"] * 30
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = ["prepare", str(folder / "texts.jsonl"), "--tokenizer", str(folder / "tokenizer")]
    assert main([*made, "--out", str(folder / "corpus")]) == 0
    data = [
        "--data",
        "Corpus",
        "--data.path",
        str(folder / "corpus"),
        "--data.length",
        "24",
        "--data.packing",
        "padded",
    ]
    data += ["--data.split_by", "90-5-5"]
    assert main(["train", "textfile", *data, *TINY, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_what_was_given_in_training_is_given_in_sampling(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = unmask.load(run, device="cpu")
    lengths = model.lengths
    assert lengths is not None and isinstance(model.codec, unmask.Tokenizer) and lengths.fill == model.codec.end
    tokens = [len(model.codec.encode(text)) + 1 for text in ("the cat", "a dog")]
    assert {n for n, count in enumerate(lengths.counts, 1) if count} >= {n for n in tokens if n <= 24}
    assert sum(lengths.counts) >= 108
    known = {n for n, count in enumerate(lengths.counts, 1) if count}
    canvas = model.empty_canvas(200, 0)
    open_positions = (canvas == model.network.mask_id).sum(1)
    assert set(open_positions.tolist()) <= known and len(set(open_positions.tolist())) > 1
    assert ((canvas == model.network.mask_id) | (canvas == lengths.fill)).all()
    assert torch.equal(model.empty_canvas(3, 0), canvas[:3]), "example i depends on the seed and i alone"
    x = model.sample(20, generator=unmask.randomness.seeded(1))
    assert x.shape == (20, 24) and (x < model.network.mask_id).all()
    shorter = (x == lengths.fill).flip(1).long().cumprod(1).sum(1) >= 24 - max(known)
    assert shorter.all(), "every sample ends as the training examples do"
    assert model.decode(x) == [model.codec.decode(lengths.cut(row)[None])[0] for row in x]
    capsys.readouterr()
    out = run.parent / "s.jsonl"
    assert main(["sample", str(run), "-n", "3", "--out", str(out)]) == 0
    texts = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert len(texts) == 3 and not any(text.endswith("<|endoftext|>") for text in texts)
    assert main(["sample", str(run), "-n", "3", "--out", str(run.parent / "s.npy")]) == 0
    assert model.decode(torch.from_numpy(np.load(run.parent / "s.npy"))) == texts


def test_a_shorter_text_is_filled_up_as_in_training(run: Path) -> None:
    model = unmask.load(run, device="cpu")
    assert model.lengths is not None
    canvas = torch.full((2, 5), model.network.mask_id)
    network = model.network_for(canvas)
    assert isinstance(network, Padded) and network.fill == model.lengths.fill
    whole = torch.cat((canvas, torch.full((2, 19), model.lengths.fill)), 1)
    assert torch.equal(network(canvas), model.network(whole)[:, :5])
    assert model.network_for(whole) is model.network


def test_an_unfinished_run_knows_its_lengths_too(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "model")
    assert unmask.load(tmp_path / "r", device="cpu").lengths == unmask.load(run, device="cpu").lengths


def test_a_model_that_lost_its_lengths_is_not_sampled(run: Path) -> None:
    model = unmask.load(run, device="cpu")
    del model.about["lengths"]
    with pytest.raises(ValueError, match="does not know their lengths"):
        model.sample(1)

"""The judge, the figures of samples, and `unmask study`."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import unmask
from unmask.cli.main import main
from unmask.codecs.pixels import Pixels
from unmask.data.lines import Lines
from unmask.evaluation.ngram import NGram
from unmask.evaluation.perplexity import mean_error, token_entropy
from unmask.evaluation.study import _figures, _without_filling, fit_judge
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.schedules import TokenPolynomial


def test_what_fills_examples_up_is_not_judged() -> None:
    """Neither in the entropy nor by the n-gram judge: the same texts give the same figures at every length."""
    found = []
    for length in (6, 20):
        lengths = Lengths(2, (1,) * length)
        x = torch.full((4, length), 2)
        x[:2, :4], x[2:, :3] = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 0])
        x[3] = 2  # an empty text
        judge = NGram.fit((row.numpy() for row in _without_filling(x, lengths)), 3, 2)
        figures = _figures(x, judge, lengths)
        found.append((figures["entropy"].value, figures["judge"].value))
    assert found[0] == pytest.approx(found[1]) and found[0][0] == pytest.approx(math.log(2) / 2)


def test_a_model_of_answers_is_not_judged_without_prompts() -> None:
    about = {"lengths": Lengths(2, (1,) * 4, targets=True).describe()}
    model = unmask.MaskedDiffusion(
        unmask.Transformer(3, (4,), width=8, depth=1, heads=1), unmask.Characters("ab."), about=about
    )
    with pytest.raises(ValueError, match="the model answers prompts"):
        unmask.evaluation.study_samplers(model, samples=4)


def test_entropy_of_histograms() -> None:
    x = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1]])
    torch.testing.assert_close(token_entropy(x), torch.tensor([0, math.log(4), math.log(2)]).double())
    image = x.view(3, 2, 2, 1)
    assert torch.equal(token_entropy(image), token_entropy(x))


def test_mean_and_error() -> None:
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    mean, error = mean_error(values)
    assert mean == pytest.approx(7 / 3) and error == pytest.approx(values.std().item() / math.sqrt(3))
    assert math.isnan(mean_error(values[:1])[1])


def test_the_ngram_model_is_a_distribution_and_prefers_its_data() -> None:
    rng = np.random.default_rng(0)
    sequences = rng.integers(0, 2, (200, 8)).cumsum(1) % 4
    judge = NGram.fit([sequences[:100], sequences[100:]], 4, 3)
    every = torch.cartesian_prod(*[torch.arange(4)] * 4)
    assert (-judge.nll(every)).exp().sum().item() == pytest.approx(1)
    assert judge.nll(torch.from_numpy(sequences)).mean() < 8 * math.log(2) + 1.5
    assert judge.nll(torch.tensor([[0, 2, 0, 2, 0, 2, 0, 2]])) > 8 * math.log(4)


def test_ngram_counts_by_hand() -> None:
    judge = NGram.fit([np.array([[0, 1, 0]])], 2, 2)
    unigram = (np.array([2, 1]) + 2 * 0.5) / 5
    np.testing.assert_allclose(judge.tables[0], [unigram])
    np.testing.assert_allclose(judge.tables[1][0], (np.array([0, 1]) + unigram) / 2)  # after 0 came a 1, once
    expected = -math.log(unigram[1]) - math.log(judge.tables[1][1, 1])
    assert judge.nll(torch.tensor([[1, 1]])).item() == pytest.approx(expected)


def test_ngram_refusals() -> None:
    for order, message in ((0, "must be at least 1, got 0"), (3, "has 1,000,000,000 counts, more than 50,000,000")):
        with pytest.raises(ValueError, match=message):
            NGram.fit([np.zeros((1, 4), dtype=np.int64)], 1000, order)


def test_the_judge_of_padded_texts_counts_their_tokens(tmp_path: Path) -> None:
    """The tokens that fill sequences up, which are encoded as given, are tokens as in the samples."""
    path = tmp_path / "lines.txt"
    words = ["".join(letters) for n in range(1, 6) for letters in itertools.product("abc", repeat=n)]
    path.write_text("\n".join(words), encoding="utf-8")
    data = Lines(str(path), 6)
    assert (data.split("test")[np.arange(2)][0] < 0).any()
    vocab = data.codec.vocab_size
    network = Transformer(vocab, (6,), width=8, depth=1, heads=2)
    judge, figures = fit_judge(MaskedDiffusion(network, data.codec), data, 2)
    assert judge is not None
    rows = torch.cat([x for x, _ in data.split("train").batches(64)])
    expected = NGram.fit([torch.where(rows < 0, -1 - rows, rows).numpy()], vocab, 2)
    for found, right in zip(judge.tables, expected.tables, strict=True):
        np.testing.assert_array_equal(found, right)
    assert 0 < figures["entropy"].value < math.log(vocab)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("study") / "digits")
    tiny = ["--network.width", "16", "--network.depth", "1", "--network.heads", "2", "--trainer.max_steps", "3"]
    assert main(["train", "digits", "--out", folder, "--trainer.enable_progress_bar", "false", *tiny]) == 0
    return folder


def test_study_samplers(digits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "s.png", tmp_path / "s.json"
    assert main(["study", "samplers", digits, "-n", "2", "--out", str(out), "--json", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "FirstHitting(tokens_per_call=4, order=2)" in shown and "test data" in shown
    assert out.stat().st_size > 1000
    written = json.loads(report.read_text())
    rows = {row["sampler"]: row for row in written["rows"]}
    assert rows["FirstHitting()"]["calls"] == 64 and rows["FirstHitting(tokens_per_call=4)"]["calls"] == 16
    assert set(rows["FirstHitting()"]) == {"sampler", "calls", "seconds_per_example", "entropy", "judge"}
    assert written["protocol"]["examples"] == 2 and rows["test data"]["judge"][0] > 0


def test_study_precision(digits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-n", "2", "--steps", "2,8", "--ngram", "0", "--out", str(tmp_path / "p.png")]
    assert main(["study", "precision", digits, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("GumbelAncestral(" in line for line in lines) == 6 and "precision=truncated" in lines[8]
    assert lines[0].split() == ["sampler", "calls", "seconds", "per", "example", "entropy", "temperature"]
    assert lines[1].startswith("Ancestral(") and "±" in lines[1] and lines[9].startswith("test data")


def test_study_of_a_learned_schedule_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = Transformer(17, (8, 8, 1), width=16, depth=1, heads=2, time_conditioning=True)
    MaskedDiffusion(network, Pixels(17), TokenPolynomial(17)).save_pretrained(tmp_path / "model")
    assert main(["study", "samplers", str(tmp_path / "model"), "-n", "2", "--out", str(tmp_path / "s.png")]) == 0
    shown = capsys.readouterr().out
    assert "TokenFirstHitting(form=frozen)" in shown and "test data" not in shown
    assert main(["study", "precision", str(tmp_path / "model")]) == 1
    assert "without a learned schedule" in capsys.readouterr().err


def test_study_refuses(digits: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["everything", digits], "study everything: there are samplers and precision"),
        (["precision", digits, "--steps", "4,x"], "--steps must be whole numbers of at least 1"),
        (["precision", digits, "-n", "1"], "--samples must be at least 2, got 1"),
        (["samplers", digits, "--ngram", "-1"], "--ngram must be at least 0, got -1"),
        (["samplers", digits, "--ngram", "9"], "choose a smaller order"),
        (["samplers", digits, "--data", "PyDocs"], "but the model was trained on"),
        (["samplers", "nowhere"], "nowhere: no such folder"),
        (["samplers", "-n", "4", digits], "MODEL comes first, before any option"),
        (["samplers", digits, "--guidance", "2"], "guidance 2 needs a label"),
    ):
        assert main(["study", *arguments]) != 0
        assert message in capsys.readouterr().err

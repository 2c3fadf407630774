"""Left-to-right models in every command: trained, measured, sampled, completed, saved; what they cannot is refused."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

import unmask
from small_bpe import write_bpe
from test_cli import TINY, fails
from test_zeroshot import write_sets
from unmask.cli.main import main
from unmask.data.benchmarks import Texts, sequences
from unmask.data.digits import Digits
from unmask.evaluation import likelihood, study_precision, study_samplers, zeroshot
from unmask.evaluation.alternatives import rank_alternatives
from unmask.evaluation.harness import Harness
from unmask.given import given_and_clean
from unmask.randomness import generators, seeded

CAUSAL = ["--network", "CausalTransformer", "--objective", "NextToken"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three steps: a text, lines that are padded and that are filled, and labelled digits."""
    folder = tmp_path_factory.mktemp("causal")
    os.environ["UNMASK_CACHE"] = str(folder / "cache")
    (folder / "words.txt").write_text("the cat sat on the mat and the dog ran to it\n" * 300)
    lines = ["the cat sat", "a dog", "it ran to the mat", "the end"] * 60
    (folder / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
    text = ["--data.path", str(folder / "words.txt"), "--data.length", "24"]
    assert main(["train", "textfile", *TINY, *CAUSAL, *text, "--out", str(folder / "text")]) == 0
    for packing in ("padded", "filled"):
        rows = ["--data.path", str(folder / "lines.txt"), "--data.length", "24", "--data.packing", packing]
        assert main(["train", "lines", *TINY, *CAUSAL, *rows, "--out", str(folder / packing)]) == 0
    digits = ["--label_dropout", "0.5"]
    assert main(["train", "digits", *TINY, *CAUSAL, *digits, "--out", str(folder / "digits")]) == 0
    return folder


@pytest.mark.parametrize("name", ["text", "padded", "filled", "digits"])
def test_what_is_saved_is_what_is_loaded(runs: Path, name: str, tmp_path: Path) -> None:
    model = unmask.load(runs / name)
    assert isinstance(model.network, unmask.CausalTransformer) and not model.training
    assert model.about["objective"] == {"class": "NextToken"} and model.fit_objective() == unmask.NextToken()
    model.save_pretrained(tmp_path / "again")
    again = unmask.load(tmp_path / "again")
    assert again.weights_sha256 == model.weights_sha256
    assert "A left-to-right model: CausalTransformer" in (tmp_path / "again" / "README.md").read_text()
    assert torch.equal(model.sample(3, generator=generators(1, 3)), again.sample(3, generator=generators(1, 3)))


def test_a_run_can_be_repeated_and_rehearsed(runs: Path, tmp_path: Path) -> None:
    text = ["--data.path", str(runs / "words.txt"), "--data.length", "24"]
    how = ["train", "textfile", *TINY, *CAUSAL, *text, "--out", str(tmp_path / "again")]
    assert main([*how, "--dry-run"]) == 0 and not (tmp_path / "again").exists()
    assert main(how) == 0
    one, other = (unmask.load(folder).weights_sha256 for folder in (runs / "text", tmp_path / "again"))
    assert one == other


def test_the_likelihood_is_exact(runs: Path) -> None:
    model = unmask.load(runs / "text")
    few, many = (likelihood(model, draws=draws, limit=40, batch_size=size) for draws, size in ((1, 16), (9, 7)))
    for name in ("nats_per_example", "bits_per_character"):
        assert few.rows[0][name].value == pytest.approx(many.rows[0][name].value, rel=1e-6)
    assert few.rows[0]["network_calls"] == many.rows[0]["network_calls"] == few.rows[0]["examples"]
    assert many.protocol["exact"] == "-log p itself, no bound" and "draws_per_example" not in many.protocol
    x = torch.cat([x for x, _ in model_data(model).split("test").batches(64, 40)])
    nats = model.nelbo(x)
    expected = float(nats.mean()), float(nats.std() / math.sqrt(len(x)))
    assert tuple(few.rows[0]["nats_per_example"]) == pytest.approx(expected, rel=1e-5)  # over examples alone
    rows = list(likelihood(model, draws=1, limit=5, per_example=True).per_example.rows())  # type: ignore[union-attr]
    assert all(row["error"] == 0 for row in rows)


def model_data(model: unmask.MaskedDiffusion) -> Any:
    from unmask.evaluation.data import measured_data

    return measured_data(model, None)


def test_texts_that_are_filled_up(runs: Path) -> None:
    """Padded: p(n) p(x | n), and the filling is neither counted nor does it matter. Filled: ends are learned."""
    model = unmask.load(runs / "padded")
    x, _ = next(model_data(model).split("train").batches(8))
    given, clean = given_and_clean(x)
    assert given is not None and model.lengths is not None
    nll = torch.nn.functional.cross_entropy(model.network(clean).transpose(1, 2), clean, reduction="none")
    expected = nll.masked_fill(given, 0).sum(1) - model.lengths.log_p((~given).sum(1))
    torch.testing.assert_close(model.nelbo(clean), expected.double(), rtol=1e-5, atol=1e-5)
    drawn = model.sample(200, generator=generators(0, 200))
    n = model.lengths.measure(torch.where(model.lengths.filled(drawn), -1 - drawn, drawn))
    assert set(n.tolist()) <= set(range(1, 25)) and n.double().std() > 1
    texts = model.decode(drawn)
    assert all(len(text) <= 24 for text in texts)
    filled = unmask.load(runs / "filled")
    assert filled.ends and likelihood(filled, limit=10).rows[0]["tokens_per_example"] == 24
    (text,) = filled.decode(filled.sample(1, generator=seeded(0)))
    assert len(text) <= 24


def test_a_label_counts(runs: Path) -> None:
    model = unmask.load(runs / "digits")
    x, label = next(Digits().split("test").batches(6))
    torch.nn.init.normal_(model.network.condition.label.weight)  # type: ignore[union-attr]
    for parameter in model.network.modulation.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.1)
    assert (model.nelbo(x, label) != model.nelbo(x)).all()
    assert model.sample(3, model.labels("3", 3), sampler=unmask.LeftToRight(guidance=2.0)).shape == (3, 8, 8, 1)


def test_questions_are_not_counted() -> None:
    """A given prefix conditions; what is given later conditions what comes after it alone."""
    torch.manual_seed(0)
    network = unmask.CausalTransformer(5, (8,), width=16, depth=1, heads=2).eval()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    x = torch.randint(5, (3, 8), generator=seeded(0))
    given = torch.tensor([1, 1, 1, 0, 0, 1, 0, 0], dtype=torch.bool).expand(3, -1)
    whole, part = unmask.NextToken()(network, x), unmask.NextToken()(network, x, given=given)
    torch.testing.assert_close(part.parts, whole.parts.masked_fill(given, 0))
    prefix = torch.arange(8) < 3
    after = unmask.NextToken()(network, x, given=prefix.expand(3, -1)).nelbo
    torch.testing.assert_close(after, whole.nelbo - unmask.NextToken()(network, x[:, :3]).nelbo)  # log p(b | a)


def test_commands(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = str(runs / "text")
    assert main(["sample", text, "-n", "2", "--length", "10", "--top_k", "3"]) == 0
    assert [len(part) for part in capsys.readouterr().out.removesuffix("\n").split("\n\n")] == [10, 10]
    gif = str(tmp_path / "x.gif")
    assert main(["sample", str(runs / "digits"), "--label", "2", "--guidance", "2", "-n", "3", "--gif", gif]) == 0
    assert main(["infill", text, "--prefix", "the cat", "--unknown", "5", "-n", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("log p >= ") == 3 and shown.count("the cat") == 3
    assert main(["infill", text, "the c[4]"]) == 0
    assert capsys.readouterr().out.startswith("the c")
    assert main(["evaluate", text, "--limit", "4", "--breakdown", str(tmp_path / "b.png")]) == 0
    assert main(["study", "samplers", text, "-n", "4"]) == 0
    assert "LeftToRight(top_p=0.9)" in capsys.readouterr().out
    assert main(["info", text]) == 0 and "NextToken()" in capsys.readouterr().out


def test_what_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(runs / "text")
    assert "position 9 is known" in fails(capsys, "infill", text, "the c[4]t on")
    assert "holes are for masked models" in fails(capsys, "infill", text, "the c[1-4]t on")
    assert "its sampler is LeftToRight, got InOrder" in fails(capsys, "sample", text, "--sampler", "InOrder")
    assert "steps are of masked models" in fails(capsys, "evaluate", text, "--steps", "4,inf")
    assert "its objective is NextToken, got ContinuousELBO" in fails(
        capsys, "evaluate", text, "--objective", "ContinuousELBO"
    )
    words = ["--data.path", str(runs / "words.txt"), "--out", "none"]
    error = fails(capsys, "train", "textfile", *words, "--network", "CausalTransformer")
    assert error == "the network reads from left to right: its objective is NextToken, got TimeFreeELBO"
    assert "predicts masked tokens: take TimeFreeELBO" in fails(
        capsys, "train", "textfile", *words, "--objective", "NextToken"
    )
    with pytest.raises(ValueError, match="the model reads from left to right"):
        study_precision(unmask.load(text), samples=2)


def test_files_of_prompts(runs: Path, tmp_path: Path) -> None:
    lines = [{"prefix": "the cat", "unknown": 6}, {"text": "a dog [3]"}, {"text": "the [3] sat"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("text", "padded"):
        model = unmask.load(runs / name)
        with pytest.raises(ValueError, match=r"in.jsonl, line 3: position 7 is known"):
            unmask.infill_file(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
        unmask.infill_file(model, tmp_path / "in.jsonl", tmp_path / f"{name}.jsonl", skip_bad=True, samples=2)
        found = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert found[0]["completions"][0]["text"].startswith("the cat") and len(found[1]["completions"]) == 2
        assert "position 7" in found[2]["error"]
        log_p = [one["log_p"] for one in found[0]["completions"]]
        assert log_p == sorted(log_p, reverse=True)


def test_alternatives_are_ranked_by_their_likelihood(runs: Path) -> None:
    model = unmask.load(runs / "text")
    canvas = torch.full((4, 12), model.network.mask_id)
    canvas[:, :5] = model.codec.encode("the c")
    x = model.infill(canvas, generator=generators(0, 4))
    ranked = rank_alternatives(model, canvas, x, draws=4)
    given = canvas != model.network.mask_id
    exact = unmask.NextToken()(model.network, x, given=given).nelbo
    for one in ranked:
        assert one.log_p == pytest.approx(-float(exact[one.example]), rel=1e-5) and one.error == 0


def small(codec: unmask.Tokenizer, length: int = 12) -> unmask.MaskedDiffusion:
    torch.manual_seed(0)
    network = unmask.CausalTransformer(codec.vocab_size, (length,), width=16, depth=1, heads=2)
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return unmask.MaskedDiffusion(network, codec).eval()


@pytest.mark.parametrize("stride", [1, 5, 12])
def test_windows_that_overlap(tmp_path: Path, stride: int) -> None:
    root, codec = str(write_sets(tmp_path / "sets")), unmask.Tokenizer(str(write_bpe(tmp_path / "bpe")))
    texts = Texts("lm1b", root)
    tokens = [t for piece in texts for t in (*codec.encode(piece.text).tolist(), codec.end)]
    split = sequences(texts, codec, 12, "concatenated", stride)
    x = split[np.arange(len(split))][0]
    counted = x[x >= 0].tolist()
    assert counted == tokens[: len(counted)] and len(tokens) - len(counted) < stride
    assert all((row >= 0).sum() == stride for row in x[1:])
    _, clean = given_and_clean(x)
    assert clean[1].tolist() == tokens[stride : stride + 12]
    assert split.place(1)["token"] == stride or split.place(1)["document"] > 0
    model = small(codec)
    report = zeroshot(model, root=root, sets=["lm1b"], stride=stride)
    expected = [
        -model.network(clean[i : i + 1]).log_softmax(-1)[0, j, clean[i, j]].item()
        for i, j in (x >= 0).nonzero().tolist()
    ]
    assert report.rows[0]["nats_per_token"].value == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert f"every {stride} tokens" in report.protocol["windows"] and report.protocol["exact"]
    if stride == 12:
        plain = zeroshot(model, root=root, sets=["lm1b"])
        assert plain.rows[0]["nats_per_token"] == report.rows[0]["nats_per_token"]
        assert plain.protocol["windows"] == "do not overlap"
        assert plain.protocol["sets"]["lm1b"]["data_sha256"] != report.protocol["sets"]["lm1b"]["data_sha256"]


def test_strides_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, codec = str(write_sets(tmp_path / "sets")), unmask.Tokenizer(str(write_bpe(tmp_path / "bpe")))
    small(codec).save_pretrained(tmp_path / "model")
    suite = ["evaluate", "zeroshot", str(tmp_path / "model"), "--root", root, "--sets", "ptb"]
    assert main([*suite, "--stride", "4"]) == 0 and "this model" in capsys.readouterr().out
    assert "stride must be at most 12" in fails(capsys, *suite, "--stride", "13")
    assert "stride must be a whole number of at least 1" in fails(capsys, *suite, "--stride", "0")
    assert "stride is of concatenated texts" in fails(capsys, *suite, "--stride", "4", "--packing", "padded")


def test_the_harness() -> None:
    torch.manual_seed(0)
    network = unmask.CausalTransformer(3, (6,), width=16, depth=1, heads=2)
    torch.nn.init.normal_(network.head.weight, std=1.0)
    model = unmask.MaskedDiffusion(network, unmask.Characters("abc")).eval()
    harness = Harness(model, draws=3)

    def log_p(text: str) -> float:
        x = model.codec.encode(text).unsqueeze(0)
        return -float(model.nelbo(x)) if text else 0.0

    pairs = [("ab", "ca"), ("", "abcabc"), ("a", "b")]
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    for (value, _), (context, text) in zip(harness.loglikelihood(asked, disable_tqdm=True), pairs, strict=True):
        assert value == pytest.approx(log_p(context + text) - log_p(context), abs=1e-5)
    requests = [Instance("generate_until", {}, ("b", {"max_gen_toks": 4, "until": []}), 0)]
    (greedy,) = harness.generate_until(requests, disable_tqdm=True)
    assert len(greedy) == 4
    others = [greedy, greedy[:-1] + next(letter for letter in "abc" if letter != greedy[-1])]
    asked = [Instance("loglikelihood", {}, ("b", text), i) for i, text in enumerate(others)]
    assert [flag for _, flag in harness.loglikelihood(asked, disable_tqdm=True)] == [True, False]
    settings = {"max_gen_toks": 4, "until": [], "do_sample": True, "temperature": 1.0}
    (drawn,) = harness.generate_until([Instance("generate_until", {}, ("b", settings), 1)], disable_tqdm=True)
    assert len(drawn) == 4


def test_a_study_judges_by_the_likelihood(runs: Path) -> None:
    report = study_samplers(unmask.load(runs / "digits"), samples=2, label=torch.tensor([1, 2]), guidance=2.0)
    assert [row["sampler"][:11] for row in report.rows[:3]] == ["LeftToRight"] * 3
    assert report.rows[0]["calls"] == 2 * 64

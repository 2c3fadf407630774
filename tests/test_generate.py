"""The perplexity of samples under a causal model, against the same worked out directly."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.text import Characters
from unmask.codecs.tokenizer import Tokenizer
from unmask.evaluation.perplexity import Perplexity, causal_nll, retokenise, token_entropy
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer

VOCAB, END = 5, 4


class Output(NamedTuple):
    logits: Tensor


class Bigram:
    """p(next | this token, its position): a causal model that can be written down."""

    def __init__(self) -> None:
        self.table = torch.randn(64, VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
        self.widest = 0

    def __call__(self, input_ids: Tensor) -> Output:
        self.widest = max(self.widest, input_ids.shape[1])
        return Output(self.table[torch.arange(input_ids.shape[1]), input_ids])

    def nll(self, row: list[int]) -> list[float]:
        law = self.table.log_softmax(-1)
        return [-float(law[i, row[i], row[i + 1]]) for i in range(len(row) - 1)]


ROWS = [[0, 1, 2, 3], [1, END, 2, END, END], [3], [], [2, 2, 2, 2, 2, 2, 2]]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_scores_are_those_worked_out_directly(batch_size: int) -> None:
    judge = Bigram()
    found = causal_nll(judge, ROWS, context=64, batch_size=batch_size)
    for row, score in zip(ROWS, found, strict=True):
        assert score.tolist() == pytest.approx(judge.nll(row), abs=1e-6)


def test_long_rows_are_cut_at_the_context() -> None:
    judge = Bigram()
    row = [0, 1, 2, 3, 0, 1, 2, 3, 1]
    (found,) = causal_nll(judge, [row], context=4)
    assert found.tolist() == pytest.approx(judge.nll(row[:4]) + judge.nll(row[4:8]), abs=1e-6)  # a rest of one has none
    assert judge.widest == 4


def test_ends_of_text_by_hand() -> None:
    judge, row = Bigram(), [1, END, 2, END, END]
    every = judge.nll(row)  # of: END, 2, END, END
    for counted, expected in (("all", every), ("first_end", every[:2]), ("until_end", every[:1])):
        (found,) = causal_nll(judge, [row], context=64, end=END, counted=counted)  # type: ignore[arg-type]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    wrapped = [END, 2, END, 3]  # the first ends nothing
    for counted, expected in (("until_end", judge.nll(wrapped)[:2]), ("first_end", judge.nll(wrapped))):
        (found,) = causal_nll(judge, [wrapped], context=64, end=END, counted=counted)  # type: ignore[arg-type]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="needs to know the token that ends a text"):
        causal_nll(judge, ROWS, context=64, counted="until_end")


def test_micro_and_macro_by_hand() -> None:
    scores = [torch.tensor([1.0, 3.0]), torch.tensor([]), torch.tensor([0.5])]
    found = Perplexity.of(scores)
    assert found.micro[0] == pytest.approx(math.exp(4.5 / 3)) and (found.samples, found.tokens) == (2, 3)
    assert found.macro[0] == pytest.approx((math.exp(2) + math.exp(0.5)) / 2)
    assert found.macro[1] == pytest.approx(np.std([math.exp(2), math.exp(0.5)], ddof=1) / math.sqrt(2))
    with pytest.raises(ValueError, match="no token that can be scored"):
        Perplexity.of([torch.tensor([])])


def test_the_error_of_micro_is_the_scatter() -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        lengths = torch.randint(5, 50, (60,), generator=generator).tolist()
        scores = [torch.rand(n, generator=generator) + torch.rand(1, generator=generator) for n in lengths]
        found.append(Perplexity.of(scores).micro)
    values, errors = np.array(found).T
    assert 0.9 < values.std() / np.sqrt((errors**2).mean()) < 1.15


def test_retokenising(tmp_path: Path) -> None:
    ours = Tokenizer(str(write_bpe(tmp_path / "ours")))
    theirs = Tokenizer(str(write_bpe(tmp_path / "theirs", [("m", "a"), ("ma", "n")])))
    text = "the man"
    t, h, e = (ours.tokenizer.get_vocab()[c] for c in "the")
    odd = torch.tensor([t, h, e, *ours.encode(" man").tolist(), ours.end, ours.end, *ours.encode("an").tolist()])
    again = [*theirs.encode(text).tolist(), theirs.end, theirs.end, *theirs.encode("an").tolist()]
    assert retokenise(odd[None], ours, theirs) == [again]
    assert retokenise(odd[None], ours, ours)[0][:1] == ours.encode("the").tolist() != [t]  # as the judge would cut it
    letters = Characters(" aehmnt")
    assert retokenise(letters.encode(text)[None], letters, theirs) == [theirs.encode(text).tolist()]


def test_entropy_by_hand() -> None:
    x = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 2], [0, 1, 2, 3]])
    assert token_entropy(x).tolist() == pytest.approx([math.log(2), 0, math.log(4)])


# --- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a judge of the same tokens, and a prepared corpus."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("generate")
    codec = Tokenizer(str(write_bpe(folder / "bpe")))
    torch.manual_seed(0)
    MaskedDiffusion(Transformer(codec.vocab_size, (16,), width=16, depth=1, heads=2), codec).save_pretrained(
        folder / "m"
    )
    sizes: dict[str, Any] = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 12}
    GPT2LMHeadModel(GPT2Config(vocab_size=codec.vocab_size, **sizes)).save_pretrained(folder / "judge")
    codec.saved(folder / "judge")
    (folder / "t.jsonl").write_text((json.dumps({"text": "the man in the inn and then an inn"}) + "\n") * 200)
    assert main(["prepare", str(folder / "t.jsonl"), "--tokenizer", codec.source, "--out", str(folder / "made")]) == 0
    return folder


def test_generative_perplexity(folder: Path, tmp_path: Path, capsys: Any) -> None:
    from transformers import GPT2LMHeadModel

    out, figure = tmp_path / "g.json", tmp_path / "g.png"
    model, judge = str(folder / "m"), str(folder / "judge")
    data = ["--data", "Corpus", "--data.path", str(folder / "made"), "--data.length", "16"]
    arguments = ["evaluate", "generate", model, "--judge", judge, "-n", "6", "--batch_size", "4", "--texts", "raw"]
    more = ["--temperatures", "0.5,1.0", "--json", str(out), "--figure", str(figure), *data]
    assert main([*arguments, *more]) == 0
    report = json.loads(out.read_text())
    assert figure.is_file() and [row.get("temperature") for row in report["rows"]] == [0.5, 1.0, None]
    assert report["protocol"]["texts"] == "raw"
    assert report["rows"][2]["data"] == "made" and report["rows"][2]["entropy"][0] > 0
    npy = str(tmp_path / "x.npy")
    assert main(["sample", model, "-n", "6", "--batch_size", "4", "--out", npy]) == 0  # the same samples
    x = torch.from_numpy(np.load(npy))
    network = GPT2LMHeadModel.from_pretrained(judge).eval()
    total, count, each = 0.0, 0, []
    for row in x:
        sums = []
        for piece in (row[:12], row[12:]):  # its context is 12
            law = network(piece[None]).logits[0].log_softmax(-1)
            sums += [-law[i, piece[i + 1]].item() for i in range(len(piece) - 1)]
        total, count, each = total + sum(sums), count + len(sums), [*each, math.exp(sum(sums) / len(sums))]
    found = report["rows"][1]
    assert found["perplexity_micro"][0] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found["perplexity_macro"][0] == pytest.approx(sum(each) / 6, rel=1e-5)
    assert found["entropy"][0] == pytest.approx(token_entropy(x).mean().item())
    assert found["calls"] == 16 and found["tokens_scored"] == count
    capsys.readouterr()
    assert main([*arguments[:-2], "--counted", "first_end", "--sampler", "Ancestral", "--sampler.steps", "4"]) == 0
    shown = capsys.readouterr().out
    assert "Ancestral, temperature 1" in shown and re.search("texts +retokenised\ncounted +first_end", shown)


def test_refusals(folder: Path, tmp_path: Path, capsys: Any) -> None:
    model, judge = str(folder / "m"), str(folder / "judge")
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    MaskedDiffusion(Transformer(3, (8,), width=8, depth=1, heads=1), Characters("abc")).save_pretrained(other)
    base = ["evaluate", "generate", model, "-n", "2", "--judge"]
    for arguments, message in (
        ([*base, "nobody/nothing"], "judge nobody/nothing: no such folder, and not to be had from the Hub"),
        ([*base, "./gone"], "judge ./gone: no such folder"),
        ([*base, str(tmp_path / "empty")], "no causal language model with safetensors"),
        ([*base, judge, "--temperatures", "0,1"], "--temperatures must be positive numbers"),
        ([*base, judge, "--temperatures", "1", "--temperature", "1"], "give --temperatures or --temperature, not both"),
        ([*base, judge, "--mauve"], "mauve compares with data"),
        ([*base, judge, "--data", "PyDocs"], "but the model was trained on Tokenizer("),
        (
            ["evaluate", model, "--temperature", "0.5"],
            "unknown option --temperature of evaluate likelihood: it belongs to unmask evaluate generate",
        ),
        (
            ["evaluate", "generate", str(other), "--judge", judge, "--texts", "raw"],
            "texts raw needs a judge",
        ),
    ):
        capsys.readouterr()
        assert main(arguments) in (1, 2)
        assert message in capsys.readouterr().err


def test_mauve(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mauve", reason="the package mauve-text (the extra mauve) is not installed")
    out = tmp_path / "g.json"
    data = ["--data", "Corpus", "--data.path", str(folder / "made"), "--data.length", "16", "--json", str(out)]
    more = ["--judge", str(folder / "judge"), "-n", "20", "--mauve", *data]
    assert main(["evaluate", "generate", str(folder / "m"), *more]) == 0
    assert 0 < json.loads(out.read_text())["rows"][0]["mauve"][0] <= 1


def test_a_judge_that_cannot_judge_is_refused(folder: Path, tmp_path: Path, capsys: Any) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertLMHeadModel

    base = ["evaluate", "generate", str(folder / "m"), "-n", "2", "--judge"]
    shutil.copytree(folder / "judge", tmp_path / "lacking")
    weights = load_file(tmp_path / "lacking" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".attn." not in name}
    save_file(kept, tmp_path / "lacking" / "model.safetensors", metadata={"format": "pt"})
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertLMHeadModel(BertConfig(vocab_size=264, **sizes)).save_pretrained(tmp_path / "bert")
    shutil.copy(folder / "judge" / "tokenizer.json", tmp_path / "bert")
    shutil.copytree(folder / "judge", tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes((folder / "judge" / "model.safetensors").read_bytes()[:500])
    for name, message in (
        ("lacking", "its weights lack transformer.h.0.attn."),
        ("bert", "not left to right: what it says of a token depends on those that follow"),
        ("cut", "no causal language model with safetensors"),
    ):
        capsys.readouterr()
        assert main([*base, str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err

"""Tokenizers that put special tokens around examples: read from folders of every kind, wrapped wherever one is made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import unmask
from small_bpe import MERGES
from unmask import evaluation
from unmask.canvas import make_canvas
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.benchmarks import Texts, sequences
from unmask.data.corpus import Corpus
from unmask.evaluation.perplexity import retokenise
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "paris", ".", "##s"]
BERT += [chr(i) for i in range(97, 123)] + [f"##{chr(i)}" for i in range(97, 123) if chr(i) != "s"]
ESM = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<mask>"]
PAD, UNK, CLS, SEP, MASK, THE, CAT, SAT = range(8)


def write_words(folder: Path, words: list[str] = BERT, kind: str = "BertTokenizer") -> Path:
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    return folder


def write_roberta(folder: Path) -> Path:
    folder.mkdir(parents=True)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *(a + b for a, b in MERGES), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in MERGES)]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    return folder


def write_esm(folder: Path) -> Path:
    return write_words(folder, ESM, "EsmTokenizer")


def write_saved(folder: Path) -> Path:
    """Write BERT's tokenizer as transformers saves it."""
    transformers.BertTokenizer.from_pretrained(write_words(folder / "made")).save_pretrained(folder / "saved")
    assert (folder / "saved" / "tokenizer.json").is_file() and not (folder / "saved" / "vocab.txt").exists()
    return folder / "saved"


KINDS: dict[str, tuple[Any, Any, str]] = {
    "bert": (write_words, transformers.BertTokenizer, "the cat sat on paris."),
    "roberta": (write_roberta, transformers.RobertaTokenizer, "the man in  The Inn"),
    "esm": (write_esm, transformers.EsmTokenizer, "MKTAYIAKQR"),
    "saved": (write_saved, transformers.AutoTokenizer, "the cat sat on paris."),
}


@pytest.fixture
def bert(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_folder(write_words(tmp_path / "bert"))


def model_of(codec: Tokenizer, length: int, **about: Any) -> MaskedDiffusion:
    torch.manual_seed(0)
    network = Transformer(codec.vocab_size, (length,), width=16, depth=1, heads=2)
    return MaskedDiffusion(network, codec, about=about).eval()


@pytest.mark.parametrize("kind", list(KINDS))
def test_examples_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    write, theirs, text = KINDS[kind]
    folder = write(tmp_path / "t")
    codec, other = Tokenizer.from_folder(folder), theirs.from_pretrained(folder)
    assert codec.wrapped(codec.encode(text)).tolist() == other(text)["input_ids"]
    assert (codec.padding, codec.mask) == (other.pad_token_id, other.mask_token_id)
    assert codec.end == (other.sep_token_id if other.eos_token_id is None else other.eos_token_id)
    padded = torch.tensor(other(text, padding="max_length", max_length=40)["input_ids"])
    assert torch.equal(codec.unwrapped(padded), codec.encode(text))
    assert codec.decode(codec.unwrapped(padded)[None]) == [text]
    canvas = make_canvas(codec, (40,), prefix=text[:3], unknown=2)
    assert canvas[0, 1:-1].tolist() == [*codec.encode(text[:3]).tolist(), *[codec.vocab_size] * 2]
    assert [canvas[0, 0], canvas[0, -1]] == [other.cls_token_id, codec.wrap[1][0]]


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_folder_makes_a_corpus(kind: str, tmp_path: Path) -> None:
    write, _, text = KINDS[kind]
    folder, out = write(tmp_path / "t"), str(tmp_path / "corpus")
    (tmp_path / "a.txt").write_text(f"{text}\n" * 30)
    made = ["prepare", str(tmp_path / "a.txt"), "--tokenizer", str(folder), "--boundary", "line", "--out", out]
    assert main(made) == 0
    data = Corpus(out, 40, "padded", split_by="last-2-percent")
    codec = Tokenizer.from_folder(folder)
    assert data.codec == codec and data.codec.padding == codec.padding
    row = codec.wrapped(codec.encode(text)).tolist()
    found, _ = data.split("train")[np.arange(1)]
    assert found[0].tolist() == [*row, *[-1 - (codec.padding or 0)] * (40 - len(row))]


def test_packings_by_hand(bert: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat\nthe cat sat\nsat\nthe the the the the\n" * 10)
    made = ["prepare", str(tmp_path / "a.txt"), "--tokenizer", bert.source, "--boundary", "line"]
    assert main([*made, "--out", str(tmp_path / "c")]) == 0
    stream = [THE, CAT, SEP, THE, CAT, SAT, SEP, SAT, SEP, *[THE] * 5, SEP] * 9

    def rows(packing: Any) -> tuple[Corpus, list[list[int]]]:
        data = Corpus(str(tmp_path / "c"), 6, packing)
        split = data.split("train")
        return data, split[np.arange(len(split))][0].tolist()

    assert rows("concatenated")[1] == [stream[i : i + 6] for i in range(0, len(stream) - 5, 6)]
    assert rows("wrapped")[1] == [[CLS, *stream[i : i + 4], SEP] for i in range(0, len(stream) - 3, 4)]
    data, found = rows("padded")
    pad = -1 - PAD
    assert found[:5] == [
        [CLS, THE, CAT, SEP, pad, pad],
        [CLS, THE, CAT, SAT, SEP, pad],
        [CLS, SAT, SEP, pad, pad, pad],
        [CLS, *[THE] * 4, SEP],
        [CLS, THE, SEP, pad, pad, pad],
    ]
    assert data.lengths == Lengths(PAD, (0, 0, 18, 9, 9, 9), apart=True)
    with pytest.raises(ValueError, match="length 2 leaves no room between the 2 tokens around a sequence"):
        Corpus(str(tmp_path / "c"), 2, "padded").split("train")


def test_canvases_count_what_is_around_them(bert: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    v = bert.vocab_size
    assert make_canvas(bert, (6,), text="the [2] sat").tolist() == [[CLS, THE, v, v, SAT, SEP]]
    assert not capsys.readouterr().err
    with pytest.raises(ValueError, match="the text has 6 tokens, 2 of them around it, the model's sequences have 5"):
        make_canvas(bert, (5,), text="the [2] sat")
    paris = BERT.index("paris")
    assert make_canvas(bert, (6,), text="Paris [2]").tolist() == [[CLS, paris, v, v, SEP]]
    assert capsys.readouterr().err.count("does not keep the form of this text: it reads 'paris") == 1


def test_new_examples_are_wrapped_and_shown_bare(bert: Tokenizer) -> None:
    v, model = bert.vocab_size, model_of(bert, 8)
    assert model.empty_canvas(2).tolist() == [[CLS, *[v] * 6, SEP]] * 2
    assert model.empty_canvas(2, length=3).tolist() == [[CLS, v, v, v, SEP]] * 2
    for wrong in (0, 7):
        with pytest.raises(ValueError, match=rf"length {wrong}: the model is of texts of 1\.\.6 tokens"):
            model.empty_canvas(2, length=wrong)
    images = MaskedDiffusion(Transformer(2, (4, 4, 1), width=8, depth=1, heads=1), unmask.Symbols(2))
    with pytest.raises(ValueError, match=r"length 2: the model is of examples of shape \(4, 4, 1\)"):
        images.empty_canvas(1, length=2)
    x = torch.tensor([[CLS, THE, CAT, SEP, PAD, PAD, PAD, PAD], [CLS, THE, SEP, SEP, CAT, SAT, SAT, SAT]])
    assert model.decode(x) == ["the cat", "the [SEP] [SEP] cat sat sat sat"]
    drawn = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert (drawn[:, 0] == CLS).all() and (drawn[:, -1] == SEP).all() and (drawn < v).all()


def test_lengths_that_are_drawn_hold_what_is_around_them(bert: Tokenizer) -> None:
    v = bert.vocab_size
    model = model_of(bert, 6, lengths=Lengths(PAD, (0, 0, 5000, 0, 5000, 0)).describe())
    kinds = [[CLS, v, SEP, PAD, PAD, PAD], [CLS, v, v, v, SEP, PAD]]
    found = model.empty_canvas(50, 0).tolist()
    assert all(row in kinds for row in found) and all(kind in found for kind in kinds)
    assert model.empty_canvas(1, 0, length=4).tolist() == [[CLS, v, v, v, v, SEP]]
    assert model.decode(torch.tensor([[CLS, CAT, SEP, PAD, PAD, PAD]])) == ["cat"]


def test_samples_of_a_length(bert: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "m", tmp_path / "x.npy"
    model_of(bert, 12).save_pretrained(folder)
    assert main(["sample", str(folder), "-n", "2", "--length", "3", "--out", str(out)]) == 0
    x = np.load(out)
    assert x.shape == (2, 5) and (x[:, 0] == CLS).all() and (x[:, -1] == SEP).all()
    assert main(["sample", str(folder), "--length", "11"]) == 1
    assert "length 11: the model is of texts of 1..10 tokens" in capsys.readouterr().err
    assert main(["infill", str(folder), "Paris [1] the"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("paris") and "[CLS]" not in shown.out and shown.err.count("unmask: note") == 1


def test_zero_shot_sequences_are_wrapped(bert: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "lm1b_test.txt").write_text("the cat sat on the mat .\n" * 9)
    rows = sequences(Texts("lm1b", str(tmp_path)), bert, 6, "wrapped")[np.arange(3)][0]
    assert (rows[:, 0] == CLS).all() and (rows[:, -1] == SEP).all()
    model = model_of(bert, 6)
    report = evaluation.zeroshot(model, root=str(tmp_path), sets=["lm1b"], draws=1)
    assert report.protocol["packing"] == "wrapped"
    assert report.protocol["wrapped_in"] == ["[CLS]", "…", "[SEP]"]
    chosen = evaluation.zeroshot(model, root=str(tmp_path), sets=["lm1b"], draws=1, packing="concatenated")
    assert chosen.protocol["packing"] == "concatenated" and "wrapped_in" not in chosen.protocol


@torch.no_grad()
def test_the_harness_wraps(bert: Tokenizer) -> None:
    from lm_eval.api.instance import Instance

    from unmask.evaluation.harness import Harness

    model, v = model_of(bert, 6), bert.vocab_size
    harness = Harness(model, draws=1, padded=False)

    def ask(context: str, continuation: Any, kind: Any = "loglikelihood") -> Any:
        return [Instance(kind, {}, (context, continuation), 0)]

    x = torch.tensor([[CLS, THE, CAT, SAT, v, SEP]])
    expected = model.network(x).log_softmax(-1)[0, 4, THE]
    for context in ("the cat sat", "paris on the cat sat"):  # what is too long loses its beginning
        ((found, _),) = harness.loglikelihood(ask(context, " the"), disable_tqdm=True)
        assert found == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match="a continuation of 5 tokens is longer than the model's 4"):
        harness.loglikelihood(ask("the", " the the the the the"), disable_tqdm=True)
    best = int(model.network(x).log_softmax(-1)[0, 4].argmax())
    (text,) = harness.generate_until(ask("the cat sat", {"max_gen_toks": 1}, "generate_until"), disable_tqdm=True)
    assert text == ("" if best == SEP else bert.decode(torch.tensor([[best]]))[0])


def test_a_judge_reads_the_text_alone(bert: Tokenizer) -> None:
    x = torch.tensor([[CLS, THE, CAT, SEP, SAT, SEP, PAD, PAD]])
    assert retokenise(x, bert, bert) == [[THE, CAT, SEP, SAT]]
    bare = Tokenizer(bert.source, end_token="[SEP]", padding_token="[SEP]")  # an end of a text, whatever it fills up
    assert retokenise(torch.tensor([[THE, CAT, SEP, SEP]]), bare, bert) == [[THE, CAT, SEP, SEP]]


def test_what_a_tokenizer_alters_in_a_file_is_said_once(
    bert: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["the [1] sat", "THE CAT [1]", "The [1]"]
    (tmp_path / "in.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    unmask.infill_file(model_of(bert, 8), tmp_path / "in.jsonl", tmp_path / "out.jsonl", score=0)
    notes = [line for line in capsys.readouterr().err.splitlines() if "does not keep the form" in line]
    assert len(notes) == 1 and "in.jsonl" in notes[0] and "line 2" in notes[0] and "(and 1 others)" in notes[0]

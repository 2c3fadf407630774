"""Prompts without a number of unknown tokens: how many follow, on distributions in which that is known."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

import unmask
from small_bpe import write_bpe
from test_chat import CHATML, write_chat
from test_lengths import TINY
from test_unknown_length import FILL, LETTERS, MOST, Texts
from unmask.cli.main import main
from unmask.codecs.ended import Ended
from unmask.codecs.text import Characters
from unmask.codecs.tokenizer import Tokenizer
from unmask.evaluation.unknown_length import log_p_of_lengths
from unmask.lengths import Lengths
from unmask.prompts import next_commands, prompt_canvas, prompt_tokens
from unmask.randomness import seeded

COUNTS = (4, 1, 3, 6, 2, 1)


class EachLength(Texts):
    """Texts, in batches of several lengths."""

    def marginals(self, x_t: Tensor, potential: Tensor | None = None) -> Tensor:
        return torch.cat([super(EachLength, self).marginals(row[None]) for row in x_t])


def texts(**lengths: Any) -> unmask.MaskedDiffusion:
    about = {"lengths": Lengths(FILL, COUNTS, **lengths).describe()}
    return unmask.MaskedDiffusion(EachLength(), Characters("abc."), about=about)


def plain(codec: unmask.Codec, length: int = 12, **about: Any) -> unmask.MaskedDiffusion:
    torch.manual_seed(0)
    network = unmask.Transformer(codec.vocab_size, (length,), width=16, depth=1, heads=2).eval()
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return unmask.MaskedDiffusion(network, codec, about=about)


def test_a_text_is_longer_than_its_prompt() -> None:
    model = texts()
    canvas, log_p = prompt_canvas(model, "ab", 4000, 3)
    assert canvas.shape == (4000, MOST) and (canvas[:, :2] == torch.tensor([0, 1])).all()
    unknown = (canvas == LETTERS + 1).sum(1)
    assert (canvas.flip(1) == FILL).long().cumprod(1).sum(1).equal(MOST - 2 - unknown), "filled up behind"
    p = Lengths(FILL, COUNTS).log_p(torch.arange(3, MOST + 1)).exp()
    p = p / p.sum()
    torch.testing.assert_close(log_p, p.log()[unknown - 1])
    assert chisquare(unknown.bincount(minlength=5)[1:], (4000 * p).numpy()).pvalue > 1e-3
    assert prompt_canvas(model, "ab", 5, 3).canvas.equal(canvas[:5]), "example i depends on the seed and i alone"
    generators = [seeded(3, i, 2) for i in range(5)]
    assert prompt_canvas(model, torch.tensor([0, 1]), 5, generators).canvas.equal(canvas[:5])
    within, log_p = prompt_canvas(model, "ab", 200, 0, length=(1, 4))
    assert set((within == LETTERS + 1).sum(1).tolist()) == {1, 2}
    assert log_p.exp().unique().sum().item() == pytest.approx(1.0), "given that it is in the range"
    fixed, log_p = prompt_canvas(model, "ab", 2, 0, length=5)
    assert fixed.tolist() == [[0, 1, 4, 4, 4, FILL]] * 2 and not log_p.any()


def test_an_answer_has_its_length_whatever_the_prompt() -> None:
    model = texts(targets=True)
    p = Lengths(FILL, COUNTS).log_p(torch.arange(1, MOST + 1)).exp()
    for prompt in ("a", "abc"):
        unknown = (prompt_canvas(model, prompt, 4000, 1).canvas == LETTERS + 1).sum(1)
        room = p[: MOST - len(prompt)]
        counts = unknown.bincount(minlength=len(room) + 1)[1:]
        assert chisquare(counts, (4000 * room / room.sum()).numpy()).pvalue > 1e-3
    assert (prompt_canvas(model, "abc", 2, length=2).canvas == LETTERS + 1).sum(1).tolist() == [2, 2]


def test_classes_have_lengths_of_their_own() -> None:
    lengths = Lengths(3, (5, 5, 0), ((5, 0, 0), (0, 5, 0)), targets=True)
    network = unmask.Transformer(4, (6,), classes=2, width=16, depth=1, heads=2)
    model = unmask.MaskedDiffusion(network, Characters("abc."), about={"lengths": lengths.describe()})
    model.about["lengths"]["counts"] += [0] * 3
    model.about["lengths"]["by_class"] = [[50, 0, 0, 0, 0, 0], [0, 50, 0, 0, 0, 0]]
    label = torch.arange(2).repeat(200)
    canvas, log_p = prompt_canvas(model, "ab", 400, 0, label=label)
    unknown = (canvas == 4).sum(1)
    assert unknown[label == 0].float().mean() < 1.2 and 1.8 < unknown[label == 1].float().mean() < 2.2
    own = Lengths.read(model.about["lengths"])
    assert own is not None
    room = torch.stack([own.log_p(torch.full((400,), i), label) for i in (1, 2, 3, 4)]).logsumexp(0)
    torch.testing.assert_close(log_p, own.log_p(unknown, label) - room)


def test_what_the_codec_puts_around_texts(tmp_path: Path) -> None:
    codec = Tokenizer(str(write_bpe(tmp_path)))
    first, last = codec.tokenizer.id_to_token(1), codec.tokenizer.id_to_token(2)
    wrapped = Tokenizer(codec.source, before=(first,), after=(last,))
    known = wrapped.encode("the").tolist()
    v = codec.vocab_size
    for targets in (False, True):
        model = plain(wrapped, lengths=Lengths(0, (0,) * 3 + (9,) + (0,) * 8, targets=targets).describe())
        rows = prompt_canvas(model, "the ", 9, 0).canvas.tolist()
        for row in rows:
            count = row.count(v)
            assert row == [1, *known, *[v] * count, 2, *[0] * (10 - count - len(known))]
    ended = plain(wrapped, lengths=Lengths(2, (9,) * 12, targets=True, ended=True).describe())
    row = prompt_canvas(ended, "the", 1, 0, length=3).canvas[0].tolist()
    assert row == [1, *known, v, v, v, *[2] * (8 - len(known))], "the end is one of those that are learned"
    counted = plain(wrapped, lengths=Lengths(2, (1, 9) + (0,) * 10, ended=True).describe())
    assert log_p_of_lengths(counted, torch.tensor([2])) > -1, "the end is there already"
    filled = plain(wrapped, data={"packing": "filled"})
    (row,) = prompt_canvas(filled, "the").canvas.tolist()
    assert row == [1, *known, *[v] * (10 - len(known)), 2]
    assert prompt_canvas(filled, "the", length=3).canvas[0].tolist() == [1, *known, v, v, 2]


def test_what_is_refused() -> None:
    codec = Ended(Characters("abc"))
    model, known = plain(codec), texts()
    for one, prompt, settings, match in (
        (model, "ab", {}, "^the model does not know how long its texts are: give the number of unknown tokens"),
        (model, "ab", {"length": (3, 5)}, "^length 3-5: the model does not know how long its texts are$"),
        (known, "abcabc", {}, "^the prompt has 6 tokens, which leaves no room in the model's sequences of 6$"),
        (known, "ab", {"length": 2}, r"^length 2: after this prompt it is in 3..6$"),
        (known, "ab", {"length": (7, 9)}, r"^length 7-9: after this prompt it is in 3..6$"),
        (known, "ab", {"length": (5, 4)}, r"^length 5-4: after this prompt it is in 3..6$"),
        (known, "ax", {}, "character 'x'"),
        (known, [{"role": "user", "content": "a"}], {}, "a conversation was given"),
        (known, "a", {"n": 0}, "n must be at least 1, got 0"),
        (plain(unmask.Symbols(3)), "a", {}, "a text was given, but the model's tokens are Symbols"),
    ):
        with pytest.raises(ValueError, match=match):
            prompt_canvas(one, prompt, **settings)  # type: ignore[arg-type]
    assert prompt_canvas(model, "ab", length=5).canvas.tolist() == [[0, 1, 4, 4, 4]]
    assert prompt_tokens(codec, "ab").tolist() == [0, 1]


def test_completions_of_prompts_are_exact(tmp_path: Path) -> None:
    """Many lines with a prompt have the distribution p(n | n > 2) p(x | n, prompt), and bounds that say so."""
    model = texts()
    lines = [json.dumps({"prefix": "ab"})] * 100
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    unmask.infill_file(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", samples=10, score=1)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = {}
    p = Lengths(FILL, COUNTS).log_p(torch.arange(3, MOST + 1)).exp()
    for n, p_n in zip((3, 4), p / p.sum(), strict=False):
        table = model.network.tables[n - 1]  # type: ignore[index]
        fits = (table.states[:, :2] == torch.tensor([0, 1])).all(1)
        share = table.p[fits] / table.p[fits].sum()
        for state, q in zip(table.states[fits], share, strict=True):
            expected["".join("abc"[i] for i in state)] = float(p_n * q)
    seen = Counter(each["text"] for one in found for each in one["completions"])
    counts = [seen[text] for text in expected]
    longer = 1000 - sum(counts)
    wanted = [1000 * q for q in expected.values()]
    assert chisquare([*counts, longer], [*wanted, 1000 - sum(wanted)]).pvalue > 1e-3
    one_token = [each for one in found for each in one["completions"] if len(each["text"]) == 3]
    assert len(one_token) > 50
    for each in one_token:
        assert each["log_p"] == pytest.approx(math.log(expected[each["text"]]), abs=1e-4)


@pytest.fixture(scope="module", params=["padded", "filled"])
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of sums."""
    folder = tmp_path_factory.mktemp(request.param)
    rows = [{"prompt": f"{a}+{b}=", "response": str(a + b)} for a in range(10) for b in range(10)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--data.path", str(folder / "a.jsonl"), "--data.length", "12", "--data.packing", request.param]
    assert main(["train", "pairs", *data, *TINY, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.filterwarnings("ignore:.*more than one part")
def test_a_model_of_prompts_and_answers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["sample", str(run), "-n", "1"]) == 1
    error = capsys.readouterr().err
    assert "the model answers prompts: use `unmask infill MODEL --prefix" in error and error.count("\n") == 1
    assert main(["sample", str(run), "-n", "1", "--empty_prompt"]) == 0
    capsys.readouterr()
    asked = ["infill", str(run), "--prefix", "3+4=", "-n", "6", "--seed", "2"]
    assert main([*asked, "--score", "0"]) == 0
    shown = capsys.readouterr().out.rstrip("\n").split("\n\n")
    model = unmask.load(run, device="cpu")
    assert next_commands(model, "m", " --x") == "  unmask evaluate m --x\n  unmask infill m --prefix PROMPT --x"
    canvas, log_p = prompt_canvas(model, "3+4=", 6, 2)
    x = model.infill(canvas, generator=unmask.generators(2, 6))
    assert shown == model.decode(x) and all(text.startswith("3+4=") for text in shown)
    assert log_p.any() == (model.lengths is not None)
    assert main(asked) == 0
    scored = capsys.readouterr().out
    assert scored.count("log p >= -") == 6
    assert main([*asked, "--length", "2-3", "--out", str(tmp_path / "x.npy")]) == (0 if model.lengths else 1)
    capsys.readouterr()
    digits = [*asked, "--allow", "0-9", "--score", "0"]
    assert main(digits) == 0
    for text in capsys.readouterr().out.rstrip("\n").split("\n\n"):
        assert set(text[4:]) <= set("0123456789")
    (tmp_path / "in.jsonl").write_text('{"prefix": "3+4="}\n{"prefix": "3+4=", "allow": "7"}\n')
    unmask.infill_file(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", samples=3, length=None)
    free, only = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert len(free["completions"]) == 3 and set("".join(each["text"][4:] for each in only["completions"])) <= {"7"}


def test_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, CHATML))
    known = len(codec.encode_chat([{"role": "user", "content": "Hi"}]))
    lengths = Lengths(codec.end, (0,) * 4 + (9,) + (0,) * (known + 15), targets=True).describe()
    for name, about in (
        ("padded", {"lengths": lengths}),
        ("filled", {"data": {"packing": "filled", "given": "x", "target": "y", "messages": "m"}}),
    ):
        model = plain(codec, known + 20, **about)
        model.save_pretrained(tmp_path / name)
        assert next_commands(model, "m").endswith(
            "infill m --prefix PROMPT" if name == "padded" else "m --chat QUESTION"
        )
        canvas = prompt_canvas(model, [{"role": "user", "content": "Hi"}], 2, 0).canvas
        unknown = (canvas == codec.vocab_size).sum(1)
        assert (unknown == 20).all() if name == "filled" else set(unknown.tolist()) <= set(range(1, 21))
        capsys.readouterr()
        assert main(["infill", str(tmp_path / name), "--chat", "Hi", "-n", "2"]) == 0
        shown = capsys.readouterr().out
        assert "Hi" not in shown and "im_" not in shown
        (tmp_path / "in.jsonl").write_text('{"chat": "Hi"}\n')
        unmask.infill_file(model, tmp_path / "in.jsonl", tmp_path / f"{name}.jsonl", samples=2, score=2)
        (line,) = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        texts = {each["text"] for each in json.loads(line)["completions"]}
        assert not any("im_" in text for text in texts)

"""Many inputs at once: each as if it were alone, whatever is drawn beside it, and whatever interrupts it."""

import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import unmask
from oracle import Table
from small_bpe import write_bpe
from test_chat import CHATML, write_chat
from test_pretrained import MASK, SPECIAL, random_model
from unmask.cli.main import main
from unmask.codecs.text import Characters
from unmask.codecs.tokenizer import Tokenizer
from unmask.evaluation.alternatives import bound_completions
from unmask.evaluation.unknown_length import infill_unknown_length, length_posterior
from unmask.infilling import infill_one
from unmask.infilling.checking import Checked
from unmask.infilling.journal import Journal, as_line
from unmask.infilling.requests import STEP, filled_up
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.networks.pretrained import Pretrained
from unmask.networks.transformer import Transformer
from unmask.randomness import Repeated, generators, seeded
from unmask.samplers.base import Sampler

ALPHABET = "abcdefgh "


def small(codec: unmask.Codec, shape: tuple[int, ...], **settings: Any) -> MaskedDiffusion:
    """Return a small model with random weights, whose predictions depend on what it sees."""
    network = Transformer(codec.vocab_size, shape, width=16, depth=1, heads=2, **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return MaskedDiffusion(network, codec).eval()


@pytest.fixture(scope="module")
def texts() -> MaskedDiffusion:
    return small(Characters(ALPHABET), (24,))


def known(length: int, codec: unmask.Codec) -> tuple[Table, MaskedDiffusion]:
    """Return a model whose distribution is known."""
    oracle = Table(3, length)
    oracle.register_parameter("place", torch.nn.Parameter(torch.zeros(())))  # a model is where its parameters are
    return oracle, MaskedDiffusion(oracle, codec)


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def holes(folder: Path, count: int = 30) -> Path:
    rng = random.Random(0)
    lines = [
        {"id": f"n{i}", "text": "".join(rng.choices(ALPHABET, k=rng.randint(1, 5))) + f"[{rng.randint(1, 4)}]ab"}
        for i in range(count)
    ]
    return write_lines(folder / "holes.jsonl", *lines)


def test_results_are_strict_json(texts: MaskedDiffusion, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for number in ("1e400", "NaN", "-Infinity"):
        source = write_lines(tmp_path / "in.jsonl", {"text": "a[1]"}, f'{{"text": "a[1]", "kept": [{number}]}}')
        with pytest.raises(ValueError, match=f"line 2: not valid JSON: {number} is no finite number"):
            unmask.infill_file(texts, source, out, score=0)
    source = write_lines(tmp_path / "in.jsonl", '{"text": "a[1]", "kept": 1e300}')
    unmask.infill_file(texts, source, out, score=0)
    assert read(out)[0]["kept"] == 1e300
    assert (
        as_line({"a": [math.inf, {"b": math.nan}, 1.5, "\u00e9"]}) == '{"a": [null, {"b": null}, 1.5, "é"]}\n'.encode()
    )


def test_every_form_of_a_line(texts: MaskedDiffusion, tmp_path: Path) -> None:
    array = [*range(9)] * 2 + [-1, -1, 0, 1, 2, 3]
    source = write_lines(
        tmp_path / "in.jsonl",
        {"id": 7, "text": "ab[3]cd"},
        "",
        {"prefix": "abc", "suffix": "de", "unknown": 2, "note": {"by": ["é", None]}},
        {"suffix": "de", "unknown": 1, "prefix": None},
        {"text": "ab_"},
        {"array": array, "text": None},
    )
    done = unmask.infill_file(texts, source, tmp_path / "new" / "out.jsonl", samples=2, score=4)
    assert str(done) == f"{tmp_path / 'new' / 'out.jsonl'}: 5 inputs"
    found, given = read(done.path), [line for line in read_loose(source) if line]
    assert [one["line"] for one in found] == [1, 3, 4, 5, 6]
    for one, known in zip(found, given, strict=True):
        assert known.items() <= one.items() and len(one) == len(known) + 2 and len(one["completions"]) == 2
        assert one["completions"][0]["log_p"] >= one["completions"][1]["log_p"]
        assert all(set(each) == {next(iter(each)), "log_p", "error"} for each in one["completions"])
    forms = [[each[next(iter(each))] for each in one["completions"]] for one in found]
    assert all(text.startswith("ab") and text.endswith("cd") and len(text) == 7 for text in forms[0])
    assert all(text.startswith("abc") and text.endswith("de") and len(text) == 7 for text in forms[1])
    assert all(len(text) == 3 and text.endswith("de") for text in forms[2])
    assert all(len(text) == 3 and text.startswith("ab") for text in forms[3])
    assert all(row[:18] == array[:18] and row[20:] == array[20:] and min(row) == 0 for row in forms[4])
    assert {path.name for path in done.path.parent.iterdir()} == {"out.jsonl"}
    assert "é" in done.path.read_text(encoding="utf-8")


def read_loose(path: Path) -> list[Any]:
    return [json.loads(line) if line else None for line in path.read_text().splitlines()]


@pytest.mark.parametrize("sampler", [unmask.FirstHitting(), unmask.Ancestral(steps=3), unmask.MostConfident(steps=2)])
def test_neither_batches_nor_their_order_matter(
    texts: MaskedDiffusion, sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, real = holes(tmp_path, 15), Checked.batches

    def shuffled(self: Checked, count: int) -> Iterator[list[int]]:
        batches = [random.Random(1).sample(batch, len(batch)) for batch in real(self, count)]
        return iter(random.Random(2).sample(batches, len(batches)))

    def run(name: str, batch_size: int) -> list[dict[str, Any]]:
        out = tmp_path / f"{name}.jsonl"
        unmask.infill_file(texts, source, out, samples=2, score=3, sampler=sampler, batch_size=batch_size)
        return read(out)

    expected = run("all", 64)
    for size in (1, 3, 8):
        same(run(f"by{size}", size), expected)
    monkeypatch.setattr(Checked, "batches", shuffled)
    same(run("shuffled", 8), expected)
    monkeypatch.undo()
    write_lines(source, *(line if i % 3 else "" for i, line in enumerate(read(source))))
    same(run("fewer", 8), [one for i, one in enumerate(expected) if i % 3])
    unmask.infill_file(texts, source, tmp_path / "other.jsonl", samples=2, score=3, sampler=sampler, seed=1)
    assert contents(read(tmp_path / "other.jsonl")) != contents(run("again", 64))


def contents(found: list[dict[str, Any]]) -> list[Any]:
    return [[each["text"] for each in one["completions"]] for one in found]


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare results: equal but for the last decimal of bounds."""
    assert contents(found) == contents(expected)
    for one, other in zip(found, expected, strict=True):
        for each, wanted in zip(one.pop("completions"), other["completions"], strict=True):
            assert each["log_p"] == pytest.approx(wanted["log_p"], abs=2e-3)
            assert each["error"] == pytest.approx(wanted["error"], abs=2e-3)
        assert one == {name: value for name, value in other.items() if name != "completions"}


def test_alternatives_are_independent_and_exact(tmp_path: Path) -> None:
    """The completions of many lines and alternatives have the distribution of the oracle given what is known."""
    oracle, model = known(3, Characters("abc"))
    source = write_lines(tmp_path / "in.jsonl", *[{"text": "[1]b[1]"}] * 400)
    unmask.infill_file(model, source, tmp_path / "out.jsonl", samples=5, score=8)
    found = read(tmp_path / "out.jsonl")
    seen = Counter(each["text"] for one in found for each in one["completions"])
    p = oracle.p.view(3, 3, 3)[:, 1]
    p = p / p.sum()
    expected = {f"{a}b{b}": float(p[i, j]) for i, a in enumerate("abc") for j, b in enumerate("abc")}
    assert set(seen) <= set(expected)
    counts = [seen[text] for text in expected]
    assert stats.chisquare(counts, [2000 * value for value in expected.values()]).pvalue > 1e-3
    twice = sum(one["completions"][0]["text"] == one["completions"][1]["text"] for one in found)
    assert twice < 400, "alternatives differ"
    bounds = [[each["log_p"] for each in one["completions"]] for one in found]
    assert all(row == sorted(row, reverse=True) for row in bounds)
    wanted = [[math.log(expected[each["text"]]) for each in one["completions"]] for one in found]
    off, said = np.array(bounds) - wanted, [each["error"] for one in found for each in one["completions"]]
    assert abs(off.mean()) < 4 * off.std() / 2000**0.5
    assert 1 < np.mean(np.square(said)) ** 0.5 / off.std() < 3, "draws are spread: better than the error says"


def test_a_single_unknown_token_has_its_exact_probability(tmp_path: Path) -> None:
    oracle, model = known(3, Characters("abc"))
    unmask.infill_file(model, write_lines(tmp_path / "in.jsonl", {"text": "ab[1]"}), tmp_path / "out.jsonl", score=1)
    (each,) = read(tmp_path / "out.jsonl")[0]["completions"]
    p = oracle.p.view(3, 3, 3)[0, 1]
    assert each["log_p"] == pytest.approx(float((p / p.sum()).log()["abc".index(each["text"][2])]), abs=1e-4)
    assert each["error"] is None


def test_draws_of_an_example_are_spread_and_its_own() -> None:
    times = unmask.sample_times(5 * 8, generator=Repeated(generators(3, 5), 8)).view(8, 5)
    for i in range(5):
        alone = unmask.sample_times(8, generator=Repeated([seeded(3, i)], 8))
        assert times[:, i].tolist() == alone.tolist()
        assert sorted((times[:, i] * 8).ceil().int().tolist()) in (
            [1, 2, 3, 4, 5, 6, 7, 8],
            [1, 1, 3, 3, 5, 5, 7, 7],
        ) or ((times[:, i] * 4).ceil().int().bincount(minlength=5).tolist() == [0, 2, 2, 2, 2])
    repeated = Repeated(generators(0, 3), 2)
    assert len(repeated) == 6 and repeated[4] is repeated[1] is [*repeated][4]
    (oracle, model), canvas = known(4, unmask.Symbols(3)), torch.full((6, 4), 3)
    x = oracle.states[::14][:6]
    bounds, errors = bound_completions(model, canvas, x, draws=8, generator=Repeated(generators(1, 6), 8))
    for i in range(6):
        generator = Repeated([seeded(1, i)], 8)
        alone, error = bound_completions(model, canvas[i : i + 1], x[i : i + 1], draws=8, generator=generator)
        torch.testing.assert_close((bounds[i], errors[i]), (alone[0], error[0]))


class Stop(BaseException):
    """A kill."""


def stopping(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Let drawing be killed after so many batches; return the sizes of those that are drawn, which goes on growing."""
    real, sizes = MaskedDiffusion.infill, []

    def infill(self: MaskedDiffusion, x: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
        if len(sizes) == after:
            raise Stop
        sizes.append(len(x))
        return real(self, x, *rest, **settings)

    monkeypatch.setattr(MaskedDiffusion, "infill", infill)
    return sizes


def interrupted(call: Callable[[], Any]) -> None:
    with pytest.raises(Stop):
        call()


def test_it_goes_on_after_a_kill(texts: MaskedDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = holes(tmp_path), tmp_path / "out.jsonl"
    settings: dict[str, Any] = {"samples": 2, "score": 1, "batch_size": 8}
    unmask.infill_file(texts, source, tmp_path / "whole.jsonl", **settings)
    expected, part = (tmp_path / "whole.jsonl").read_bytes(), tmp_path / "out.jsonl.part"
    with monkeypatch.context() as patch:
        before = stopping(patch, 3)
        interrupted(lambda: unmask.infill_file(texts, source, out, **settings))
    assert not out.exists() and len(before) == 3
    kept = part.read_bytes()
    assert kept.count(b"completions") == sum(before) // 2
    with monkeypatch.context() as patch:
        after = stopping(patch, -1)
        unmask.infill_file(texts, source, out, **settings)
    assert out.read_bytes() == expected and not part.exists()
    assert sum(before) + sum(after) == 2 * 30, "what is done is not done again"
    rng = random.Random(3)
    for cut in [*(rng.randrange(len(kept)) for _ in range(5)), 0, len(kept) - 1, kept.index(b"\n") + 1]:
        out.unlink()
        part.write_bytes(kept[:cut])
        with monkeypatch.context() as patch:
            after = stopping(patch, -1)
            unmask.infill_file(texts, source, out, **settings)
        assert out.read_bytes() == expected
        if cut == len(kept) - 1:
            assert sum(after) == 2 * 30 - sum(before[:-1]), "the batch whose last line was not finished, again"
    out.unlink()
    part.write_bytes(kept)
    with monkeypatch.context() as patch:
        after = stopping(patch, -1)
        unmask.infill_file(texts, source, out, **settings | {"batch_size": 6})
    assert sum(after) == 2 * 30 - sum(before), "another batch size goes on, too"
    same(read(out), read(tmp_path / "whole.jsonl"))


def test_other_settings_are_refused(texts: MaskedDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = holes(tmp_path), tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        stopping(patch, 1)
        interrupted(lambda: unmask.infill_file(texts, source, out, batch_size=8))
    kept = (tmp_path / "out.jsonl.part").read_bytes()
    other = small(Characters(ALPHABET), (24,), rotary_base=100.0)
    changed = small(Characters(ALPHABET), (24,))
    changed.network.head.bias.data += 1
    for model, settings, what in (
        (texts, {"seed": 1}, "another seed \\(0, not 1\\); give the same settings to go on, or --overwrite"),
        (texts, {"samples": 2}, "another samples"),
        (texts, {"score": 1}, "another score"),
        (texts, {"sampler": unmask.FirstHitting(temperature=0.5)}, "another sampler"),
        (other, {}, "another model"),
        (changed, {}, "another weights"),
    ):
        with pytest.raises(ValueError, match=f"out.jsonl.part: was begun with {what}"):
            unmask.infill_file(model, source, out, **settings)
    lines = source.read_text()
    source.write_text(lines.replace("n7", "n8"))
    with pytest.raises(ValueError, match="another input"):
        unmask.infill_file(texts, source, out)
    source.write_text(lines)
    assert (tmp_path / "out.jsonl.part").read_bytes() == kept, "a refusal changes nothing"
    unmask.infill_file(texts, source, out, seed=1, overwrite=True)
    first = read(out)
    with pytest.raises(FileExistsError, match="out.jsonl: is there already; --overwrite"):
        unmask.infill_file(texts, source, out, seed=1)
    unmask.infill_file(texts, source, out, overwrite=True)
    assert contents(read(out)) != contents(first)
    (tmp_path / "x.jsonl.part").write_text("my own notes\n")
    with pytest.raises(ValueError, match="x.jsonl.part: is of another kind"):
        unmask.infill_file(texts, source, tmp_path / "x.jsonl")


def test_overwriting_goes_on_with_what_was_begun(
    texts: MaskedDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = holes(tmp_path), tmp_path / "out.jsonl"
    out.write_text("old\n")
    with monkeypatch.context() as patch:
        before = stopping(patch, 2)
        interrupted(lambda: unmask.infill_file(texts, source, out, batch_size=4, overwrite=True))
    assert out.read_text() == "old\n"
    after = stopping(monkeypatch, -1)
    unmask.infill_file(texts, source, out, batch_size=4, overwrite=True)
    assert sum(before) + sum(after) == len(read(out)) == 30


def test_one_process_at_a_time(texts: MaskedDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out, real = holes(tmp_path), tmp_path / "out.jsonl", Journal.add

    def add(self: Journal, results: Any) -> None:
        with pytest.raises(BlockingIOError, match="out.jsonl: another process is writing it"):
            unmask.infill_file(texts, source, out)
        real(self, results)

    monkeypatch.setattr(Journal, "add", add)
    unmask.infill_file(texts, source, out)
    assert len(read(out)) == 30


def test_what_is_done_is_not_written_through_a_link(texts: MaskedDiffusion, tmp_path: Path) -> None:
    source, part = holes(tmp_path, 2), tmp_path / "out.jsonl.part"
    (tmp_path / "mine.txt").write_text("precious")
    part.symlink_to(tmp_path / "mine.txt")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"out.jsonl.part: not a regular file, but a link, a folder or a pipe"):
            unmask.infill_file(texts, source, tmp_path / "out.jsonl", overwrite=overwrite)
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(ValueError, match=r"out.jsonl.part: not a regular file"):
        unmask.infill_file(texts, source, tmp_path / "out.jsonl")
    assert (tmp_path / "mine.txt").read_text() == "precious"


BAD = [
    ("{", "not valid JSON"),
    ("[1]", 'expected an object such as {"text": "The .4. is"}, got list'),
    ("{}", 'give one of "text", "prefix" or "suffix", "chat", "image", "array" or "row"; got nothing'),
    ('{"txt": "a[1]"}', "give one of .*; got txt"),
    ('{"text": "a[1]", "array": [1]}', "give one of .*; got text, array"),
    ('{"text": "a[1]", "unknown": 3}', '"unknown" does not go with "text"'),
    ('{"text": "abc"}', "nothing is unknown"),
    ('{"text": ""}', "nothing is unknown"),
    ('{"text": 3}', '"text" must be a text, got int'),
    ('{"text": "a[30]"}', "the text has 31 tokens, the model's sequences have 24"),
    ('{"text": "aXb[1]"}', "character 'X'"),
    ('{"text": "\\ud800[1]"}', "not valid Unicode"),
    ('{"prefix": "a"}', 'the model does not know how long its texts are: .* "unknown" in a line'),
    ('{"suffix": "a"}', '"suffix" needs "unknown"'),
    ('{"prefix": "a", "suffix": "b"}', "a suffix needs a number of unknown tokens"),
    ('{"text": "a[3-2]"}', "\\[3-2\\] at offset 1 goes backwards"),
    ('{"text": "a[1-30]"}', "the text has 31 tokens, the model's sequences have 24"),
    ('{"text": "[1-9]a[1-9]"}', "81 combinations of lengths"),
    ('{"text": "a[1]", "allow": "A-Z"}', "allow 'A-Z': the range A-Z is in no token"),
    ('{"text": "a[1]", "forbid": 3}', '"forbid" must be a text, got int'),
    ('{"text": "a[1]", "lengths": []}', "the field 'lengths' is for the result"),
    ('{"prefix": "a", "unknown": 0}', '"unknown" must be a number of tokens, at least 1, got 0'),
    ('{"prefix": "a", "unknown": true}', '"unknown" must be a number of tokens'),
    ('{"chat": "a", "unknown": 3}', "a conversation was given"),
    ('{"chat": [{"role": "user"}], "unknown": 3}', '"chat" must be a text or a list'),
    ('{"chat": [], "unknown": 3}', '"chat" is empty'),
    ('{"array": [1, 2]}', "no token is -1"),
    ('{"array": [1, -1]}', "the array must be of shape \\(24,\\), got \\(2,\\)"),
    ('{"array": [1, [2]]}', '"array" must be lists of integers'),
    ('{"array": [0.5, -1]}', "expected integers, got float64"),
    ('{"array": [11, -1]}', "tokens must be in 0..9, got 11"),
    ('{"array": [18446744073709551615, -1]}', "expected integers, got"),
    ('{"array": [18446744073709551615]}', "tokens must be in 0..9, got 9223372036854775807"),
    ('{"text": "a[1]", "deep": ' + "[" * 3000 + "]" * 3000 + "}", "recursion"),
    ('{"image": "a.png"}', '"image" needs "mask"'),
    ('{"image": "a.png", "mask": "b.png"}', "the model's tokens are Characters|no such file"),
    ('{"text": "a[1]", "label": "cat"}', "the model was trained without labels"),
    ('{"text": "a[1]", "label": [1]}', "label must be the name or the number of a class"),
    ('{"text": "a[1]", "line": 3}', "the field 'line' is for the result"),
    ('{"text": "a[1]", "completions": []}', "the field 'completions' is for the result"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line[:40] for line, _ in BAD])
def test_a_bad_line_stops_before_anything_is_drawn(
    texts: MaskedDiffusion, line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_lines(tmp_path / "in.jsonl", {"text": "a[1]"}, "", line, {"text": "b[2]"})
    sizes = stopping(monkeypatch, -1)
    with pytest.raises(ValueError, match=f"^{source}, line 3: .*{message}"):
        unmask.infill_file(texts, source, tmp_path / "out.jsonl")
    assert not sizes and not list(tmp_path.glob("out*"))
    done = unmask.infill_file(texts, source, tmp_path / "out.jsonl", skip_bad=True)
    first, bad, last = read(done.path)
    assert set(bad) == {"line", "error"} and bad["line"] == 3 and str(source) not in bad["error"]
    assert first["line"] == 1 and last["line"] == 4 and len(last["completions"]) == 1
    assert str(done).endswith("out.jsonl: 3 inputs, 1 of them left out")


def test_refusals(texts: MaskedDiffusion, tmp_path: Path) -> None:
    source = holes(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "flat.npy", np.zeros(3, dtype=np.int64))
    write_lines(tmp_path / "bad.jsonl", "{", "{}")
    for path, out, settings, message in (
        (source, "out.txt", {}, "out.txt: the file for the results must end in .jsonl or .npy"),
        (source, "out.npy", {}, "out.npy: a .npy is for a .npy"),
        (source, "holes.jsonl", {}, "holes.jsonl: is the input itself"),
        (tmp_path / "empty.jsonl", "out.jsonl", {}, "empty.jsonl: there are no lines in it"),
        (tmp_path / "folder", "out.jsonl", {}, "folder: there are no images in it"),
        (tmp_path / "flat.npy", "out.jsonl", {}, "flat.npy: expected integers \\(examples, \\*dims\\)"),
        (tmp_path / "bad.jsonl", "out.jsonl", {"skip_bad": True}, "bad.jsonl: every input is bad"),
        (source, "out.jsonl", {"samples": 0}, "samples must be a whole number of at least 1"),
        (source, "out.jsonl", {"score": -1}, "score must be"),
    ):
        with pytest.raises(ValueError, match=message):
            unmask.infill_file(texts, path, tmp_path / out, **settings)
    with pytest.raises(FileNotFoundError, match="gone.jsonl: no such file or folder"):
        unmask.infill_file(texts, tmp_path / "gone.jsonl", tmp_path / "out.jsonl")


def test_arrays(tmp_path: Path) -> None:
    model = small(unmask.Symbols(5), (3, 2))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (20, 3, 2))
    x[rng.random(x.shape) < 0.4] = -1
    x[:, 0, 0] = -1
    x[7] = 3
    np.save(tmp_path / "in.npy", x)
    with pytest.raises(ValueError, match=r"in.npy, example 8: no token is -1"):
        unmask.infill_file(model, tmp_path / "in.npy", tmp_path / "out.npy")
    done = unmask.infill_file(model, tmp_path / "in.npy", tmp_path / "out.npy", skip_bad=True, batch_size=3)
    found = np.load(done.path)
    assert found.shape == x.shape and found.min() == 0 and (found[x >= 0] == x[x >= 0]).all() and done.bad == 1
    several = unmask.infill_file(model, tmp_path / "in.npy", tmp_path / "n.npy", samples=3, skip_bad=True)
    ranked = np.load(several.path)
    assert ranked.shape == (20, 3, 3, 2)
    assert (ranked == found[:, None]).all((2, 3)).any(1).all(), "the first alternative is among them"
    unmask.infill_file(model, tmp_path / "in.npy", tmp_path / "n.jsonl", samples=3, skip_bad=True)
    lines = read(tmp_path / "n.jsonl")
    assert [one["line"] for one in lines] == [*range(1, 21)] and set(lines[7]) == {"line", "error"}
    assert set(lines[0]) == {"line", "completions"}
    assert lines[3]["completions"][2]["array"] == ranked[3, 2].tolist()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[MaskedDiffusion, Path]:
    """A model of images 4x3, and a folder of five with masks."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in "abcde":
        Image.fromarray(rng.choice([0, 85, 170, 255], (3, 4)).astype(np.uint8)).save(folder / f"{name}.png")
        mask = np.zeros((3, 4), dtype=np.uint8)
        mask[rng.random((3, 4)) < 0.5] = 255
        mask[0, 0] = 255
        Image.fromarray(mask).save(folder / f"{name}.mask.png")
    return small(unmask.Pixels(4), (3, 4, 1), classes=3), folder


def test_a_folder_of_images(pictures: tuple[MaskedDiffusion, Path], tmp_path: Path) -> None:
    model, folder = pictures
    unmask.infill_file(model, folder, tmp_path / "filled.jsonl", label=2, batch_size=2)
    found = read(tmp_path / "filled.jsonl")
    assert [one["image"] for one in found] == [f"{name}.png" for name in "abcde"]
    for one in found:
        (each,) = one["completions"]
        assert each["image"] == f"filled/{one['image']}"
        old, mask, new = (
            np.asarray(Image.open(path))
            for path in (folder / one["image"], folder / one["mask"], tmp_path / each["image"])
        )
        assert new.shape == (3, 4) and (new == old)[mask == 0].all() and set(new.flat) <= {0, 85, 170, 255}
    unmask.infill_file(model, folder, tmp_path / "two.jsonl", label=2, samples=2)
    assert [each["image"] for each in read(tmp_path / "two.jsonl")[1]["completions"]] == ["two/b-1.png", "two/b-2.png"]
    assert len(list((tmp_path / "two").iterdir())) == 10


def test_images_that_lines_name(pictures: tuple[MaskedDiffusion, Path], tmp_path: Path) -> None:
    model, folder = pictures
    lines = [
        {"image": f"{name}.png", "mask": f"{name}.mask.png"} | ({} if label is None else {"label": label})
        for name, label in zip("abcde", (0, "1", None, 2, None), strict=True)
    ]
    source = write_lines(folder / "lines.jsonl", *lines)
    unmask.infill_file(model, source, tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert [one["completions"][0]["image"] for one in found] == [f"out/{i}.png" for i in range(1, 6)]
    assert [one.get("label") for one in found] == [0, "1", None, 2, None]
    alone = write_lines(folder / "alone.jsonl", *(line if i == 3 else "" for i, line in enumerate(lines)))
    unmask.infill_file(model, alone, tmp_path / "alone.jsonl")
    assert (tmp_path / "alone" / "4.png").read_bytes() == (tmp_path / "out" / "4.png").read_bytes()
    guided = unmask.FirstHitting(guidance=2.0)
    with pytest.raises(ValueError, match="lines.jsonl, line 3: guidance needs a label"):
        unmask.infill_file(model, source, tmp_path / "guided.jsonl", sampler=guided)
    unmask.infill_file(model, source, tmp_path / "guided.jsonl", sampler=guided, label=1)
    with pytest.raises(ValueError, match="is the folder that results are written to"):
        unmask.infill_file(model, source, folder.with_suffix(".jsonl"))
    with pytest.raises(ValueError, match="is the folder that results are written to"):
        unmask.infill_file(model, folder, folder.with_suffix(".jsonl"))


def test_folders_that_are_refused(pictures: tuple[MaskedDiffusion, Path], tmp_path: Path) -> None:
    model, folder = pictures
    picture, mask = (folder / "a.png").read_bytes(), (folder / "a.mask.png").read_bytes()
    out = tmp_path / "out.jsonl"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture)
    with pytest.raises(ValueError, match=r"a.png: has no mask; save one beside it, a.mask.png"):
        unmask.infill_file(model, tmp_path / "in", out)
    (tmp_path / "in" / "b.mask.png").write_bytes(mask)
    with pytest.raises(ValueError, match=r"b.mask.png: a mask, but there is no image of that name"):
        unmask.infill_file(model, tmp_path / "in", out)
    (tmp_path / "in" / "b.png").write_bytes(picture)
    Image.open(folder / "a.png").save(tmp_path / "in" / "b.bmp")
    with pytest.raises(ValueError, match=r"b.bmp and b.png would have one name"):
        unmask.infill_file(model, tmp_path / "in", out)
    (tmp_path / "in" / "b.bmp").unlink()
    Image.new("L", (5, 5)).save(tmp_path / "in" / "b.mask.png")
    (tmp_path / "in" / "a.mask.png").write_bytes(mask)
    with pytest.raises(ValueError, match=r"b.png: .*b.mask.png: the image is 5x5, the model's are 4x3"):
        unmask.infill_file(model, tmp_path / "in", out)


def test_chats(tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, CHATML))
    model = small(codec, (120,))
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "a"},
    ]
    source = write_lines(
        tmp_path / "in.jsonl",
        {"chat": "Hi", "unknown": 6, "system": "Be short."},
        {"chat": talk, "unknown": 4, "id": "x"},
        {"text": "Hi [2]"},
    )
    unmask.infill_file(model, source, tmp_path / "out.jsonl", samples=2)
    found = read(tmp_path / "out.jsonl")
    assert found[1]["chat"] == talk and found[1]["id"] == "x"
    for one in found[:2]:
        for each in one["completions"]:
            assert "im_start" not in each["text"] and "Be short" not in each["text"] and each["log_p"] < 0
    assert found[2]["completions"][0]["text"].startswith("Hi")


def hidden_padding(tmp_path: Path) -> MaskedDiffusion:
    codec = Tokenizer(str(write_bpe(tmp_path)))
    body = random_model("bert", vocab_size=codec.vocab_size + 8, max_position_embeddings=40)
    return MaskedDiffusion(
        Pretrained(codec.vocab_size, (38,), body=body, mask=codec.vocab_size + MASK, padding=0, special=SPECIAL), codec
    ).eval()


def filled_examples(tmp_path: Path) -> MaskedDiffusion:
    model = small(Characters(ALPHABET), (24,))
    model.about["lengths"] = Lengths(0, (1,) * 24).describe()
    return model


@pytest.mark.parametrize("make", [hidden_padding, filled_examples])
def test_several_lengths_in_one_batch(
    make: Callable[[Path], MaskedDiffusion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put at the end of texts changes neither their predictions nor, with a batch, their tokens."""
    model = make(tmp_path)
    lines = [{"text": "a" + "bc" * (i % 4) + f"[{1 + i % 3}]" + "d"} for i in range(12)]
    source = write_lines(tmp_path / "in.jsonl", *lines)
    with monkeypatch.context() as patch:
        sizes = stopping(patch, -1)
        unmask.infill_file(model, source, tmp_path / "out.jsonl")
    assert sizes == [12], "lengths share a batch"
    unmask.infill_file(model, source, tmp_path / "one.jsonl", batch_size=1)
    same(read(tmp_path / "one.jsonl"), expected := read(tmp_path / "out.jsonl"))
    for one, line in zip(expected, lines, strict=True):
        (each,) = one["completions"]
        canvas = unmask.canvas.make_canvas(model.codec, model.shape, text=line["text"])
        known, _, rest = line["text"].partition("[")
        assert each["text"].startswith(known) and each["text"].endswith(rest[2:])
        short, long = canvas, filled_up(model, canvas[0]).unsqueeze(0)
        assert long.shape[1] == (24 if model.lengths else STEP) > short.shape[1]
        predictions = [model.network_for(x)(x, at=x == model.network.mask_id) for x in (short, long)]
        torch.testing.assert_close(*predictions, atol=1e-4, rtol=1e-4)
        assert len(predictions[0]) == int(rest[0])


def test_the_command(texts: MaskedDiffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts.save_pretrained(tmp_path / "m")
    source, out = holes(tmp_path), tmp_path / "out.jsonl"
    command = ["infill", str(tmp_path / "m"), "--input", str(source)]
    assert main([*command, "--out", str(out), "-n", "2", "--score", "3", "--seed", "4", "--batch_size", "7"]) == 0
    assert capsys.readouterr().out == f"{out}: 30 inputs\n"
    unmask.infill_file(texts, source, tmp_path / "py.jsonl", samples=2, score=3, seed=4, batch_size=7)
    assert (tmp_path / "py.jsonl").read_bytes() == out.read_bytes()
    write_lines(source, {"text": "a#_b"}, {"text": "b#"})
    again = [*command, "--out", str(out), "--placeholder", "#"]
    for arguments, message in (
        ([*again[:-3], str(tmp_path / "x.jsonl"), *again[-2:]], "line 1: character '_'"),
        ([*again, "--skip_bad"], "is there already; --overwrite (overwrite=True) replaces it"),
        (command, "--input needs --out"),
        ([*command, "--out", str(out), "--gif", str(tmp_path / "x.gif")], "--input needs --out"),
        ([*command[:2], "a[1]", *command[2:], "--out", str(out)], "--input needs --out"),
        (["infill", str(tmp_path / "m"), "a[1]", "--overwrite"], "--skip_bad and --overwrite go with --input"),
        (["infill", str(tmp_path / "m"), "--input", "gone", "--out", str(out)], "gone: no such file or folder"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def mixed(model: MaskedDiffusion) -> list[dict[str, Any]]:
    """Lines of every kind: holes of known and unknown length, constraints, and prompts if the model knows lengths."""
    rng, lines = random.Random(1), []
    for i in range(18):
        start = "".join(rng.choices(ALPHABET, k=rng.randint(1, 4)))
        line = {"text": f"{start}[{1 + i % 3}-{2 + i % 3}]ab" if i % 2 else f"{start}[{1 + i % 3}]ab"}
        if i % 6 == 5 and model.lengths is not None:
            line = {"prefix": start}
        lines.append(line | ({"allow": "a-c"} if i % 3 == 0 else {"forbid": "a"} if i % 3 == 1 else {}))
    return lines


@pytest.mark.parametrize("filled", [False, True])
def test_neither_batches_nor_their_order_matter_where_lengths_are_drawn(
    filled: bool, texts: MaskedDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = filled_examples(tmp_path) if filled else texts
    source, lines = tmp_path / "in.jsonl", mixed(model)
    write_lines(source, *lines)
    how: dict[str, Any] = {"samples": 3, "score": 2, "evaluations": 8, "seed": 5}

    def run(name: str, batch_size: int) -> list[dict[str, Any]]:
        unmask.infill_file(model, source, tmp_path / f"{name}.jsonl", batch_size=batch_size, **how)
        return read(tmp_path / f"{name}.jsonl")

    expected = run("all", 64)
    kinds = {len(each["text"]) for one in expected for each in one["completions"] if "lengths" in one}
    assert len(kinds) > 3
    for one, line in zip(expected, lines, strict=True):
        for each in one["completions"]:
            start = line.get("prefix") or line["text"].partition("[")[0]
            drawn = each["text"][len(start) :].removesuffix("" if "prefix" in line else "ab")
            assert each["text"].startswith(start) and set(drawn) <= set(line.get("allow", ALPHABET).replace("-", "b"))
            assert "a" not in drawn or line.get("forbid") != "a"
            if "k" in each:
                assert each["k"] == [len(drawn)]
    close(run("one", 1), expected)
    close(run("seven", 7), expected)
    write_lines(source, *(line if i % 4 else "" for i, line in enumerate(lines)))
    close(run("fewer", 5), [one for i, one in enumerate(expected) if i % 4])
    with monkeypatch.context() as patch:
        write_lines(source, *lines)
        stopping(patch, 2)
        interrupted(lambda: run("killed", 6))
    assert (tmp_path / "killed.jsonl.part").exists()
    close(run("killed", 6), expected)


def close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare results with posteriors: equal but for last decimals."""
    for one, other in zip(found, expected, strict=True):
        for each, wanted in zip(one.pop("lengths", []), other.get("lengths", []), strict=True):
            assert each["k"] == wanted["k"]
            assert each["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
    same(found, [{name: value for name, value in one.items() if name != "lengths"} for one in expected])


def test_holes_of_unknown_length_in_lines(texts: MaskedDiffusion, tmp_path: Path) -> None:
    """The posterior is that of one text, lengths are drawn from it, and it is in the bounds."""
    text, how = "ab[1-4]c", {"evaluations": 16, "prior": "1,2,0,3"}
    source = write_lines(tmp_path / "in.jsonl", *[{"text": text}] * 30, {"text": "a[1-2]b[1-2]"})
    with pytest.raises(ValueError, match=r"in.jsonl, line 31: the prior needs as many weights .*, 2; 2; got 4"):
        unmask.infill_file(texts, source, tmp_path / "x.jsonl", **how)  # type: ignore[arg-type]
    write_lines(source, *[{"text": text}] * 30)
    unmask.infill_file(texts, source, tmp_path / "out.jsonl", samples=20, score=2, **how)  # type: ignore[arg-type]
    posterior = length_posterior(texts, text, **how)  # type: ignore[arg-type]
    found = read(tmp_path / "out.jsonl")
    assert all(one["lengths"] == posterior.describe() for one in found)
    seen = Counter(each["k"][0] for one in found for each in one["completions"])
    p = dict(zip((1, 2, 3, 4), posterior.probability, strict=True))
    assert stats.chisquare([seen[k] for k in (1, 2, 4)], [600 * p[k] for k in (1, 2, 4)]).pvalue > 1e-3 and not seen[3]
    assert seen.total() == 600
    best = tmp_path / "best.jsonl"
    unmask.infill_file(texts, source, best, choose="best", **how)  # type: ignore[arg-type]
    assert {each["k"][0] for one in read(best) for each in one["completions"]} == {posterior.best()[0]}
    write_lines(source, {"text": "ab[1-2]"})
    unmask.infill_file(texts, source, tmp_path / "one.jsonl", samples=9, score=1, evaluations=16)
    (one,) = read(tmp_path / "one.jsonl")
    share = {tuple(entry["k"]): entry for entry in one["lengths"]}
    canvas = torch.tensor([[0, 1, 9]])
    predicted = texts.network_for(canvas)(canvas, at=canvas == 9).log_softmax(-1)[0]
    for each in one["completions"]:
        if each["k"] == [1]:  # a single unknown token: its bound is exact
            expected = math.log(share[(1,)]["probability"]) + float(predicted[ALPHABET.index(each["text"][2])].detach())
            assert each["log_p"] == pytest.approx(expected, abs=1e-3)
    assert any(each["k"] == [1] for each in one["completions"])


def test_lines_with_one_constraint_share_batches(
    texts: MaskedDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"text": f"a[{1 + i % 2}]{'b' * (2 - i % 2)}"} | ({"allow": "cd"} if i % 4 > 1 else {}) for i in range(16)]
    source = write_lines(tmp_path / "in.jsonl", *lines)
    with monkeypatch.context() as patch:
        sizes = stopping(patch, -1)
        unmask.infill_file(texts, source, tmp_path / "out.jsonl", forbid="c")
    assert sorted(sizes) == [8, 8]
    for one, line in zip(read(tmp_path / "out.jsonl"), lines, strict=True):
        drawn = one["completions"][0]["text"][1 : 2 + (line["text"][2] == "2")]
        assert set(drawn) <= ({"d"} if "allow" in line else set(ALPHABET) - {"c"})
    write_lines(source, {"text": "a[1]", "forbid": "a"})
    unmask.infill_file(texts, source, tmp_path / "own.jsonl", samples=60, forbid="b-h ", score=0)
    assert {each["text"][1] for each in read(tmp_path / "own.jsonl")[0]["completions"]} - {"a", "b"}, "in its place"


def test_settings_of_lengths_and_constraints_belong_to_what_was_begun(
    texts: MaskedDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", *[{"text": "a[1-2]b"}] * 4), tmp_path / "out.jsonl"
    how: dict[str, Any] = {"evaluations": 8, "batch_size": 2}
    with monkeypatch.context() as patch:
        stopping(patch, 1)
        interrupted(lambda: unmask.infill_file(texts, source, out, **how))
    for setting in (
        {"allow": "a-c"},
        {"forbid": "a"},
        {"choose": "best"},
        {"prior": [1, 2]},
        {"evaluations": 4},
        {"length": 4},
        {"stop_early": False},
    ):
        with pytest.raises(ValueError, match=f"out.jsonl.part: was begun with another {next(iter(setting))}"):
            unmask.infill_file(texts, source, out, **how | setting)
    for setting, match in (
        ({"sampler": unmask.FirstHitting(temperature=0.5)}, r"another sampler\.temperature \(1\.0, not 0\.5\)"),
        ({"evaluations": 1}, "evaluations must be"),
        ({"stop_early": True}, "stopping early takes"),
    ):
        with pytest.raises(ValueError, match=match):
            unmask.infill_file(texts, source, out, **how | setting)
    unmask.infill_file(texts, source, out, **how)


def test_answers_stop_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Tokenizer.from_folder(write_chat(tmp_path, CHATML))
    model = small(codec, (120,))
    with torch.no_grad():
        model.network.head.weight.zero_()
        model.network.head.bias[list(codec.special)] += 9  # an end in almost every block
    source = write_lines(tmp_path / "in.jsonl", *[{"chat": "Hi", "unknown": 32}] * 3, {"text": "Hi [32]"})
    blocks = unmask.FirstHitting(block_length=8, blocks_after_prompt=True)
    calls: list[int] = []
    forward = Transformer.forward
    monkeypatch.setattr(Transformer, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))

    def count(name: str, **settings: Any) -> int:
        calls.clear()
        unmask.infill_file(model, source, tmp_path / f"{name}.jsonl", score=0, **settings)
        return len(calls)

    assert count("plain") == 64 == count("never", sampler=blocks, stop_early=False)
    assert count("blocks", sampler=blocks) == 8 + 32 == count("asked", sampler=blocks, stop_early=True)
    with pytest.raises(ValueError, match="stopping early takes a sampler in blocks"):
        count("wrong", stop_early=True)
    answers = [[one["completions"] for one in read(tmp_path / f"{name}.jsonl")] for name in ("never", "blocks")]
    assert answers[0] == answers[1], "what comes before is the same"


def test_lengths_and_constraints_on_the_command_line(
    texts: MaskedDiffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts.save_pretrained(tmp_path / "m")
    source = write_lines(tmp_path / "in.jsonl", {"text": "ab[1-3]"}, {"text": "a[2-3]b", "allow": "d"})
    command = ["infill", str(tmp_path / "m"), "--input", str(source), "--out", str(tmp_path / "out.jsonl")]
    assert main([*command, "--evaluations", "8", "--choose", "best", "--forbid", "a", "--stop_early"]) == 1
    assert "stopping early takes" in capsys.readouterr().err
    assert main([*command, "--evaluations", "8", "--choose", "best", "--forbid", "a", "--length", "2-3"]) == 0
    how: dict[str, Any] = {"evaluations": 8, "choose": "best", "forbid": "a", "length": (2, 3)}
    unmask.infill_file(texts, source, tmp_path / "py.jsonl", **how)
    assert (tmp_path / "py.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert set(read(tmp_path / "out.jsonl")[1]["completions"][0]["text"][1:-1]) == {"d"}


def test_one_input(texts: MaskedDiffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alternatives draw lengths of their own, as in Python; several lengths go into every kind of file."""
    texts.save_pretrained(tmp_path / "m")
    model = unmask.load(tmp_path / "m", device="cpu")
    command = ["infill", str(tmp_path / "m"), "ab[1-4]c", "-n", "12", "--seed", "3", "--evaluations", "8"]
    assert main([*command, "--score", "0"]) == 0
    shown = capsys.readouterr().out.rstrip("\n").split("\n\n")
    ours = infill_unknown_length(model, "ab[1-4]c", samples=12, seed=3, evaluations=8)
    assert shown == [one.text for one in ours] and len({len(text) for text in shown}) > 1
    assert main(command) == 0
    scored = capsys.readouterr().out
    assert scored.count("log p >= -") == 12 and all(f" nats\n{text}\n" in scored for text in shown)
    assert main([*command, "--batch_size", "2"]) == 0
    assert capsys.readouterr().out == scored, "bounds do not depend on batches"
    for name in ("x.npy", "x.txt", "x.jsonl", "x.png"):
        assert main([*command, "--out", str(tmp_path / name), "--gif", str(tmp_path / "x.gif")]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n{tmp_path / 'x.gif'}\n"
    assert (tmp_path / "x.txt").read_text() == "\n\n".join(shown) + "\n"
    assert [line["text"] for line in read(tmp_path / "x.jsonl")] == shown
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (12, max(map(len, shown))) and all(
        (row[len(text) :] == 9).all() and model.codec.decode(torch.from_numpy(row[None, : len(text)])) == [text]
        for row, text in zip(x, shown, strict=True)
    )
    found = infill_one(model, {"text": "ab[1-4]c"}, samples=3, evaluations=8, score=0)
    assert found.posterior is not None and str(found) == "\n\n".join(found.texts or ())
    with pytest.raises(ValueError, match="--prior is of a hole of unknown length"):
        infill_one(model, {"text": "ab[1]"}, prior=[1])
    with pytest.raises(ValueError, match="nothing|give one of"):
        infill_one(model, {})

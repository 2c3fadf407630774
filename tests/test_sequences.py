"""Examples of different length, and examples of which a part is given: rows by hand, and what becomes of bad files."""

import gzip
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import unmask
from small_bpe import END, write_bpe
from test_chat import CHATML, TALK, write_chat
from test_lengths import TINY
from test_tokenizer_folders import LETTERS, folder_of
from unmask.cli.main import main
from unmask.codecs.ended import Ended, until_end
from unmask.codecs.named import named_codec
from unmask.codecs.text import Bytes, Characters
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.corpus import Corpus
from unmask.data.documents import Files
from unmask.data.encoding import Example
from unmask.data.lines import Lines
from unmask.data.pairs import Pairs
from unmask.data.prepare import prepare
from unmask.data.sequences import Sequences
from unmask.training.start import check_data

pytestmark = pytest.mark.filterwarnings("ignore:.*(empty example|more than one part|longer than)")


def rows(data: Any, part: Any = "all") -> list[list[int]]:
    split = data.split(part)
    return split[np.arange(len(split))][0].tolist()


def write_lines(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sums(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"a": str(i), "b": str(i % 7), "sum": str(i + i % 7)} for i in range(start, start + count)]


@pytest.fixture
def lines(tmp_path: Path) -> str:
    return write_lines(tmp_path / "a.txt", ["ab", "", "c", "abc", " b"])


# --- rows


def test_padded_lines(lines: str) -> None:
    data = Lines(lines, length=4)
    assert data.codec == Ended(Characters(" abc")) and data.shape == (4,) and data.has_given
    assert rows(data) == [[1, 2, -5, -5], [3, -5, -5, -5], [1, 2, 3, -5], [0, 2, -5, -5]]
    split = data.split("all")
    assert [split.place(i) for i in range(4)] == [{"file": lines, "line": i} for i in (1, 3, 4, 5)]
    assert split[np.array([2, 0, 2])][0].tolist() == [rows(data)[i] for i in (2, 0, 2)]


def test_filled_lines(lines: str) -> None:
    data = Lines(lines, length=3, packing="filled")
    assert rows(data) == [[1, 2, 4], [3, 4, 4], [1, 2, 3], [0, 2, 4]]
    assert data.lengths is None and not data.has_given


def test_the_codec_says_where_a_text_ends() -> None:
    codec = Ended(Characters("ab"))
    assert (codec.vocab_size, codec.end, codec.padding, codec.unit) == (3, 2, 2, "character")
    x = torch.tensor([[0, 2, 1, 3, 2, 2], [2, 2, 2, 2, 2, 2]])
    assert codec.decode(x, "?") == ["ab?", ""]
    assert until_end(codec, x[0]).tolist() == [0] and codec.unwrapped(x[0]).tolist() == [0, 2, 1, 3]
    assert until_end(Characters("ab"), x[0]).tolist() == x[0].tolist()
    assert Ended(Bytes()).decode(torch.tensor([[256, 226, 256, 130, 172, 257]]), "?") == ["€?"]
    described = json.loads(json.dumps(unmask.storage.description.describe(codec)))
    assert unmask.storage.description.build(unmask.Codec, described, "here") == codec
    with pytest.raises((ValueError, TypeError), match="must be one of texts|Expected type"):
        Ended(unmask.Symbols(3))  # type: ignore[arg-type]


def test_what_a_tokenizer_puts_around_texts_is_given(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path / "letters", LETTERS))  # <cls> 0, <pad> 1, <eos> 2, L 4, A 5
    path = write_lines(tmp_path / "a.txt", ["LA", "A"])
    assert rows(Lines(path, 6, tokenizer=folder)) == [[-1, 4, 5, -3, -2, -2], [-1, 5, -3, -2, -2, -2]]
    assert rows(Lines(path, 6, "filled", folder)) == [[-1, 4, 5, 2, 2, -3], [-1, 5, 2, 2, 2, -3]]
    lengths = Lines(write_lines(tmp_path / "b.txt", ["LA"] * 30), 6, tokenizer=folder).lengths
    assert lengths is not None and lengths.counts == (0, 0, 0, 28, 0, 0) and lengths.fill == 1
    with pytest.raises(ValueError, match="length 2 leaves no room between the 2 tokens around every example"):
        rows(Lines(path, 2, tokenizer=folder))


def test_an_end_that_also_fills_up_is_learned_where_it_ends_every_text(tmp_path: Path) -> None:
    config = {"cls_token": "<cls>", "eos_token": "<eos>", "pad_token": "<eos>"}
    folder = str(folder_of(tmp_path / "letters", LETTERS, tokenizer_config=config))
    data = Lines(write_lines(tmp_path / "a.txt", ["LA", "A"] * 20), 6, tokenizer=folder)
    assert rows(data)[:2] == [[-1, 4, 5, 2, -3, -3], [-1, 5, 2, -3, -3, -3]]
    lengths, x = data.lengths, data.split("train")[np.arange(10)][0]
    assert lengths is not None and lengths.ended
    assert torch.equal(lengths.measure(x), (x != -3).sum(1))
    assert torch.equal(lengths.filled(torch.where(x < 0, -1 - x, x)), x == -3)


def test_lengths_are_those_of_the_rows_that_train(tmp_path: Path) -> None:
    texts = ["ab" * (i % 4 + 1) + "c" * (i // 4) for i in range(40)]
    data = Lines(write_lines(tmp_path / "a.txt", texts), 20)
    x = data.split("train")[np.arange(len(data.split("train")))][0]
    lengths = data.lengths
    assert lengths is not None and not lengths.targets and not lengths.ended
    assert lengths.counts == tuple(int(((x >= 0).sum(1) == n).sum()) for n in range(1, 21))
    assert torch.equal(lengths.measure(x), (x >= 0).sum(1))


# --- parts


def test_parts_are_disjoint_and_do_not_depend_on_the_length(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", [f"{i:03}" + "x" * (i % 10) for i in range(200)])

    def numbers(length: int, part: Any) -> list[str]:
        data = Lines(path, length)
        return [
            text[:3] for text in data.codec.decode(data.split(part)[np.arange(len(data.split(part)))][0].clamp(min=0))
        ]

    parts = {part: numbers(13, part) for part in ("train", "valid", "test")}
    assert [len(part) for part in parts.values()] == [180, 10, 10]
    everything = sorted(text for part in parts.values() for text in part)
    assert everything == [f"{i:03}" for i in range(200)] and numbers(13, "all") == everything
    for part, chosen in parts.items():
        assert numbers(13, part) == chosen, "always the same"
        fits = {text for text in chosen if int(text) % 10 < 9}
        assert len(fits & set(numbers(11, part))) >= len(fits) - 3, "a part hardly depends on what fits"
    digests = {part: Lines(path, 13).split(part).checksum for part in ("train", "valid", "test", "all")}  # type: ignore[arg-type]
    assert len(set(digests.values())) == 4 and digests["train"] != Lines(path, 14).split("train").checksum


def test_parts_in_files_of_their_own(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "a.txt", [f"a{i}" for i in range(40)])
    valid, test = write_lines(tmp_path / "b.txt", ["a1", "a2"]), write_lines(tmp_path / "c.txt", ["a3"])
    both = Lines(train, 4, valid_path=valid, test_path=test)
    assert [len(both.split(part)) for part in ("train", "valid", "test", "all")] == [40, 2, 1, 43]  # type: ignore[arg-type]
    one = Lines(train, 4, test_path=test)
    assert [len(one.split(part)) for part in ("train", "valid", "test", "all")] == [38, 2, 1, 41]  # type: ignore[arg-type]
    few = Lines(valid, 4)
    assert len(few.split("all")) == 2
    with pytest.raises(ValueError, match="at least 20 examples are needed for three parts, got 2"):
        few.split("train")
    wrong = write_lines(tmp_path / "d.txt", ["a1", "", "aZ"])
    with pytest.raises(ValueError, match=r"d.txt, line 3: character 'Z' \(U\+005A\) is not in the alphabet"):
        Lines(train, 4, test_path=wrong).split("test")
    with pytest.raises(FileNotFoundError, match="nothing.txt: no such file"):
        Lines(train, 4, valid_path=str(tmp_path / "nothing.txt")).split("train")


def test_repeated_examples_are_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="40 of 40 examples are in more than one part"):
        Lines(write_lines(tmp_path / "a.txt", ["ab"] * 40), 4).split("train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Lines(write_lines(tmp_path / "b.txt", [f"a{i}" for i in range(40)]), 4).split("train")


def test_a_file_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_lines(path, [f"a{i}" for i in range(40)])
    before = rows(Lines(str(path), 4), "train")
    read = Lines.examples
    monkeypatch.setattr(Lines, "examples", lambda *_: pytest.fail("read again"))
    again = Lines(str(path), 4)
    assert rows(again, "train") == before
    assert rows(Lines(str(path), 5, "filled", long="cut"), "train")[0][:4] == [max(t, -1 - t) for t in before[0]]
    sent = pickle.dumps(again.split("train"))
    assert len(sent) < 2000 and rows(type("D", (), {"split": lambda *_: pickle.loads(sent)})()) == before
    monkeypatch.setattr(Lines, "examples", read)
    write_lines(path, [f"b{i}" for i in range(40)])
    assert "b" in Lines(str(path), 4).codec.codec.alphabet  # type: ignore[attr-defined]


def test_long_examples(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", ["ab", "abcde", "", "abcd"])
    said = "2 of 3 examples are left out, since they are longer than the 3 tokens that a row of length 3 has room for"
    said += r", the first in line 2 \(5 tokens\); --data.length 5 holds all, --data.long cut cuts them off"
    with pytest.warns(UserWarning, match=said):
        assert rows(Lines(path, 3)) == [[0, 1, -6]]
    with pytest.warns(UserWarning, match="1 empty example is left out"):
        assert rows(Lines(path, 5)) == [[0, 1, -6, -6, -6], [0, 1, 2, 3, 4], [0, 1, 2, 3, -6]]
    with pytest.warns(UserWarning, match="2 of 3 examples are longer than a row and cut off"):
        assert rows(Lines(path, 3, long="cut")) == [[0, 1, -6], [0, 1, 2], [0, 1, 2]]
    with pytest.raises(ValueError, match=r"a.txt, line 2 \(5 tokens\) is longer than the 3 tokens"):
        rows(Lines(path, 3, long="error"))
    with pytest.raises(ValueError, match="--data.length 5 holds all, --data.long cut cuts it off$"):
        rows(Lines(path, 3, long="error"))
    full = write_rows(tmp_path / "a.jsonl", [{"prompt": "abcd", "response": "e"}, {"prompt": "a", "response": "b"}])
    with pytest.raises(ValueError, match=r"line 1 \(6 tokens, 4 of them given\) .*; --data.length 6 holds all$"):
        rows(Pairs(full, 4, long="error"))
    with pytest.warns(UserWarning, match="1 of 2 examples are left out, .*; --data.length 6 holds all$"):
        rows(Pairs(full, 4))
    with pytest.raises(ValueError, match=r"every example is longer than the 1 tokens .* line 1 \(2 tokens\)"):
        rows(Lines(path, 1))


# --- tokenizers


def test_tokenizers_by_name(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", ["the man", "an inn"])
    bpe = str(write_bpe(tmp_path / "bpe"))
    codec = Lines(path, 9, tokenizer=bpe).codec
    assert isinstance(codec, Tokenizer)
    first = codec.encode("the man").tolist()
    assert rows(Lines(path, 9, tokenizer=bpe))[0] == first + [-1 - codec.end] * (9 - len(first))
    assert rows(Lines(path, 9, "filled", bpe))[0] == first + [codec.end] * (9 - len(first))
    assert rows(Lines(path, 9, tokenizer="bytes"))[1] == [*b"an inn", -257, -257, -257]
    assert Lines(path, 9, tokenizer="characters").codec == Ended(Characters(" aehimnt"))
    assert Lines(path, 9, tokenizer="characters:then maiX").codec == Ended(Characters("then maiX"))
    many = write_lines(tmp_path / "many.txt", ["".join(map(chr, range(0x4E00, 0x4F10)))])
    with pytest.warns(UserWarning, match="more than 256 different characters, so its tokens are UTF-8 bytes"):
        assert Lines(many, 900).codec == Ended(Bytes())
    assert Lines(many, 900, tokenizer="characters").codec.vocab_size == 0x110 + 1
    with pytest.raises(
        FileNotFoundError, match=r"tokenizer .*nothing: .*no such file \(known are characters, characters:ABC"
    ):
        rows(Lines(path, 9, tokenizer=str(tmp_path / "nothing")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no tokenizer.json"):
        rows(Lines(path, 9, tokenizer=str(tmp_path / "empty")))
    write_lines(tmp_path / "none.txt", ["", ""])
    for tokenizer in (None, "bytes"):
        with pytest.raises(ValueError, match=r"none.txt: (holds no example|there is no text)"):
            rows(Lines(str(tmp_path / "none.txt"), 9, tokenizer=tokenizer))
    for name, error, said in (("empty", ValueError, "is a folder, not a file"), ("no", FileNotFoundError, "no such")):
        with pytest.raises(error, match=said):
            rows(Lines(str(tmp_path / name), 9))
    other = write_lines(tmp_path / "other.txt", ["the man!"])
    for tokenizer in (None, "characters"):
        with pytest.raises(ValueError, match="'!' .*; --data.tokenizer bytes takes every text$"):
            rows(Lines(path, 9, tokenizer=tokenizer, valid_path=other))
    for tokenizer in ("characters:theman i", str(Lines(path, 9).resolved().tokenizer)):
        with pytest.raises(ValueError, match="'!' .* is not in the alphabet '[a-z ]+'$"):
            rows(Lines(other, 9, tokenizer=tokenizer))


@pytest.mark.parametrize("alphabet", ["ab", "0123456789", ": #{}[]\"'\\", "null true"])
@pytest.mark.parametrize("packing", ["padded", "filled"])
def test_settings_that_were_found_make_the_same_rows(alphabet: str, packing: Any, tmp_path: Path) -> None:
    texts = ["".join(alphabet[(i * j + j) % len(alphabet)] for j in range(i % 5 + 1)) for i in range(40)]
    data = Lines(write_lines(tmp_path / "a.txt", [alphabet, *texts]), 16, packing)
    again = data.resolved()
    assert again.tokenizer == f"characters:{''.join(sorted(set(alphabet)))}" and again.resolved() == again
    assert again.codec == data.codec and again.split("train").checksum == data.split("train").checksum


# --- pairs


def test_pairs_by_hand(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"q": "ab", "a": "c"}, {"q": "b", "a": "ca"}])
    data = Pairs(path, 6, given="q", target="a")
    assert data.codec == Ended(Characters("abc"))
    assert rows(data) == [[-1, -2, 2, 3, -4, -4], [-2, 2, 0, 3, -4, -4]]
    assert rows(Pairs(path, 6, "filled", given="q", target="a")) == [[-1, -2, 2, 3, 3, 3], [-2, 2, 0, 3, 3, 3]]
    template = Pairs(path, 12, given="{{{q}}}\\n", target="{a}-{q}", tokenizer="bytes")
    assert rows(template)[0] == [*(-1 - t for t in b"{ab}\n"), *b"c-ab", 256, -257, -257]


def test_lengths_of_pairs_are_those_of_what_is_learned(tmp_path: Path) -> None:
    data = Pairs(write_rows(tmp_path / "a.jsonl", sums(40)), 12, given="{a}+{b}=", target="sum")
    x = data.split("train")[np.arange(36)][0]
    lengths = data.lengths
    assert lengths is not None and lengths.targets and lengths.ended
    learned = [len(str(int(t))) + 1 for t in (r["sum"] for r in sums(40))]
    assert sorted(lengths.measure(x).tolist()) == sorted((x >= 0).sum(1).tolist()) and sum(lengths.counts) == 36
    assert {n for n, count in enumerate(lengths.counts, 1) if count} == set(learned)


def test_formats_of_pairs(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = [{"x": {"q": "a,b"}, "q": "a,b", "a": 'c"d'}, {"x": {"q": "b"}, "q": "b", "a": "ca"}]
    expected = rows(Pairs(write_rows(tmp_path / "a.jsonl", table), 8, given="q", target="a"))
    assert rows(Pairs(str(tmp_path / "a.jsonl"), 8, given="x.q", target="a")) == expected
    (tmp_path / "list.json").write_text(json.dumps(table))
    (tmp_path / "a.csv").write_text('q,z,a\n"a,b",1,"c""d"\nb,2,ca\n')
    (tmp_path / "semi.csv").write_text('q;z;a\n"a,b";1;"c""d"\nb;2;ca\n')
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b'a\tq\n"c""d"\ta,b\nca\tb\n'))
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "a.parquet")
    for name, unit, first in (
        ("list.json", "item", 0),
        ("a.csv", "line", 2),
        ("semi.csv", "line", 2),
        ("a.tsv.gz", "line", 2),
        ("a.parquet", "row", 0),
    ):
        data = Pairs(str(tmp_path / name), 8, given="q", target="a")
        assert rows(data) == expected, name
        split = data.split("all")
        assert [split.place(i) for i in range(2)] == [{"file": str(tmp_path / name), unit: first + i} for i in range(2)]


def test_a_prefix_has_the_tokens_that_it_had_in_training(tmp_path: Path) -> None:
    folder = str(write_bpe(tmp_path / "bpe"))
    given = ["in the ", "the man: ", "an "]
    data = Pairs(
        write_rows(tmp_path / "a.jsonl", [{"prompt": text, "response": "the inn"} for text in given]),
        16,
        tokenizer=folder,
    )
    for row, text in zip(rows(data), given, strict=True):
        canvas = unmask.canvas.make_canvas(data.codec, (16,), prefix=text, unknown=3)[0]
        known = canvas[canvas < data.codec.vocab_size].tolist()
        assert [-1 - t for t in row if t < 0][: len(known)] == known and row[len(known)] >= 0
        whole = [t for t in row if t >= 0]
        assert data.codec.decode(torch.tensor([known + whole])) == [f"{text}the inn{END}"]


def test_conversations(tmp_path: Path) -> None:
    folder = write_chat(tmp_path, CHATML)
    talk = [*TALK, {"role": "assistant", "content": "The Rome."}, {"role": "user", "content": "Thanks."}]
    path = write_rows(tmp_path / "a.jsonl", [{"messages": talk}])
    data = Pairs(path, 400, tokenizer=str(folder), messages="messages")
    codec = data.codec
    assert isinstance(codec, Tokenizer)
    (row,) = rows(data)
    while row[-1] == -1 - data.layout.fill:
        row.pop()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = theirs.apply_chat_template(talk[:-1], tokenize=False).removesuffix("\n")
    assert [max(t, -1 - t) for t in row] == theirs(text, add_special_tokens=False)["input_ids"]
    assert [t for t in row if t >= 0] == [*codec.encode("The Rome.").tolist(), codec.end]
    wrong: list[tuple[Any, str]] = [
        ("hello", "must be a list of messages"),
        ([{"role": "user"}], "must be a list of messages"),
        ([{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "a"}], "not valid Unicode"),
        (TALK[:2], "must have a message of the assistant, with one before it"),
        (TALK[2:3], "must have a message of the assistant, with one before it"),
        ([TALK[1], {"role": "assistant", "content": ""}], "what the assistant says last is empty"),
    ]
    for messages, said in wrong:
        write_rows(tmp_path / "b.jsonl", [{"messages": talk}, {"messages": messages}])
        with pytest.raises(ValueError, match=f"b.jsonl, line 2: .*{said}"):
            rows(Pairs(str(tmp_path / "b.jsonl"), 400, tokenizer=str(folder), messages="messages"))
    with pytest.raises(ValueError, match="a.jsonl, line 1: a conversation needs a tokenizer with a chat template"):
        rows(Pairs(path, 400, tokenizer="bytes", messages="messages"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"q": "a"}, "line 2: has no field 'a', but q; --data.target names the field"),
        ({"a": "a"}, "line 2: has no field 'q', but a; --data.given names the field"),
        ({"q": "", "a": "a"}, r"line 2: the field 'q' is empty \(--data.given\)"),
        ({"q": "a", "a": ""}, r"line 2: the field 'a' is empty \(--data.target\)"),
        ({"q": None, "a": "a"}, "line 2: the field 'q' must be a text, got null"),
        ({"q": "a", "a": 3}, "line 2: the field 'a' must be a text, got int"),
        ([1], "line 2: expected an object with fields, got list"),
    ],
)
def test_bad_rows_of_pairs(row: Any, said: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"q": "a", "a": "b"}, row])
    with pytest.raises(ValueError, match=f"a.jsonl, {said}"):
        rows(Pairs(path, 6, given="q", target="a"))


def test_bad_settings_of_pairs(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"q": "ab", "a": "", "c": "b"}])
    assert rows(Pairs(path, 6, given="{q}{a}", target="c")), "one of several fields may be empty"
    other = write_rows(tmp_path / "b.jsonl", [{"a": "", "b": {"c": ""}, "q": "x"}])
    with pytest.raises(ValueError, match=r"line 1: the fields a, b\.c are empty \(--data.given\)"):
        rows(Pairs(other, 6, given="{a}{b.c}", target="q"))
    for template, said in (
        ("{q", "expected '}'"),
        ("{}", "name of a field"),
        ("{q!r}", "name of a field"),
        ("", "name a"),
    ):
        with pytest.raises(ValueError, match=said):
            Pairs(path, 6, given=template, target="a")
    with pytest.raises(ValueError, match="--data.target '{{q}}': names no field in braces"):
        Pairs(path, 6, given="q", target="{{q}}")
    with pytest.raises(ValueError, match="a.txt: is a text, without fields; expected JSON, CSV, TSV or Parquet"):
        rows(Pairs(write_lines(tmp_path / "a.txt", ["a"]), 6))
    (tmp_path / "c.csv").write_text("q,a\nb,c\n")
    with pytest.raises(ValueError, match="c.csv: has no column 'prompt', but q, a; --data.given and --data.target"):
        rows(Pairs(str(tmp_path / "c.csv"), 6))


def test_a_prompt_longer_than_the_model(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl", [{"q": "a", "a": "bb"}, {"q": "abababab", "a": "a"}, {"q": "ab", "a": "baba"}]
    )
    how: dict[str, Any] = {"given": "q", "target": "a"}
    with pytest.warns(UserWarning, match=r"2 of 3 .* left out.* first in line 2 \(10 tokens, 8 of them given\)"):
        assert rows(Pairs(path, 4, **how)) == [[-1, 1, 1, 2]]
    with pytest.warns(UserWarning, match=r"1 of 3 .* left out.* first in line 2 \(10 tokens, 8 of them given\)"):
        assert rows(Pairs(path, 4, long="cut", **how)) == [[-1, 1, 1, 2], [-1, -2, 1, 0]]
    with pytest.raises(ValueError, match=r"a.jsonl, line 2 \(10 tokens, 8 of them given\) is longer"):
        rows(Pairs(path, 4, long="error", **how))


# --- corpora


def test_a_corpus_filled_up_with_ends(tmp_path: Path) -> None:
    codec = Tokenizer(str(write_bpe(tmp_path / "bpe")))
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in ["the man", "an inn", "in", "the"] * 10])
    prepare(Files((path,)), codec, tmp_path / "made")
    end = codec.end
    tokens = [codec.encode(text).tolist() for text in ("the man", "an inn", "in", "the")]
    data = Corpus(str(tmp_path / "made"), 4, "filled")
    expected = [piece + [end] * (4 - len(piece)) for text in tokens for piece in (text[:4], text[4:]) if piece]
    assert rows(data, "train")[: len(expected)] == expected
    assert len(tokens[0]) == 4 and not data.has_given and data.lengths is None
    assert all(row != [end] * 4 for row in rows(data)) and len(rows(data)) == 10 * len(expected)


# --- training and sampling


@pytest.mark.parametrize("packing", ["padded", "filled"])
def test_from_a_file_to_samples(packing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_rows(tmp_path / "a.jsonl", sums(60)), tmp_path / "r"
    data = ["--data", "Pairs", "--data.path", path, "--data.length", "12", "--data.packing", packing]
    data += ["--data.given", "{a}+{b}=", "--data.target", "sum"]
    assert main(["train", "textfile", *data, *TINY, "--out", str(out)]) == 0
    longer = ["--trainer.max_steps", "5", "--trainer.enable_progress_bar", "false"]
    assert main(["train", str(out), "--resume", *longer]) == 0, "run.json makes the same data again"
    assert main(["evaluate", str(out), "--draws", "1"]) == 0
    model = unmask.load(out, device="cpu")
    data_set = Pairs(path, 12, packing, given="{a}+{b}=", target="sum")  # type: ignore[arg-type]
    assert model.codec == data_set.codec and (model.lengths is None) == (packing == "filled")
    assert model.about["data"]["tokenizer"] == "characters:+0123456789="
    end = model.codec.vocab_size - 1
    capsys.readouterr()
    assert main(["infill", str(out), "--prefix", "3+4=", "--unknown", "4", "--out", str(tmp_path / "x.npy")]) == 0
    x = torch.from_numpy(np.load(tmp_path / "x.npy"))
    assert x.shape == (1, 8) and x[0, :4].tolist() == model.codec.encode("3+4=").tolist()
    (text,) = model.decode(x)
    ends = (x[0] == end).nonzero().flatten().tolist()
    assert text == model.codec.decode(x[:, : ends[0] if ends else 8])[0] and text.startswith("3+4=")
    answered = torch.tensor([[*model.codec.encode("3+4=7").tolist(), end, 1, 1, end, end, end, end]])
    assert model.decode(answered) == ["3+4=7"]


def test_lines_for_a_model_have_its_tokens(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", [f"a{i}" for i in range(40)])
    (tmp_path / "t.txt").write_text("0123456789a\n" * 300)
    assert main(["train", "textfile", "--data.path", str(tmp_path / "t.txt"), *TINY, "--out", str(tmp_path / "t")]) == 0
    plain = Lines(path, 6, tokenizer=str(tmp_path / "t"))
    assert plain.codec == unmask.load(tmp_path / "t").codec == Characters("\n0123456789a")
    assert rows(plain)[10] == [11, 2, 1, -1, -1, -1], "filled up with the line end, which no line has"
    again = plain.resolved()
    assert again.tokenizer == "exactly:characters:\n0123456789a" and again.resolved() == again
    assert again.codec == plain.codec and rows(again) == rows(plain)
    with pytest.raises(ValueError, match="exactly:gpt2: exactly: is for characters:ABC, bytes, and atoms:C N"):
        named_codec("exactly:gpt2")
    with pytest.raises(ValueError, match="the model has no token that ends a text, which packing filled learns"):
        rows(Lines(path, 6, "filled", str(tmp_path / "t")))
    more = ["train", "textfile", "--data", "Lines", "--data.path", path, *TINY, "--data.length", "6"]
    assert main([*more, "--out", str(tmp_path / "l")]) == 0
    other = write_lines(tmp_path / "b.txt", ["aa"] * 3)
    assert Lines(other, 6, "filled", str(tmp_path / "l")).codec == unmask.load(tmp_path / "l").codec
    (tmp_path / "l" / "model" / "config.json").unlink()
    assert named_codec(str(tmp_path / "l"))[1], "an unfinished run has a codec, too"


def test_ends_that_a_network_never_predicts_are_not_to_be_learned(lines: str) -> None:
    data = Lines(lines, 4, "filled")
    network = unmask.Transformer(5, (4,), width=8, depth=1, heads=1)
    model = unmask.MaskedDiffusion(network, data.codec)
    check_data(model, data)
    network.excluded = (4,)
    with pytest.raises(ValueError, match="learns the token that ends a text, which this network never predicts"):
        check_data(model, data)
    check_data(model, Lines(lines, 4))


class Words(Sequences):
    """Examples of our own: every word of a file, after its first letter."""

    def examples(self, path: Path) -> Any:
        for number, word in enumerate(path.read_text().split(), 1):
            yield Example(number, word[1:], word[:1], "word")

    conditional = True  # type: ignore[assignment]


def test_texts_on_the_command_line_are_no_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_rows(tmp_path / "a: b.jsonl", sums(60)), tmp_path / "r: {s}"
    given, target = "Q: {a}+{b}\\n", "{sum}"
    alphabet = "characters:Q: {}#+0123456789=\n"
    arguments = ["train", "pairs", "--data.path", path, "--data.given", given, f"--data.target={target}", *TINY]
    arguments += ["--data.length", "24", "--data.tokenizer", alphabet, "--data.valid_path", "null", "--out", str(out)]
    assert main(arguments) == 0, capsys.readouterr().err
    kept = json.loads((out / "run.json").read_text())["data"]
    assert [kept[name] for name in ("path", "given", "target", "tokenizer", "valid_path", "length")] == [
        path,
        given,
        target,
        alphabet,
        None,
        24,
    ]
    assert main(["train", str(out), "--resume", "--trainer.max_steps", "4"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["infill", str(out), "--prefix", "Q: 1+1\n", "--unknown", "2", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("Q: 1+1\n")
    assert main([*arguments[:4], "--data.given", "Q: {c}", "--data.target", "{a}", "--dry-run"]) == 1
    assert "has no field 'c', but a, b, sum; --data.given names the field" in capsys.readouterr().err
    assert main([*arguments, "--data.long", "a: b", "--dry-run"]) == 2
    assert "data.long: expected one of 'drop', 'cut', 'error'" in capsys.readouterr().err


def test_sequences_of_ones_own(tmp_path: Path) -> None:
    data = Words(write_lines(tmp_path / "a.txt", ["abc ab a"]), 5)
    assert rows(data) == [[-1, 1, 2, 3, -4], [-1, 1, 3, -4, -4]]
    split = data.split("all")
    assert split.place(1) == {"file": str(tmp_path / "a.txt"), "word": 2}

"""Folders of tokenizers that are no simple case: other kinds, and files that are damaged, crafted or not read."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import models

from small_bpe import write_bpe
from unmask.codecs.base import Codec
from unmask.codecs.tokenizer import Tokenizer
from unmask.storage.description import build, describe

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "man", "##s", "P", "##aris"]
LETTERS = ["<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "-", "<null_1>", "<mask>"]


def folder_of(path: Path, vocab: list[str], **files: Any) -> Path:
    """Write vocab.txt, and JSON files by their names without the suffix."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_qwen2_from_its_two_files(tmp_path: Path) -> None:
    folder = write_bpe(tmp_path)
    count = len(json.loads((folder / "vocab.json").read_text()))
    names = ("<|im_end|>", "<|mask|>", "<u>")
    added = {str(count + i): {"content": name, "special": name != "<u>"} for i, name in enumerate(names)}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "mask_token": "<|mask|>"}
    config |= {
        "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "special": True},
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    codec = Tokenizer.from_folder(folder)
    theirs = transformers.Qwen2Tokenizer.from_pretrained(folder)
    for text in ("the man in 1984", "then\n\n  the end!?\n", "It's a cafe\u0301, isn't it", "a <u> b"):
        assert codec.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"], text
    assert (codec.mask, codec.end, codec.padding) == (count + 1, count, count - 1)
    assert codec.wrap == ((), ()) and codec.vocab_size == count + 3 and count + 2 not in codec.special
    assert codec.encode_pieces(["1984 caf\u00e9"])[0].tolist() == codec.encode("1984 cafe\u0301").tolist()


def test_letters(tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(folder_of(tmp_path, LETTERS))
    assert codec.encode("L A-\nG").tolist() == codec.encode("LA-G").tolist() == [4, 5, 7, 6]
    assert codec.decode(codec.encode("LA-G")[None]) == ["LA-G"]
    assert codec.special == (0, 1, 2, 3, 8, 9) and codec.wrap == ((0,), (2,))
    with pytest.raises(ValueError, match="'LAj' comes back as 'LA<unk>'"):
        codec.encode_pieces(["LAj"])
    assert codec.encode("<mask>").tolist() == [3] * 6  # what stands in a text is text


@pytest.mark.parametrize(
    ("vocab", "config", "lowers"),
    [
        (WORDS, {}, False),
        (WORDS, {"do_lower_case": True}, True),
        ([word.lower() if word[0] != "[" else word for word in WORDS], {}, True),
    ],
)
def test_whether_capitals_are_kept(vocab: list[str], config: Any, lowers: bool, tmp_path: Path) -> None:
    codec = Tokenizer.from_folder(folder_of(tmp_path, vocab, tokenizer_config=config))
    tokens = codec.encode("Paris").tolist()
    assert tokens == ([1] if lowers and "P" in vocab else [8, 9])


def test_roles_are_read_from_each_file(tmp_path: Path) -> None:
    words = [*WORDS[:2], "[START]", "[STOP]", "[HOLE]", *WORDS[5:], "[FILL]"]
    roles = {"cls_token": {"content": "[START]"}, "sep_token": "[STOP]", "pad_token": "[UNK]", "mask_token": "[GONE]"}
    config = {"pad_token": "[FILL]", "sep_token": None, "bos_token": None, "add_bos_token": False}
    added = {"[HOLE]": 4, "[NEW]": len(words)}
    files = {"special_tokens_map": roles, "tokenizer_config": config, "added_tokens": added}
    codec = Tokenizer.from_folder(folder_of(tmp_path, words, **files))
    assert (codec.before, codec.after) == (("[START]",), ("[STOP]",))
    assert codec.padding_token == "[FILL]" and codec.mask is None  # what a file names is not replaced by a guess
    assert codec.tokenizer.token_to_id("[NEW]") == len(words) == codec.vocab_size - 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer_config": []}, r"tokenizer_config.json: expected a JSON object, got list"),
    ({"tokenizer_config": {"mask_token": 3}}, r"tokenizer_config.json: mask_token must be the text of a token, got 3"),
    ({"tokenizer_config": {"mask_token": {"content": [1]}}}, r"mask_token must be the text of a token"),
    ({"special_tokens_map": {"cls_token": ""}}, r"special_tokens_map.json: cls_token must be the text of a token"),
    ({"tokenizer_config": {"do_lower_case": "no"}}, r"do_lower_case must be true or false, got 'no'"),
    ({"tokenizer_config": {"added_tokens_decoder": [1]}}, r"added_tokens_decoder must be a JSON object"),
    ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "a"}}}}, r"'x' is not the number of a token"),
    ({"tokenizer_config": {"added_tokens_decoder": {"-1": {"content": "a"}}}}, r"'-1' is not the number of a token"),
    ({"tokenizer_config": {"added_tokens_decoder": {"9" * 99: {"content": "a"}}}}, r"is not the number of a token"),
    ({"tokenizer_config": {"added_tokens_decoder": {"\u0665": {"content": "a"}}}}, r"is not the number of a token"),
    ({"tokenizer_config": {"added_tokens_decoder": {"10": {"content": "a", "lstrip": 1}}}}, r"neither true nor false"),
    ({"added_tokens": {"[NEW]": 99}}, r"its files do not belong together: the token '\[NEW\]' should be number 99"),
    ({"added_tokens": {"[NEW]": None}}, r"added_tokens.json: None is not the number of a token"),
    ({"added_tokens": {"man": 2}}, r"the token 'man' should be number 2, but would have 6"),
]


@pytest.mark.parametrize(("files", "said"), BAD)
def test_what_a_file_says_wrongly_is_one_line(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as found:
        Tokenizer.from_folder(folder_of(tmp_path, WORDS, **files))
    assert "\n" not in str(found.value) and str(tmp_path) in str(found.value)


CHARMAP = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
TEMPLATE["single"] = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
ELSEWHERE = {"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (CHARMAP, r"tokenizer.json: not a tokenizer, or damaged: .*precompiled_charsmap"),
        ({"post_processor": TEMPLATE}, r"cannot cut a text into tokens: "),
        ({"post_processor": ELSEWHERE}, r"its post-processor adds a token 101 that is not in its vocabulary"),
    ],
)
def test_a_tokenizer_that_the_library_panics_at_is_one_line(change: Any, said: str, tmp_path: Path) -> None:
    content = json.loads(tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=said) as found:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(found.value) and str(tmp_path) in str(found.value)


def test_a_tokenizer_that_cannot_cut_every_text_says_which(tmp_path: Path) -> None:
    model = models.WordLevel({"M": 0, "K": 1}, unk_token="[UNK]")
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    codec = Tokenizer.from_folder(tmp_path)
    assert codec.encode("M").tolist() == [0]
    for cut in (codec.encode, lambda text: codec.encode_many([text]), lambda text: codec.encode_pieces([text])):
        with pytest.raises(ValueError, match=r"cannot cut 'a' into tokens: .*Missing \[UNK\]"):
            cut("a")


@pytest.mark.parametrize(
    ("vocab", "said"),
    [
        (["[PAD]", "[CLS]", "a", "b"], "no token for what is unknown"),
        (["[UNK]"], "neither of WordPiece"),
        (["[UNK]", "C", "Cl", "[nH]"], "neither of WordPiece .*--tokenizer, or tokenizer="),
        ([], "no token for what is unknown"),
    ],
)
def test_a_list_of_tokens_of_no_kind(vocab: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"vocab.txt: .*{said}"):
        Tokenizer.from_folder(folder_of(tmp_path, vocab))


def test_a_vocabulary_that_is_no_text_or_too_large(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, WORDS)
    (folder / "vocab.txt").write_bytes(b"[UNK]\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"vocab.txt: not valid UTF-8"):
        Tokenizer.from_folder(folder)
    for name in ("vocab.txt", "tokenizer_config.json", "tokenizer.json"):
        here = folder_of(tmp_path / f"large {name}", WORDS)
        with open(here / name, "wb") as file:
            file.truncate(1 << 33)  # which takes no place on the disk
        with pytest.raises(ValueError, match=rf"{name}: holds 8,589,934,592 bytes, more than"):
            Tokenizer.from_folder(here)


def test_a_link_is_followed_to_a_file_alone(tmp_path: Path) -> None:
    real = folder_of(tmp_path / "real", WORDS)
    linked = tmp_path / "linked"  # as the Hub's cache is
    linked.mkdir()
    (linked / "vocab.txt").symlink_to(real / "vocab.txt")
    assert Tokenizer.from_folder(linked) == Tokenizer.from_folder(real)
    (linked / "tokenizer_config.json").symlink_to("/dev/zero")
    os.mkfifo(linked / "tokenizer.json")
    (linked / "added_tokens.json").symlink_to(linked / "added_tokens.json")
    assert Tokenizer.from_folder(linked) == Tokenizer.from_folder(real)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("spiece.model", "a SentencePiece model"),
        ("tokenizer.model", "a SentencePiece model"),
        ("qwen.tiktoken", "a vocabulary for tiktoken"),
        ("tokenization_own.py", "code for a tokenizer of its own"),
    ],
)
def test_what_is_not_read_says_what_to_do(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("raise SystemExit")
    with pytest.raises(FileNotFoundError, match=rf"{name} is {what}, .*save it as tokenizer.json .* or name another"):
        Tokenizer.from_folder(tmp_path)


def test_a_pair_of_another_class_is_refused(tmp_path: Path) -> None:
    folder = write_bpe(tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CodeOfTheirOwn"}))
    with pytest.raises(ValueError, match=r"CodeOfTheirOwn .* vocab.json and merges.txt; save it"):
        Tokenizer.from_folder(folder)


def test_another_tokenizer_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = folder_of(tmp_path / "other", WORDS)
    assert Tokenizer.from_folder(tmp_path / "empty", str(other)) == Tokenizer.from_folder(other)


@pytest.mark.parametrize("kind", ["words", "letters", "pair"])
def test_saved_and_loaded_codecs_are_equal(kind: str, tmp_path: Path) -> None:
    made = {"words": WORDS, "letters": LETTERS}
    folder = folder_of(tmp_path / "a", made[kind]) if kind in made else write_bpe(tmp_path / "a")
    codec = Tokenizer.from_folder(folder)
    out = tmp_path / "saved"
    out.mkdir()
    again = codec.saved(out).opened(out)
    for name in ("checksum", "before", "after", "end_token", "padding_token", "mask_token", "special", "vocab_size"):
        assert getattr(again, name) == getattr(codec, name), name
    assert again == codec and again.encode("the man LAG").tolist() == codec.encode("the man LAG").tolist()
    assert Tokenizer.from_folder(out).wrap == codec.wrap  # its tokenizer.json wraps texts by itself


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"before": ["[NONE]"]}, r"has no token '\[NONE\]'"),
        ({"padding_token": "[NONE]"}, r"has no token '\[NONE\]'"),
    ],
)
def test_roles_of_a_model_that_were_altered_are_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    out = tmp_path / "saved"
    out.mkdir()
    described = describe(Tokenizer.from_folder(folder_of(tmp_path / "a", WORDS)).saved(out))
    assert build(Codec, described, "config.json").opened(out).wrap == ((2,), (3,))
    with pytest.raises(ValueError, match=said):
        build(Codec, described | change, "config.json").opened(out)


@pytest.mark.parametrize(
    ("name", "value"), [("before", "[CLS]"), ("after", (1,)), ("mask_token", 4), ("end_token", ("a",))]
)
def test_a_role_of_another_type_is_refused(name: str, value: Any) -> None:
    codec = object.__new__(Tokenizer)  # past the tests' own check of types, which users do not have
    codec.__dict__[name] = value
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {re.escape(repr(value))}"):
        codec.__post_init__()

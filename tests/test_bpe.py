import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from small_bpe import END, MERGES, write_bpe
from unmask.codecs.tokenizer import TOKENIZER, Tokenizer
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer

TEXTS = [
    "the man in the sun",
    "",
    " ",
    "\n\n\n x",
    "naïve \N{GRINNING FACE} 漢字\r\n\t",
    f"a{END}b",
    "\x00\x7f\ufffd\U0010ffff",
]


@pytest.fixture
def codec(tmp_path: Path) -> Tokenizer:
    return Tokenizer(str(write_bpe(tmp_path / "bpe")))


def test_tokens_by_hand(codec: Tokenizer) -> None:
    vocab = codec.tokenizer.get_vocab()
    pieces = ["Ġthe", "Ġ", "m", "an"]
    assert codec.encode(" the man").tolist() == [vocab[piece] for piece in pieces]
    assert (codec.vocab_size, codec.end, codec.unit) == (256 + 7 + 1, 263, "token")
    assert codec.symbol(vocab["Ġthe"]) == " the"


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(codec: Tokenizer, text: str) -> None:
    x = codec.encode(text)
    assert codec.decode(x[None]) == [text]
    assert codec.encode_many([text, "the"])[0] == x.tolist()
    assert codec.end not in x  # what stands in a text is text


def test_random_texts_come_back(codec: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = rng.choice([rng.integers(0, 0x80), rng.integers(0x80, 0xD800), rng.integers(0xE000, 0x110000)], 40)
        text = "".join(map(chr, points))
        assert codec.decode(codec.encode(text)[None]) == [text]


def test_masks_and_the_end_are_seen(codec: Tokenizer) -> None:
    x = torch.cat([codec.encode("the"), torch.tensor([codec.vocab_size, codec.end, codec.vocab_size])])
    assert codec.decode(x[None], unknown="?") == [f"the?{END}?"]


def test_the_same_tokenizer_from_other_files_is_equal(codec: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    saved = codec.saved(tmp_path / "saved")
    openai = Tokenizer(str(write_bpe(tmp_path / "openai", names=("encoder.json", "vocab.bpe"))))
    for other in (openai, Tokenizer(str(tmp_path / "saved")), Tokenizer(str(tmp_path / "saved" / TOKENIZER)), saved):
        assert other == codec and hash(other) == hash(codec)
    assert Tokenizer(str(write_bpe(tmp_path / "other", [*MERGES[:-1], ("i", "s")]))) != codec


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["added_tokens"][0].update(special=False),
        lambda content: content.update(normalizer={"type": "Lowercase"}),
        lambda content: content.update(decoder={"type": "Fuse"}),
        lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
    ],
)
def test_a_tokenizer_that_cuts_otherwise_is_another(codec: Tokenizer, tmp_path: Path, change: Any) -> None:
    content = json.loads(codec.tokenizer.to_str())
    change(content)
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert Tokenizer(str(tmp_path / "other.json")) != codec


def test_merges_are_never_dropped(codec: Tokenizer, tmp_path: Path) -> None:
    content = json.loads(codec.tokenizer.to_str())
    content["model"]["dropout"] = 0.9
    (tmp_path / "other.json").write_text(json.dumps(content))
    other = Tokenizer(str(tmp_path / "other.json"))
    assert all(torch.equal(other.encode("the man in the sun"), codec.encode("the man in the sun")) for _ in range(20))


def test_it_is_saved_with_a_model(codec: Tokenizer, tmp_path: Path) -> None:
    model = MaskedDiffusion(Transformer(codec.vocab_size, (8,), width=8, depth=1, heads=1), codec)
    model.save_pretrained(tmp_path / "model")
    loaded = MaskedDiffusion.from_pretrained(tmp_path / "model")
    assert loaded.codec == codec and loaded.codec.decode(codec.encode("the man")[None]) == ["the man"]
    loaded.save_pretrained(tmp_path / "again")  # and from there
    assert MaskedDiffusion.from_pretrained(tmp_path / "again").codec == codec
    (tmp_path / "model" / TOKENIZER).write_text(
        Tokenizer(str(write_bpe(tmp_path / "x", MERGES[:2]))).tokenizer.to_str()
    )
    with pytest.raises(ValueError, match="tokenizer.json: damaged: its SHA-256 is not what config.json says"):
        MaskedDiffusion.from_pretrained(tmp_path / "model")
    config = tmp_path / "again" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"codec": content["codec"] | {"source": "/etc/hostname"}}))
    with pytest.raises(ValueError, match=r"the codec must be tokenizer.json of the same folder"):
        MaskedDiffusion.from_pretrained(tmp_path / "again")


def test_refusals(codec: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer.json, nor vocab.json and merges.txt or encoder"):
        _ = Tokenizer(str(tmp_path / "empty")).tokenizer
    for name in ("gone.json", "/gone/folder", "./gone"):
        with pytest.raises(FileNotFoundError, match=f"{name.rpartition('/')[2]}: no such file"):
            _ = Tokenizer(name).tokenizer
    broken = tmp_path / "broken.json"
    for content in ("{", "[]", '{"model": {"type": "BPE"}}'):
        broken.write_text(content)
        with pytest.raises(ValueError, match=r"broken.json: not a tokenizer, or damaged"):
            _ = Tokenizer(str(broken)).tokenizer
    folder = write_bpe(tmp_path / "characters")
    vocab = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({piece: i for piece, i in vocab.items() if piece != "!"}))
    with pytest.raises(ValueError, match=r"vocab.json: lacks 1 of the 256 bytes, such as '!'"):
        _ = Tokenizer(str(folder)).tokenizer
    (folder / "merges.txt").write_text("#version: 0.2\nq q\n")
    with pytest.raises(ValueError, match=r"merges.txt: not a byte-pair encoding, or damaged"):
        _ = Tokenizer(str(folder)).tokenizer
    with pytest.raises(ValueError, match="source must name a tokenizer"):
        Tokenizer("")


def test_a_name_that_cannot_be_reached_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing: no such folder, .*without a network give the folder"):
        _ = Tokenizer("nobody/nothing").tokenizer


def test_gpt2(shared_data: Path) -> None:
    codec = Tokenizer(str(shared_data / "gpt2_bpe"))
    assert (codec.vocab_size, codec.end) == (50257, 50256)
    assert codec.encode("Hello world").tolist() == [15496, 995]  # what GPT-2 is known for
    for text in TEXTS:
        assert codec.decode(codec.encode(text)[None]) == [text]

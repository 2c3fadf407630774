import numpy as np
import pytest
import torch

import unmask
from unmask.codecs.base import Codec
from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.codecs.text import Bytes, Characters
from unmask.codecs.tokenizer import Tokenizer
from unmask.storage.description import build, describe


@pytest.mark.parametrize("text", ["", "hello", "naïve — 漢字 😀\r\n\t"])
def test_text_round_trips(text: str) -> None:
    for codec in (Characters("".join(sorted(set(text) | {"x"}))), Bytes()):
        x = codec.encode(text)
        assert ((x >= 0) & (x < codec.vocab_size)).all()
        assert codec.decode(x.unsqueeze(0)) == [text]


def test_tokens_follow_the_alphabet() -> None:
    assert Characters("cab").encode("abc").tolist() == [1, 2, 0]
    assert Bytes().encode("é").tolist() == [0xC3, 0xA9]


def test_masks_are_shown() -> None:
    assert Characters("ab").decode(torch.tensor([[0, 2, 1]])) == ["a░b"]
    assert Bytes().decode(torch.tensor([[97, 256, 0xFF]])) == ["a░\ufffd"]


@pytest.mark.parametrize("character", ["Z", "é", "😀", "\x00"])
def test_a_character_outside_the_alphabet_is_named_with_its_place(character: str) -> None:
    with pytest.raises(ValueError, match=r"U\+[0-9A-F]{4,}\) at offset 4 \(line 2, column 2\) is not in the alphabet"):
        Characters("ab\n").encode(f"ab\na{character}")


@pytest.mark.parametrize("levels", range(2, 257))
def test_levels_round_trip(levels: int) -> None:
    codec = Pixels(levels)
    x = torch.arange(levels).view(1, levels, 1, 1)
    image = codec.decode(x)
    assert image.dtype == np.uint8 and image.min() == 0 and image.max() == 255
    assert torch.equal(codec.encode(image), x)


def test_masked_pixels_are_grey() -> None:
    assert Pixels(2).decode(torch.tensor([[[[2]]]])).item() == 127


def test_symbols() -> None:
    x = Symbols(9).encode([[1, 8]])
    assert x.tolist() == Symbols(9).decode(x).tolist() == [[1, 8]]


@pytest.mark.parametrize("codec", [Characters("ab"), Bytes(), Pixels(17), Symbols(3)])
def test_described_and_built(codec: Codec) -> None:
    assert build(Codec, describe(codec), "test") == codec


def test_the_former_name_of_a_class_is_known() -> None:
    described = describe(Tokenizer("somewhere", end_token="</s>"))
    assert described["class"] == "Tokenizer"
    assert build(Codec, {"class": "BPE", "source": "somewhere", "end_token": "</s>"}, "test").source == "somewhere"
    assert unmask.BPE is unmask.Tokenizer


def test_refusals() -> None:
    with pytest.raises(ValueError, match="'a' is there twice"):
        Characters("aba")
    with pytest.raises(ValueError, match="non-empty"):
        Characters("")
    with pytest.raises(ValueError, match=r"levels must be in 2..256, got 257"):
        Pixels(257)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        Symbols(0)
    with pytest.raises(
        ValueError, match="here: unknown codec 'Klingon'; known are Atoms, Bytes, .*, Symbols, Table, Tokenizer"
    ):
        build(Codec, {"class": "Klingon"}, "here")
    with pytest.raises(ValueError, match="here: Pixels: .*unexpected keyword argument 'level'"):
        build(Codec, {"class": "Pixels", "level": 3}, "here")
    for wrong in (None, [], {"alphabet": "ab"}, {"class": 3}):
        with pytest.raises(ValueError, match="here: expected"):
            build(Codec, wrong, "here")

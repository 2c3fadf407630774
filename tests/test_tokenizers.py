"""Tokenizers of each kind: given text is kept exactly where they can, else in their form, or refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.data import documents
from unmask.data.documents import Files
from unmask.data.prepare import prepare
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer

TRAINED = ["The capital of France is Paris, and the man playing in the inn is walking.", "walked of the inn is in ing"]
ALPHABET = sorted(set("".join(TRAINED)) - {" "})


def prepend() -> tokenizers.Tokenizer:
    """Llama 2's kind: no pre-tokenizer, a space in front of every text."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.train_from_iterator(TRAINED * 5, trainers.BpeTrainer(vocab_size=330, special_tokens=special))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def unigram() -> tokenizers.Tokenizer:
    """T5's kind."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TRAINED * 5, trainer)
    return tokenizer


def metaspace() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=70, special_tokens=["<unk>", "</s>"])
    tokenizer.train_from_iterator(TRAINED * 5, trainer)
    return tokenizer


def wordpiece(lowercase: bool = False) -> tokenizers.Tokenizer:
    """BERT's kind."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=110, special_tokens=special, initial_alphabet=ALPHABET)
    tokenizer.train_from_iterator(TRAINED * 5, trainer)
    return tokenizer


def byte_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TRAINED * 5, trainer)
    return tokenizer


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level,
    "prepend": prepend,
    "metaspace": metaspace,
    "wordpiece": wordpiece,
    "unigram": unigram,
}


def codec_of(tokenizer: tokenizers.Tokenizer, folder: Path, **settings: str) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return Tokenizer(str(folder), **settings)


@pytest.fixture(params=list(KINDS))
def codec(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return codec_of(KINDS[request.param](), tmp_path / "tokenizer")


PIECES = [
    ["The capital of", " is Paris"],
    ["The man is play", " in the inn"],
    ["The man is wal", "ing in the inn"],
    ["", " is Paris"],
    ["", "ing in the inn", ""],
    ["The", " of", "ing", " is the capital"],
    ["The capital of France", ", and the man", "."],
    ["The inn"],
]


@pytest.mark.parametrize("pieces", PIECES, ids=" | ".join)
def test_given_text_is_kept_exactly(codec: Tokenizer, pieces: list[str]) -> None:
    parts = codec.encode_pieces(pieces)
    hole = torch.tensor([codec.vocab_size])
    canvas = torch.cat([part for piece in parts for part in (piece, hole)][:-1])
    assert codec.decode(canvas[None], unknown="?") == ["?".join(pieces)]  # with the holes open
    filling = codec.encode_pieces(["The", "ing"])[1]  # and filled: "ing" goes on in whatever word
    filled = torch.cat([part for piece in parts for part in (piece, filling)][: 2 * len(parts) - 1])
    if pieces[0]:
        assert codec.decode(filled[None]) == ["ing".join(pieces)]


def test_no_token_is_added_within(tmp_path: Path) -> None:
    codec = codec_of(prepend(), tmp_path)
    first, second = codec.encode_pieces(["The capital of", " is Paris"])
    assert codec.decode(torch.cat((first, second))[None]) == ["The capital of is Paris"]
    assert codec.decode(torch.cat((codec.encode("The capital of"), codec.encode(" is Paris")))[None]) == [
        "The capital of  is Paris"
    ]


def test_byte_level_tokens_are_what_they_were(tmp_path: Path) -> None:
    codec = codec_of(byte_level(), tmp_path)
    for piece in ("ing", " is", "\n\n", "naïve 漢字", "\N{GRINNING FACE}"):
        assert codec.encode_pieces(["The", piece])[1].tolist() == codec.encode(piece).tolist()


@pytest.mark.parametrize(
    ("make", "pieces", "message"),
    [
        (wordpiece, ["The 漢"], r"'The 漢' comes back as 'The \[UNK\]'"),
        (unigram, ["The 漢"], r"'The 漢' comes back as 'The <unk>'"),
        (metaspace, ["The man", " 漢"], r"' 漢' comes back as ' <unk>'"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    make: Callable[[], tokenizers.Tokenizer], pieces: list[str], message: str, tmp_path: Path
) -> None:
    codec = codec_of(make(), tmp_path)
    with pytest.raises(ValueError, match=f"the tokenizer cannot keep this text as it is: {message}"):
        codec.encode_pieces(pieces)


@pytest.mark.parametrize(
    ("make", "pieces", "back"),
    [
        (lambda: wordpiece(lowercase=True), ["The Man", " Wal", "King"], "the man? wal?king"),
        (lambda: wordpiece(lowercase=True), ["Thé  man", "", ""], "the man??"),
        (wordpiece, ["The  man"], "The man"),
        (wordpiece, ["The man", " ", " inn"], "The man?? inn"),
        (unigram, [" The man"], "The man"),
    ],
)
def test_a_text_may_lose_its_form(
    make: Callable[[], tokenizers.Tokenizer], pieces: list[str], back: str, tmp_path: Path
) -> None:
    codec = codec_of(make(), tmp_path)
    hole = torch.tensor([codec.vocab_size])
    parts = [part for piece in codec.encode_pieces(pieces) for part in (piece, hole)][:-1]
    assert codec.decode(torch.cat(parts)[None], unknown="?") == [back]


def test_half_a_surrogate_pair_is_refused(codec: Tokenizer) -> None:
    with pytest.raises(ValueError, match="not valid Unicode"):
        codec.encode("a\ud800")


def test_a_long_document_gets_no_space_where_it_is_cut(
    codec: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The man is walking in the inn and the capital of France is Paris " * 20
    text = text.strip()
    (tmp_path / "long.txt").write_text(text)
    monkeypatch.setattr(documents, "PIECE", 100)
    end = codec.tokenizer.id_to_token(codec.vocab_size - 1)
    index = prepare(Files((str(tmp_path / "long.txt"),)), Tokenizer(codec.source, end_token=end), tmp_path / "made")
    import numpy as np

    dtype = index.dtype
    tokens = np.fromfile(tmp_path / "made" / "00000.bin", dtype).astype(np.int64)[:-1]
    assert codec.decode(torch.from_numpy(tokens)[None]) == [text]


@pytest.mark.parametrize("kind", ["byte level", "metaspace", "wordpiece", "unigram", "prepend"])
def test_without_a_decoder_texts_come_back_too(kind: str, tmp_path: Path) -> None:
    content = json.loads(KINDS[kind]().to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"decoder": None}))
    codec = Tokenizer(str(tmp_path))
    assert codec.decode(codec.encode("The man is walking")[None]) == ["The man is walking"]


def test_the_end_can_be_named(tmp_path: Path) -> None:
    content = wordpiece().to_str().replace('"[SEP]"', '"[SECOND]"')
    codec = codec_of(tokenizers.Tokenizer.from_str(content), tmp_path / "bert")
    with pytest.raises(ValueError, match=r"has no token that ends a text, .* are \[PAD\], \[UNK\], .*--end-token NAME"):
        _ = codec.end
    named = Tokenizer(codec.source, end_token="[SECOND]")
    assert named.end == 3 and named == codec
    (tmp_path / "saved").mkdir()
    assert named.saved(tmp_path / "saved").opened(tmp_path / "saved").end == 3
    with pytest.raises(ValueError, match=r"has no token '<end>'; its special tokens are \[PAD\]"):
        _ = Tokenizer(codec.source, end_token="<end>").end
    assert Tokenizer(str(write_bpe(tmp_path / "bpe"))).end == 263


@pytest.mark.parametrize("kind", list(KINDS))
def test_infill_keeps_what_is_given(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = codec_of(KINDS[kind](), tmp_path / "tokenizer")
    torch.manual_seed(0)
    network = Transformer(codec.vocab_size, (64,), width=16, depth=1, heads=2)
    MaskedDiffusion(network, codec).save_pretrained(tmp_path / "model")
    for text in ("The capital of [1] is Paris", "The man is wal[2] in the inn", "[1] is Paris", "The inn [2]"):
        assert main(["infill", str(tmp_path / "model"), text, "--device", "cpu"]) == 0
        before, after = text.replace(" [", "[").partition("[")[0], text.partition("]")[2]
        shown = capsys.readouterr().out.rstrip("\n")
        assert shown.startswith(before) and shown.endswith(after), shown

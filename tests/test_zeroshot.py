import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.benchmarks import BENCHMARKS, NEWS, PTB, WIKITEXT, Texts, articles, replaced, sequences
from unmask.evaluation.published import COLUMNS, MEDIUM, SMALL, published
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.storage.folders import cache_folder

WIKI = (
    ' \n = First ( album ) = \n \n It \'s a well @-@ known " album " , sold 1 @,@ 000 times ( in 2 @.@ 5 weeks ) . \n'
)
WIKI += " \n = = A part = = \n \n James ' dogs don 't = bark = \n \n = Second = \n \n Short . \n"


def write_sets(root: Path) -> Path:
    (root / "wikitext-2").mkdir(parents=True)
    (root / "wikitext-2" / "wiki.test.raw").write_text(WIKI)
    lines = [json.dumps({"text": f"the man in the inn {i}"}) for i in range(20)]
    (root / "lambada_test.jsonl").write_text("\n".join(lines) + "\n")
    (root / "ptb.test.txt").write_text(" the man did n't \n he said # N\n" * 20)
    (root / "lm1b_test.txt").write_text("The man said : `` It 's in . ''\nAn inn .\n" * 10)
    (root / "ag_news_test.jsonl").write_text('{"text": "An inn", "label": 1}\n' * 20)
    return root


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def codec(tmp_path: Path) -> Tokenizer:
    return Tokenizer(str(write_bpe(tmp_path / "bpe")))


def test_detokenisers_by_hand() -> None:
    first, second = articles(WIKI)
    assert articles(WIKI[WIKI.index(" = First") :]) == [first, second]  # without the blank line before
    third, *others = articles("before\n" + WIKI)
    assert third.startswith("before") and others == [first, second]
    assert replaced(first, WIKITEXT).strip("\n") == (
        '= First (album) =\n\nIt\'s a well-known "album", sold 1,000 times (in 2.5 weeks).\n\n'
        "== A part ==\n\nJames ' dogs don't = bark ="
    )
    assert replaced(second, WIKITEXT).strip("\n") == "= Second =\n\nShort."
    assert replaced(" the man did n't \n he said # N", PTB) == "the man didn't\nhe said #N"
    assert replaced("The man said : `` It 's in . ''", NEWS) == 'The man said: "It\'s in."'


def test_documents_and_lines(tmp_path: Path) -> None:
    root = str(write_sets(tmp_path / "sets"))
    counts = {name: len(list(Texts(name, root))) for name in BENCHMARKS}
    assert counts == {"lambada": 20, "wikitext2": 2, "ptb": 1, "wikitext103": 2, "lm1b": 20, "ag_news": 20}
    lines = [piece.text for piece in Texts("wikitext2", root, "line")]
    assert lines[1] == "= First (album) =" and "== A part ==" in lines
    assert [piece.text for piece in Texts("ptb", root, "line")][:2] == ["the man didn't", "he said #N"]
    assert len(list(Texts("lambada", root, "line"))) == 20


def test_sequences_hold_the_documents(tmp_path: Path, codec: Tokenizer) -> None:
    root = str(write_sets(tmp_path / "sets"))
    split = sequences(Texts("lm1b", root), codec, 10, "concatenated")
    tokens = [t for piece in Texts("lm1b", root) for t in (*codec.encode(piece.text).tolist(), codec.end)]
    assert split[torch.arange(len(split)).numpy()][0].flatten().tolist() == tokens[: len(tokens) // 10 * 10]
    assert (
        sequences(Texts("lm1b", root), codec, 10, "wrapped")[torch.arange(2).numpy()][0][:, 0].tolist()
        == [codec.end] * 2
    )
    with pytest.raises(ValueError, match="LAMBADA: .* fewer than one sequence of length 10000"):
        sequences(Texts("lambada", root), codec, 10_000, "concatenated")


def test_published_rows_are_whole() -> None:
    assert all(len(row) == len(COLUMNS) for row in (*SMALL.values(), *MEDIUM.values()))
    small, medium = published(162_000_000)[1], published(405_000_000)[1]
    assert small["MD4"]["wikitext2"] == 34.94 and medium["MD4"]["wikitext2"] == 25.84
    by_lines = published(162_000_000, "line")[1]
    (added,) = by_lines.keys() - small.keys()
    assert "MDLM" in added and by_lines[added] == {"lambada": 47.52, "lm1b": 67.01, "ag_news": 61.15}


def save(folder: Path, codec: Tokenizer) -> str:
    torch.manual_seed(0)
    network = Transformer(codec.vocab_size, (12,), width=16, depth=1, heads=2)
    torch.nn.init.normal_(network.head.weight, std=0.3)
    MaskedDiffusion(network, codec).save_pretrained(folder)
    return str(folder)


def test_the_suite(tmp_path: Path, codec: Tokenizer, capsys: Any) -> None:
    root, model, out = str(write_sets(tmp_path / "sets")), save(tmp_path / "model", codec), tmp_path / "z.json"
    suite = ["evaluate", "zeroshot", model, "--root", root, "--json", str(out)]
    assert main([*suite, "--draws", "2", "--steps", "10,inf"]) == 0
    shown = capsys.readouterr().out
    report = json.loads(out.read_text())
    ours = [row for row in report["rows"] if not row["published"]]
    assert [row["set"] for row in ours] == [name for name in BENCHMARKS for _ in range(2)]
    assert {"set": "ptb", "model": "MD4", "published": True, "perplexity_per_token": [102.26, None]} in report["rows"]
    assert re.search(r"this model, T = inf +[\d.]+ ± [\d.]+", shown) and re.search(r"MD4 +48.43 +34.94", shown)
    assert (
        "part test, file wiki.test.raw, provenance unverified copy, detokeniser @-@ @,@" in shown
        and report["protocol"]["packing"] == "concatenated"
    )
    by_steps = [[row["perplexity_per_token"][0] for row in ours if row["steps"] == t] for t in ("10", "inf")]
    assert sum(by_steps[0]) > sum(by_steps[1]) * 0.9
    assert main([*suite, "--sets", "lambada,ptb", "--packing", "padded", "--ends", "line"]) == 0
    report = json.loads(out.read_text())
    assert {name: part["ends_after"] for name, part in report["protocol"]["sets"].items()} == {
        "lambada": "line",
        "ptb": "line",
    }


def test_the_figure_does_not_depend_on_the_batch_size(tmp_path: Path, codec: Tokenizer) -> None:
    """The same within the errors of the draws, whatever the batches; exactly the same for the same protocol."""
    root, model = str(write_sets(tmp_path / "sets")), save(tmp_path / "model", codec)
    found = []
    for size in ("1", "7", "7", "64"):
        out = str(tmp_path / "z.json")
        arguments = ["--root", root, "--sets", "lambada", "--draws", "64", "--batch_size", size]
        assert main(["evaluate", "zeroshot", model, *arguments, "--json", out]) == 0
        found.append(json.loads(Path(out).read_text())["rows"][0]["nats_per_token"])
    values, errors = zip(*found, strict=True)
    assert values[1] == values[2] and max(values) - min(values) < 4 * min(errors)


def test_sets_that_are_missing(tmp_path: Path, codec: Tokenizer, capsys: Any) -> None:
    root, model = write_sets(tmp_path / "sets"), save(tmp_path / "model", codec)
    (root / "ptb.test.txt").unlink()
    suite = ["evaluate", "zeroshot", model, "--draws", "1"]
    assert main([*suite, "--root", str(root)]) == 0
    shown = capsys.readouterr()
    assert "left out: PTB: none of ptb.test.txt" in shown.err and "PTB " not in shown.out
    (tmp_path / "nothing").mkdir()
    words = tmp_path / "words.txt"
    words.write_text("the man in the inn " * 40)
    for arguments, message in (
        ([*suite, "--root", str(root), "--sets", "ptb"], "PTB: none of ptb.test.txt in"),
        ([*suite, "--root", str(tmp_path / "nothing")], "no set can be had: LAMBADA: none of lambada_test.jsonl"),
        ([*suite, "--root", "gone"], "gone: no such folder"),
        ([*suite, "--root", str(root), "--sets", "pubmed"], "sets must be one of lambada, wikitext2"),
        ([*suite, "--sets", "ptb"], "PTB: the Hub has only a script that loads it: get ptb.test.txt"),
        ([*suite, "--root", str(root), "--steps", "0"], "--steps must be whole numbers of at least 1, or inf"),
        (
            ["evaluate", model, "--root", str(root)],
            "--root of evaluate likelihood: it belongs to",
        ),
        ([*suite, "--split", "train"], "--split of evaluate zeroshot: it belongs to unmask evaluate likelihood"),
    ):
        capsys.readouterr()
        assert main(arguments) in (1, 2)
        assert message in capsys.readouterr().err


def test_a_set_that_is_no_good_does_not_cost_the_others(tmp_path: Path, codec: Tokenizer, capsys: Any) -> None:
    root, model = write_sets(tmp_path / "sets"), save(tmp_path / "model", codec)
    (root / "lm1b_test.txt").write_text("An\n")
    (root / "ag_news_test.jsonl").write_text('{"text": 5}\n')
    out = tmp_path / "z.json"
    suite = ["evaluate", "zeroshot", model, "--root", str(root), "--limit", "1", "--draws", "1"]
    assert main([*suite, "--json", str(out)]) == 0
    shown = capsys.readouterr()
    assert "left out: 1BW: " in shown.err and "left out: " in shown.err and "± unknown" in shown.out
    report = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    rows = [row for row in report["rows"] if not row["published"]]
    assert [row["set"] for row in rows] == ["lambada", "wikitext2", "ptb", "wikitext103"]
    assert (
        rows[0]["perplexity_per_token"][1] is None
        and report["protocol"]["sets"]["wikitext2"]["file"] == "wiki.test.raw"
    )


def test_each_wikitext_is_read_from_its_own_folder(tmp_path: Path) -> None:
    for name, word in (("wikitext-103", "three"), ("wikitext-2", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "wiki.test.tokens").write_text(f" \n = A title = \n \n {word} \n")
    for name, word in (("wikitext2", "two"), ("wikitext103", "three")):
        assert [piece.text.split("\n")[-1] for piece in Texts(name, str(tmp_path))] == [word]


def test_what_is_kept_is_made_anew_where_it_does_not_fit(
    tmp_path: Path, codec: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(write_sets(tmp_path / "sets"))
    before = sequences(Texts("lm1b", root), codec, 10, "concatenated")[torch.arange(3).numpy()][0]
    (shard,) = (cache_folder() / "zeroshot").glob("*/00000.bin")
    shard.write_bytes(shard.read_bytes()[:-2])
    again = sequences(Texts("lm1b", root), codec, 10, "concatenated")[torch.arange(3).numpy()][0]
    assert torch.equal(before, again)
    benchmark = replace(BENCHMARKS["lm1b"], rules=(("man", "inn"),))
    monkeypatch.setitem(BENCHMARKS, "lm1b", benchmark)  # other rules: other texts
    changed = sequences(Texts("lm1b", root), codec, 10, "concatenated")[torch.arange(3).numpy()][0]
    assert not torch.equal(before, changed)


def test_bounds_of_finite_steps(tmp_path: Path, codec: Tokenizer, capsys: Any) -> None:
    model, words = save(tmp_path / "model", codec), tmp_path / "words.jsonl"
    words.write_text((json.dumps({"text": "the man in the inn and a thin man then"}) + "\n") * 100)
    made = str(tmp_path / "made")
    assert main(["prepare", str(words), "--tokenizer", codec.source, "--out", made]) == 0
    data = ["--data", "Corpus", "--data.path", made, "--data.length", "12", "--split", "train"]
    out = tmp_path / "e.json"
    assert main(["evaluate", model, *data, "--steps", "1,4,inf", "--draws", "8", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    bits = [row["bits_per_token"] for row in rows]
    assert [row["steps"] for row in rows] == ["1", "4", "inf"] and len(bits) == 3
    capsys.readouterr()
    assert main(["evaluate", model, *data, "--steps", "4", "--objective", "ContinuousELBO"]) == 1
    assert "give neither objective, breakdown nor per_example with them" in capsys.readouterr().err


def test_wikitext_2_has_sixty_articles(shared_data: Path) -> None:
    pieces = list(Texts("wikitext2", str(shared_data)))
    assert len(pieces) == 60 and not re.search(r" @[-,.]@ | ,|\( ", "".join(piece.text for piece in pieces))
    assert len(list(Texts("lambada", str(shared_data)))) == 5153

"""Molecules, sequences and tables from their files: rows by hand, bad files, and one command from a file to samples."""

import bz2
import csv
import gzip
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask
from test_cli import fails
from test_lengths import TINY
from test_sequences import rows, write_lines
from test_tokenizer_folders import LETTERS, folder_of
from unmask.cli.main import main
from unmask.codecs.atoms import Atoms, find_atoms
from unmask.codecs.ended import Ended
from unmask.codecs.table import Table
from unmask.codecs.text import Characters
from unmask.data.categories import Categories
from unmask.data.categories import in_order as in_token_order
from unmask.data.fasta import FASTA
from unmask.data.rows import csv_rows
from unmask.data.smiles import SMILES
from unmask.evaluation.molecules import canonical, shares
from unmask.samplers.draw import draw
from unmask.storage.description import build, describe

pytestmark = pytest.mark.filterwarnings("ignore:.*(empty example|more than one part|longer than)")
SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def in_order(data: Any) -> list[Any]:
    split = data.split("all")
    return [split.place(i) for i in range(len(split))]


# --- SMILES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CClBrBC", "C Cl Br B C"),
        ("c1cc[nH]c1", "c 1 c c [nH] c 1"),
        ("C%12%(345)C12", "C %12 %(345) C 1 2"),
        (r"F/C=C\F", "F / C = C \\ F"),
        ("[Na+].[Cl-]", "[Na+] . [Cl-]"),
        ("N[C@@H](C)C(=O)O", "N [C@@H] ( C ) C ( = O ) O"),
        ("[13CH4]$#:~*", "[13CH4] $ # : ~ *"),
        ("CO>>C=O", "C O > > C = O"),
        ("N->[Pt]<-N", "N -> [Pt] <- N"),
    ],
)
def test_a_molecule_is_cut_as_a_chemist_reads_it(text: str, words: str) -> None:
    codec = find_atoms([text])
    assert codec.words == tuple(sorted(set(words.split())))
    tokens = codec.encode(text)
    assert [codec.words[token] for token in tokens.tolist()] == words.split()
    assert codec.decode(tokens.unsqueeze(0)) == [text] and codec.encode_many([text, text])[1] == tokens.tolist()


def test_atoms() -> None:
    codec = Atoms(("C", "Cl", "[nH]"))
    assert (codec.vocab_size, codec.unit, codec.padding) == (3, "token", None)
    assert codec.decode(torch.tensor([[1, 3, 2]]), "?") == ["Cl?[nH]"]
    assert build(unmask.Codec, json.loads(json.dumps(describe(Ended(codec)))), "here") == Ended(codec)
    for text, said in (
        ("CCN", "'N' at column 3 is none of the 3 known tokens of SMILES"),
        ("C[nH", r"character '\[' \(U\+005B\) at column 2 is no part of a SMILES"),
        ("C C", r"character ' ' .* at column 2"),
    ):
        with pytest.raises(ValueError, match=said):
            codec.encode(text)
    for words in ((), ("C", "C"), ("C", "CC"), ("C", "x"), ("C", "[a b]")):
        with pytest.raises(ValueError, match="words must be"):
            Atoms(words)


def test_rows_of_molecules(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.smi", ["CCl methyl chloride", "", "[nH]C\t7"])
    data = SMILES(path, 4)
    assert data.codec == Ended(Atoms(("C", "Cl", "[nH]")))
    assert rows(data) == [[0, 1, -4, -4], [2, 0, -4, -4]]
    assert in_order(data) == [{"file": path, "line": 1}, {"file": path, "line": 3}]
    assert rows(SMILES(path, 3, "filled")) == [[0, 1, 3], [2, 0, 3]]
    again = data.resolved()
    assert again.tokenizer == "atoms:C Cl [nH]" and again.codec == data.codec and rows(again) == rows(data)
    assert SMILES(path, 9, tokenizer="characters").codec == Ended(Characters("CH[]ln"))
    assert SMILES(path, 9, tokenizer="atoms").codec == data.codec


def test_files_of_molecules(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    expected = [[0, 1, -3], [1, -3, -3]]
    table = [{"id": "1,2", "smiles": "CN"}, {"id": "3", "smiles": "N"}]
    write_lines(tmp_path / "a.txt", ["Canonical_SMILES name", "CN 1", "N 2"])
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(b"smiles\nCN\nN\n"))
    (tmp_path / "b.csv").write_text('id,SMILES\n"1,2",CN\n3, N\n')
    (tmp_path / "c.csv").write_text("id;canonical_smiles\n1;CN\n3;N\n")
    (tmp_path / "d.tsv").write_text("id\tsmiles\n1\tCN\n3\tN\n")
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "f.parquet")
    for name in ("a.txt", "a.csv.bz2", "b.csv", "c.csv", "d.tsv", "e.jsonl", "f.parquet"):
        assert rows(SMILES(str(tmp_path / name), 3)) == expected, name
    (tmp_path / "g.csv").write_text("a,b\nCN,N\nN,C\n")
    assert rows(SMILES(str(tmp_path / "g.csv"), 3, column="a")) == expected
    assert in_order(SMILES(str(tmp_path / "b.csv"), 3))[1] == {"file": str(tmp_path / "b.csv"), "line": 3}


def test_bad_files_of_molecules(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\nCN,N\n")
    (tmp_path / "b.csv").write_text('smiles\nC\nC!\n"C\n"')
    train = write_lines(tmp_path / "a.txt", ["CC", "C1CC1"])
    wrong = {
        SMILES(
            str(tmp_path / "a.csv")
        ): "a.csv: no column has a name that ends in smiles, but there are a, b; --data.col",
        SMILES(str(tmp_path / "a.csv"), column="c"): "a.csv: has no column 'c', but a, b; --data.column names the one",
        SMILES(train, column="c"): "a.txt: is read as a text, which has no column 'c'",
        SMILES(str(tmp_path / "b.csv")): r"b.csv, line 3: character '!' \(U\+0021\) at column 2 is no part of a SMILES",
        SMILES(write_lines(tmp_path / "c.txt", ["C", "Cx"])): "c.txt, line 2: character 'x'",
        SMILES(write_lines(tmp_path / "d.txt", ["", " "])): "there is no SMILES in it",
        SMILES(
            train, valid_path=write_lines(tmp_path / "e.txt", ["C", "CN"])
        ): "e.txt, line 2: 'N' at column 2 is none",
        SMILES(str(tmp_path / "nothing.smi")): "nothing.smi: no such file",
    }
    for data, said in wrong.items():
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            rows(data)


def test_from_molecules_to_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["C" * (i % 9 + 1) + "Cl" * (i % 2) + "[nH]" * (i % 3) for i in range(60)]
    path, out = write_lines(tmp_path / "a.smi", texts), str(tmp_path / "r")
    assert main(["train", "smiles", "--data.path", path, "--data.length", "16", *TINY, "--out", out]) == 0
    assert main(["evaluate", out, "--draws", "1"]) == 0
    capsys.readouterr()
    assert main(["infill", out, "CC[3][nH]", "--score", "0"]) == 0
    found = capsys.readouterr().out.strip()
    assert found.startswith("CC") and found.endswith("[nH]") and len(find_atoms([found]).encode(found)) == 6
    assert "'O' at column 2 is none of the 3 known tokens" in fails(capsys, "infill", out, "CO[3]")
    more = str(tmp_path / "more")
    assert (
        main(["train", "smiles", "--data.path", path, "--data.length", "16", *TINY[6:], "--from", out, "--out", more])
        == 0
    )


# --- molecules


def test_shares_by_hand() -> None:
    found = shares(["a", "a", "b", "c", None], {"b", "d"})
    assert found["valid"] == (0.8, pytest.approx(math.sqrt(0.8 * 0.2 / 4)))
    assert found["unique"].value == 3 / 4 and found["new"].value == 2 / 3
    for name, ratio in (
        ("unique", lambda s: len(set(s)) / len(s)),
        ("new", lambda s: len(set(s) - {"b"}) / len(set(s))),
    ):
        valid = ["a", "a", "b", "c"]
        without = np.array([ratio(valid[:i] + valid[i + 1 :]) for i in range(4)])
        assert found[name].error == pytest.approx(math.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum()))
    assert set(shares([None, None], set())) == {"valid"}
    assert shares(["a", None], set())["unique"] == (1.0, None)


def test_errors_of_shares_are_those_of_repeated_sampling() -> None:
    rng = np.random.default_rng(0)
    names = [None, *map(str, range(3000))]
    p = np.array([0.3, *(0.7 / 3000 for _ in range(3000))])
    known = {str(i) for i in range(0, 3000, 3)}
    runs = [shares([names[i] for i in rng.choice(len(names), 500, p=p)], known) for _ in range(200)]
    for name in ("valid", "unique", "new"):
        spread = np.std([run[name].value for run in runs], ddof=1)
        stated = np.mean([run[name].error for run in runs])
        assert 0.8 < stated / spread < 1.45, name  # the jackknife of a number of distinct values errs on the safe side


def test_molecules_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rdkit")
    assert canonical(["OCC", "C(O)C", "C1CC", "", "c1ccccc1", "cc"]) == ["CCO", "CCO", None, None, "c1ccccc1", None]
    path, out = (
        write_lines(tmp_path / "a.smi", ["C" * (i % 5 + 1) + "O" * (i % 2) for i in range(60)]),
        str(tmp_path / "r"),
    )
    assert main(["train", "smiles", "--data.path", path, "--data.length", "8", *TINY, "--out", out]) == 0
    target = tmp_path / "m.json"
    assert main(["evaluate", "molecules", out, "-n", "40", "--json", str(target)]) == 0
    (row,) = json.loads(target.read_text())["rows"]
    model = unmask.load(out, device="cpu")
    report = unmask.evaluation.molecules(model, samples=40, batch_size=16)
    assert row["samples"] == 40 and row["valid"] == list(report.rows[0]["valid"])
    assert report.protocol["training_molecules"] == 10
    found = canonical(model.decode(draw(model.network, model.empty_canvas(40, 0), seed=0, sampler=model.fit_sampler())))
    assert report.rows[0]["valid"].value == sum(one is not None for one in found) / 40
    Path(path).unlink()
    assert "a.smi: no such file" in fails(capsys, "evaluate", "molecules", out, "-n", "4")


def test_molecules_without_rdkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"pip install 'unmask\[molecules\]'"):
        canonical(["C"])
    network = unmask.Transformer(2, (4,), width=8, depth=1, heads=1)
    with pytest.raises(ValueError, match="molecules are written as SMILES; this model's tokens are Symbols"):
        unmask.evaluation.molecules(unmask.MaskedDiffusion(network, unmask.Symbols(2)))


# --- FASTA


def write_fasta(path: Path, *records: str) -> str:
    path.write_text("".join(f">r{i} x y\n{record}\n" for i, record in enumerate(records)))
    return str(path)


def test_records(tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "a.fa", "AC\nGt", "", "t  a\r\n\nC", "ACGTA")
    data = FASTA(path, 4)
    assert data.codec == Ended(Characters("ACGT"))
    assert rows(data) == [[0, 1, 2, 3], [3, 0, 1, -5]], "an empty one and one that is too long are left out"
    assert in_order(data) == [{"file": path, "record": 1}, {"file": path, "record": 3}]
    assert rows(FASTA(path, 5, "filled")) == [[0, 1, 2, 3, 4], [3, 0, 1, 4, 4], [0, 1, 2, 3, 0]]
    (tmp_path / "b.fa.gz").write_bytes(gzip.compress(b"; an old comment\n\n>\nac\n>b\nG"))
    assert rows(FASTA(str(tmp_path / "b.fa.gz"), 2)) == [[0, 1], [2, -5]]
    assert rows(FASTA(write_fasta(tmp_path / "c.fa", "ACGU"), 4, alphabet="rna")) == [[0, 1, 2, 3]]
    assert data.resolved().codec == data.codec and rows(data.resolved()) == rows(data)


def test_windows(tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "a.fa", "ACG\nTA", "GG", "ACGTAC")
    data = FASTA(path, 3, windows=True)
    assert rows(data) == [[0, 1, 2], [3, 0, -5], [2, 2, -5], [0, 1, 2], [3, 0, 1]]
    assert [place["letter"] for place in in_order(data)] == [1, 4, 6, 8, 11]
    assert rows(FASTA(path, 2, windows=True))[:3] == [[0, 1], [2, 3], [0, -5]], "the cache tells windows apart"
    assert rows(FASTA(path, 6)) == [[0, 1, 2, 3, 0, -5], [2, 2, -5, -5, -5, -5], [0, 1, 2, 3, 0, 1]]
    folder = str(folder_of(tmp_path / "letters", LETTERS))  # <cls> 0, <eos> 2, L 4, A 5
    protein = FASTA(write_fasta(tmp_path / "p.fa", "LALALA"), 6, tokenizer=folder, alphabet="protein", windows=True)
    assert rows(protein) == [[-1, 4, 5, 4, 5, -3], [-1, 4, 5, -3, -2, -2]], "windows have room for what is around them"


def test_ambiguous_letters(tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "a.fa", "ACGT", "ANnA", "RG")
    with pytest.warns(UserWarning, match="a.fa: 2 records with letters that stand for several .* are left out"):
        assert rows(FASTA(path, 4)) == [[0, 1, 2, 3]]
    with pytest.warns(UserWarning, match="a.fa: 3 windows with letters that stand for several"):
        assert rows(FASTA(path, 2, windows=True)) == [[0, 1], [2, 3]]
    kept = FASTA(path, 4, ambiguous="keep")
    assert kept.codec == Ended(Characters("ACGTBDHKMNRSVWY")) and rows(kept)[1] == [0, 9, 9, 0]
    with pytest.raises(ValueError, match=r"a.fa, record 2 \(r1\), line 4, column 2: 'N' is ambiguous; --data.ambig"):
        rows(FASTA(path, 4, ambiguous="error"))
    protein = write_fasta(tmp_path / "p.fa", "MA*", "MXA", "MU")
    assert rows(FASTA(protein, 4, alphabet="protein", ambiguous="keep"))[0] == [10, 0, -27, -27]
    assert len(rows(FASTA(protein, 4, alphabet="protein"))) == 1


def test_gaps_and_stops(tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "a.fa", "A-C", "CA*", "*AC")
    data = FASTA(path, 3, alphabet="protein", extra="-*")
    assert data.codec.codec.alphabet[20:] == "-*"  # type: ignore[attr-defined]
    assert rows(data) == [[0, 20, 1], [1, 0, 21], [21, 0, 1]]
    with pytest.raises(ValueError, match=r"line 2, column 2: '-' is a gap; --data.extra '-' makes it a token"):
        rows(FASTA(path, 3, alphabet="protein"))
    with pytest.raises(ValueError, match=r"record 3 \(r2\), line 6, column 1: '\*' is a stop; --data.extra '\*'"):
        rows(FASTA(path, 3, alphabet="protein", extra="-"))


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        ("", {}, "a.fa: holds no record: no line begins with >"),
        ("ACGT\n>a\n", {}, "a.fa, line 1: expected a header, a line that begins with >, got 'ACGT'"),
        (">a\n>b\n", {}, "a.fa: holds no example, but 2 empty ones"),
        (
            ">a\nAC\n>b c\nACG\nAlA\n",
            {},
            r"record 2 \(b\), line 5, column 2: 'L' is no letter of dna; --data.alphabet pro",
        ),
        (">a\nAU\n", {}, r"record 1 \(a\), line 2, column 2: 'U' is no letter of dna; --data.alphabet rna\?"),
        (">\nA!\n", {}, r"record 1 \(no name\), line 2, column 2: '!' is no letter of dna$"),
        (">a\nAé\n", {}, r"record 1 \(a\), line 2, column 2: 'Ã' is no letter of dna"),
        (">a\nA", {"extra": "a"}, "extra must be characters such as -"),
        (">a\nA", {"extra": "--"}, "extra must be characters such as -"),
        (">a\nA", {"tokenizer": "atoms"}, "tokenizer atoms is for SMILES"),
    ],
)
def test_bad_fasta(content: str, settings: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(content)
    with pytest.raises(ValueError, match=said):
        rows(FASTA(str(tmp_path / "a.fa"), 4, **settings))


def test_a_genome_loads_within_seconds() -> None:
    path = shared("dna/ecoli_k12_mg1655_U00096.2.fa.gz")
    before = time.perf_counter()
    data = FASTA(str(path), 256, windows=True)
    split = data.split("all")
    assert time.perf_counter() - before < 10
    assert len(split) == -(-4639675 // 256) and split.place(len(split) - 1)["letter"] == 4639675 // 256 * 256 + 1
    x = torch.cat([x for x, _ in split.batches(4096)])
    assert torch.bincount(x[x >= 0]).tolist() == [1142228, 1179554, 1176923, 1140970]


def test_from_sequences_to_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["".join("ACGT"[(i * j + i) % 4] for j in range(i % 9 + 4)) for i in range(60)]
    path, out = write_fasta(tmp_path / "a.fa", *texts), str(tmp_path / "r")
    assert main(["train", "fasta", "--data.path", path, "--data.length", "12", *TINY, "--out", out]) == 0
    capsys.readouterr()
    assert main(["sample", out, "-n", "5"]) == 0
    found = capsys.readouterr().out.split()
    assert len(found) == 5 and set("".join(found)) <= set("ACGT")
    more = ["--data.windows", "true", "--from", out, "--out", str(tmp_path / "more")]
    assert main(["train", "fasta", "--data.path", path, "--data.length", "12", *TINY[6:], *more]) == 0


# --- tables


TABLE = 'colour,size,"a, b"\nred,10,x\nblue,,y\nred,9,x\n'


def test_rows_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(TABLE)
    data = Categories(str(path))
    values = (("blue", "red"), ("", "9", "10"), ("x", "y"))
    assert data.codec == Table(("colour", "size", "a, b"), values) and data.shape == (3,) and not data.has_given
    assert rows(data) == [[1, 4, 5], [0, 2, 6], [1, 3, 5]]
    assert in_order(data) == [{"file": str(path), "line": number} for number in (2, 3, 4)]
    some = Categories(str(path), columns='"a, b",colour')
    assert rows(some) == [[0, 3], [1, 2], [0, 3]] and some.codec.columns == ("a, b", "colour")
    for one in (data, some):
        again = one.resolved()
        assert rows(again) == rows(one) and again.resolved() == again and again.codec == one.codec
    row = {"colour": "red", "size": "", "a, b": "y"}
    assert data.codec.encode(row).tolist() == [1, 2, 6] and data.codec.decode(torch.tensor([[1, 2, 6]])) == [row]
    assert data.codec.decode(torch.tensor([[7, 2, 7]]), "?") == [{"colour": "?", "size": "", "a, b": "?"}]
    allowed = [[1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1]]
    assert data.codec.allowed.int().tolist() == allowed
    assert build(unmask.Codec, json.loads(json.dumps(describe(data.codec))), "here") == data.codec


def test_a_value_that_is_not_known_is_given(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(TABLE + ",,\n")
    data = Categories(str(path), missing="given")
    with pytest.warns(UserWarning, match="1 rows of which nothing is known are left out"):
        assert rows(data) == [[1, 3, 4], [0, -7, 5], [1, 2, 4]] and data.has_given
    assert data.codec.values == (("blue", "red"), ("9", "10"), ("x", "y")) and data.codec.vocab_size == 7
    assert data.codec.decode(torch.tensor([[1, 6, 4]])) == [{"colour": "red", "size": "", "a, b": "x"}]
    assert data.codec.encode({"colour": "red", "size": "", "a, b": "x"}).tolist() == [1, 6, 4]
    assert not data.codec.allowed[:, 6].any()
    assert rows(data.resolved()) == rows(data)


def test_files_of_tables(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = [{"a": "x", "n": 2, "t": True}, {"a": None, "n": 10, "t": False}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "a.parquet")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a;n;t\nx;2;true\n;10;false\n"))
    (tmp_path / "a.tsv").write_text("a\tn\tt\nx\t2\ttrue\n\t10\tfalse\n")
    for name in ("a.jsonl", "a.parquet", "a.csv.gz", "a.tsv"):
        data = Categories(str(tmp_path / name))
        assert data.codec.values == (("", "x"), ("2", "10"), ("false", "true")), name
        assert rows(data) == [[1, 2, 5], [0, 3, 4]], name


def test_numbers_that_are_not_finite_have_a_place() -> None:
    """In whatever order they come: that of a set of texts depends on the seed of their hashes."""
    for values in itertools.permutations(["nan", "10", "9", "-inf", "", "NaN"]):
        assert in_token_order(values) == ("", "9", "10", "-inf", "NaN", "nan")
    assert in_token_order(["inf", "1e400", "2.0", "2"]) == ("2", "2.0", "1e400", "inf")


def test_parts_of_a_table(tmp_path: Path) -> None:
    def write(name: str, numbers: range) -> str:
        return write_lines(tmp_path / name, ["a,b", *(f"v{i},{i % 3}" for i in numbers)])

    data = Categories(write("a.csv", range(100)))
    parts = [{row[0] for row in rows(data, part)} for part in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [90, 5, 5] and set.union(*parts) == set(range(100))
    own = Categories(str(tmp_path / "a.csv"), valid_path=write("b.csv", range(5, 8)))
    assert [len(own.split(part)) for part in ("train", "valid", "test", "all")] == [95, 3, 5, 103]  # type: ignore[arg-type]
    assert own.split("valid").place(1) == {"file": str(tmp_path / "b.csv"), "line": 3}
    with pytest.raises(ValueError, match="at least 20 rows are needed for three parts, got 3"):
        Categories(str(tmp_path / "b.csv")).split("train")
    with pytest.raises(ValueError, match="c.csv, line 3: 'v100' is no category of the column 'a', which has 'v0', "):
        Categories(str(tmp_path / "a.csv"), test_path=write("c.csv", range(99, 102))).split("test")


def test_the_time_of_a_wide_table_grows_with_its_columns(tmp_path: Path) -> None:
    """Of 50,000, each of which was looked up in a list of all: minutes."""
    names = [f"c{i}" for i in range(50_000)]
    (tmp_path / "wide.csv").write_text(f"{','.join(names)}\n{','.join('1' * len(names))}\n")
    start = time.process_time()
    (row,) = csv_rows(tmp_path / "wide.csv", names, ",")
    assert row.content["c49999"] == "1"
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        ("a,b\n", {}, "a.csv: holds no row"),
        ("a,b\n1,2\n3\n", {}, "a.csv, line 3: has 1 columns, but the first line names 2"),
        ("a,a\n1,2\n", {}, "a.csv: two columns have the same name"),
        ("a,b\n1,2\n", {"columns": "a,c"}, "a.csv: has no column 'c', but a, b; --data.columns names them"),
        ("a,b\n1,2\n", {"columns": "a,a"}, "columns must be different names"),
        ("a,b\n1,2\n", {"columns": "a,,b"}, "a.csv: has no column '', but a, b; --data.columns names them"),
        ("a,b\n1,2\n2,2\n", {"most": 1}, "a.csv: the column 'a' has 2 different values, .* at most 1 "),
        ("a,b\n1,\n2,\n", {"missing": "given"}, "a.csv: every cell of the column 'b' is empty; leave it out"),
    ],
)
def test_bad_tables(content: str, settings: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=said):
        rows(Categories(str(tmp_path / "a.csv"), **settings))


@pytest.mark.parametrize("names", [("age", " sex"), ("", "age"), ("a, b", "c "), ('"', "a")])
def test_names_of_columns_come_back(names: tuple[str, ...], tmp_path: Path) -> None:
    """Those with a space at an end, the one without a name that a table's index has, those with commas or quotes."""
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([names, *([["1", "x"], ["2", "y"]] * 20)])
    data = Categories(str(tmp_path / "a.csv"))
    assert data.codec.columns == names and data.resolved().codec == data.codec
    assert Categories(str(tmp_path / "a.csv"), columns=data.resolved().columns).codec == data.codec


def test_more_bad_tables(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "x"}\n{"a": [1]}\n')
    with pytest.raises(ValueError, match="a.jsonl, line 2: the column 'a' must hold a text or a number, got list"):
        rows(Categories(str(tmp_path / "a.jsonl")))
    (tmp_path / "b.jsonl").write_text('{"a": "x"}\n{"a": "\\ud800"}\n')
    with pytest.raises(ValueError, match="b.jsonl, line 2: not valid Unicode"):
        rows(Categories(str(tmp_path / "b.jsonl")))
    for columns, values in (((), ()), (("a", "a"), (("x",), ("x",))), (("a",), ((),)), (("a",), (("x", "x"),))):
        with pytest.raises(ValueError, match="columns|categories"):
            Table(columns, values)
    table = Table(("a", "b"), (("x", "y"), ("z",)))
    for row, said in (
        ({"a": "z"}, "'z' is no category of the column 'a', which has 'x', 'y'"),
        ({"c": "z"}, "there is no column 'c', but a, b"),
        ({"a": "x", "b": "z"}, "every column of the row is known"),
        ('{"a": 1}', "a row is an object with a text for each column"),
        ("{", "not valid JSON"),
        ("[]", "a row is an object"),
    ):
        with pytest.raises(ValueError, match=said):
            table.canvas(row)
    assert table.canvas('{"a": "y", "b": null}').tolist() == [1, 3]
    with pytest.raises(ValueError, match="the row lacks the column 'b'"):
        table.encode({"a": "x"})


def test_from_a_table_to_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copied column is learned, what is not known is not, and rows are completed from what is known of them."""
    texts = [
        f"{c},{c if i % 4 else ''},{'xy'[i % 2]}" for i, c in enumerate(itertools.islice(itertools.cycle("pqr"), 240))
    ]
    path, out = write_lines(tmp_path / "a.csv", ["one,two,three", *texts]), str(tmp_path / "r")
    small = ["--network.width", "16", "--network.heads", "2", "--network.depth", "1", "--trainer.max_steps", "200"]
    small += [
        "--ema",
        "0.9",
        "--evaluate_every",
        "300",
        "--optimizer.lr",
        "1e-2",
        "--trainer.enable_progress_bar",
        "false",
    ]
    data = ["--data.path", path, "--data.missing", "given"]
    assert main(["train", "categories", *data, *small, "--out", out]) == 0
    target = tmp_path / "s.csv"
    assert main(["sample", out, "-n", "200", "--out", str(target)]) == 0
    with open(target, newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 200 and list(found[0]) == ["one", "two", "three"]
    assert sum(row["one"] == row["two"] for row in found) > 110 and all(row["three"] in "xy" for row in found)
    assert main(["infill", out, "--row", '{"two": "q"}', "-n", "8", "--out", str(tmp_path / "i.jsonl")]) == 0
    rows_found = [json.loads(line) for line in (tmp_path / "i.jsonl").read_text().splitlines()]
    assert len(rows_found) == 8 and all(row["two"] == "q" for row in rows_found)
    many = write_lines(tmp_path / "in.jsonl", ['{"row": {"one": "p"}, "id": 3}', '{"row": {"three": "x", "two": ""}}'])
    assert main(["infill", out, "--input", many, "--out", str(tmp_path / "o.jsonl")]) == 0
    first, second = (json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines())
    assert first["id"] == 3 and first["completions"][0]["row"]["one"] == "p"
    assert second["completions"][0]["row"]["two"] == "" and second["completions"][0]["row"]["three"] == "x"
    assert main(["train", out, "--resume", "--trainer.max_steps", "202"]) == 0, "run.json makes the same data again"
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.csv").write_text("mine")
    assert main(["infill", out, "--row", '{"two": "q"}', "-n", "3"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 3 and all(row["two"] == "q" and row["three"] in "xy" for row in printed)
    assert main(["sample", out, "-n", "2"]) == 0
    assert [list(json.loads(line)) for line in capsys.readouterr().out.splitlines()] == [["one", "two", "three"]] * 2
    assert (tmp_path / "samples.csv").read_text() == "mine"
    assert "'z' is no category of the column 'one'" in fails(capsys, "infill", out, "--row", '{"one": "z"}')
    assert "rows of a table; write a .csv" in fails(capsys, "sample", out, "--out", str(tmp_path / "a.txt"))
    assert "--live" in fails(capsys, "sample", out, "--live")
    assert "--row" in fails(capsys, "infill", out, "a[2]", "--row", "{}")


def test_samples_have_no_value_of_another_column() -> None:
    """A network that knows nothing draws every category of a column alike, and none of another one."""
    table = Table(("a", "b"), (("x", "y"), ("z", "w", "v")), missing=True)
    model = unmask.MaskedDiffusion(unmask.Transformer(6, (2,), width=8, depth=1, heads=1), table)
    for allowed in (None, torch.tensor([True, False, True, True, True, True])):
        x = model.sample(4000, generator=torch.Generator().manual_seed(0), allowed=allowed)
        counts = torch.stack([torch.bincount(x[:, i], minlength=6) for i in range(2)])
        expected = torch.tensor([[2000, 2000, 0, 0, 0, 0], [0, 0, 1333, 1333, 1333, 0]])
        expected = expected if allowed is None else torch.tensor([[4000, 0, 0, 0, 0, 0], expected[1].tolist()])
        assert ((counts - expected).abs() <= (5 * expected**0.5)).all()


def test_a_bound_with_values_that_are_not_known() -> None:
    """Bits are per known cell: a network without preferences has log V of each, and nothing of those not known."""
    table = Table(("a", "b"), (("x", "y"), ("z", "w")), missing=True)
    network = unmask.Transformer(5, (2,), width=8, depth=1, heads=1)
    x = torch.tensor([[0, 2], [1, 4]])
    given = x == 4
    nats = unmask.MaskedDiffusion(network, table).nelbo(x, given=given, draws=2)
    assert nats.tolist() == pytest.approx([2 * math.log(5), math.log(5)])

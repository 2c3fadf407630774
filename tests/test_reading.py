"""Files as people have them: under any name, packed by any program, and damaged in any way."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import fresh
from small_bpe import write_bpe
from unmask.cli.main import main
from unmask.codecs.text import Bytes
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.corpus import Corpus
from unmask.data.documents import Files
from unmask.data.index import SKIPPED, Index
from unmask.data.prepare import prepare
from unmask.data.reading import characters, visible_files
from unmask.data.text8 import Text8
from unmask.data.textfile import TextFile

TEXTS = ["one two", "three\nfour", 'fi"ve, six; seven']
JSON_LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
JSON_LIST = json.dumps([{"text": text} for text in TEXTS], indent=1).encode()
CSV = b'n,text\n1,one two\n2,"three\nfour"\n3,"fi""ve, six; seven"\n'


def zipped(content: bytes, *names: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names or ("member",):
            archive.writestr(name, content)
    return target.getvalue()


def tarred(content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zip": zipped,
    ".zst": zstandard.ZstdCompressor().compress,
}


def documents(path: Path, **settings: Any) -> list[str]:
    found = [""]
    for piece in Files((str(path),), **settings):
        found[-1] += piece.text
        if piece.last:
            found.append("")
    return found[:-1]


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


# --- what a file holds


@pytest.mark.parametrize("suffix", [*PACKERS, ".GZ"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSON_LINES),
        ("a.JSONL", JSON_LINES),
        ("a.json", JSON_LINES),
        ("a.ndjson", codecs.BOM_UTF8 + JSON_LINES.replace(b"\n", b"\r\n").rstrip()),
        ("a.json", JSON_LIST),
        ("a.jsonl", JSON_LIST),
        ("part-00000-of-00512", JSON_LINES),
        ("a.csv", CSV),
        ("a.CSV", codecs.BOM_UTF8 + CSV.replace(b"\n", b"\r\n").rstrip()),
        ("a.csv", CSV.replace(b'"fi""ve, six', b'"fi""ve! six').replace(b",", b";").replace(b"ve!", b"ve,")),
        ("a.tsv", CSV.replace(b", six", b"! six").replace(b",", b"\t").replace(b"! six", b", six")),
    ],
)
def test_rows_are_read_whatever_they_are_named_and_packed_in(
    name: str, content: bytes, suffix: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name + suffix, PACKERS[suffix.lower()](content))
    assert documents(path) == TEXTS


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_the_content_decides_what_a_file_is_packed_in(suffix: str, tmp_path: Path) -> None:
    assert documents(write(tmp_path, "anything", PACKERS[suffix](JSON_LINES))) == TEXTS
    assert documents(write(tmp_path, "words.txt", PACKERS[suffix](b"\xc3\xa9"))) == ["é"]
    data = TextFile(str(write(tmp_path, f"t{suffix}", PACKERS[suffix](b"ab" * 500))), length=10)
    assert data.codec.vocab_size == 2 and len(data.text.tokens) == 1000


def test_a_zip_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    members = ("two.jsonl", "__MACOSX/._two.jsonl", ".DS_Store")
    assert documents(write(tmp_path, "a.zip", zipped(JSON_LINES, *members))) == TEXTS
    assert documents(write(tmp_path, "b.zip", zipped(b"{", "two.txt"))) == ["{"]
    with pytest.raises(ValueError, match=r"c.zip: expected an archive of one file, found 2: .* name its folder"):
        documents(write(tmp_path, "c.zip", zipped(b"x", "a.txt", "b.txt")))


@pytest.mark.parametrize("name", ["a.parquet", "a.PARQUET", "a.pq", "a"])
def test_parquet_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / name)
    assert documents(tmp_path / name) == TEXTS


def test_what_is_ambiguous_is_refused_and_an_option_decides(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", JSON_LINES)
    with pytest.raises(ValueError, match=r"a.txt: named as text, but it looks like JSON: --format json reads rows"):
        documents(path)
    assert documents(path, format="json") == TEXTS
    assert documents(path, format="text") == [JSON_LINES.decode().removesuffix("\n")]
    assert documents(write(tmp_path, "b.txt", b'{"a": 1} is JSON\n')) == ['{"a": 1} is JSON']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gz", b"plain", r"a.gz: .*named .gz, but its content is not"),
        ("a.zst", b"", r"a.zst: damaged or truncated archive: the file is empty"),
        ("a.7z", b"7z", r"a.7z: .7z is not read, but .gz, .*unpack it"),
        ("a.tar.gz", gzip.compress(tarred(b"x")), r"a.tar.gz: an archive of files \(tar\); unpack it"),
        ("a.gz", gzip.compress(bz2.compress(b"x")), r"a.gz: is compressed twice \(.bz2 inside\)"),
        ("a.txt", "naïve".encode("utf-16"), r"a.txt: the text is UTF-16, not UTF-8; convert it, as with iconv"),
        ("a.parquet", b"PAR1", r"a.parquet: not a Parquet file, or damaged"),
        ("a.parquet", b"text", r"a.parquet: not a Parquet file, or damaged"),
        ("a.csv", b"x,y\n1,2\n", r"a.csv: has no column 'text', but x, y; --field"),
        ("a.csv", b"text,text\n1,2\n", r"a.csv: two columns have the same name"),
        ("a.csv", b"text\n1,2\n", r"a.csv, line 2: has 2 columns, but the first line names 1"),
        ("a.csv", b'text\n"1', r"a.csv, line 2: not a table of columns: unexpected end of data"),
        ("a.json", b'[{"text": "a"}', r"a.json: not valid JSON"),
        ("a.json", b'[{"text": "a"}, 5]', r"a.json, item 1: expected an object with fields, got int"),
        ("a.json", b'{\n"texts": "a"}', r"a.json, item 0: has no field 'text', but texts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",  # compressed content holds the time
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        documents(write(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_archives_of_several_streams_are_read_whole(tmp_path: Path) -> None:
    for suffix in (".gz", ".bz2", ".xz", ".zst"):
        halves = b"".join(PACKERS[suffix](part) for part in (JSON_LINES[:20], b"", JSON_LINES[20:]))
        assert documents(write(tmp_path, f"a.jsonl{suffix}", halves)) == TEXTS


@pytest.mark.parametrize("suffix", list(PACKERS)[1:])
def test_damaged_archives_name_the_file_and_the_line(suffix: str, tmp_path: Path) -> None:
    lines = [json.dumps({"text": os.urandom(300).hex()}) for _ in range(500)]
    content = PACKERS[suffix]("\n".join(lines).encode())
    path = write(tmp_path, f"a.jsonl{suffix}", content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"a.jsonl{suffix}: damaged or truncated archive"):
        documents(path)
    with pytest.raises(ValueError, match=rf"a.jsonl{suffix}: damaged or truncated archive"):
        list(characters(path))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (str(tmp_path / "pipe.jsonl"), "/dev/null"):
        with pytest.raises(ValueError, match=f"{path}: not a regular file, but a pipe or a device"):
            _ = Files((path,)).files
        with pytest.raises(ValueError, match=f"{path}: not a regular file"):
            _ = TextFile(path).codec
    with pytest.raises(ValueError, match="is a folder, not a file"):
        _ = TextFile(str(tmp_path)).codec


def test_names_are_no_patterns(tmp_path: Path) -> None:
    write(tmp_path, "a[1]*?.txt", b"right")
    write(tmp_path, "a1x.txt", b"wrong")
    assert documents(tmp_path / "a[1]*?.txt") == ["right"]


# --- text is the same whatever program wrote it


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
def test_text_does_not_depend_on_the_program_that_wrote_it(
    line: bytes, mark: bytes, end: bytes, tmp_path: Path
) -> None:
    path = write(tmp_path, "a.txt", mark + line.join([b"one", b"", b"two", b" three"] * 100) + end)
    plain = "\n".join(["one", "", "two", " three"] * 100)
    assert "".join(characters(path)) == plain and documents(path) == [plain]
    assert documents(path, boundary="line") == plain.split("\n")
    assert documents(path, boundary="blank_line") == plain.split("\n\n")
    data = TextFile(str(path), length=20)
    assert data.codec.decode(data.split("all")[np.array([0])][0]) == [plain[:20]]
    assert (
        data.split("train").checksum == TextFile(str(write(tmp_path, "b", plain.encode())), 20).split("train").checksum
    )
    words = mark + b"abc " * 500 + end
    assert len(Text8(str(write(tmp_path, "text8", words)), length=50).text.tokens) == 2000


@pytest.mark.parametrize("text", ["\r", "a\r\rb", "\r\n\r\n", "\ufeffa\ufeff", "x\n\n", "a\r\nb\rc\n\r"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_line_ends_at_the_borders_of_chunks(
    text: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.data.reading.CHUNK", chunk)
    expected = text.removeprefix("\ufeff").replace("\r\n", "\n").removesuffix("\n")
    assert "".join(characters(write(tmp_path, "a", text.encode()))) == expected


def test_the_place_of_an_unknown_character_is_that_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.data.reading.CHUNK", 7)
    path = write(tmp_path, "a", b"abab\nab\nababababab?b\n")
    with pytest.raises(ValueError, match=r"'\?' \(U\+003F\) at offset 18 \(line 3, column 11\) is not in"):
        _ = TextFile(str(path), tokens="ab\n").codec.vocab_size, TextFile(str(path), tokens="ab\n").text


def test_a_change_to_bytes_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "".join(map(chr, range(0x4E00, 0x4F10))).encode() * 9)
    with pytest.warns(
        UserWarning, match=r"a.txt: has more than 256 different characters, so its tokens are UTF-8 bytes"
    ):
        assert TextFile(str(path), length=9).codec == Bytes()


# --- rows


def test_a_folder_that_links_lead_to_again_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "one.txt").write_text("1")
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(".")
    (tmp_path / "other").symlink_to(tmp_path / "b" / "c")
    assert visible_files(tmp_path) == [tmp_path / "b" / "c" / "one.txt"]
    assert visible_files(tmp_path / "other") == [tmp_path / "other" / "one.txt"]


def test_nested_fields_and_bad_rows(tmp_path: Path) -> None:
    rows = [{"a": {"b": "x"}}, {"a": None}, {"a": {"b": None}}, {"a": {"b": "\ud800"}}, {"a": {"b": "y"}}, {"a.b": "z"}]
    content = "\n".join([*map(json.dumps, rows), "{", "7"]).encode()
    path = write(tmp_path, "a.jsonl", content)
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: has no field 'a.b', but NoneType; --field names"):
        documents(path, field="a.b")
    source = Files((str(path),), field="a.b", skip_bad=True)
    assert [piece.text for piece in source] == ["x", "y", "z"] and [piece.text for piece in source] == ["x", "y", "z"]
    assert [line.split(": ", 1)[0].rpartition(" ")[2] for line in source.skipped] == ["2", "3", "4", "7", "8"]
    assert "must be a text, got null" in source.skipped[1] and "not valid Unicode" in source.skipped[2]
    pq.write_table(pa.table({"a": [{"b": "x"}, None, {"b": None}, {"b": "y"}]}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet", field="a.b", skip_bad=True) == ["x", "y"]
    bad = write(tmp_path, "a.csv", b"text,n\nx,1\ny\nz,3\n")
    assert documents(bad, skip_bad=True) == ["x", "z"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([b"\xff"]), "row 0: the field 'text' must be a text, got bytes"),
        (pa.array([["a"]]), "row 0: the field 'text' must be a text, got list"),
        (pa.array([{"x": 1}]), "row 0: the field 'text' must be a text, got dict"),
        (pa.array([None], pa.null()), "row 0: the field 'text' must be a text, got null"),
        (pa.array([b"a\xff"]).view(pa.string()), "not to be read, after row 0"),
    ],
)
def test_unusual_columns_of_parquet(column: Any, message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"a.parquet.*{message}"):
        documents(tmp_path / "a.parquet")


def test_texts_of_other_types_and_repeated_columns(tmp_path: Path) -> None:
    for column in (pa.array(TEXTS, pa.large_string()), pa.array(TEXTS).dictionary_encode()):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        assert documents(tmp_path / "a.parquet") == TEXTS
    table = pa.Table.from_arrays([pa.array(TEXTS), pa.array(TEXTS)], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: has 2 columns named 'text'"):
        documents(tmp_path / "a.parquet")


def test_damaged_parquet_says_after_which_row(tmp_path: Path) -> None:
    texts = [os.urandom(50).hex() for _ in range(3000)]
    path = tmp_path / "a.parquet"
    options = {"row_group_size": 1000, "compression": "snappy", "use_dictionary": False}
    pq.write_table(pa.table({"text": texts}), path, write_page_checksum=True, **options)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.parquet: damaged, or not to be read, after row \d+: .*") as caught:
        documents(path)
    assert 768 <= int(str(caught.value).partition("after row ")[2].partition(":")[0]) <= 1999  # in the second group


# --- folders, and the command


def test_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/2.jsonl.gz", "a/1.json"):
        content = json.dumps({"text": name}).encode()
        write(tmp_path / "set", name, gzip.compress(content) if name.endswith("gz") else content)
    for name in (".hidden.jsonl", ".git/x.jsonl", "__MACOSX/._b.jsonl", "Thumbs.db", "desktop.ini", "a/.DS_Store"):
        write(tmp_path / "set", name, b"\xff clutter")
    assert documents(tmp_path / "set") == ["a/1.json", "a/2.jsonl.gz", "b.jsonl"]
    write(tmp_path / "set", "README.md", b"# words")
    with pytest.raises(ValueError, match=r"set: holds both rows \(a/1.json\) and text \(README.md\); name the files"):
        documents(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no files in it"):
        documents(tmp_path / "empty")
    os.mkfifo(tmp_path / "empty" / "pipe.jsonl")
    with pytest.raises(ValueError, match=r"pipe.jsonl: not a regular file, but a pipe"):
        documents(tmp_path / "empty")
    (tmp_path / "empty" / "pipe.jsonl").unlink()
    (tmp_path / "empty" / "gone.jsonl").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"gone.jsonl: no such file"):
        documents(tmp_path / "empty")


def test_prepare_as_people_call_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bpe = write_bpe(tmp_path / "bpe")
    path = write(tmp_path, "two.json.gz", gzip.compress(b'{"text":"one two"}\n{"text":"three four"}\n'))
    expected = sum(len(Tokenizer(str(bpe)).encode(text)) + 1 for text in ("one two", "three four"))
    arguments = ["--tokenizer", str(bpe), "--out", str(tmp_path / "made")]
    assert main(["prepare", str(path), *arguments]) == 0
    index = Index.read(tmp_path / "made")
    assert (index.documents, index.tokens) == (2, expected)
    bad = write(tmp_path, "bad.jsonl", b'{"text": "the man"}\n{"text": null}\n{"text": "an inn"}\n')
    arguments[-1] = str(tmp_path / "bad")
    capsys.readouterr()
    assert main(["prepare", str(bad), *arguments]) == 1
    assert "bad.jsonl, line 2: the field 'text' must be a text, got null" in capsys.readouterr().err
    assert main(["prepare", str(bad), *arguments, "--skip-bad"]) == 0
    assert "2 documents, 1 rows without a text left out" in capsys.readouterr().out
    assert "bad.jsonl, line 2: " in (tmp_path / "bad" / SKIPPED).read_text()
    assert Index.read(tmp_path / "bad").skipped == 1
    assert main(["prepare", str(bad), *arguments, "--skip-bad", "--overwrite"]) == 0
    arguments[-1] = str(tmp_path / "end")
    assert main(["prepare", str(path), *arguments, "--end-token", "the"]) == 0
    data = Corpus(str(tmp_path / "end"), length=4)
    assert data.codec.end == Tokenizer(str(bpe)).tokenizer.token_to_id("the") == data.shards.index.end
    assert main(["prepare", str(path), *arguments]) == 1
    assert "holds a corpus whose texts end with another token" in capsys.readouterr().err


def test_all_documents_are_a_part(tmp_path: Path) -> None:
    bpe = Tokenizer(str(write_bpe(tmp_path / "bpe")))
    path = write(tmp_path, "a.jsonl", b"".join(b'{"text": "the man %d"}\n' % i for i in range(40)))
    prepare(Files((str(path),)), bpe, tmp_path / "made")
    parts = {part: len(Corpus(str(tmp_path / "made"), 20, "padded").split(part)) for part in ("train", "valid", "test")}
    assert len(Corpus(str(tmp_path / "made"), 20, "padded").split("all")) == sum(parts.values()) == 40


WRONG = """
import numpy as np, torch
from unmask.codecs import Bytes, Characters, Pixels, Symbols
from unmask.data.documents import Files
cases = [
    (lambda: Characters("ab").decode([[0]]), "expected a tensor of tokens (batch, *dims), got list"),
    (lambda: Characters("ab").decode(torch.tensor([0, 1])), "expected a batch of examples (batch, *dims), got (2,)"),
    (lambda: Characters("ab").decode(torch.tensor([[-1]])), "tokens must be in 0..2, got values from -1 to -1"),
    (lambda: Bytes().decode(torch.tensor([[0.5]])), "tokens must be integers, got torch.float32"),
    (lambda: Symbols(3).decode(torch.tensor([[True]])), "tokens must be integers, got torch.bool"),
    (lambda: Pixels(4).decode(torch.tensor([[9]])), "tokens must be in 0..4, got values from 9 to 9"),
    (lambda: Characters("ab").encode(b"ab"), "expected a text, got bytes"),
    (lambda: Bytes().encode(chr(0xd800)), "not valid Unicode"),
    (lambda: Symbols(3).encode([[1], [2, 3]]), "tokens must be an array of integers"),
    (lambda: Symbols(3).encode([10**30]), "tokens must be integers, got object"),
    (lambda: Files((), format="xml"), "format must be one of text, json, csv, tsv, parquet, got 'xml'"),
    (lambda: Pixels(4).encode(np.array([0.5])), "pixels must be integers in 0..255, got float64"),
]
for call, message in cases:
    try:
        call()
    except ValueError as error:
        assert message in str(error), (message, str(error))
    else:
        raise SystemExit(f"no error: {message}")
assert Characters("ab").decode(torch.tensor([[0, 1, 2]], dtype=torch.uint8)) == ["ab░"]
print("all refused")
"""


def test_what_is_no_batch_of_tokens_is_refused_without_a_type_checker() -> None:
    found = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, check=False)
    assert found.stdout == "all refused\n", found.stderr


@pytest.mark.parametrize(
    "name", ["a.txt.gz", "a.txt.bz2", "a.txt.zst", "a.txt.zip", "a.jsonl.gz", "a.csv.zst", "a.json"]
)
def test_an_endless_line_ends_in_one_line_and_little_memory(name: str, tmp_path: Path) -> None:
    """64 MiB of it, where 1 MiB is read at once."""
    line = b"text\n" + b"a" * (64 << 20) if "csv" in name else b"a" * (64 << 20)
    line = b'[{"text": "' + line if name == "a.json" else b'{"text": "' + line if "jsonl" in name else line
    (tmp_path / name).write_bytes(PACKERS[suffix if (suffix := Path(name).suffix) in PACKERS else ""](line))
    done = fresh.finish(read_little, tmp_path / name, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said, more = done.stdout.splitlines()
    assert f"{name}" in said and "longer than the 1,048,576 bytes" in said and "UNMASK_MOST_BYTES=2097152" in said
    assert int(more) < 60 << 20, more


def read_little(path: Path) -> None:
    """Print why the documents of a file cannot be read, and how much memory that took."""
    os.environ["UNMASK_MOST_BYTES"] = str(1 << 20)
    before = most_memory()
    try:
        for _ in Files((str(path),)):
            pass
    except ValueError as error:
        print(error)
    print(most_memory() - before)


def most_memory() -> int:
    (size,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(size) << 10

"""What must not get into a data set unseen: hidden files, turned pictures, leaks between parts, false names."""

import codecs
import gzip
import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unmask.codecs.symbols import Symbols
from unmask.data.arrays import Arrays
from unmask.data.base import DataSet, Joined
from unmask.data.benchmarks import BENCHMARKS, Texts
from unmask.data.digits import Digits
from unmask.data.images import Images
from unmask.data.parquet import read_labels
from unmask.data.picture import open_image
from unmask.data.pydocs import PyDocs

RANDOM = np.random.default_rng(0)
PARTS: Any = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))


# --- images


def picture(path: Path, orientation: int | None = None, shape: tuple[int, ...] = (6, 8, 3)) -> np.ndarray:
    """Write an image as a camera does that was held in some way; return what viewers show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RANDOM.integers(0, 256, shape).astype(np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    turned = {3: lambda x: x[::-1, ::-1], 6: lambda x: np.rot90(x, -1), 8: np.rot90, 2: lambda x: x[:, ::-1]}
    return turned.get(orientation, lambda x: x)(pixels)  # type: ignore[no-untyped-call, call-overload]


@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 6, 8])
@pytest.mark.parametrize("shape", [(6, 8, 3), (6, 8)])
def test_pictures_lie_as_viewers_show_them(orientation: int | None, shape: tuple[int, ...], tmp_path: Path) -> None:
    shown = picture(tmp_path / "a.png", orientation, shape)
    found = open_image(tmp_path / "a.png", "a.png")
    assert np.array_equal(found, shown.reshape(found.shape))


def test_turned_pictures_in_a_folder(tmp_path: Path) -> None:
    shown = [picture(tmp_path / "set" / f"{i:02}.png", 6) for i in range(20)]
    data = Images(path=str(tmp_path / "set"))
    assert data.shape == (8, 6, 3) and np.array_equal(data.split("all")[np.arange(20)][0].numpy(), np.stack(shown))


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for i in range(20):
        picture(root / ("cat" if i % 2 else "dog") / f"{i:02}.png")
    for name in (".ipynb_checkpoints/cat.png", "__MACOSX/cat/x.png", "cat/.hidden.png", ".git/train/x.png"):
        picture(root / name)
    (root / "cat" / "._01.png").write_bytes(b"\0\5\26\7 resource fork")
    (root / "cat" / "Thumbs.db").write_bytes(b"thumbnails")
    data = Images(path=str(root), labels=True)
    assert data.class_names == ("cat", "dog") and data.classes == 2 and len(data.split("all")) == 20
    for part in ("train", "test"):
        (root / part).mkdir()
    (tmp_path / "parts").mkdir()
    for part in ("train", "test", ".cache"):
        for i in range(20):
            picture(tmp_path / "parts" / part / "cat" / f"{i:02}.png")
    assert [len(Images(path=str(tmp_path / "parts"), labels=True).split(part)) for part in PARTS] == [19, 1, 20]


def test_an_empty_folder_of_a_class_is_reported(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "set" / "cat" / f"{i:02}.png")
    (tmp_path / "set" / "dog").mkdir()
    (tmp_path / "set" / "bird").mkdir()
    (tmp_path / "set" / "bird" / "notes.txt").write_text("x")
    (tmp_path / "set" / ".hidden").mkdir()
    with pytest.warns(UserWarning, match=r"bird, .*dog: no images in it .*, so it is not one of the 1 classes"):
        assert Images(path=str(tmp_path / "set"), labels=True).classes == 1


def test_images_that_are_no_single_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(RANDOM.integers(0, 256, (6, 8)).astype(np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"a.gif: .*has 3 frames; save the one that is meant"):
        open_image(tmp_path / "a.gif", "a.gif")
    picture(tmp_path / "bomb.png")
    for limit in (40, 20):  # where Pillow warns, and where it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=r"bomb.png: too large an image: Image size"):
            open_image(tmp_path / "bomb.png", "bomb.png")


def test_true_is_no_label(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for labels, shown in (([True], "True"), (["cat"], "'cat'"), ([2**40], str(2**40)), ([None], "None")):
        pq.write_table(pa.table({"label": labels}), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=rf"a.parquet, row 0: the label must be in 0..9, got {shown}"):
            read_labels([tmp_path / "a.parquet"], 10)


# --- arrays


def arrays(tmp_path: Path, **content: np.ndarray) -> Arrays:
    np.savez(tmp_path / "a.npz", **content)
    return Arrays(str(tmp_path / "a.npz"))


def test_a_file_of_one_part_is_that_part(tmp_path: Path) -> None:
    x = RANDOM.integers(0, 9, (7, 3))
    data = arrays(tmp_path, test=x, test_labels=np.arange(7) % 3)
    assert (data.codec, data.shape, data.classes) == (Symbols(int(x.max()) + 1), (3,), 3)
    assert np.array_equal(data.split("test")[np.arange(7)][0], x) and len(data.split("all")) == 7
    with pytest.raises(ValueError, match="no array named 'train', only test; the part all is there"):
        data.split("train")
    with pytest.raises(ValueError, match="some of train, test have labels, and some have none"):
        arrays(tmp_path, train=x, test=x, test_labels=np.arange(7)).split("test")


def test_every_example_of_a_data_set_once(tmp_path: Path) -> None:
    x = np.arange(146 * 2).reshape(146, 2)
    np.save(tmp_path / "test.npy", x)
    data = Arrays(str(tmp_path / "test.npy"))
    assert len(data.split("test")) == 7 and np.array_equal(data.split("all")[np.arange(146)][0], x)  # in their order
    few = arrays(tmp_path, x=x[:5])
    assert len(few.split("all")) == 5
    with pytest.raises(ValueError, match="at least 20 examples are needed for three parts, got 5; the part all is"):
        few.split("test")
    sets: tuple[DataSet, ...] = (Digits(), PyDocs(length=64))
    assert [len(data.split("all")) for data in sets[:1]] == [1797]
    assert len(sets[1].split("all").tokens) > sum(len(sets[1].split(part).tokens) for part in PARTS)  # type: ignore[attr-defined]


def test_joined_splits_are_read_in_any_order() -> None:
    from unmask.data.base import Examples

    whole = np.arange(10).reshape(10, 1)
    split = Joined([Examples(whole[:3]), Examples(whole[3:4]), Examples(whole[4:])])
    order = np.array([9, 0, 3, 2, 9, 5])
    assert split[order][0].flatten().tolist() == order.tolist() and len(split) == 10
    labelled = Joined([Examples(whole[:3], np.arange(3)), Examples(whole[3:], np.arange(3, 10))])
    assert labelled[order][1].tolist() == order.tolist()  # type: ignore[union-attr]


LEAKS: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "repeats": (lambda: np.repeat(np.arange(90).reshape(30, 3), 2, 0), "examples are in more than one part"),
    "mirrored": (
        lambda: np.concatenate([x := RANDOM.integers(0, 9, (40, 4, 5, 1)), x[:, :, ::-1]]),
        "in another part of the random split too, mirrored",
    ),
    "windows": (
        lambda: np.lib.stride_tricks.sliding_window_view(RANDOM.integers(0, 99, 400), 16)[::4],
        r"examples are overlapping windows \(each starts 4 after the last\)",
    ),
}


@pytest.mark.parametrize("kind", list(LEAKS))
def test_leaks_between_parts_are_said(kind: str, tmp_path: Path) -> None:
    make, message = LEAKS[kind]
    np.save(tmp_path / "x.npy", make())
    with pytest.warns(UserWarning, match=f"x.npy: .*{message}"):
        Arrays(str(tmp_path / "x.npy")).split("train")


def test_no_leak_no_warning(tmp_path: Path) -> None:
    for name, x in (("a", np.arange(300).reshape(60, 5)), ("b", RANDOM.integers(0, 9, (60, 4, 5, 1)))):
        np.save(tmp_path / f"{name}.npy", x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Arrays(str(tmp_path / f"{name}.npy")).split("train")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (dict(x=np.arange(90).reshape(30, 3) * 10**9), {}, r"x must be below 16,777,216, got 89,000,000,000"),
        (dict(x=np.full((30, 3), 2**64 - 1, dtype=np.uint64)), {}, "x must be below 16,777,216, got 18,446,744"),
        (dict(x=np.eye(30, dtype=int), labels=np.arange(30) * 3 * 10**8), {}, "labels must be below 100,000, got 8,7"),
        (dict(x=np.eye(30, dtype=int)), {"vocab_size": 10**12}, "vocab_size must be in 1..16,777,216, got 1,000,000"),
        (dict(x=np.eye(30, dtype=int)), {"vocab_size": 0}, "vocab_size must be in 1..16,777,216, got 0"),
    ],
)
def test_values_that_nothing_could_be_learned_for(
    content: dict[str, np.ndarray], settings: dict[str, int], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=message):
        Arrays(str(tmp_path / "a.npz"), **settings).split("train")  # type: ignore[arg-type]


# --- sets of the zero-shot tables


def sums(monkeypatch: pytest.MonkeyPatch, **contents: str) -> None:
    """Pretend that these are the public files."""
    for name, content in contents.items():
        public = (hashlib.sha256(content.encode()).hexdigest(),)
        monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], public=public))


@pytest.mark.parametrize("end", ["\n", "\r\n", "no last"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_the_public_file_is_known_by_its_content(
    end: str, mark: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " the man did n't \n he said # N\n" * 20
    sums(monkeypatch, ptb=text)
    written = text.removesuffix("\n") if end == "no last" else text.replace("\n", end)
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "PTB.test.txt.gz").write_bytes(gzip.compress(mark + written.encode()))
    texts = Texts("ptb", str(tmp_path), "line")
    assert texts.provenance.startswith("verified copy (sha256 ")
    assert list(texts)[1].text == "he said #N" and len(list(texts)) == 40
    (tmp_path / "data" / "deep" / "PTB.test.txt.gz").write_bytes(gzip.compress(b"other\n"))
    assert Texts("ptb", str(tmp_path)).provenance == "unverified copy"


def test_a_name_is_no_proof(tmp_path: Path) -> None:
    (tmp_path / "lm1b_test.txt").write_text("something else\n" * 9)
    texts = Texts("lm1b", str(tmp_path))
    assert texts.provenance == "unverified copy" and "by its name" in texts.benchmark.split


def test_the_public_files_here_are_verified(shared_data: Path) -> None:
    for name in ("lambada", "wikitext2", "wikitext103", "ptb"):
        assert Texts(name, str(shared_data)).provenance.startswith("verified copy"), name


def test_ag_news_as_it_is_distributed(tmp_path: Path) -> None:
    rows = '"3","Fears for T N","Unions, say they are ""disappointed"""\n"4","Two","Three"\n'
    for folder in ("ag_news_csv", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.csv").write_text(rows if folder != "other" else "a,b\n")
    texts = [piece.text for piece in Texts("ag_news", str(tmp_path))]
    assert texts == ['Fears for T N Unions, say they are "disappointed"', "Two Three"]
    assert [piece.text for piece in Texts("ag_news", str(tmp_path / "ag_news_csv"))] == texts
    with pytest.raises(FileNotFoundError, match="AG News: none of ag_news_test.jsonl"):
        Texts("ag_news", str(tmp_path / "other"))  # any set may have a test.csv
    (tmp_path / "ag_news_csv" / "test.csv").write_text(rows + '"9","no","class"\n')
    with pytest.raises(ValueError, match=r"test.csv, item 3: expected class 1 to 4, title and text"):
        list(Texts("ag_news", str(tmp_path)))


def test_parquet_of_the_hub_and_hidden_folders(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "wikitext-2-raw-v1"
    folder.mkdir()
    lines = [" = Title = \n", "", " a word , here \n"]
    pq.write_table(pa.table({"text": lines}), folder / "test-00000-of-00001.parquet")
    assert [piece.text for piece in Texts("wikitext2", str(tmp_path), "line")] == ["= Title =", "", "a word, here"]
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lambada_test.jsonl").write_text(json.dumps({"text": "x"}))
    with pytest.raises(FileNotFoundError, match="LAMBADA: none of lambada_test.jsonl"):
        Texts("lambada", str(tmp_path))

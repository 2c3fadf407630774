import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data.base import Examples
from unmask.data.cifar10 import CIFAR10
from unmask.data.cifar10 import CLASSES as CIFAR10_CLASSES
from unmask.data.imagenet64 import ImageNet64
from unmask.data.images import Images, Mirrored
from unmask.data.mnist import FILES, MNIST
from unmask.storage.pickled import Made, read_pickle

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    arrays = {}
    for name in FILES:
        count = 1010 if "train" in name else 30
        shape = (count, 28, 28) if "images" in name else (count,)
        arrays[name] = RANDOM.integers(0, 256 if "images" in name else 10, shape).astype(np.uint8)
        content = idx(arrays[name])
        if "labels" in name:
            (tmp_path / name).write_bytes(content)
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    return tmp_path, arrays


def test_mnist(mnist: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = mnist
    data = MNIST(path=str(folder), labels=True)
    assert data.shape == (28, 28, 1) and data.classes == 10 and data.codec.vocab_size == 256
    assert "not MNIST" in data.name
    assert [len(data.split(part)) for part in ("train", "valid", "test")] == [10, 1000, 30]
    x, labels = data.split("valid")[np.array([0, 999])]
    assert np.array_equal(x[..., 0], arrays["train-images-idx3-ubyte"][[10, 1009]])
    assert np.array_equal(labels, arrays["train-labels-idx1-ubyte"][[10, 1009]])
    assert MNIST(path=str(folder)).split("test")[np.array([3])][1] is None


def test_damaged_idx_files(mnist: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = mnist
    labels, images = folder / "train-labels-idx1-ubyte", folder / "train-images-idx3-ubyte.gz"
    whole = labels.read_bytes()
    for content, message in (
        (whole[:-3], "train-labels-idx1-ubyte: 1007 values, its header says 1010"),
        (b"\0\0\x0d" + whole[3:], "not an idx file of bytes"),
        (b"\0\0\x08\xff" + (1).to_bytes(4, "big") * 255 + b"\0", "not an idx file of bytes"),
        (b"", "not an idx file of bytes"),
        (idx(np.zeros(1009, np.uint8)), "do not fit together"),
        (idx(np.full(1010, 10, np.uint8)), "a label is above 9"),
    ):
        labels.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            MNIST(path=str(folder)).split("train")
    labels.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setenv("UNMASK_MOST_BYTES", "10000")
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz: longer than the 10,000 bytes"):
            MNIST(path=str(folder)).split("train")
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz: damaged or truncated archive"):
        MNIST(path=str(folder)).split("train")
    images.unlink()
    with pytest.raises(FileNotFoundError, match="neither train-images-idx3-ubyte nor"):
        MNIST(path=str(folder)).split("train")


def test_the_mirror() -> None:
    x = RANDOM.integers(0, 256, (7, 4, 5, 3)).astype(np.uint8)
    split = Mirrored(Examples(x, np.arange(7)))
    found, labels = split[np.array([2, 9, 13])]
    assert len(split) == 14 and labels.tolist() == [2, 2, 6]
    assert np.array_equal(found[0], x[2]) and np.array_equal(found[1], x[2][:, ::-1])
    assert np.array_equal(found[2], x[6][:, ::-1])
    assert split.checksum != split.split.checksum


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Batches of a few images (height, width, channels) with their labels."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {n: (RANDOM.integers(0, 256, (210, 32, 32, 3)).astype(np.uint8), RANDOM.integers(0, 10, 210)) for n in names}


def planes(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def write_cifar(form: str, folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    inside = folder / f"cifar-{form}"
    inside.mkdir()
    for name, (x, labels) in batches.items():
        if form.startswith("binary"):
            rows = np.concatenate((labels[:, None].astype(np.uint8), planes(x)), 1)
            (inside / f"{name}.bin").write_bytes(rows.tobytes())
        elif form.startswith("python"):
            batch = {b"batch_label": b"a batch", b"labels": labels.tolist(), b"data": planes(x), b"filenames": []}
            (inside / name).write_bytes(pickle.dumps(batch, protocol=2 if form == "python" else 4))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            encoded = [{"bytes": png(image), "path": "x.png"} for image in x]
            part = "test" if name == "test_batch" else "train"
            table = pa.table({"img": encoded, "label": labels})
            pq.write_table(table, inside / f"{part}-{name}.parquet")
    if form.endswith("archive"):
        path = folder / f"{form}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(inside, "cifar-10-batches")
        return path
    return inside


def png(image: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(image).save(target, "PNG")
    return target.getvalue()


@pytest.mark.parametrize("form", ["binary", "binary archive", "python", "python 4 archive", "parquet"])
def test_cifar10(form: str, tmp_path: Path, cifar: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    data = CIFAR10(path=str(write_cifar(form, tmp_path, cifar)), labels=True, flip=True)
    assert [len(data.split(part)) for part in ("train", "valid", "test")] == [100, 1000, 210]
    x, labels = data.split("test")[np.arange(210)]
    assert np.array_equal(x, cifar["test_batch"][0]) and np.array_equal(labels, cifar["test_batch"][1])
    x, labels = data.split("train")[np.array([0, 49, 50])]
    assert np.array_equal(x[:2], cifar["data_batch_1"][0][[0, 49]])
    assert np.array_equal(x[2], cifar["data_batch_1"][0][0][:, ::-1])  # mirrored
    assert labels.tolist() == cifar["data_batch_1"][1][[0, 49, 0]].tolist()


def test_cifar10_refusals(
    tmp_path: Path, cifar: dict[str, tuple[np.ndarray, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_cifar("binary", tmp_path, cifar)
    batch = folder / "data_batch_3.bin"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"data_batch_3: .* bytes are no multiple of 3073: truncated"):
        CIFAR10(path=str(folder)).split("train")
    batch.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(ValueError, match=r"data_batch_3: labels must be in 0..9, got 11"):
        CIFAR10(path=str(folder)).split("train")
    batch.unlink()
    with pytest.raises(ValueError, match=r"data_batch_3 is missing; expected the binary or the Python version"):
        CIFAR10(path=str(folder)).split("train")
    archive = write_cifar("python 4 archive", tmp_path, cifar)
    with monkeypatch.context() as patch:
        patch.setenv("UNMASK_MOST_BYTES", "1000")
        with pytest.raises(ValueError, match=r"data_batch_1: holds [\d,]+ bytes, more than the 1,000 that are read"):
            CIFAR10(path=str(archive)).split("train")
    archive.write_bytes(archive.read_bytes()[:-50_000])
    with pytest.raises(ValueError, match="damaged or truncated archive"):
        CIFAR10(path=str(archive)).split("train")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        CIFAR10(path="nowhere").split("train")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_are_read_and_not_run(protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"a": [1, 2.5, None, True, "x", (1, 2, 3, 4)], "b": {"c": ()}, "d": (1,), "e": 10**20, "f": -5}
    plain["again"] = plain["a"]
    assert read_pickle(pickle.dumps(plain, protocol), "x") == plain
    made = read_pickle(pickle.dumps(np.arange(3, dtype=np.uint8), protocol), "x")
    assert (isinstance(made, Made) and "_reconstruct" in str(made.what)) or protocol == 5

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("a pickle was run",)

    found = read_pickle(pickle.dumps([Harm()], protocol), "x")
    assert isinstance(found[0], Made) and found[0].arguments == ("a pickle was run",)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x02}q\x00(X\x01", b"no pickle at all", b"\x80\x02("])
def test_damaged_pickles(content: bytes) -> None:
    with pytest.raises(ValueError, match="f: not a pickle of plain data, or damaged"):
        read_pickle(content, "f")


# --- ImageNet 64x64 ---------------------------------------------------------------------------------------------------


def test_imagenet64(tmp_path: Path, cache: Path) -> None:
    x = RANDOM.integers(0, 256, (1100, 64, 64, 3)).astype(np.uint8)
    labels = RANDOM.integers(1, 1001, 1100)
    for i, here in enumerate((slice(600), slice(600, 1050))):
        np.savez(tmp_path / f"train_data_batch_{i + 1}.npz", data=planes(x[here]), labels=labels[here], mean=x.mean(0))
    np.savez(tmp_path / "val_data.npz", data=planes(x[1050:]), labels=labels[1050:])
    data = ImageNet64(path=str(tmp_path), labels=True)
    assert [len(data.split(part)) for part in ("train", "valid", "test")] == [50, 1000, 50]
    found, classes = data.split("valid")[np.array([0, 600, 999])]
    assert np.array_equal(found, x[[50, 650, 1049]]) and classes.tolist() == (labels[[50, 650, 1049]] - 1).tolist()
    assert isinstance(data.pictures("train").x, np.memmap)
    assert len(list((cache / "images").iterdir())) == 2
    again = ImageNet64(path=str(tmp_path))
    assert np.array_equal(again.split("test")[np.arange(50)][0], x[1050:])
    np.savez(tmp_path / "val_data.npz", data=planes(x[1000:]), labels=labels[1000:])  # another file: nothing stale
    assert len(ImageNet64(path=str(tmp_path)).split("test")) == 100


def test_imagenet64_refusals(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match="give --data.path FOLDER"):
        ImageNet64()
    with pytest.raises(FileNotFoundError, match="no train_data"):
        ImageNet64(path=str(tmp_path)).split("train")
    good = np.zeros((3, 12288), np.uint8)
    path = tmp_path / "val_data.npz"
    (tmp_path / "train_data_batch_1.npz").write_bytes(b"")
    for arrays, message in (
        (dict(data=good, labels=np.array([0, 1, 2])), r"val_data.npz: labels must be in 1..1000"),
        (dict(data=good, labels=np.array([1, 2])), r"val_data.npz: labels must be in 1..1000, one for each of 3"),
        (
            dict(data=good[:, :5], labels=np.array([1, 2, 3])),
            r"expected `data` of uint8 \(N, 12288\), got uint8 \(3, 5\)",
        ),
        (dict(pixels=good), "without an array 'data'"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            ImageNet64(path=str(tmp_path)).pictures("test")
    with pytest.raises(ValueError, match=r"train_data_batch_1.npz: damaged"):
        ImageNet64(path=str(tmp_path)).pictures("train")
    assert not list((cache / "images").glob("*"))  # what failed leaves nothing behind


# --- a user's own -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("cat", "dog"):
        (tmp_path / "own" / kind).mkdir(parents=True)
        for i in range(20):
            image = Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3)).astype(np.uint8))
            image.save(tmp_path / "own" / kind / f"{i:02}.png")
    return tmp_path / "own"


def test_a_folder_of_images(folder: Path) -> None:
    data = Images(path=str(folder), labels=True)
    assert data.shape == (6, 8, 3) and data.classes == 2 and data.name == "own"
    assert [len(data.split(part)) for part in ("train", "valid", "test")] == [36, 2, 2]
    first = np.asarray(Image.open(folder / "cat" / "00.png"))
    everything = data.all
    assert np.array_equal(everything.x[0], first) and everything.labels.tolist() == [0] * 20 + [1] * 20
    few = Images(path=str(folder), levels=4)
    assert few.codec.vocab_size == 4 and few.classes is None
    assert np.array_equal(few.all.x[0], (first / 85).round())
    (folder / "dog" / "19.png").unlink()
    assert len(Images(path=str(folder)).all.x) == 39  # the cache is of what is there


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (8, 7)), r"zz.png: the image is 8x7 with 3 channels, but 00.png is 8x6 with 3 channels"),
        (Image.new("L", (8, 6)), r"zz.png: the image is 8x6 with 1 channel, but"),
        (Image.new("RGBA", (8, 6)), r"zz.png: the image has transparency \(mode RGBA\); convert it"),
        (Image.new("I;16", (8, 6)), r"zz.png: the image has more than 8 bits a channel \(I;16\)"),
        (None, r"zz.png: not an image, or damaged"),
    ],
)
def test_images_that_do_not_fit(folder: Path, image: Image.Image | None, message: str) -> None:
    path = folder / "dog" / "zz.png"
    path.write_bytes(b"nothing") if image is None else image.save(path)
    with pytest.raises(ValueError, match=message):
        Images(path=str(folder)).split("train")


def test_folders_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(folder / "loose.png")
    with pytest.raises(ValueError, match=r"loose.png: an image outside the folders of the classes"):
        Images(path=str(folder), labels=True).split("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images in it"):
        Images(path=str(tmp_path / "empty")).split("train")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        Images(path="nowhere").split("train")
    with pytest.raises(ValueError, match="give --data.path FOLDER"):
        Images()
    with pytest.raises(ValueError, match=r"levels must be in 2..256"):
        Images(path="x", levels=257)


def test_an_archive_of_images(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    x = RANDOM.integers(0, 5, (40, 3, 4)).astype(np.int32)
    np.savez(path, images=x, labels=np.arange(40) % 3)
    data = Images(path=str(path), levels=5, labels=True)
    assert data.shape == (3, 4, 1) and data.classes == 3
    chosen = [data.split(part)[np.arange(len(data.split(part)))][0] for part in ("train", "valid", "test")]
    assert [len(part) for part in chosen] == [36, 2, 2]
    assert np.array_equal(np.sort(np.concatenate(chosen)[..., 0].reshape(40, -1), 0), np.sort(x.reshape(40, -1), 0))
    for arrays, settings, message in (
        (dict(images=x), dict(levels=4), r"levels must be in 0..3, got 4; --data.levels"),
        (dict(images=x), dict(levels=5, labels=True), "no array named 'labels', which --data.labels true asks for"),
        (dict(x=x), {}, "no array named 'images'"),
        (dict(images=x.astype(float)), {}, "images must be integers"),
        (dict(images=np.zeros((40, 3, 4, 2), int)), {}, r"1 or 3 channels\), got int64 \(40, 3, 4, 2\)"),
        (dict(images=x, labels=np.arange(3)), {}, r"labels must be integers from 0, of shape \(40,\)"),
        (dict(images=x, labels=np.full(40, 10**11)), {}, "labels must be integers from 0"),
        (dict(images=x[:5]), {}, "at least 20 images are needed"),
        (dict(images=np.array([{}])), {}, "damaged, or not plain arrays"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            Images(path=str(path), **settings).split("train")


def test_files_that_hide_what_they_are(folder: Path, tmp_path: Path) -> None:
    path = folder / "dog" / "zz.png"
    Image.new("P", (8, 6)).save(path, transparency=0)
    with pytest.raises(ValueError, match=r"zz.png: the image has transparency \(mode P\)"):
        Images(path=str(folder)).split("train")
    Image.new("RGB", (8, 6)).save(path, transparency=(0, 0, 0))
    with pytest.raises(ValueError, match=r"zz.png: the image has transparency \(mode RGB\)"):
        Images(path=str(folder)).split("train")
    path.write_bytes(png16(np.zeros((6, 8, 3), np.uint16)))
    with pytest.raises(ValueError, match=r"zz.png: the image has more than 8 bits a channel"):
        Images(path=str(folder)).split("train")
    Image.new("P", (8, 6)).save(path)
    assert len(Images(path=str(folder)).all.x) == 41  # colours of a palette are RGB
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"x.npz: damaged, or not a .npz archive"):
        Images(path=str(tmp_path / "x.npz")).split("train")


def png16(image: np.ndarray) -> bytes:
    """Write RGB with 16 bits a channel, which Pillow can only read."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    height, width = image.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_classes_are_numbered_as_their_folders_are(tmp_path: Path) -> None:
    for kind in range(11):
        (tmp_path / str(kind)).mkdir()
        for i in range(2):
            Image.new("L", (2, 2), kind).save(tmp_path / str(kind) / f"{i}.png")
    pictures = Images(path=str(tmp_path), labels=True).all
    assert np.array_equal(pictures.x[:, 0, 0, 0], pictures.labels)
    assert pictures.class_names == tuple(map(str, range(11)))
    for name in ("train", "test"):
        (tmp_path / "split" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (2, 2)).save(tmp_path / "split" / name / f"{i}.png")
    with pytest.raises(ValueError, match="an image outside the folders of the classes"):
        Images(path=str(tmp_path / "split"), labels=True).split("train")


def test_a_split_that_is_sent_to_a_worker_is_the_same(tmp_path: Path) -> None:
    x = RANDOM.integers(0, 256, (1100, 64, 64, 3)).astype(np.uint8)
    np.savez(tmp_path / "train_data_batch_1.npz", data=planes(x), labels=np.full(1100, 1))
    np.savez(tmp_path / "val_data.npz", data=planes(x[:5]), labels=np.full(5, 1))
    data = ImageNet64(path=str(tmp_path), labels=True)
    for part in ("train", "valid", "test"):
        split = data.split(part)
        sent = pickle.loads(pickle.dumps(split))
        some = np.array([0, len(split) - 1])
        assert np.array_equal(sent[some][0], split[some][0]) and sent.checksum == split.checksum
        assert len(pickle.dumps(split)) < 200_000  # the place of the map, not its content
    assert "not all of ImageNet 64x64" in data.name


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (dict(img=[b"x"] * 3, label=[1, 2, 3]), "row 0: not an image"),
        (dict(img=[{"bytes": None, "path": "x.png"}] * 3, label=[1, 2, 3]), "row 0: expected the bytes of an image"),
        (dict(img=[None] * 3, label=[1, 2, 3]), "row 0: expected the bytes of an image, got NoneType"),
        (dict(img=["good"] * 3, label=[1, -1, 3]), r"row 1: the label must be in 0..9, got -1"),
        (dict(img=["good"] * 3, label=[1, 10, 3]), r"row 1: the label must be in 0..9, got 10"),
        (dict(img=["good"] * 3, label=[1, 2, None]), r"row 2: the label must be in 0..9, got None"),
        (dict(img=["good"] * 3, label=["a", "b", "c"]), r"row 0: the label must be in 0..9, got 'a'"),
        (dict(img=["small"] * 3, label=[1, 2, 3]), "row 0: expected 32x32 with 3 channels, got 4x4 with 3 channels"),
        (dict(pixels=[1]), "expected columns of images"),
    ],
)
def test_parquet_refusals(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = {
        "good": {"bytes": png(np.zeros((32, 32, 3), np.uint8))},
        "small": {"bytes": png(np.zeros((4, 4, 3), np.uint8))},
    }
    columns = {name: [made.get(v, v) if isinstance(v, str) else v for v in column] for name, column in columns.items()}
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match=f"train-0.parquet.*{message}"):
        CIFAR10(path=str(tmp_path)).split("train")


def test_too_few_images_are_refused(tmp_path: Path, cifar: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    few = {name: (x[:100], labels[:100]) for name, (x, labels) in cifar.items()}
    data = CIFAR10(path=str(write_cifar("binary", tmp_path, few)))
    with pytest.raises(ValueError, match="more than 1000 training images are needed, got 500"):
        data.split("valid")
    assert "not CIFAR-10" in data.name


def test_a_pickle_cannot_take_long() -> None:
    deep = b"\x80\x04}" + b")" + b"\x85" * 100_000 + b"K\x01s."  # a deep tuple as a key
    with pytest.raises(ValueError, match="neither text nor a whole number"):
        read_pickle(deep, "f")


def write_png(path: Path, x: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path)


def test_folders_with_their_own_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content: dict[str, list[int]] = {"train": [], "test": []}
    for part, count in (("train", 40), ("test", 6)):
        for i in range(count):
            x = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            content[part].append(int(x.sum()))
            write_png(tmp_path / "mine" / part / ("cat" if i % 2 else "dog") / f"{i:02}.png", x)
    data = Images(path=str(tmp_path / "mine"), labels=True)
    assert (data.classes, data.class_names) == (2, ("cat", "dog"))
    parts = {part: data.split(part)[np.arange(len(data.split(part)))] for part in ("train", "valid", "test")}
    assert [len(x) for x, _ in parts.values()] == [38, 2, 6]
    assert sorted(parts["test"][0].sum((1, 2, 3)).tolist()) == sorted(content["test"])
    kept = torch.cat([parts["train"][0], parts["valid"][0]]).sum((1, 2, 3))
    assert sorted(kept.tolist()) == sorted(content["train"])
    assert parts["test"][1] is not None and parts["test"][1].tolist() == [0, 0, 0, 1, 1, 1]
    write_png(tmp_path / "mine" / "valid" / "dog" / "a.png", rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    data = Images(path=str(tmp_path / "mine"), labels=True)
    assert [len(data.split(part)) for part in ("train", "valid", "test")] == [40, 1, 6]
    write_png(tmp_path / "mine" / "test" / "cow" / "a.png", rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"test/cow: a class that .*train does not have"):
        Images(path=str(tmp_path / "mine"), labels=True).split("train")
    for name in ("train/cat/a.png", "val/cat/a.png"):
        write_png(tmp_path / "partly" / name, rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="holds the folder train; a split of its own is in folders named train and t"):
        Images(path=str(tmp_path / "partly"), labels=True).split("train")
    write_png(tmp_path / "mine" / "other" / "a.png", rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="holds the folder other beside train and test"):
        Images(path=str(tmp_path / "mine")).split("train")


def test_cifar10_as_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 1)):
        for name in CIFAR10_CLASSES:
            for i in range(count):
                x = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                write_png(tmp_path / "pngs" / part / name / f"{i}.png", x)
    data = CIFAR10(path=str(tmp_path / "pngs"), labels=True)
    assert [len(data.split(part)) for part in ("train", "valid", "test")] == [38, 2, 10]
    assert data.name == "pngs (not CIFAR-10)" and data.class_names == CIFAR10_CLASSES
    assert data.split("test")[np.arange(10)][1].tolist() == list(range(10))  # type: ignore[union-attr]
    write_png(tmp_path / "pngs" / "train" / "zebra" / "0.png", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"not CIFAR-10 as images.*truck, zebra"):
        CIFAR10(path=str(tmp_path / "pngs")).split("train")

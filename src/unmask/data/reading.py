"""Opening the user's files: what is hidden, what is compressed, what is text."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unmask.storage.limits import MOST_ROW, limit, too_long

CHUNK = 1 << 24
HEAD = 1 << 16
"""Bytes by which a file is recognised."""
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini")
MAGIC = {
    b"\x1f\x8b": ".gz",
    b"\xfd7zXZ\0": ".xz",
    b"PK\x03\x04": ".zip",
    b"PK\x05\x06": ".zip",
    b"\x28\xb5\x2f\xfd": ".zst",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")
UNREAD = (".lz4", ".lzma", ".br", ".7z", ".rar", ".z", ".tar", ".tgz", ".tbz2", ".txz")
"""Suffixes of archives that are not read, so that they are not taken for text."""
WIDE = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


class DamagedError(ValueError):
    """A file whose content cannot be read to its end."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is not data: hidden, or left there by an operating system."""
    return name.startswith(".") or name.lower() in CLUTTER


def visible_files(folder: Path) -> list[Path]:
    """Return all files in a folder and in the folders in it, sorted by path; hidden ones are left out.

    A folder that several links lead to is read once.

    Raises:
        FileNotFoundError: a link to nothing.
        ValueError: a pipe or a device.
    """
    found, read = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()  # which of several links is followed does not depend on the file system
        if (real := os.path.realpath(root)) in read:
            folders.clear()
            continue
        read.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(root, name) for name in names if not is_hidden(name)]
    for path in found:
        if not path.is_file():
            check_file(path)
    return sorted(found)


def check_file(path: Path) -> None:
    """Raise an error that names the path unless it is a regular file.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a folder, a pipe or a device.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, not a file")
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file, but a pipe or a device; save what it gives to a file first")


def compression(path: Path) -> str | None:
    """Return the suffix of the compression of a file, by its content; None for a file that is not compressed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file's name and its content contradict each other, or it is an archive that is not read.
    """
    check_file(path)
    with open(path, "rb") as file:
        head = file.read(16)
    if found := _magic(head):
        return found
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        what = "the file is empty" if not head else f"named {suffix}, but its content is not; rename it if it is plain"
        raise DamagedError(f"{path}: damaged or truncated archive: {what}")
    if suffix in UNREAD:
        raise ValueError(f"{path}: {suffix} is not read, but {', '.join(COMPRESSED)} and plain files are; unpack it")
    return None


def _magic(head: bytes) -> str | None:
    """Return the suffix of the compression that begins like this."""
    if head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):  # a block, or the end of an empty file
        return ".bz2"
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:  # a frame of zstd's that is to be skipped
        return ".zst"
    return next((suffix for start, suffix in MAGIC.items() if head.startswith(start)), None)


class _Named(io.RawIOBase):
    """Bytes from a decompressor, whose errors name the file; an endless line is one."""

    def __init__(self, file: Any, path: Path, errors: tuple[type[Exception], ...], most: int) -> None:
        self.file, self.path, self.errors = file, path, errors
        self.most, self.line = most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self.file.read(len(buffer))
        except self.errors as error:
            raise DamagedError(f"{self.path}: damaged or truncated archive: {error}") from None
        at = content.rfind(b"\n") + 1
        self.line = len(content) - at + (0 if at else self.line)
        if self.line > self.most:
            raise too_long(f"{self.path}: a line", self.most)
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def open_text(path: Path) -> Iterator[Any]:
    """Open a file for reading bytes, decompressing gzip, bzip2, xz, zstd and a zip archive of one file.

    What a file is compressed with is decided by its content.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a regular file, damaged, an archive of several files, compressed twice, or one whose line is
            longer than 4 GiB; names it.
        ImportError: a package that decompresses it is not installed.
    """
    kind = compression(path)
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
    errors += (RuntimeError, NotImplementedError)  # zip: a password, an unknown method
    with ExitStack() as stack:
        if kind == ".zip":
            file: Any = stack.enter_context(_open_zip(path, errors))
        elif kind == ".zst":
            file, error = _open_zstd(path)
            stack.callback(file.close)
            errors += (error,)
        else:
            openers: dict[str | None, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, None: open}
            file = stack.enter_context(openers[kind](path, "rb"))
        most = sys.maxsize if kind is None else limit()  # what a small archive holds can be as long as it likes
        reader = io.BufferedReader(_Named(file, path, errors, most), 1 << 20)
        if kind is not None:
            _check_inside(reader.peek(HEAD), path)
        yield reader


@contextmanager
def _open_zip(path: Path, errors: tuple[type[Exception], ...]) -> Iterator[Any]:
    try:
        archive = zipfile.ZipFile(path)
    except errors as error:
        raise DamagedError(f"{path}: damaged or truncated archive: {error}") from None
    with archive:
        name = only_member(path, archive)
        try:
            file = archive.open(name)
        except errors as error:
            raise DamagedError(f"{path}: {name} in it cannot be opened: {error}") from None
        with file:
            yield file


def only_member(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the name of the only file in an archive."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = [name for name in names if not any(map(is_hidden, name.split("/")))]
    if len(names) != 1:
        raise ValueError(
            f"{path}: expected an archive of one file, found {len(names)}: {names[:5]}; unpack it and name its folder"
        )
    return names[0]


def _open_zstd(path: Path) -> tuple[Any, type[Exception]]:
    """Open a file of zstd; return it with the class of its errors."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14

        return zstd.open(path, "rb"), zstd.ZstdError
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        raise ImportError(f"{path}: reading .zst needs the package zstandard: pip install 'unmask[text]'") from None
    return _Zstd(open(path, "rb"), zstandard.ZstdDecompressor(max_window_size=1 << 31)), zstandard.ZstdError


class _Zstd:
    """Frames of zstd one after another; a file that ends within one is an error, which zstandard's own reader hides."""

    def __init__(self, file: Any, decompressor: Any) -> None:
        self.file, self.decompressor = file, decompressor
        self.frame, self.held, self.begun = decompressor.decompressobj(), memoryview(b""), False

    def read(self, size: int) -> bytes:
        while not self.held:
            chunk = self.frame.unused_data if self.frame.eof else b""
            if self.frame.eof:
                self.frame, self.begun = self.decompressor.decompressobj(), False
            chunk = chunk or self.file.read(1 << 9)  # 4 bytes can stand for 128 KiB
            if not chunk:
                if self.begun:
                    raise EOFError("it ends within a frame")
                return b""
            self.begun = True
            self.held = memoryview(self.frame.decompress(chunk))
        found, self.held = self.held[:size], self.held[size:]
        return bytes(found)

    def close(self) -> None:
        self.file.close()


def _check_inside(head: bytes, path: Path) -> None:
    """Raise a ValueError if what was compressed is an archive itself."""
    if head[257:262] == b"ustar":
        raise ValueError(f"{path}: an archive of files (tar); unpack it and name its folder")
    if found := _magic(head):
        raise ValueError(f"{path}: is compressed twice ({found} inside); unpack it once")


def characters(path: Path) -> Iterator[str]:
    r"""Yield the text of a UTF-8 file in pieces.

    It is the same whatever program wrote it: `\r\n` is a line end like `\n`, and neither a byte order mark at the start
    nor a line end at the very end is part of the text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bytes that are not UTF-8, or a damaged archive; names the file and the offset.
    """
    held = ""  # a line end is not given out before it is known what follows
    for text in _decoded(path):
        text = held + text
        kept = len(text) - (2 if text.endswith("\r\n") else text.endswith(("\r", "\n")))
        held = text[kept:]
        if text := text[:kept].replace("\r\n", "\n"):
            yield text
    if rest := held.replace("\r\n", "\n").removesuffix("\n"):
        yield rest


def _decoded(path: Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file as it stands, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_text(path) as file, tqdm(desc=f"reading {path.name}", unit="B", unit_scale=True, delay=2) as bar:
        for mark, name in WIDE.items():
            if file.peek(4).startswith(mark):
                raise ValueError(f"{path}: the text is {name}, not UTF-8; convert it, as with iconv -f {name}")
        offset = len(file.read(3)) if file.peek(3).startswith(codecs.BOM_UTF8) else 0
        while True:
            chunk = file.read(CHUNK)
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                at = offset - held + error.start
                raise ValueError(
                    f"{path}: byte 0x{error.object[error.start]:02x} at offset {at} is not UTF-8"
                ) from None
            bar.update(len(chunk))
            offset += len(chunk)
            if text:
                yield text
            if not chunk:
                return


def lines(path: Path) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 file, each but the last with its `\n`; see `characters`.

    Raises:
        ValueError: of `characters`; or a line is longer than 256 MiB.
    """
    most, held, size = limit(MOST_ROW), [""], 0
    for text in characters(path):
        *whole, last = text.split("\n")
        if whole:
            whole[0] = "".join([*held, whole[0]])
            yield from (f"{line}\n" for line in whole)
            held, size = [], 0
        held.append(last)
        size += len(last)
        if size > most:
            raise too_long(f"{path}: a line", most)
    if rest := "".join(held):
        yield rest

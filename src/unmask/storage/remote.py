"""Folders elsewhere: s3://, gs://, hf:// and whatever else fsspec opens, through a cache on this machine.

Credentials are those that the packages of each kind (s3fs, gcsfs, huggingface_hub) find by themselves.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from unmask.storage.files import replacing

FETCHED = ".fetched.json"
"""In a copy of a folder: which version of each file it holds."""
BLOCK = 1 << 22
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
WRITTEN_LAST = ("config.json", "index.json")
"""Files that hold the checksums of the others, of a model and of a corpus."""
MIRROR = "mirror.json"
"""In a folder elsewhere that holds the copy of a run: what it holds (`unmask.storage.mirror`)."""
FLAT = {*PACKAGES, "hf", "abfs", "abfss", "az", "oss"}
"""Kinds of places without folders: making one would make a bucket of a mistyped name."""


def is_remote(name: Path | str) -> bool:
    """Return whether a name is that of a file or folder elsewhere, such as s3://bucket/model."""
    return isinstance(name, str) and "://" in name


def check_url(url: str, what: str) -> None:
    """Raise a ValueError for what is no URL of a folder, with the name of what it is for."""
    scheme, found, path = url.partition("://")
    if not found or not re.fullmatch(r"[A-Za-z][\w+.:-]*", scheme) or not path.strip("/"):
        raise ValueError(f"{what} must be a URL of a folder, such as s3://bucket/run; got {url!r}")


def child(url: str, name: str) -> str:
    """Return the URL of a file in a folder."""
    return f"{url.rstrip('/')}/{name}"


def last_name(url: str) -> str:
    """Return the last part of a URL."""
    return url.rstrip("/").rpartition("/")[2]


@contextmanager
def naming(url: str, what: str = "read") -> Iterator[None]:
    """Turn whatever goes wrong elsewhere into one line that names the place.

    Raises:
        FileNotFoundError: nothing is there.
        ConnectionError: no connection, wrong credentials, or no right to do it.
        ImportError: the package for this kind of place is not installed.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{url}: no such file or folder, or no right to see it") from None
    except ImportError as error:
        name = PACKAGES.get(url.partition("://")[0])
        how = f"needs the package {name}: pip install 'unmask[remote]'" if name else str(error)
        raise ImportError(f"{url}: {how}") from None
    except ValueError as error:  # fsspec's, of a kind of place that it does not know
        raise ValueError(f"{url}: {error}" if url not in str(error) else str(error)) from None
    except Exception as error:  # each kind of place has errors of its own
        said = " ".join(str(error).split()) or type(error).__name__
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        raise ConnectionError(
            f"{url}: cannot be {what}: {said:.200}{'' if full else '; are the credentials right?'}"
        ) from None


def filesystem(url: str) -> tuple[Any, str]:
    """Return what opens a URL, and the path in it."""
    from fsspec.core import url_to_fs

    with naming(url):
        fs, path = url_to_fs(url)
        return fs, path.rstrip("/")


def fetch(url: str, target: Path, sha256: str | None = None) -> None:
    """Copy a file to this machine.

    Raises:
        FileNotFoundError, ConnectionError, ImportError: see `naming`.
        ValueError: its SHA-256 is not the one that is given; nothing is left here then.
    """
    fs, path = filesystem(url)
    digest = hashlib.sha256()
    with replacing(target) as temporary, open(temporary, "wb") as file:
        with naming(url), fs.open(path, "rb", block_size=BLOCK) as source:
            while block := source.read(BLOCK):
                digest.update(block)
                file.write(block)
        file.flush()
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ValueError(f"{url}: damaged: its SHA-256 is not what it should be")


def fetch_folder(url: str, folder: Path, wanted: Callable[[str], bool]) -> Path:
    """Copy the files of a folder elsewhere that have changed since they were last copied, and return `folder`.

    Args:
        url: of the folder.
        folder: on this machine.
        wanted: tells by its name whether a file is copied.

    Raises:
        FileNotFoundError, ConnectionError, ImportError: see `naming`.
    """
    from filelock import FileLock

    fs, path = filesystem(url)
    with naming(url):
        fs.invalidate_cache(path)
        found = {last_name(one["name"]): one["name"] for one in fs.ls(path, detail=True) if one["type"] == "file"}
        plain = {name: place for name, place in found.items() if is_inside(name)}
        versions = {name: str(fs.ukey(place)) for name, place in plain.items() if wanted(name)}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        known = _known(folder)
        for name in known.keys() - versions.keys():
            (folder / name).unlink(missing_ok=True)
        for name, version in sorted(versions.items(), key=lambda one: one[0] in WRITTEN_LAST):
            if known.get(name) != version or not (folder / name).is_file():
                fetch(child(url, name), folder / name)
        with replacing(folder / FETCHED) as target:
            target.write_text(json.dumps(versions), encoding="utf-8")
    return folder


def _known(folder: Path) -> dict[str, str]:
    """Return which version of each file a copy of a folder holds."""
    with suppress(OSError, ValueError, RecursionError):
        known = json.loads((folder / FETCHED).read_text(encoding="utf-8"))
        return {name: known[name] for name in known if is_file_name(name)}
    return {}


def names_below(url: str) -> set[str]:
    """Return the names of the files below a folder elsewhere, relative to it, but for any that would lie outside."""
    fs, path = filesystem(url)
    with naming(url):
        fs.invalidate_cache(path)
        names = {str(name)[len(path) :].lstrip("/") for name in fs.find(path)}
    return {name for name in names if is_inside(name)}


def is_inside(name: str) -> bool:
    """Return whether a path stays in the folder that it is relative to, on every system."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not {*"\\:\0"} & {*name}


def is_file_name(name: Any) -> bool:
    """Return whether something that was read is the name of a file in the folder that it was read from."""
    return isinstance(name, str) and is_inside(name) and "/" not in name


def folders_in(url: str) -> set[str]:
    """Return the names of the folders and files in a folder elsewhere."""
    fs, path = filesystem(url)
    with naming(url):
        fs.invalidate_cache(path)
        return {last_name(one["name"]) for one in fs.ls(path, detail=True)}


def upload_folder(folder: Path | str, url: str) -> str:
    """Copy all files of a folder to a place elsewhere, config.json or index.json last; return the URL.

    These hold the checksums of the others: whoever reads a folder that is half written is told so.

    Raises:
        ConnectionError, ImportError: see `naming`.

    Example:
        upload_folder("data/openwebtext", "s3://bucket/openwebtext")
    """
    check_url(url, "the place")
    there = names_at(url)
    if MIRROR in there:
        raise ValueError(f"{url}: holds the copy of a run ({MIRROR}); name another place")
    if others := [name for name in WRITTEN_LAST if name in there and not Path(folder, name).is_file()]:
        raise ValueError(f"{url}: holds something else ({others[0]}); name another place")
    files = [file for file in sorted(Path(folder).rglob("*")) if file.is_file() and not file.name.startswith(".")]
    for file in sorted(files, key=lambda file: file.name in WRITTEN_LAST):
        put(file, child(url, file.relative_to(folder).as_posix()))
    return url


def put(file: Path, url: str) -> None:
    """Copy a file of this machine to a place elsewhere.

    Raises:
        FileNotFoundError, ConnectionError, ImportError: see `naming`.
    """
    fs, path = filesystem(url)
    with naming(url, "written"):
        _make_folder(fs, url, path)
        fs.put_file(os.fspath(file), path)


def put_whole(content: bytes, url: str) -> None:
    """Write a small file elsewhere in one step: what is there before is there until all of the new one is.

    Raises:
        FileNotFoundError, ConnectionError, ImportError: see `naming`.
    """
    fs, path = filesystem(url)
    with naming(url, "written"):
        if _is_flat(url):  # a whole object at a time is all that these know
            fs.pipe_file(path, content)
            return
        _make_folder(fs, url, path)
        above, _, name = path.rpartition("/")
        temporary = f"{above}/.{name}.{secrets.token_hex(4)}"
        try:
            fs.pipe_file(temporary, content)
            fs.mv(temporary, path)
        finally:
            with suppress(Exception):
                fs.rm_file(temporary)


def _is_flat(url: str) -> bool:
    return bool(FLAT & {*url.partition("://")[0].split(":")})


def _make_folder(fs: Any, url: str, path: str) -> None:
    if not _is_flat(url):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)


def names_at(url: str) -> set[str]:
    """Return the names in a folder elsewhere; none where there is no such folder."""
    try:
        return folders_in(url)
    except FileNotFoundError:
        return set()


@contextmanager
def uploading(url: str) -> Iterator[Path]:
    """Yield a folder on this machine, whose files are copied to a place elsewhere when the block ends well."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, last_name(url))
        folder.mkdir()
        yield folder
        upload_folder(folder, url)

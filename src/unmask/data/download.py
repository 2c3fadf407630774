"""Fetching files, once, into the cache, with their checksums."""

import hashlib
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from unmask.storage.files import replacing
from unmask.storage.folders import cache_folder


def fetch(url: str, check: Callable[[Path], None], size: int | None = None) -> Path:
    """Return a downloaded file, from the cache where it is there.

    Args:
        url: where it is.
        check: raises a ValueError for a file that is not what it should be.
        size: in bytes, where it is known.

    Raises:
        ConnectionError: the file cannot be had.
        ValueError: the size or the checksum is wrong; nothing is kept.
    """
    name = url.rsplit("/", 1)[1]
    target = cache_folder() / "downloads" / name
    if target.is_file():
        return target
    with replacing(target) as path:
        try:
            with (
                urllib.request.urlopen(url, timeout=60) as response,
                tqdm.wrapattr(response, "read", total=size, desc=f"downloading {name}", unit="B") as body,
                open(path, "wb") as file,
            ):
                shutil.copyfileobj(body, file)
        except OSError as error:
            raise ConnectionError(
                f"cannot download {url} ({error}); fetch it by other means and give --data.path, where it is"
            ) from error
        if size is not None and path.stat().st_size != size:
            raise ValueError(f"{name}: {path.stat().st_size} bytes were downloaded, {size} are expected; try again")
        check(path)
    return target


def check_md5(path: Path, md5: str) -> None:
    """Raise a ValueError unless a file has this MD5."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise ValueError(f"{path.name}: has MD5 {found}, expected {md5}; the download is damaged, try again")

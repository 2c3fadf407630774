"""Copies of runs elsewhere: files whose names say what is in them, and one, written last, that lists them.

    mirror.json     {"run", "step", "files": {path in the run's folder: SHA-256}, "owner", "next", "unused": [...]}
    checkpoints/last-3f9ac01b54d2e877.safetensors, ...

What the list names is never written again, and the list is replaced in one step. So it always is of one whole
checkpoint, wherever a copy is cut off. Nothing is removed from the folder elsewhere but what a list has named.
"""

import json
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from unmask.storage.files import checksum
from unmask.storage.folders import CHECKPOINT, MODEL
from unmask.storage.objects import MOST_JSON
from unmask.storage.remote import MIRROR, child, fetch, filesystem, is_inside, naming, put, put_whole

TRIES = 3
"""How often a copy is read anew that was replaced meanwhile."""
VERSIONED = re.compile(r"(?:[^/.][^/]*/)*[^/.][^/]*-[0-9a-f]{16}(?:\.[^/]+)?")
"""Names of files elsewhere."""


@dataclass(frozen=True)
class Mirror:
    """What the copy of a run holds.

    Attributes:
        run: which run it is (`id` in its run.json).
        step: of its checkpoint; -1: nothing was copied yet.
        files: path in the folder of the run: SHA-256.
        owner: random text of the process that may write the copy.
        next: which run is to take its place; empty: none.
        unused: names of files that may still be there, and that nothing needs.
    """

    run: str
    step: int = -1
    files: dict[str, str] = field(default_factory=dict)
    owner: str = ""
    next: str = ""
    unused: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """Names of the files elsewhere."""
        return {versioned(path, sha256) for path, sha256 in self.files.items()}


class TakenOverError(ConnectionError):
    """Another process has written the list of a copy, or it was removed."""


def versioned(path: str, sha256: str) -> str:
    """Return the name elsewhere of a file of some content.

    Examples:
        >>> from unmask.storage.mirror import versioned
        >>> versioned("checkpoints/last.safetensors", "3f9ac01b54d2e877" + 48 * "0")
        'checkpoints/last-3f9ac01b54d2e877.safetensors'
    """
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{pure.stem}-{sha256[:16]}{pure.suffix}"))


def read_mirror(url: str) -> Mirror | None:
    """Return what the copy of a run elsewhere holds; None: there is none.

    Raises:
        ConnectionError, ImportError: see `unmask.storage.remote.naming`.
        ValueError: its list is damaged.
    """
    fs, path = filesystem(url)
    with naming(url):
        fs.invalidate_cache(path)
        try:
            text = fs.cat_file(f"{path}/{MIRROR}") if fs.size(f"{path}/{MIRROR}") <= MOST_JSON else b""
        except FileNotFoundError:
            return None
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{child(url, MIRROR)}: damaged, or not of unmask: {error}") from None


def _parsed(content: Any) -> Mirror:
    found = Mirror(**content)
    texts = (found.run, found.owner, found.next, *found.files, *found.files.values(), *found.unused)
    kinds = ((found.step, int), (found.files, dict), (found.unused, list), *((text, str) for text in texts))
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise ValueError("not as it was written")
    if not all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in found.files.values()):
        raise ValueError("a checksum is none")
    for name in (*found.names, *found.unused):
        if not is_inside(name) or not VERSIONED.fullmatch(name):
            raise ValueError(f"{name!r:.100} is no name of a file of a run")
    return found


def write_mirror(url: str, mirror: Mirror) -> None:
    """Write what a copy holds, in one step.

    Raises:
        ConnectionError, ImportError: see `unmask.storage.remote.naming`.
    """
    put_whole(json.dumps(asdict(mirror), indent=1).encode(), child(url, MIRROR))


def send(folder: Path, url: str, run: str, step: int, owner: str = "", missing: Collection[str] = ()) -> Mirror:
    """Make the copy elsewhere that of a folder; return what it holds then.

    Args:
        folder: with the files of a run, which nothing changes meanwhile.
        url: of the copy.
        run: which run it is.
        step: of its checkpoint.
        owner: of the copy, as the list there says.
        missing: names that are listed there, but gone.

    Raises:
        TakenOverError: the list is not of this owner; nothing was changed.
        ConnectionError, ImportError: see `unmask.storage.remote.naming`. The copy is what it was before then.
    """
    there = read_mirror(url)
    if owner != ("" if there is None else there.owner):
        raise TakenOverError(f"{url}: another process has written {MIRROR}, or it was removed: no more is copied there")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sums = {name: checksum(path) for name, path in files.items()}
    old, new = there or Mirror(run, owner=owner), Mirror(run, step, sums, owner)
    coming = new.names - (old.names - {*missing})
    write_mirror(url, replace(old, unused=sorted({*old.unused} | coming)))  # as it may be cut off
    for name, path in files.items():
        if versioned(name, sums[name]) in coming:
            put(path, child(url, versioned(name, sums[name])))
    new = replace(new, unused=sorted((old.names | {*old.unused}) - new.names))
    write_mirror(url, new)
    if new.unused:
        new = replace(new, unused=_remove(url, new.unused))
        write_mirror(url, new)
    return new


def _remove(url: str, names: list[str]) -> list[str]:
    """Remove files elsewhere, and return the names of those that cannot be: a copy is not worse for them."""
    fs, path = filesystem(url)
    left = []
    for name in names:
        try:
            with suppress(FileNotFoundError):
                fs.rm_file(f"{path}/{name}")
        except Exception:  # each kind of place has errors of its own
            left.append(name)
    return left


def receive(url: str, folder: Path, wanted: Callable[[str], bool]) -> Mirror:
    """Fetch files of the copy of a run, the checkpoint last: what is cut off is not gone on with.

    Args:
        url: of the copy.
        folder: that they are put into; those that are there already are not fetched.
        wanted: tells of a path in the run's folder whether it is fetched.

    Raises:
        FileNotFoundError: there is no copy, or no checkpoint was copied yet.
        ConnectionError, ImportError: see `unmask.storage.remote.naming`.
        ValueError: a file is damaged.
    """
    for _ in range(TRIES - 1):
        with suppress(FileNotFoundError):  # the next checkpoint has taken its place meanwhile
            return _received(url, folder, wanted)
    return _received(url, folder, wanted)


def _received(url: str, folder: Path, wanted: Callable[[str], bool]) -> Mirror:
    mirror = read_mirror(url)
    if mirror is None or mirror.step < 0:
        raise FileNotFoundError(f"{url}: no checkpoint of a run was copied there yet")
    for path in sorted(filter(wanted, mirror.files), key=lambda path: path == CHECKPOINT.as_posix()):
        sha256 = mirror.files[path]
        if not (folder / path).is_file() or checksum(folder / path) != sha256:
            fetch(child(url, versioned(path, sha256)), folder / path, sha256)
    return mirror


def receive_model(url: str, folder: Path) -> Path:
    """Fetch the model of a run's copy or, where it is not finished, what its checkpoint is loaded with.

    Args:
        url: of the copy.
        folder: for copies of this one; what is there already is not fetched again.

    Raises:
        FileNotFoundError, ConnectionError, ImportError, ValueError: see `receive`.
    """
    from filelock import FileLock

    def needed(path: str) -> bool:
        first, _, rest = path.partition("/")
        return not rest or (first == CHECKPOINT.parent.name and not rest.startswith("best"))

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        mirror = read_mirror(url)
        finished = mirror is not None and any(path.startswith(f"{MODEL}/") for path in mirror.files)
        wanted = (lambda path: path.startswith(f"{MODEL}/")) if finished else needed
        mirror = receive(url, folder, wanted)
        kept = {folder / path for path in filter(wanted, mirror.files)}
        for path in [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]:
            if path not in kept:
                path.unlink()
    return folder / MODEL if finished else folder

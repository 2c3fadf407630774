"""Copies of runs elsewhere: files whose names say what is in them, and one, written last, that lists them.

    mirror.json                             {"run", "step", "files": {path: [name, SHA-256]}, "unused": [name, ...]}
    checkpoints/last-3f9ac01b54d2e877.safetensors, ...

What the list names is never written again, so the list is of one checkpoint whatever is killed when. Of the folder
elsewhere nothing is removed but what a list has named.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from unmask.storage.files import checksum
from unmask.storage.objects import MOST_JSON
from unmask.storage.remote import fetch, filesystem, is_inside, naming, put

MIRROR = "mirror.json"
TRIES = 3
"""How often a copy is read anew that was replaced meanwhile."""


@dataclass(frozen=True)
class Mirror:
    """What the copy of a run holds.

    Attributes:
        run: which run it is (`id` in its run.json).
        step: of its checkpoint; -1: nothing was copied yet.
        files: path in the folder of the run: [name elsewhere, SHA-256].
        unused: names of files that may still be there, and that nothing needs.
    """

    run: str
    step: int = -1
    files: dict[str, list[str]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """Names of the files elsewhere."""
        return {name for name, _ in self.files.values()}


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
            size = fs.size(f"{path}/{MIRROR}")
            text = fs.cat_file(f"{path}/{MIRROR}") if size <= MOST_JSON else b""
        except FileNotFoundError:
            return None
    return _parsed(text, url)


def _parsed(text: bytes | str, where: str) -> Mirror:
    try:
        found = Mirror(**json.loads(text))
        files = [(path, *entry) for path, entry in found.files.items()]
        plain = all(isinstance(one, str) for entry in files for one in entry) and isinstance(found.run, str)
        inside = all(is_inside(name) for name in (*found.files, *found.names, *found.unused))
        if not plain or not inside or not isinstance(found.step, int) or any(len(entry) != 3 for entry in files):
            raise ValueError("not as it was written")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where}/{MIRROR}: damaged, or not of unmask: {error}") from None
    return found


def write_mirror(url: str, mirror: Mirror) -> None:
    """Write what a copy holds.

    Raises:
        ConnectionError, ImportError: see `unmask.storage.remote.naming`.
    """
    put(json.dumps(asdict(mirror), indent=1).encode(), f"{url.rstrip('/')}/{MIRROR}")


def send(folder: Path, url: str, run: str, step: int, before: Mirror | None) -> Mirror:
    """Make the copy elsewhere that of a folder; return what it holds then.

    Args:
        folder: with the files of a run, which nothing changes meanwhile.
        url: of the copy.
        run: which run it is.
        step: of its checkpoint.
        before: what is there.

    Raises:
        ConnectionError, ImportError: see `unmask.storage.remote.naming`. The copy is what it was before then.
    """
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        path, sha256 = file.relative_to(folder), checksum(file)
        files[path.as_posix()] = [path.with_name(f"{path.stem}-{sha256[:16]}{path.suffix}").as_posix(), sha256]
    old = before or Mirror(run)
    new = Mirror(run, step, files)
    coming = new.names - old.names
    write_mirror(url, Mirror(old.run, old.step, old.files, sorted({*old.unused} | coming)))  # as it may be cut off
    for place, (name, _) in files.items():
        if name in coming:
            put(folder / place, f"{url.rstrip('/')}/{name}")
    unused = sorted((old.names | {*old.unused}) - new.names)
    write_mirror(url, Mirror(run, step, files, unused))
    return Mirror(run, step, files, _remove(url, unused))


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


def receive(url: str, folder: Path, wanted: Callable[[Mirror], dict[str, str]]) -> Mirror:
    """Fetch files of the copy of a run, the checkpoint last.

    Args:
        url: of the copy.
        folder: that they are put into; those that are there already are not fetched.
        wanted: of what the copy holds, {path in the run's folder: path in `folder`}.

    Raises:
        FileNotFoundError: there is no copy, or no checkpoint was copied yet.
        ConnectionError, ImportError: see `unmask.storage.remote.naming`.
        ValueError: a file is damaged.
    """
    for _ in range(TRIES - 1):
        with suppress(FileNotFoundError):  # the next checkpoint has taken its place meanwhile
            return _received(url, folder, wanted)
    return _received(url, folder, wanted)


def _received(url: str, folder: Path, wanted: Callable[[Mirror], dict[str, str]]) -> Mirror:
    mirror = read_mirror(url)
    if mirror is None or mirror.step < 0:
        raise FileNotFoundError(f"{url}: no checkpoint of a run was copied there yet")
    for path, target in sorted(wanted(mirror).items(), key=lambda one: one[0].endswith("last.safetensors")):
        name, sha256 = mirror.files[path]
        if not (folder / target).is_file() or checksum(folder / target) != sha256:
            fetch(f"{url.rstrip('/')}/{name}", folder / target, sha256)
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

    def wanted(mirror: Mirror) -> dict[str, str]:
        finished = {path: path for path in mirror.files if path.startswith("model/")}
        return finished or {
            path: path
            for path in mirror.files
            if "/" not in path or (path.startswith("checkpoints/") and not path.endswith("best.safetensors"))
        }

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        mirror = receive(url, folder, wanted)
        kept = {folder / path for path in wanted(mirror).values()}
        for path in [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]:
            if path not in kept:
                path.unlink()
    return folder / "model" if any(path.startswith("model/") for path in mirror.files) else folder

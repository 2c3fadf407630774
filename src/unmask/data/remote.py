"""A corpus that lies elsewhere (s3://, gs://, hf://): its shards are copied when, or shortly before, they are read."""

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from unmask.data.index import SUFFIXES, Index, Shard
from unmask.data.packing import WINDOW, Shards
from unmask.storage.folders import INDEX, cache_folder
from unmask.storage.remote import fetch_folder, last_name
from unmask.storage.shard_cache import ShardCache

TRIES = 3
SMALL = (".json", ".jinja")
"""Endings of the files beside the shards."""


def open_remote(url: str) -> "RemoteShards":
    """Return the tokens of a corpus elsewhere, whose small files are copied at once.

    Raises:
        FileNotFoundError: there is no corpus.
        ConnectionError: it cannot be read; ImportError: by the packages that are installed.
        ValueError: it is damaged, or its preparation was interrupted.
    """
    key = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    folder = cache_folder() / "corpora" / f"{last_name(url)}-{key}"
    fetch_folder(url, folder, lambda name: name.endswith(SMALL))
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{url}: no prepared corpus ({INDEX}) there; unmask prepare makes one")
    index = Index.read(folder)
    if not index.complete:
        raise ValueError(f"{url}: its preparation was interrupted; finish it, and copy it there anew")
    return RemoteShards(folder, index, url)


class RemoteShards(Shards):
    """The tokens of a corpus elsewhere; `Shards` says what they are for.

    Args:
        folder: on this machine, with its small files.
        index: of it.
        url: of the corpus.
    """

    elsewhere = True

    def __init__(self, folder: Path, index: Index, url: str) -> None:
        super().__init__(folder, index)
        self.cache = ShardCache(url)
        self.last = -1

    def expect(self, numbers: Integer[np.ndarray, " shards"]) -> None:
        """Fetch shards in the background."""
        self._expect([self.index.shards[number] for number in numbers.tolist() if number not in self.maps], 0)

    def _expect(self, shards: list[Shard], kind: int) -> None:
        self.cache.expect((f"{shard.name}{SUFFIXES[kind]}", shard.sha256[kind]) for shard in shards)

    def _file(self, shard: Shard, kind: int) -> Path:
        if kind == 1 and shard is self.index.shards[0]:  # those of all are read now
            self._expect([*self.index.shards], kind)
        return self.cache.get(f"{shard.name}{SUFFIXES[kind]}", shard.sha256[kind])

    def _map(self, shard: Shard) -> Integer[np.ndarray, " tokens"]:
        for _ in range(TRIES):
            with suppress(FileNotFoundError):  # another process needed the room
                return super()._map(shard)
        return super()._map(shard)

    def _mapped(self, number: int) -> Integer[np.ndarray, " tokens"]:
        """Return the tokens of a shard; the next one is fetched where shards are read one after another."""
        if number == self.last + 1 < len(self.index.shards) - 1:
            self.expect(np.array([number + 1]))
        self.last = number
        if number not in self.maps and len(self.maps) >= 2 * WINDOW:
            self.maps.pop(next(iter(self.maps)))  # so that what was removed no longer takes room
        return super()._mapped(number)

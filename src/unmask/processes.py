"""Several processes that share one call: the same program, started by torchrun, on one machine or on many.

Item i of the work goes to process i mod W, and every process gets all results, in order: what comes out is what one
process gives. Without torchrun there is one process, on the same path.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, wraps
from itertools import islice, zip_longest
from typing import Any, ParamSpec, TypeVar

from tqdm import tqdm

from unmask.storage.plain import from_bytes, to_bytes

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
RANK, WORLD, LOCAL = "RANK", "WORLD_SIZE", "LOCAL_RANK"
JOIN = 600
"""Seconds within which all processes must have come."""
EXCHANGE = 24 * 3600
"""Seconds for which a process waits for the results of others that are still at work; one that ends is noticed."""
MOMENT = 2.0
"""Seconds within which processes say that they failed at the same."""
EVERY = 16
"""Items of each process between two exchanges."""
FAILED = "failed"
"""Name of the count of processes that have failed."""
MISSING = object()


def rank() -> int:
    """Return the number of this process, 0 if it is the only one."""
    return _from_environment(RANK, 0) if world() > 1 else 0


def world() -> int:
    """Return the number of processes that were started together."""
    return _from_environment(WORLD, 1)


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return _from_environment(LOCAL, 0) if world() > 1 else 0


def _from_environment(name: str, default: int) -> int:
    """Return a number that torchrun has set; the default where it did not start this process."""
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() and RANK in os.environ and "MASTER_ADDR" in os.environ else default


@dataclass(frozen=True)
class Processes:
    """The processes that share a call.

    Args:
        rank: number of this one.
        world: how many there are.
        group: through which they exchange results; None for a single process.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    def exchange(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank; tensors come to the CPU.

        Raises:
            ConnectionError: another process has ended.
        """
        if self.world == 1:
            return [value]
        import torch

        sent = torch.frombuffer(bytearray(to_bytes(value)), dtype=torch.uint8)
        sizes = torch.cat(self._gather(torch.tensor([len(sent)]))).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(sent)] = sent
        parts = zip(self._gather(padded), sizes, strict=True)
        return [from_bytes(part[:size].numpy().tobytes()) for part, size in parts]

    def _gather(self, tensor: Any) -> list[Any]:
        found = [tensor.new_empty(tensor.shape) for _ in range(self.world)]
        try:
            self.group.allgather([found], [tensor]).wait()
        except RuntimeError as error:
            said = " ".join(str(error).split()).partition("] ")[2].partition(". ")[0]
            raise ConnectionError(f"{_lost() or 'another process'} ended early, or does not answer ({said})") from None
        return found


ALONE = Processes()
_current: ContextVar[Processes] = ContextVar("processes", default=ALONE)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Share the work of the block among the processes that torchrun started, all of which must come to it.

    Only process 0 is heard on standard error. Where torch.distributed has been initialised, as in training, each
    process works for itself; so does one that shares something already.

    Raises:
        ConnectionError: the others do not come, or one has ended.
    """
    import torch

    taken = torch.distributed.is_available() and torch.distributed.is_initialized()
    if world() == 1 or taken or _current.get() is not ALONE:
        yield
        return
    token = _current.set(_joined())
    try:
        with one_voice():
            yield
    finally:
        _current.reset(token)


def shared(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function share its work; see `together`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with together():
            return function(*args, **kwargs)

    return call


def several() -> bool:
    """Return whether several processes share a call."""
    return _current.get().world > 1


def first() -> bool:
    """Return whether this process is the one that writes what a shared call gives."""
    return _current.get().rank == 0


def own(items: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Yield the items that are this process's, each with its number; of a sequence no others are read."""
    here = _current.get()
    if isinstance(items, Sequence):
        return ((i, items[i]) for i in range(here.rank, len(items), here.world))
    return islice(enumerate(items), here.rank, None, here.world)


def in_order(
    work: Callable[[int, T], R], items: Iterable[T], *, every: int = EVERY, title: str | None = None
) -> Iterator[R]:
    """Yield work(i, item) of each item, in order, on every process; item i is worked on by process i mod W.

    Args:
        work: takes the number of an item, and the item. What it returns is sent to the other processes: plain values
            and tensors, and tuples, lists and dicts of these.
        items: the same on all processes.
        every: so many items of each process are worked on between two exchanges.
        title: of a progress bar over the items of this process; None: there is none.

    Raises:
        ConnectionError: another process has ended.
    """
    here, mine = _current.get(), own(items)
    total = -(-(len(items) - here.rank) // here.world) if isinstance(items, Sequence) else None
    with tqdm(total=total, desc=title, unit="batch", delay=2, disable=title is None) as bar:
        while True:
            done = []
            for i, item in islice(mine, every):
                token = _current.set(ALONE)  # what it calls is not shared once more
                try:
                    done.append(work(i, item))
                finally:
                    _current.reset(token)
                bar.update()
            rounds = here.exchange(done)
            for results in zip_longest(*rounds, fillvalue=MISSING):
                yield from (result for result in results if result is not MISSING)
            if len(rounds[0]) < every:  # process 0 has the last round's first item
                return


def agreed(value: T) -> T:
    """Return the value that process 0 has."""
    here = _current.get()
    return here.exchange(value if here.rank == 0 else None)[0]


def check_same(**values: Any) -> None:
    """Raise a ValueError, the same on all processes, unless all have the same values: data, weights, settings."""
    everyone = _current.get().exchange(values)
    for number, theirs in enumerate(everyone):
        for name, value in theirs.items():
            if value != everyone[0][name]:
                raise ValueError(
                    f"process {number} of {len(everyone)} has another {name} than process 0: {value!s:.80}, not "
                    f"{everyone[0][name]!s:.80}"
                )


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Let only process 0 be heard on standard output and standard error."""
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def said_once(message: str) -> str | None:
    """Return what this process is to say of the error that ends it: nothing where another one says it.

    What all processes fail at is said by process 0; else the process that fails first says it, with its number.
    """
    if world() == 1:
        return message
    named = f"process {rank()} of {world()}: {message}"
    try:
        store = _store()
        place = store.add(FAILED, 1)  # before the others can see the error: who fails because of it comes later
        store.set(f"error/{rank()}", message)
        if _all_come(store, "error") and {store.get(f"error/{i}").decode() for i in range(world())} == {message}:
            if rank():
                store.set(f"heard/{rank()}", "")
                return None
            sys.stderr.flush()
            store.set("heard/0", "")
            _all_come(store, "heard")
            return message
        store.set(f"heard/{rank()}", "")
        if rank() == 0:  # it may hold the store, which the others still read
            _all_come(store, "heard")
        return named if place == 1 else None
    except (RuntimeError, OSError):  # those whom one could ask are gone
        return named


def _lost() -> str:
    """Return which processes have ended without a word, as those see it that have lost them; nothing if unknown."""
    with contextlib.suppress(RuntimeError, OSError):
        store = _store()
        store.set(f"lost/{rank()}", "")
        _all_come(store, "lost")
        silent = [str(i) for i in range(world()) if not store.check([f"lost/{i}"]) and not store.check([f"error/{i}"])]
        return f"process {', '.join(silent)}" if silent else ""
    return ""


def _all_come(store: Any, key: str, seconds: float = MOMENT, unless: str | None = None) -> bool:
    """Return whether every process sets a key within some seconds, and before another key is set.

    torch's own wait fills the screen.
    """
    end = time.monotonic() + seconds
    while not store.check([f"{key}/{i}" for i in range(world())]):
        if time.monotonic() > end or (unless and store.check([unless])):
            return False
        time.sleep(0.02)
    return True


@cache
def _store() -> Any:
    """Return the place where processes leave words for each other.

    Raises:
        ConnectionError: the others do not come to it.
    """
    import torch.distributed.distributed_c10d as c10d

    try:
        store, *_ = next(c10d.rendezvous("env://", timeout=timedelta(seconds=JOIN)))  # type: ignore[attr-defined]
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        said = (str(error).splitlines() or [""])[0]
        raise ConnectionError(f"no way to the other processes at {where} within {JOIN} s: {said:.120}") from None
    return c10d.PrefixStore("unmask", store)


@cache
def _joined() -> Processes:
    """Return the processes that torchrun started.

    Raises:
        ConnectionError: they do not come.
    """
    import torch

    store = _store()
    try:
        store.set(f"here/{rank()}", "")
        if not _all_come(store, "here", JOIN, unless=FAILED):
            if store.check([FAILED]):
                raise ConnectionError("another process failed before all had come")
            missing = ", ".join(str(i) for i in range(world()) if not store.check([f"here/{i}"]))
            raise ConnectionError(f"process {missing} of {world()} did not come within {JOIN} s")
    except RuntimeError:
        raise ConnectionError("process 0, or what started it, has ended") from None
    group = torch.distributed.ProcessGroupGloo(store, rank(), world(), timedelta(seconds=EXCHANGE))
    return Processes(rank(), world(), group)

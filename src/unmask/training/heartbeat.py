"""Signs of life of the processes that train together, in the store by which they found each other."""

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import torch.distributed as dist

EVERY = 2.0
"""Seconds between two signs of life of a process."""
SILENT = 45.0
"""Seconds without one after which a process is taken for dead; the others then end, however they wait for it."""
LOST = "lost another one"
"""What a process leaves behind that ends because another one did."""


class Heartbeat:
    """Give signs of life, and watch those of the others, in a thread of its own.

    A process that was killed shows at once, since its connections close. One whose machine is gone, or that is stopped,
    leaves the others waiting for it in the middle of a step: these end here, in one line that names it, after `SILENT`.

    Args:
        rank: number of this process.
        world: how many there are.
        silent: see `SILENT`.
        said: what is added to the line.
    """

    def __init__(self, rank: int, world: int, silent: float = SILENT, said: str = "") -> None:
        self.rank, self.world, self.silent, self.said = rank, world, silent, said
        self.store: Any = None
        self._over = threading.Event()

    def start(self) -> None:
        """Begin; the processes have found each other by now."""
        store: Any = dist.distributed_c10d._get_default_store()
        self.store = store.clone()  # a connection of its own, which may wait
        self.store.set(self._key("host", self.rank), socket.gethostname())
        self._beat(0)
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self, note: str = "") -> None:
        """End, and say why to those who ask."""
        self._over.set()
        if note and self.store is not None:
            with suppress(Exception):
                self.store.set(self._key("end", self.rank), note)

    def ended(self, seconds: float = 3 * EVERY) -> str:
        """Return who has ended, and how, as far as that is known after some seconds; empty: nobody is known to."""
        if self.store is None:
            return ""
        try:
            before, until = self._beats(), time.monotonic() + seconds
            quiet = {rank for rank in range(self.world) if rank != self.rank}
            while quiet and time.monotonic() < until:
                time.sleep(EVERY / 4)
                now = self._beats()
                quiet = {rank for rank in quiet if now[rank] == before[rank]}
                if said := self._notes():
                    return said
            return ", ".join(f"process {rank} ({self._host(rank)}) ended early" for rank in sorted(quiet))
        except Exception:  # the store is gone, and with it whoever had it
            return "process 0 ended early"

    def _run(self) -> None:
        number, seen, missed = 0, dict.fromkeys(range(self.world), ""), dict.fromkeys(range(self.world), 0)
        while not self._over.wait(EVERY):
            number += 1
            try:
                self._beat(number)
                for rank, beat in self._beats().items():
                    missed[rank] = missed[rank] + 1 if beat == seen[rank] else 0
                    seen[rank] = beat
            except Exception:  # the store is gone: the connections of whoever had it close, which shows elsewhere
                return
            # counted, not timed: after a pause of all processes none of them is late
            silent = [rank for rank in seen if missed[rank] * EVERY > self.silent and rank != self.rank]
            if silent and not self._over.is_set() and not self._notes():
                self._end(silent[0])

    def _end(self, rank: int) -> None:
        me = f"process {self.rank} of {self.world}"
        line = f"{me}: process {rank} ({self._host(rank)}) has given no sign of life for {self.silent:.0f} s{self.said}"
        print(f"unmask: error: {line}", file=sys.stderr, flush=True)
        os._exit(1)  # the process waits in a collective operation, which nothing else can end

    def _beat(self, number: int) -> None:
        self.store.set(self._key("beat", self.rank), str(number))

    def _beats(self) -> dict[int, str]:
        keys = [self._key("beat", rank) for rank in range(self.world)]
        return {rank: value.decode() for rank, value in enumerate(self.store.multi_get(keys))}

    def _notes(self) -> str:
        """Return what processes left behind that ended by themselves."""
        said = []
        for rank in range(self.world):
            key = self._key("end", rank)
            if rank != self.rank and self.store.check([key]):
                note = self.store.get(key).decode()
                said += [] if note == LOST else [f"process {rank} ({self._host(rank)}) ended: {note}"]
        return "; ".join(said)

    def _host(self, rank: int) -> str:
        with suppress(Exception):
            return self.store.get(self._key("host", rank)).decode()
        return "?"

    def _key(self, what: str, rank: int) -> str:
        return f"unmask/{what}/{rank}"

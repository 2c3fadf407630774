"""The one thread that calls the networks: it gathers requests into batches, and takes turns between these."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from unmask.serving.drawing import AbandonedError
from unmask.serving.jobs import Job
from unmask.serving.limits import Limits
from unmask.storage.failures import NO_MEMORY

LOG = logging.getLogger(__name__)


class BusyError(RuntimeError):
    """As many requests wait as may wait."""


class Batch:
    """Requests that are worked on together.

    Args:
        jobs: of equal work.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.steps: Iterator[None] = jobs[0].work.run(jobs)

    def step(self) -> bool:
        """Do the next step; return whether there may be more."""
        try:
            for job in self.jobs:
                job.expire()
            if all(job.over for job in self.jobs):
                return False
            with torch.no_grad():
                next(self.steps)
        except (StopIteration, AbandonedError):
            return False
        except Exception as error:
            status, message = explain(error)
            for job in self.jobs:
                job.fail(status, message)
            return False
        return True


def explain(error: Exception) -> tuple[int, str]:
    """Return the status and the message that an error of a batch is answered with."""
    if isinstance(error, ValueError | FloatingPointError):
        return 400, str(error)
    if isinstance(error, MemoryError) or any(part in str(error) for part in NO_MEMORY):
        return 503, "out of memory: ask for fewer examples, or fewer tokens"
    LOG.exception("a batch failed")
    return 500, f"unexpected {type(error).__name__}; the server's log says where"


class Worker:
    """Works on requests in a thread of its own, from `start` to `close`.

    Requests of equal work that wait are put into one batch, whose results do not depend on it: every example has random
    numbers of its own. Batches take turns, a step each, so that a short request does not wait for a long one.

    Args:
        limits: how many requests may wait, and how many examples make a batch.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Job] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work, if that is not so yet."""
        with self.changed:
            if self.thread is None:
                self.closed = False
                self.thread = threading.Thread(target=self._run, name="unmask-worker", daemon=True)
                self.thread.start()

    def close(self) -> None:
        """End the work; requests that are not finished get an error."""
        with self.changed:
            self.closed, thread, self.thread = True, self.thread, None
            self.changed.notify()
        if thread is not None:
            thread.join()

    def submit(self, job: Job) -> None:
        """Let a request wait for its turn.

        Raises:
            BusyError: the queue is full.
        """
        with self.changed:
            if self.closed:
                raise BusyError("the server is closing")
            if len(self.waiting) >= self.limits.queue:
                raise BusyError(f"{len(self.waiting)} requests are waiting, which is all that may: try again later")
            self.waiting.append(job)
            self.changed.notify()

    def _run(self) -> None:
        running: list[Batch] = []
        while True:
            with self.changed:
                while not (self.waiting or running or self.closed):
                    self.changed.wait()
                if self.closed:
                    break
                fresh = not running
            if fresh and self.limits.gather:
                time.sleep(self.limits.gather)
            running += self._admitted(self.limits.running - len(running))
            running = [batch for batch in running if batch.step()]
        for job in (*self.waiting, *(job for batch in running for job in batch.jobs)):
            job.fail(503, "the server is closing")
        self.waiting.clear()

    def _admitted(self, places: int) -> list[Batch]:
        """Take requests from the queue, those of equal work together; leave those for which there is no place."""
        found: list[Batch] = []
        with self.changed:
            for job in self.waiting:
                job.expire()
            self.waiting = deque(job for job in self.waiting if not job.over)
            while self.waiting and len(found) < places:
                chosen, left, room = list[Job](), deque[Job](), self.limits.batch
                for job in self.waiting:
                    if len(job.x) <= room and (not chosen or job.work == chosen[0].work):
                        chosen.append(job)
                        room -= len(job.x)
                    else:
                        left.append(job)
                if not chosen:  # larger than a batch by itself
                    chosen.append(left.popleft())
                self.waiting = left
                found.append(Batch(chosen))
        return found

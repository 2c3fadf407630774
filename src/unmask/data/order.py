"""The order in which training sees the examples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer
from torch.utils.data import Sampler

from unmask.data.base import Split


@dataclass(frozen=True)
class Division:
    """How the examples of a step are divided among processes, and the passes of each.

    Pass p of process r is share number p * processes + r: every `shares`-th example of the step from that number on. So
    four processes with one pass each, and two with two, have the same shares.

    Args:
        batch: examples of a share.
        processes: that train together.
        passes: batches of a process whose gradients make a step.
        rank: number of this process.
    """

    batch: int
    processes: int = 1
    passes: int = 1
    rank: int = 0

    @property
    def shares(self) -> int:
        """Number of shares of a step."""
        return self.processes * self.passes

    @property
    def step(self) -> int:
        """Examples of a step."""
        return self.batch * self.shares

    def share(self, number: int) -> int:
        """Return the number of the share that a pass of this process takes."""
        return number * self.processes + self.rank

    def over(self, processes: int) -> "Division":
        """Return the division of the same step among another number of processes.

        The shares stay as they are, if that can be; else each is smaller or larger.

        Raises:
            ValueError: the step cannot be divided so.
        """
        if self.shares % processes == 0:
            return Division(self.batch, processes, self.shares // processes)
        if self.step % (processes * self.passes) == 0:
            return Division(self.step // (processes * self.passes), processes, self.passes)
        if self.step % processes == 0:
            return Division(self.step // processes, processes)
        raise ValueError(
            f"a step has {self.step} examples ({self.processes} process(es) x {self.passes} x {self.batch}), which "
            f"{processes} processes cannot share: take a number that divides it"
        )


class Order(Sampler[Integer[np.ndarray, " batch"]]):
    """The examples of each batch, without end: a pure function of the seed, the step and the share of the step.

    Each epoch is a new permutation, cut into steps; the rest that fills no step is left out (unless the data are fewer
    than a step). Training that starts again at some step sees what it would have seen, on any number of processes.

    Args:
        examples: that are seen, which may say in what order (`Split.shuffled`) and are told what comes; or a number.
        division: of a step.
        seed: of the permutations.
        start: returns the number of the first step when iteration begins.

    Raises:
        ValueError: fewer examples than one batch of all processes.
    """

    def __init__(self, examples: Split | int, division: Division, seed: int, start: Callable[[], int]) -> None:
        self.split = None if isinstance(examples, int) else examples
        count = examples if isinstance(examples, int) else len(examples)
        batch, world = division.batch, division.processes
        if count < batch * world:
            raise ValueError(f"batch_size {batch} on {world} process(es) needs more than the {count} training examples")
        self.used = count // division.step * division.step or count  # of each permutation
        self.count, self.division, self.seed, self.start = count, division, seed, start

    def __iter__(self) -> Iterator[Integer[np.ndarray, " batch"]]:
        step, shares, epoch, permutation = self.start(), self.division.shares, -1, np.empty(0, np.int64)
        while True:
            found = []
            first, last = step * self.division.step, (step + 1) * self.division.step
            for number in range(first // self.used, (last - 1) // self.used + 1):
                if number != epoch:
                    epoch, permutation = number, self._permutation(number)
                start = number * self.used
                found.append(permutation[: self.used][max(first - start, 0) : last - start])
            examples = np.concatenate(found)
            for part in range(self.division.passes):
                batch = examples[self.division.share(part) :: shares]
                if self.split is not None:
                    self.split.expect(batch)
                yield batch
            step += 1

    def _permutation(self, epoch: int) -> Integer[np.ndarray, " examples"]:
        generator = np.random.default_rng((self.seed, epoch))
        return generator.permutation(self.count) if self.split is None else self.split.shuffled(generator)

"""The order in which training sees the examples."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Integer
from torch.utils.data import Sampler

from unmask.data.base import Split


class Order(Sampler[Integer[np.ndarray, " batch"]]):
    """The examples of each batch, without end: a pure function of the seed and the batch's number.

    Each epoch is a new permutation, cut into batches; the rest that fills no batch is left out. Training that starts
    again at batch number n sees what it would have seen.

    Args:
        examples: that are seen, which may say in what order (`Split.shuffled`) and are told what comes; or a number.
        batch: examples per process.
        seed: of the permutations.
        start: returns the number of the first batch when iteration begins.
        rank: number of this process, of `world`.
        world: number of processes; together they take world * batch examples at a time.

    Raises:
        ValueError: fewer examples than one batch of all processes.
    """

    def __init__(
        self, examples: Split | int, batch: int, seed: int, start: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        self.split = None if isinstance(examples, int) else examples
        count = examples if isinstance(examples, int) else len(examples)
        self.batches = count // (batch * world)
        if self.batches < 1:
            raise ValueError(f"batch_size {batch} on {world} process(es) needs more than the {count} training examples")
        self.count, self.batch, self.seed, self.start, self.rank, self.world = count, batch, seed, start, rank, world

    def __iter__(self) -> Iterator[Integer[np.ndarray, " batch"]]:
        number = self.start()
        while True:
            epoch, first = divmod(number, self.batches)
            generator = np.random.default_rng((self.seed, epoch))
            order = generator.permutation(self.count) if self.split is None else self.split.shuffled(generator)
            order = order[: self.batches * self.world * self.batch].reshape(self.batches, self.world, self.batch)
            for batch in order[first:, self.rank]:
                if self.split is not None:
                    self.split.expect(batch)
                yield batch
            number = (epoch + 1) * self.batches

"""How much a server does for one request, and for all of them."""

import math
from dataclasses import dataclass

from unmask.checks import check_whole


@dataclass(frozen=True)
class Limits:
    """What a server refuses.

    Args:
        examples: most examples of a request.
        tokens: most tokens of a request, those of all its examples together.
        draws: most random masks for a bound.
        steps: the largest value of a whole number among the settings of a sampler.
        seconds: that a request may take, from its arrival on.
        bytes: of the body of a request.
        queue: requests that may wait; with more, the server says that it is busy.
        batch: most examples that are drawn together.
        running: batches that are drawn in turns, a step of each.
        gather: seconds that an idle server waits for others that can share the batch of a request.
    """

    examples: int = 16
    tokens: int = 65536
    draws: int = 64
    steps: int = 4096
    seconds: float = 60.0
    bytes: int = 1_000_000
    queue: int = 256
    batch: int = 64
    running: int = 4
    gather: float = 0.005

    def __post_init__(self) -> None:
        names = ("examples", "tokens", "draws", "steps", "bytes", "queue", "batch", "running")
        check_whole(1, **{name: getattr(self, name) for name in names})
        if self.examples > self.batch:
            raise ValueError(f"a request may have {self.examples} examples, a batch {self.batch}: raise batch")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be positive and finite, got {self.seconds}")
        if not 0 <= self.gather < math.inf:
            raise ValueError(f"gather must be at least 0 and finite, got {self.gather}")

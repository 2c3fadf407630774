"""What keeps a sampler from waiting for its device: examples that the host knows, and errors that are noted."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.devices import send
from unmask.networks.base import Positions
from unmask.randomness import Generators, Share, uniform
from unmask.types import Where


@dataclass(frozen=True)
class Rows:
    """Some examples of a batch, by numbers that the host knows, so that it need not wait in order to select them.

    Args:
        numbers: of the examples, increasing.
        batch: number of examples in the batch.
        index: the numbers, on the device.
    """

    numbers: tuple[int, ...]
    batch: int
    index: Int[Tensor, " rows"]

    @classmethod
    def of(cls, flags: Iterable[bool], device: torch.device) -> "Rows":
        """Return the examples whose flags, which are on the host, are set."""
        known = [*flags]
        numbers = tuple(i for i, flag in enumerate(known) if flag)
        return cls(numbers, len(known), send(torch.tensor(numbers, dtype=torch.long), device))

    def __len__(self) -> int:
        return len(self.numbers)

    def pick(self, x: Tensor) -> Tensor:
        """Return these examples of x (batch, ...)."""
        return x if len(self) == self.batch else x.index_select(0, self.index)

    def put(self, x: Tensor, part: Tensor) -> Tensor:
        """Return x (batch, ...) with these examples replaced."""
        return part if len(self) == self.batch else x.index_copy(0, self.index, part)

    def count(self, calls: Int[Tensor, " batch"], number: int) -> Int[Tensor, " batch"]:
        """Return calls with a number added for each of these examples."""
        return calls.index_add(0, self.index, torch.full_like(self.index, number))

    def uniform(self, shape: tuple[int, ...], generator: Generators) -> Float[Tensor, "rows ..."]:
        """Draw uniform numbers (rows, *shape), from these examples' own generators if there are any."""
        if not isinstance(generator, torch.Generator | Share | None):
            if len(generator) != self.batch:
                raise ValueError(
                    f"one generator per example is needed: got {len(generator)} for a batch of {self.batch}"
                )
            generator = [generator[i] for i in self.numbers]
        return uniform((len(self), *shape), generator, self.index.device)


def known_positions(flags: Bool[Tensor, "batch *dims"], rows: Rows, device: torch.device) -> Positions:
    """Return the set flags, which are on the host, of some examples as positions on the device."""
    return Positions.of(flags[list(rows.numbers)]).to(device)


class Failures:
    """The first step whose logits define no distribution. A GPU is not waited for until `check` is called.

    Args:
        device: of the tokens.
    """

    def __init__(self, device: torch.device) -> None:
        self.step = torch.zeros((), dtype=torch.long, device=device)

    def note(self, invalid: Where, step: int) -> None:
        """Keep the number of a step in which tokens are invalid; on a CPU, raise a FloatingPointError at once."""
        self.step = torch.where(self.step == 0, step * invalid.any(), self.step)
        if self.step.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise a FloatingPointError if there was such a step."""
        raise_if_failed(int(self.step))

    def check_with(self, counts: Int[Tensor, " batch"]) -> list[int]:
        """Return counts to the host, and raise a FloatingPointError if there was such a step: one wait for both."""
        *found, step = torch.cat((counts, self.step.unsqueeze(0))).tolist()
        raise_if_failed(step)
        return found


def raise_if_failed(step: int) -> None:
    """Raise a FloatingPointError unless `step`, the first whose logits define no distribution, is 0."""
    if step:
        raise FloatingPointError(f"step {step}: the network's logits are NaN, infinite, or all -inf")

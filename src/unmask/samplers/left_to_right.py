"""Sampling of left-to-right models: one token after another, with a cache of what was read."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.categorical import categorical, filter_logits
from unmask.checks import check_whole
from unmask.networks.base import Network
from unmask.networks.reading import Reading, start_reading
from unmask.randomness import Generators, uniform
from unmask.samplers.base import Sampler, State
from unmask.samplers.rows import Failures
from unmask.types import Labels, Logits, Tokens, Where


@dataclass(frozen=True)
class LeftToRight(Sampler):
    """Draw each token given those before it, in row-major order: exact for a left-to-right model.

        x_i ~ p(x_i | x_<i),   i = 0, 1, ..., L − 1

    One uniform number is drawn for each position, and tokens are drawn from it exactly (`unmask.categorical`). With
    the cache a token costs the network one position, not all those before it; a call is counted for each token that is
    drawn. What is given comes first: a canvas with known tokens after unknown ones is refused, since nothing before
    these would depend on them. Other settings: see `Sampler`.

    Args:
        stop_at: a token, or several, that end an example: what follows the first of them that is drawn is filled with
            the first of `stop_at`. What comes before is as without it. None: never.
        block_length: after each block of this many positions, examples that have ended leave the batch, and a GPU is
            waited for. The tokens do not depend on it.
        cache: whether keys and values are kept; without it all tokens are read again for each next one. The tokens are
            the same, as far as rounding allows.
        filling: tokens that may stand after unknown ones, such as those that fill up examples. None of what is drawn
            depends on them. `MaskedDiffusion.fit_sampler` knows them.

    Examples:
        >>> network = unmask.CausalTransformer(5, (16,), width=32, depth=1, heads=2)
        >>> prompt = unmask.all_masked(1, (16,), network.mask_id)
        >>> prompt[0, :3] = torch.tensor([3, 1, 4])
        >>> unmask.LeftToRight(top_p=0.9)(network, prompt)[0, :3]
        tensor([3, 1, 4])
    """

    stop_at: tuple[int, ...] | int | None = None
    block_length: int = 32
    cache: bool = True
    filling: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, block_length=self.block_length)
        if self.stop_at is not None and (not self.ends or min(self.ends) < 0):
            raise ValueError(f"stop_at must be a token, or several, got {self.stop_at!r}")

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens of `stop_at`."""
        return (self.stop_at,) if isinstance(self.stop_at, int) else tuple(self.stop_at or ())

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`. A step reveals one position, of every example in which it is masked.

        Raises:
            ValueError: also if the network is not causal, or a known token that is none of `filling` stands after an
                unknown one.
        """
        first_of_each, stop_of_each = first_and_stop(self.check(network, x, label).flatten(1))
        start, stops = int(first_of_each.min()), stop_of_each.tolist()
        flat, u = x.flatten(1), uniform(tuple(x.shape), generator, x.device).flatten(1)
        hidden, position = flat == network.mask_id, torch.arange(flat.shape[1], device=x.device)
        ends = torch.tensor(self.ends, dtype=x.dtype, device=x.device)
        left = total = hidden.sum(1)
        calls, failures = torch.zeros_like(total), Failures(x.device)
        yield State(x, left / total.clamp(min=1).double(), calls)
        reading, alive = self._begin(network, x, label), [*range(len(x))]
        rows = torch.arange(len(x), device=x.device)
        for i in range(start, max(stops)):
            if i > start and (i - start) % self.block_length == 0:
                failures.check()
                over = (left == 0).tolist() if self.ends else [i >= stop for stop in stops]  # the wait of a block
                kept = [place for place, row in enumerate(alive) if not over[row]]
                if not kept:
                    break
                if len(kept) < len(alive):
                    reading.select(self._twice(torch.tensor(kept, device=x.device), len(alive)))
                    alive = [alive[place] for place in kept]
                    rows = torch.tensor(alive, device=x.device)
            read = flat[:, :i] if i == start else flat[:, i - 1 : i]
            logits = self._logits(reading, read.index_select(0, rows))
            token = self.draw(logits, u[:, i].index_select(0, rows))
            drawn = hidden[:, i]
            column = torch.where(drawn, flat[:, i].index_copy(0, rows, token), flat[:, i])
            failures.note(drawn & (column == network.mask_id), i - start + 1)
            flat = torch.where(position == i, column.unsqueeze(1), flat)
            calls, left = calls + self.evaluations * drawn, left - drawn.long()
            if self.ends:
                done = drawn & torch.isin(column, ends)
                rest = hidden & done.unsqueeze(1) & (position > i)
                flat, hidden, left = torch.where(rest, ends[0], flat), hidden & ~rest, left.masked_fill(done, 0)
            yield State(flat.view_as(x), left / total.clamp(min=1).double(), calls)
        failures.check()

    def check(self, network: Network, x: Tokens, label: Labels | None) -> Where:
        """See `Sampler.check`; a ValueError, too, where a known token stands after an unknown one, or for `stop_at`."""
        masked = super().check(network, x, label)
        check_sampler(self, network)
        if self.ends and max(self.ends) >= network.vocab_size:
            raise ValueError(f"stop_at: the model's tokens are 0..{network.vocab_size - 1}, got {max(self.ends)}")
        hidden = masked.flatten(1)
        first, stop = first_and_stop(hidden)
        position = torch.arange(hidden.shape[1], device=x.device)
        harmless = torch.isin(x.flatten(1), torch.tensor(self.filling, dtype=x.dtype, device=x.device))
        after = (position > first.unsqueeze(1)) & ~hidden
        wrong = after & ((position < stop.unsqueeze(1)) | ~harmless)
        if wrong.any():
            example, place = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{f'example {example}: ' if len(x) > 1 else ''}position {place} is known, but an unknown one comes "
                "before it; a left-to-right model completes examples at their end, and what it draws does not depend "
                "on what follows: holes are for masked models"
            )
        return masked

    def draw(self, logits: Logits, u: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """Draw a token from the logits of each row, by a uniform number of its own."""
        return categorical(logits, u)

    def _begin(self, network: Network, x: Tokens, label: Labels | None) -> Reading:
        """Start to read: with guidance every example twice, with its label and without."""
        if self.guidance == 1 or label is None:
            return start_reading(network, x, label, cache=self.cache)
        null = torch.full_like(label, network.classes or 0)
        if self.guidance == 0:
            return start_reading(network, x, null, cache=self.cache)
        return start_reading(network, torch.cat((x, x)), torch.cat((label, null)), cache=self.cache)

    def _twice(self, rows: Int[Tensor, " rows"], count: int) -> Int[Tensor, " places"]:
        """Return the places of some of `count` examples in what is read; see `_begin`."""
        return torch.cat((rows, rows + count)) if self.evaluations == 2 else rows

    def _logits(self, reading: Reading, tokens: Int[Tensor, "rows n"]) -> Logits:
        """Read tokens, and return the logits from which the next ones are drawn."""
        logits = reading.next(tokens.repeat(self.evaluations, 1))
        logits = self.guide(*logits.chunk(2)) if self.evaluations == 2 else logits
        return filter_logits(logits, self.temperature, self.top_k, self.top_p)


def first_and_stop(flags: Bool[Tensor, "batch length"]) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Return the first set flag of each example, and the place after the last; L and 0 where none is set."""
    length, some = flags.shape[1], flags.any(1)
    first = torch.where(some, flags.int().argmax(1), length)
    return first, torch.where(some, length - flags.flip(1).int().argmax(1), 0)


def check_sampler(sampler: Sampler, network: Network) -> None:
    """Raise a ValueError for the sampler of a left-to-right model with another network, or the other way round."""
    name = type(sampler).__name__
    if network.causal and not isinstance(sampler, LeftToRight):
        raise ValueError(f"the network reads from left to right: its sampler is LeftToRight, got {name}")
    if isinstance(sampler, LeftToRight) and not network.causal:
        raise ValueError(
            "LeftToRight is for networks that read from left to right, such as CausalTransformer; "
            f"{type(network).__name__} predicts masked tokens: InOrder samples it from left to right"
        )

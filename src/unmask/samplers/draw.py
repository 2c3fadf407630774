"""Drawing many examples in batches: example i depends on the seed and on i alone, not on the batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from tqdm import tqdm

from unmask.checks import check_whole
from unmask.networks.base import Network
from unmask.processes import in_order, own
from unmask.randomness import generators, seeded
from unmask.samplers.base import Sampler, State
from unmask.types import Labels, Tokens

K = TypeVar("K")
Watch = Callable[[int, State], None]
"""What is called with the number of a batch and each of its states, the canvas first."""


def draw(
    network: Network,
    canvas: Tokens,
    label: Labels | None = None,
    *,
    sampler: Sampler,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    bar: bool = True,
    numbers: Sequence[int] | None = None,
) -> Tokens:
    """Draw the masked tokens of a canvas, some examples at a time, with a progress bar.

    Several processes share the batches; see `unmask.processes.together`.

    Args:
        network: predicts the masked tokens.
        canvas: (n, *dims), `network.mask_id` where tokens are wanted.
        label: class of each example, for a network that takes one.
        sampler: how the tokens are drawn.
        seed: example i has a generator that depends on (seed, i) alone.
        batch_size: examples at a time.
        watch: see `Watch`.
        bar: whether there is a progress bar (on standard error, after two seconds).
        numbers: i of each example; from 0 on if None.

    Returns:
        tokens (n, *dims) on the CPU.
    """
    device = next(network.parameters()).device
    numbers = range(len(canvas)) if numbers is None else numbers
    starts = range(0, len(canvas), batch_size)
    total = sum(int((canvas[start : start + batch_size] == network.mask_id).sum()) for _, start in own(starts))
    with tqdm(total=total, desc="unmasking", unit="token", delay=2, disable=not bar) as progress:

        def draw_one(number: int, start: int) -> Tokens:
            x = canvas[start : start + batch_size].to(device)
            labels = None if label is None else label[start : start + batch_size].to(device)
            hidden = int((x == network.mask_id).sum())
            each = [seeded(seed, i) for i in numbers[start : start + batch_size]]
            for state in sampler.trajectory(network, x, labels, generator=each):
                if device.type == "cpu":  # counting would make a GPU wait
                    left = int((state.x == network.mask_id).sum())
                    progress.update(hidden - left)
                    hidden = left
                if watch is not None:
                    watch(number, state)
                x = state.x
            progress.update(hidden if device.type != "cpu" else 0)
            return x.cpu()

        return torch.cat([*in_order(draw_one, starts)])


def draw_batches(
    network: Network,
    canvas: Tokens,
    sampler: Sampler,
    label: Labels | None = None,
    *,
    seed: int = 0,
    batch_size: int = 64,
    keep: Callable[[State], K],
    title: str | None = None,
) -> Iterator[K]:
    """Draw the masked tokens of a canvas, and yield what is kept of the final state of each batch.

    Several processes share the batches; see `unmask.processes.together`.

    Args:
        network: predicts the masked tokens.
        canvas: (n, *dims), `network.mask_id` where tokens are wanted.
        sampler: how the tokens are drawn.
        label: class of each example, for a network that takes one.
        seed: example i has a generator that depends on (seed, i) alone.
        batch_size: examples at a time.
        keep: what is kept of a final state.
        title: of a progress bar; None: there is none.

    Raises:
        ValueError: what `Sampler.trajectory` refuses.
    """
    check_whole(1, batch_size=batch_size)
    device = next(network.parameters()).device

    def draw_one(number: int, start: int) -> K:
        x = canvas[start : start + batch_size].to(device)
        here = None if label is None else label[start : start + batch_size].to(device)
        *_, last = sampler.trajectory(network, x, here, generator=generators(seed, len(x), start))
        return keep(last)

    yield from in_order(draw_one, range(0, len(canvas), batch_size), title=title)

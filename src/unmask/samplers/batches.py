"""Many examples, some at a time."""

from collections.abc import Iterator

import torch

from unmask.checks import check_whole
from unmask.forward import all_masked
from unmask.networks.base import Network
from unmask.randomness import generators
from unmask.samplers.base import Sampler, State
from unmask.types import Labels


def draw_batches(
    network: Network,
    shape: tuple[int, ...],
    sampler: Sampler,
    label: Labels | None = None,
    *,
    samples: int,
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Iterator[State]:
    """Yield the final state of each batch of new examples; example i depends on (seed, i) alone, not on its batch.

    Args:
        network: predicts masked tokens.
        shape: dims of an example.
        sampler: reveals them.
        label: class of each example, for a network that takes one.
        samples: number of examples in all.
        seed: of the examples.
        batch_size: examples at a time.
        device: of the network.

    Raises:
        ValueError: no examples are asked for, or what `Sampler.trajectory` refuses.
    """
    check_whole(1, samples=samples, batch_size=batch_size)
    for start in range(0, samples, batch_size):
        count = min(batch_size, samples - start)
        here = None if label is None else label[start : start + count].to(device)
        canvas = all_masked(count, shape, network.mask_id, device=device)
        for state in sampler.trajectory(network, canvas, here, generator=generators(seed, count, start)):
            last = state
        yield last

"""Which number format is fastest here, for this network."""

import time

import torch

from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.randomness import seeded
from unmask.types import Labels, Tokens

TOKENS = 2048  # enough to tell


def fastest_precision(network: Network, objective: Objective, x: Tokens, label: Labels | None = None) -> str:
    """Measure the passes of a training step in float32 and in bfloat16; on a GPU take bfloat16 where it has it.

    Products of matrices alone do not decide: in a small network what autocast converts can cost more than it saves.

    Returns:
        "bf16-mixed" or "32-true", as lightning names them.
    """
    if x.device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    count = max(1, TOKENS // x[0].numel())
    x, label = x[:count], None if label is None else label[:count]

    def seconds(bfloat16: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = objective(network, x, label, generator=seeded(0)).loss
        loss.backward()
        return time.perf_counter() - start

    with torch.random.fork_rng(devices=[]):  # dropout draws
        rounds = [(seconds(False), seconds(True)) for _ in range(6)][2:]  # the first ones warm up
    network.zero_grad()
    return "bf16-mixed" if min(b for _, b in rounds) < 0.9 * min(f for f, _ in rounds) else "32-true"

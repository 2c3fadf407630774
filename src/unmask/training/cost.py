"""What a step costs: floating-point operations of a network, and how many a device does in a second."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from unmask.networks.base import Network

PEAKS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12, "A800": 312e12}
PEAKS |= {"MI300": 1307e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A40": 150e12, "A10": 125e12, "V100": 125e12}
"""Products of bfloat16 a second, dense, as the makers state them (V100: float16)."""
FLOAT32 = {"B200": 80e12, "H200": 67e12, "H100": 67e12, "GH200": 67e12, "A100": 19.5e12, "A800": 19.5e12}
FLOAT32 |= {"MI300": 163e12, "L40S": 91e12, "L40": 90e12, "L4": 30e12, "A40": 37e12, "A10": 31e12, "V100": 15.7e12}
"""The same of float32, without TF32."""


def forward_flops(network: Network) -> float:
    """Return the floating-point operations of a forward pass over one example, a product and a sum being two.

    Counted on tensors without memory, of every product of matrices and every convolution; where that cannot be done,
    two per weight and position.
    """
    weights: dict[str, Any] = {name: p.detach().to("meta") for name, p in network.named_parameters()}
    weights |= {name: buffer.to("meta") for name, buffer in network.named_buffers()}
    x = torch.zeros(1, *network.shape, dtype=torch.long, device="meta")
    label = None if network.classes is None else x.new_zeros(1)
    was = network.training
    try:
        network.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(network, weights, (x, torch.ones(1, dtype=torch.float64, device="meta"), label))
        return float(counter.get_total_flops())
    except Exception:  # a body that looks at values, which there are none of
        maps = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear)]
        return 2.0 * sum(maps) * x.numel()
    finally:
        network.train(was)


def step_flops(network: Network, objective_calls: int = 1) -> float:
    """Return the operations of a training step per example: three forward passes, as is usually counted.

    What is computed again to save memory is not counted, and what our head and last block leave out is: it is work
    that was to be done.
    """
    return 3.0 * objective_calls * forward_flops(network)


@lru_cache
def peak_flops(device: torch.device, half: bool) -> tuple[float, str]:
    """Return how many operations a device does in a second at most, and where that is from.

    Args:
        device: a GPU that is known by its name, or one that is measured on a product of matrices.
        half: of bfloat16, else float32.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((key for key in PEAKS if key in name.replace("-", " ").split() or key in name), None)
        if known is not None:
            return (PEAKS if half else FLOAT32)[known], known
    return _measured(device, torch.bfloat16 if half else torch.float32), "measured"


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    size = 4096 if device.type == "cuda" else 384
    a = torch.ones(size, size, dtype=dtype, device=device)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best = 0.0
    for _ in range(4):
        wait()
        start = time.perf_counter()
        a @ a
        wait()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best

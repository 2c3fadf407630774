"""What a training would take on other machines, by formula: memory, time, and what is assumed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unmask.networks.base import Network
from unmask.networks.head import LOGITS_PER_PRODUCT
from unmask.report import Report
from unmask.training.cost import FLOAT32, PEAKS, step_flops
from unmask.training.sharding import units

GIB = 1 << 30
MEMORY = {
    "B200": 180,
    "H200": 141,
    "H100": 80,
    "GH200": 96,
    "A100": 80,
    "A800": 80,
    "MI300": 192,
    "L40S": 48,
    "L40": 48,
}
MEMORY |= {"L4": 24, "A40": 48, "A10": 24, "V100": 32}
"""GB of a device, as the makers state them; of several sizes the larger."""


@dataclass(frozen=True)
class Cluster:
    """Machines that a training is planned for.

    Args:
        devices: of all nodes together.
        nodes: machines.
        gpu: kind of device: see `unmask.training.cost.PEAKS`.
        strategy: "ddp", "fsdp2" or "fsdp2_hybrid".
        mfu: part of the peak that is reached while nothing is waited for.
        inside: bytes a second that a device sends to others of its node.
        between: bytes a second that it sends to other nodes.
    """

    devices: int = 8
    nodes: int = 1
    gpu: str = "H100"
    strategy: Literal["ddp", "fsdp2", "fsdp2_hybrid"] = "ddp"
    mfu: float = 0.4
    inside: float = 200e9
    between: float = 40e9

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.devices < 1 or self.devices % self.nodes:
            raise ValueError(f"devices must be a multiple of nodes, got {self.devices} and {self.nodes}")
        if self.gpu not in PEAKS:
            raise ValueError(f"gpu must be one of {', '.join(PEAKS)}; got {self.gpu!r}")
        if self.strategy not in ("ddp", "fsdp2", "fsdp2_hybrid"):
            raise ValueError(f"strategy must be ddp, fsdp2 or fsdp2_hybrid, got {self.strategy!r}")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"mfu must be in (0, 1], got {self.mfu}")

    @property
    def shards(self) -> int:
        """Devices over which the weights are sharded."""
        return {"ddp": 1, "fsdp2": self.devices, "fsdp2_hybrid": self.devices // self.nodes}[self.strategy]


def plan(
    network: Network,
    cluster: Cluster,
    *,
    batch_size: int,
    passes: int = 1,
    steps: int = 1,
    precision: str = "bf16-mixed",
    calls: int = 1,
) -> Report:
    """Estimate memory per device and time of a training on machines that are not here; nothing is run.

        state       (4 + 4 + 8 + 4) bytes · P / shards      weights, gradients, AdamW's moments, averages
        gathered    2 units and what is outside of them, in the type of the products (FSDP2); buckets of 4 P bytes (DDP)
        activations batch_size · what the network keeps for the backward pass of an example
        head        the logits that are held at once, and the gradient of its matrix
        compute     3 · FLOPs of a forward pass · examples per device / (mfu · peak), 4 · with checkpointing
        exchange    bytes sent per device / bandwidth: 2 · 4 P (DDP); per pass two gathers and one sum (FSDP2)
        step        the longer of compute and exchange, which overlap

    Args:
        network: perhaps without memory: `with weightless(): network = Transformer(...)`.
        cluster: on what.
        batch_size: examples per pass and device.
        passes: `trainer.accumulate_grad_batches`.
        steps: of the training.
        precision: "bf16-mixed" or "32-true".
        calls: network evaluations per example of the objective.
    """
    half = precision != "32-true"
    memory = memory_per_device(network, cluster, batch_size * calls, half)
    seconds = seconds_per_step(network, cluster, batch_size * passes * calls, passes, half)
    examples = batch_size * passes * cluster.devices
    tokens, step = examples * math.prod(network.shape), max(seconds.values())
    total = sum(memory.values())
    row: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "tokens_per_step": tokens,
        **{f"{name}_gib": round(value / GIB, 2) for name, value in memory.items()},
        "memory_gib": round(total / GIB, 2),
        "fits": total < 0.92 * MEMORY[cluster.gpu] * 1e9,
        **{f"{name}_s": round(value, 4) for name, value in seconds.items()},
        "tokens_per_second": round(tokens / step),
        "steps": steps,
        "hours": round(step * steps / 3600, 2),
        "device_hours": round(step * steps / 3600 * cluster.devices, 1),
    }
    peak = (PEAKS if half else FLOAT32)[cluster.gpu]
    protocol = {
        "devices": f"{cluster.devices} x {cluster.gpu} ({MEMORY[cluster.gpu]} GB) in {cluster.nodes} node(s)",
        "strategy": cluster.strategy,
        "precision": precision,
        "peak": f"{peak / 1e12:g} TFLOP/s a device, of which {cluster.mfu:.0%} are reached",
        "bandwidth": f"{cluster.inside / 1e9:g} GB/s a device in a node, {cluster.between / 1e9:g} GB/s between nodes",
        "not_counted": "evaluations, checkpoints, waiting for data, fragments of memory (8% are kept free)",
        "measured": "nothing: by formula",
    }
    return Report((row,), protocol)


@contextmanager
def weightless(wanted: bool = True) -> Iterator[None]:
    """Build networks whose weights take no memory, if that is wanted: they can be planned for, and nothing else."""
    with torch.device("meta") if wanted else nullcontext():
        yield


def memory_per_device(network: Network, cluster: Cluster, batch_size: int, half: bool) -> dict[str, float]:
    """Return the bytes that a device holds at most, by what they are for."""
    size, trained = (
        sum(p.numel() for p in network.parameters() if p.requires_grad or every) for every in (True, False)
    )
    parts = [sum(p.numel() for p in unit.parameters()) for unit in units(network)]
    outside = size - sum(p.numel() for p in {p for unit in units(network) for p in unit.parameters()})
    whole = 2 * max(parts, default=0) * (2 if half else 4) + 2 * 4 * outside
    kept, inner = saved_bytes(network)
    head = getattr(network, "head", None)
    rows = 0.0
    if head is not None:
        logits = min(batch_size * math.prod(network.shape) / 2 * network.vocab_size, LOGITS_PER_PRODUCT)
        rows = 4 * head.weight.numel() + logits * (6 if half else 8)
    return {
        "state": (4 * size + 16 * trained) / cluster.shards,
        "gathered": 4 * trained if cluster.strategy == "ddp" and cluster.devices > 1 else whole * (cluster.shards > 1),
        "activations": batch_size * (kept + inner) * (0.6 if half else 1.0),
        "head": rows,
    }


def seconds_per_step(network: Network, cluster: Cluster, examples: int, passes: int, half: bool) -> dict[str, float]:
    """Return the seconds of a step for what is computed, and for what is sent meanwhile."""
    flops = step_flops(network) * (4 / 3 if recomputes(network) else 1)
    compute = examples * flops / (cluster.mfu * (PEAKS if half else FLOAT32)[cluster.gpu])
    size = sum(p.numel() for p in network.parameters() if p.requires_grad)
    count, near = cluster.devices, cluster.devices // cluster.nodes
    link = cluster.between if cluster.nodes > 1 else cluster.inside
    if cluster.strategy == "ddp":
        exchange = 2 * 4 * size * (count - 1) / count / link
    else:
        a_pass = (2 * (2 if half else 4) + 4) * size * (cluster.shards - 1) / cluster.shards
        exchange = passes * a_pass / (cluster.inside if cluster.strategy == "fsdp2_hybrid" else link)
        if cluster.strategy == "fsdp2_hybrid":
            exchange += passes * 2 * 4 * size / near * (cluster.nodes - 1) / cluster.nodes / cluster.between
    return {"compute": compute, "exchange": exchange}


def recomputes(network: Network) -> bool:
    """Return whether a network computes its blocks again in the backward pass."""
    return bool(getattr(network, "checkpointing", False) or getattr(network, "gradient_checkpointing", False))


def saved_bytes(network: Network) -> tuple[float, float]:
    """Return the bytes that an example keeps for the backward pass in float32, and those of what is computed again.

    They are counted on tensors without memory. The second are those of one unit, 0 unless the network has checkpoints.
    """
    kept = _count_saved(network)
    if not getattr(network, "checkpointing", False):
        return kept, 0.0
    inside: Any = network
    inside.checkpointing = False
    try:
        return kept, max(0.0, _count_saved(network) - kept) / max(1, len(list(units(network))))
    finally:
        inside.checkpointing = True


def _count_saved(network: nn.Module) -> float:
    made: Any = network
    weights: dict[str, Any] = {
        name: p.detach().to("meta").requires_grad_(p.requires_grad) for name, p in network.named_parameters()
    }
    weights |= {name: buffer.to("meta") for name, buffer in network.named_buffers()}
    own = {id(tensor) for tensor in weights.values()}
    x = torch.zeros(1, *made.shape, dtype=torch.long, device="meta")
    label = None if made.classes is None else x.new_zeros(1)
    seen: dict[int, Tensor] = {}
    length = x.numel()  # fused attention keeps no scores

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        scores = tensor.shape[-2:] == (length, length) and tensor.numel() > length**2
        if id(base) not in own and tensor.is_floating_point() and not scores:
            seen[id(base)] = base
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = functional_call(network, weights, (x, torch.ones(1, dtype=torch.float64, device="meta"), label))
    del loss
    return float(sum(tensor.numel() * tensor.element_size() for tensor in seen.values()))

"""Which number format a run is trained in: a rule, so that the same command on the same machine always gets the same.

    device   needed for bf16-mixed                                                   else
    GPU      products of bfloat16 in hardware (Ampere and later)                     32-true
    CPU      such products too (AVX512_BF16 or AMX), and width >= 64 or V >= 4096    32-true

Without such instructions bfloat16 is emulated: on an AMD EPYC of the third generation a step of a transformer (2
layers, L = 64, 16 sequences, one thread) took 6.5, 17 and 22 times as long as in float32 at widths 64, 256 and 512 with
V = 27, and 12 times at width 128 with V = 8192. With them, on 2 cores of a later EPYC, a step of 4 blocks and 16
sequences of 128 took 63, 84, 147 and 188 ms in float32, and 42, 57, 111 and 133 in bfloat16, at widths 64, 96 and 128,
and 128 with a convolution and n-grams; at width 256 the factor is 1.5 to 2 (docs/performance.md). Narrower networks
were not measured. A head of many values is a large product whatever the width. Where several processes train one model,
all must agree: the rule looks at nothing that differs between processes on machines of one kind, and never at a clock.
"""

from typing import Any, NamedTuple

import torch

from unmask.networks.base import Network

WIDTH, VOCAB = 64, 4096
"""From which the products of a network take longer than converting what they multiply."""


class Choice(NamedTuple):
    """A precision and why.

    Attributes:
        precision: "32-true" or "bf16-mixed", as lightning names them.
        reason: in a few words.
    """

    precision: str
    reason: str


def decide(network: Network, device: torch.device | str, processes: int = 1, least_width: int = WIDTH) -> Choice:
    """Choose the number format of a run by the rule above.

    Args:
        network: to be trained; only the sizes of its matrices matter.
        device: where.
        processes: that train it together; with more than one, the reason says that each must get the same.
        least_width: width from which bfloat16 pays on a processor.
    """
    together = f", the same in all {processes} processes" if processes > 1 else ""
    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16-mixed", f"the GPU multiplies bfloat16 in hardware{together}")
        return Choice("32-true", f"the GPU has no bfloat16 in hardware{together}")
    if torch.device(device).type != "cpu":
        return Choice("32-true", f"nothing is known of bfloat16 on {torch.device(device).type}{together}")
    if not has_bfloat16():
        return Choice("32-true", f"the processor has no bfloat16 in hardware{together}")
    width = typical_width(network)
    if width >= least_width or network.vocab_size >= VOCAB:
        large = f"width {width}" if width >= least_width else f"V = {network.vocab_size}"
        return Choice("bf16-mixed", f"the processor multiplies bfloat16 in hardware, and {large} is enough{together}")
    return Choice(
        "32-true", f"width {width} is less than the {least_width} from which bfloat16 pays on a processor{together}"
    )


def has_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware (AVX512_BF16 or AMX)."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if "avx512_bf16" in known or "bf16" in known:
        return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check)


def typical_width(network: Network) -> int:
    """Return the inputs of the layer at which half of a network's products are in layers of at most as many."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    sizes = sorted((m.weight.shape[1], m.weight.numel()) for m in layers)
    total, seen = sum(count for _, count in sizes), 0
    for width, count in sizes:
        seen += count
        if 2 * seen >= total:
            return width
    return 0

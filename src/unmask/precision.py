"""Which number format is fastest here."""

import time

import torch


def fastest_precision(device: torch.device | str) -> str:
    """Measure whether products of matrices run faster in bfloat16 than in float32, by a clear margin."""

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(256, 256, dtype=dtype, device=device)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            (a @ a)[0, 0].item()
            times.append(time.perf_counter() - start)
        return min(times)

    return "bf16-mixed" if seconds(torch.bfloat16) < 0.7 * seconds(torch.float32) else "32-true"

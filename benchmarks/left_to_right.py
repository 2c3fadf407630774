"""Speed of generation from left to right against masked sampling (python -m benchmarks.left_to_right [--json FILE]).

Both networks have the same blocks (4 layers), with random weights: what they predict does not matter here.
Seconds are of whole samples, medians of rounds in turns, in one process; a ratio above 1 says that left to right is the
faster one.
"""

import argparse
from typing import Any

import torch

from benchmarks.timing import interleaved, report
from unmask.forward import all_masked
from unmask.networks.base import Network
from unmask.networks.causal import CausalTransformer
from unmask.networks.transformer import Transformer
from unmask.randomness import seeded
from unmask.samplers.base import Sampler
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.left_to_right import LeftToRight

ROUNDS = 2


def networks(vocab: int, length: int, width: int) -> tuple[CausalTransformer, Transformer]:
    """Return the two networks, of the same number of parameters."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": width, "depth": 4, "heads": 4}
    causal, masked = CausalTransformer(vocab, (length,), **sizes).eval(), Transformer(vocab, (length,), **sizes).eval()
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (causal, masked)]
    assert counts[0] == counts[1]
    return causal, masked


def compare(vocab: int, length: int, batch: int, width: int) -> dict[str, Any]:
    """Time whole samples of one length."""
    causal, masked = networks(vocab, length, width)
    work: dict[str, tuple[Network, Sampler]] = {
        "left to right": (causal, LeftToRight()),
        "left to right, no cache": (causal, LeftToRight(cache=False)),
    }
    for tokens in (1, 4, 16, 64):
        if tokens < length:
            work[f"first hitting, {tokens} a call"] = masked, FirstHitting(tokens_per_call=tokens)
    canvas = all_masked(batch, (length,), vocab)

    def run(network: Network, sampler: Sampler) -> None:
        sampler(network, canvas, generator=seeded(0))

    seconds = interleaved({name: lambda of=of: run(*of) for name, of in work.items()}, ROUNDS)  # type: ignore[misc]
    ours = seconds["left to right"]
    row: dict[str, Any] = {"width": width, "length": length, "batch": batch, "left to right, s": ours}
    row["tokens a second"] = batch * length / ours
    return row | {f"{name}, ratio": value / ours for name, value in seconds.items() if value != ours}


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    settings = parser.parse_args()
    sizes = [(27, 8, 2, 16)] if settings.small else [(27, 128, 1, 256), (27, 128, 8, 128)]
    rows = []
    for size in sizes:
        rows.append(compare(*size))
        for name, value in rows[-1].items():
            print(
                f"    {name:32} {value:10.3g}" if isinstance(value, float) else f"    {name:32} {value:>10}", flush=True
            )
        print()
    report(rows, settings.json)


if __name__ == "__main__":
    main()

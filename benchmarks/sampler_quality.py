"""Error against calls of every sampler, with the exact posterior as the network.

    python -m benchmarks.sampler_quality

Two distributions over 6 spins: one with pairwise correlations (`tests/oracle.py`), and a table of 64 random
probabilities, which correlates all of them. The error is the total variation between 400,000 samples and the exact
distribution.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracle import Table, pairwise_correlated
from unmask.evaluation.protocol import short_name
from unmask.forward import all_masked
from unmask.randomness import seeded
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler
from unmask.samplers.confidence import EntropyBounded, MostConfident
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.ordered import InOrder
from unmask.samplers.presets import dream, llada
from unmask.samplers.remasking import Remasking

SAMPLES = 400_000
SAMPLERS: list[Sampler] = [FirstHitting(), InOrder(), FirstHitting(block_length=2)]
for size in (3, 2):
    SAMPLERS += [
        FirstHitting(tokens_per_call=size),
        FirstHitting(tokens_per_call=size, order=2),
        FirstHitting(tokens_per_call=size, order=2, form="predictor-corrector"),
        InOrder(tokens_per_call=size),
        Ancestral(steps=6 // size + 1),
        Ancestral(steps=6 // size + 1, grid="uniform"),
        MostConfident(steps=6 // size),
    ]
SAMPLERS += [
    FirstHitting(tokens_per_call=6, corrections=2),
    FirstHitting(tokens_per_call=6, corrections=8),
    FirstHitting(tokens_per_call=3, corrections=2),
    EntropyBounded(0.7),
    EntropyBounded(1.4),
    MostConfident(steps=6, measure="entropy", grid="uniform"),
    llada(6, 1.0, "random", block_length=None),
    llada(6, 1.0, block_length=None),
    dream(6, 1.0, 1.0),
    dream(6, 1.0, 1.0, alg="origin"),
    Ancestral(steps=16),
    Remasking(steps=16, eta=0.1),
    Remasking(steps=16, eta=0.1, confidence=True),
    Ancestral(steps=64),
    Remasking(steps=64, eta=0.1),
]


def main() -> None:
    """Print the table."""
    oracles = {"pairwise": pairwise_correlated(6, 0.15), "table": Table(2, 6, seed=1, peak=0.6)}
    print(f"{'sampler':72} " + " ".join(f"{'calls':>6} {name:>14}" for name in oracles))
    chance = [
        (torch.distributions.Multinomial(SAMPLES, oracle.p).sample((20,)) / SAMPLES - oracle.p).abs().sum(1).mean() / 2
        for oracle in oracles.values()
    ]
    print(f"{'(exact draws: what is seen by chance)':72} " + " ".join(f"{'':6} {error:14.4f}" for error in chance))
    for sampler in SAMPLERS:
        cells = []
        for oracle in oracles.values():
            *_, state = sampler.trajectory(oracle, all_masked(SAMPLES, (6,), 2), generator=seeded(0))
            found = oracle.index(state.x).bincount(minlength=64) / SAMPLES
            cells.append(f"{state.calls.double().mean():6.2f} {(found - oracle.p).abs().sum() / 2:14.4f}")
        print(f"{short_name(sampler):72} {' '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()

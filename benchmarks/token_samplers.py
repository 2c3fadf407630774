"""Error against calls of the samplers for state-dependent schedules (python -m benchmarks.token_samplers)."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracle import Table
from unmask.forward import all_masked
from unmask.randomness import seeded
from unmask.samplers.base import Sampler
from unmask.samplers.token import TokenAncestral, TokenFirstHitting
from unmask.schedules import TokenPolynomial

POWERS = (0.4, 1.0, 2.5)
SAMPLES = 200_000


def main() -> None:
    """Print a table: network calls per example, and total variation to the exact distribution."""
    oracle = Table(3, 3)
    w = torch.tensor(POWERS, dtype=torch.float64)
    oracle.under(w)
    schedule = TokenPolynomial(3).double()
    with torch.no_grad():
        schedule.raw.copy_(w.expm1().log())
    samplers: dict[str, Sampler] = {
        f"ancestral, {steps} steps": TokenAncestral(schedule=schedule, steps=steps) for steps in (1, 2, 4, 8, 16, 64)
    }
    samplers |= {
        f"first hitting, {form}": TokenFirstHitting(schedule=schedule, form=form) for form in ("frozen", "thinned")
    }
    exact = torch.distributions.Multinomial(SAMPLES, oracle.p).sample((20,)) / SAMPLES
    print(f"{'exact draws':24} {'':6} {(exact - oracle.p).abs().sum(1).mean() / 2:.4f}")
    for name, sampler in samplers.items():
        *_, state = sampler.trajectory(oracle, all_masked(SAMPLES, (3,), 3), generator=seeded(0))
        found = oracle.index(state.x).bincount(minlength=27) / SAMPLES
        print(f"{name:24} {state.calls.double().mean():6.2f} {(found - oracle.p).abs().sum() / 2:.4f}", flush=True)


if __name__ == "__main__":
    main()

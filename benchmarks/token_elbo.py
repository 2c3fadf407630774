"""The variance of GenMD4's estimators, compared with simpler ones.

    python -m benchmarks.token_elbo

The network is the exact posterior of a Markov chain (`tests/oracle.py`), so that only the estimator is measured. Each
cell is the standard deviation of one estimate, with the same number of network evaluations in every column.

- The bound of one example, from one mask: t drawn uniformly, t drawn with density ~ t^(min w / 2 - 1), and t drawn at
  the masks (`TokenELBO`).
- The whole gradient in the exponents, from two masks of 16 examples: with the other mask's bound as the baseline of
  REINFORCE, and with pairs of masks that share a position (`TokenELBO`). Both have the same expectation.
"""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracle import MarkovChain
from unmask.objectives.token import TokenELBO, draw_time_and_masks
from unmask.randomness import seeded
from unmask.schedules import TokenPolynomial

LENGTH = 64


def schedule_of(powers: tuple[float, ...]) -> TokenPolynomial:
    """Return a schedule with these exponents, in float64."""
    schedule = TokenPolynomial(len(powers)).double()
    with torch.no_grad():
        schedule.raw.copy_(torch.tensor(powers, dtype=torch.float64).expm1().log())
    return schedule


def terms(oracle: MarkovChain, w: Tensor, x: Tensor, at: Tensor, t: Tensor) -> Tensor:
    """Return w_x (-log p_x - 1) + sum_i w_i p_i where masked, else 0."""
    log_p = oracle(x.masked_fill(at, oracle.mask_id), t).log_softmax(-1)
    nll = -log_p.gather(2, x.unsqueeze(2)).squeeze(2)
    return torch.where(at, w[x] * (nll - 1) + log_p.exp() @ w, 0)


def by_time(oracle: MarkovChain, w: Tensor, x: Tensor, c: float) -> Tensor:
    """Estimate the bound with t = u^(1 / c), u uniform: c = 1 is a uniform time."""
    u = 1 - torch.rand(len(x), dtype=torch.float64, generator=seeded(1))
    t = u ** (1 / c)
    at = torch.rand(x.shape, dtype=torch.float64, generator=seeded(2)) < t.unsqueeze(1) ** w[x]
    return terms(oracle, w, x, at, t).sum(1) / (c * u)


def plain_gradient(oracle: MarkovChain, schedule: TokenPolynomial, x: Tensor, seed: int) -> Tensor:
    """Return an unbiased gradient from the masks that `TokenELBO` draws, the other mask's bound as the baseline."""
    w_x = schedule.powers[x]
    log_t, hidden = draw_time_and_masks(w_x.detach(), 2, w_x.shape[1], None, seeded(seed))
    g = terms(oracle, schedule.powers, x.repeat(2, 1), hidden.view(-1, x.shape[1]), log_t.exp().repeat(2)).view_as(
        hidden
    )
    bound = x.shape[1] * g.sum(-1) / torch.where(hidden, w_x, 0).sum(-1)
    reward, rate = bound.detach(), w_x * log_t.unsqueeze(1)
    of_sets = torch.where(hidden, rate, (-rate.expm1()).log()).sum(-1)
    chance = (w_x.log() - rate).detach().masked_fill(~(hidden[0] & hidden[1]), -math.inf).softmax(-1)
    of_time = (chance * (w_x.log() + rate)).sum(-1)  # the score of the position that is masked at t, and of its time
    surrogate = bound + reward * of_time + (reward - reward.flip(0)) * of_sets
    return torch.autograd.grad(surrogate.mean(), schedule.raw)[0]


def paired_gradient(oracle: MarkovChain, schedule: TokenPolynomial, x: Tensor, seed: int) -> Tensor:
    """Return the gradient of `TokenELBO`, from the same masks."""
    return torch.autograd.grad(TokenELBO(schedule)(oracle, x, generator=seeded(seed)).loss, schedule.raw)[0]


def main() -> None:
    """Print the table."""
    print(
        f"{'w':>18} {'bound':>7} | {'uniform t':>10} {'t^(w/2-1)':>10} {'TokenELBO':>10} | {'baseline':>9} {'pairs':>7}"
    )
    for powers in ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.4, 1.0, 2.5)):
        oracle = MarkovChain(3, LENGTH)
        x = oracle.sample(1, seeded(0)).repeat(20_000, 1)
        exact = -oracle.log_prob(x[:1]).item()
        schedule = schedule_of(powers)
        w = schedule.powers.detach()
        oracle.under(w)
        with torch.no_grad():
            columns = [by_time(oracle, w, x, c) for c in (1.0, min(powers) / 2)]
            columns.append(TokenELBO(schedule, masks=1)(oracle, x, generator=seeded(3)).nelbo)
        examples = oracle.sample(16, seeded(4))
        spread = [
            math.sqrt(torch.stack([gradient(oracle, schedule, examples, seed) for seed in range(300)]).var(0).sum())
            for gradient in (plain_gradient, paired_gradient)
        ]
        line = " ".join(f"{column.std().item():10.1f}" for column in columns)
        print(f"{powers!s:>18} {exact:7.1f} | {line} | {spread[0]:9.2f} {spread[1]:7.2f}", flush=True)


if __name__ == "__main__":
    main()

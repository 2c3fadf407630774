"""Remasking: a reverse process that can mask revealed tokens again (ReMDM, arXiv:2503.00307)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.categorical import categorical
from unmask.devices import send
from unmask.networks.base import Network
from unmask.randomness import Generators, uniform
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import Sampler, State
from unmask.samplers.rows import Failures, Rows, known_positions
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True)
class Remasking(Sampler):
    """Simulate the reverse process on a grid of times, masking some revealed tokens again in each step (ReMDM).

    From t to s < t,

        a revealed token is masked  with probability σ ≤ σ_max = min(1, (1 − α_s) / α_t),
        a masked one is revealed    with probability (α_s − (1 − σ) α_t) / (1 − α_t),

    so that a token is visible at s with probability α_s, as without remasking. Tokens that the canvas shows are never
    masked.

    With an exact network and without `confidence` and `loop`, the distribution of the tokens converges to that of the
    reverse process as the steps get smaller. `confidence` remasks unlikely tokens and makes them too rare, however
    small the steps. In a `loop`, σ does not decrease with the size of the steps, so tokens are still drawn together.

    Args:
        schedule: gives α.
        steps: number of steps, at least 1.
        grid: see `Ancestral`.
        form: σ = min(eta, σ_max) for "cap", eta · σ_max for "rescale".
        eta: strength, in [0, 1]; 0 is `Ancestral`.
        confidence: whether tokens that had a small probability p when they were drawn are remasked more often: σ is
            distributed in proportion to exp(−p), with the same average (in the paper, with the same sum as one
            token's σ; dividing eta by the number of tokens gives that).
        loop: (t_on, t_off, alpha_on). Reveal without remasking to α = alpha_on until t_on; keep α constant and only
            exchange tokens until t_off; then reveal the rest without remasking. None: remask throughout.
        temperature, top_k, top_p, guidance: see `Sampler`.

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2)
        >>> x = unmask.Remasking(steps=8, eta=0.1)(network, unmask.all_masked(2, (16,), network.mask_id))
        >>> bool((x < 5).all())
        True
    """

    schedule: Schedule = field(default_factory=Linear)
    steps: int = 256
    grid: Grid = "cosine"
    form: Literal["cap", "rescale"] = "cap"
    eta: float = 0.02
    confidence: bool = False
    loop: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.schedule, Schedule, "Remasking")
        check_grid(self.steps, self.grid)
        if self.form not in ("cap", "rescale"):
            raise ValueError(f"form must be cap or rescale, got {self.form!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}")
        if self.loop is not None:
            t_on, t_off, alpha_on = self.loop
            if not (0 < t_off < t_on < 1 and 0 < alpha_on < 1):
                raise ValueError(f"loop must be 0 < t_off < t_on < 1 and 0 < alpha_on < 1, got {self.loop}")

    def mask_rates_and_sigma(self, device: torch.device) -> tuple[Float[Tensor, " times"], Float[Tensor, " steps"]]:
        """Return the mask rate at each time of the grid, and σ of each step."""
        t = grid_times(self.steps, self.grid, device)
        remasks = torch.ones(self.steps, dtype=torch.bool, device=device)
        if self.loop is None:
            rate = self.schedule.mask_rate(t)
        else:
            t_on, t_off, alpha_on = self.loop
            middle = self.schedule.inverse(torch.full((), alpha_on, dtype=t.dtype, device=device))
            late = 1 - (1 - t) / (1 - t_on) * (1 - middle)
            warped = torch.where(t > t_on, late, torch.where(t > t_off, middle, t / t_off * middle))
            rate = self.schedule.mask_rate(warped)
            remasks = rate[1:] == rate[:-1]
        largest = (rate[1:] / (1 - rate[:-1])).clamp(max=1)  # 1 at t = 1, where nothing is visible yet
        sigma = largest.clamp(max=self.eta) if self.form == "cap" else self.eta * largest
        return rate, sigma * remasks

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`.

        Without `confidence`, what is masked does not depend on tokens, and is decided on the host. With it the host
        waits for the device once in each step.
        """
        wanted = self.check(network, x, label)
        place = x.device if self.confidence else torch.device("cpu")
        rates, _ = self.mask_rates_and_sigma(x.device)
        t = self.schedule.inverse(1 - rates)
        rate, sigma = self.mask_rates_and_sigma(place)
        calls, failures = torch.zeros(len(x), dtype=torch.long, device=x.device), Failures(x.device)
        token_p = torch.zeros(x.shape, dtype=torch.float64, device=place)  # of each token when it was drawn
        masked = wanted = wanted.to(place)
        yield State(x, t[:1].expand(len(x)), calls)
        for k in range(self.steps):
            u_position, u_token = uniform((len(x), 2, *x.shape[1:]), generator, place).unbind(1)
            remask, mean = self._remasking_probability(sigma[k], wanted & ~masked, token_p)
            reveal = 1 - (rate[k + 1] - mean * (1 - rate[k])) / rate[k]
            drawn = masked & (u_position < reveal.view(-1, *[1] * (x.dim() - 1)))
            masked_again = wanted & ~masked & (u_position < remask)
            masked = (masked & ~drawn) | masked_again
            flags = drawn.cpu()
            rows = Rows.of(flags.flatten(1).any(1).tolist(), x.device)
            if len(rows):
                at, here = known_positions(flags, rows, x.device), rows.pick(x)
                labels = None if label is None else rows.pick(label)
                logits = self.token_logits(network, here, rates[k].expand(len(rows)), labels, at)
                token = categorical(logits, at.pick(rows.pick(send(u_token, x.device)).flatten(1)))
                failures.note(token == network.mask_id, k + 1)
                x, calls = rows.put(x, at.replace(here, token)), rows.count(calls, self.evaluations)
                if self.confidence:
                    likely = logits.softmax(-1, dtype=torch.float64)
                    p = likely.gather(1, token.clamp(max=network.mask_id - 1).unsqueeze(1)).squeeze(1)
                    token_p = rows.put(token_p, at.replace(rows.pick(token_p), p))
            x = x.masked_fill(send(masked_again, x.device), network.mask_id)
            yield State(x, t[k + 1].expand(len(x)), calls)
        failures.check()

    def _remasking_probability(self, sigma: Tensor, visible: Where, token_p: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability that each visible token is masked, and its average over each example."""
        if not self.confidence:
            return sigma.expand(visible.shape), sigma.expand(len(visible))
        n = visible.flatten(1).sum(1, keepdim=True)
        share = torch.where(visible, -token_p, -math.inf).flatten(1).softmax(1)
        remask = torch.where(visible.flatten(1), sigma * n * share, 0.0).clamp(max=1)
        mean = torch.where(n > 0, remask.sum(1, keepdim=True) / n, sigma).squeeze(1)
        return remask.view(visible.shape), mean

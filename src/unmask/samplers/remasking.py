"""Remasking: a reverse process that may take back what it revealed (ReMDM, arXiv:2503.00307)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.categorical import categorical
from unmask.networks.base import Network
from unmask.randomness import Generators, uniform
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import Sampler, State, check_drawn
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True)
class Remasking(Sampler):
    """Go from t = 1 to 0 in `steps` steps; in each, mask some revealed tokens again, and reveal the more for it.

    Between t and s < t a revealed token is masked with probability sigma, and a masked one revealed with probability
    (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), so that as many are visible as without remasking. sigma can be at
    most sigma_max = min(1, (1 - alpha_s) / alpha_t). Tokens that the canvas shows are never touched.

    With an exact network, without `confidence` and `loop`, the law of the tokens is that of the reverse process in the
    limit of small steps. `confidence` takes back unlikely tokens and so makes them rarer than they should be, however
    small the steps; in a `loop` sigma does not fall with the steps, so tokens go on being drawn in company.

    Args:
        schedule: gives alpha.
        steps: number of steps, at least 1.
        grid: see `Ancestral`.
        form: sigma = min(eta, sigma_max) for "cap", eta sigma_max for "rescale".
        eta: strength, in [0, 1]; 0 is `Ancestral`.
        confidence: whether the tokens that had small probabilities when they were drawn are masked rather than the
            others: sigma is shared out in proportion to exp(-probability), with the same mean (in the paper, with
            the same sum as a single token's sigma; eta divided by the number of tokens gives that).
        loop: (t_on, t_off, alpha_on). Until t_on, tokens are revealed without remasking to alpha_on; until t_off alpha
            stays and tokens are only exchanged; then the rest is revealed without remasking. None: remask throughout.
        temperature, top_k, top_p, guidance: see `Sampler`.
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

    def rates(self, device: torch.device) -> tuple[Float[Tensor, " times"], Float[Tensor, " steps"]]:
        """Return the mask rate at each time of the grid, and sigma of each step."""
        t = grid_times(self.steps, self.grid, device)
        on = torch.ones(self.steps, dtype=torch.bool, device=device)
        if self.loop is None:
            rate = self.schedule.mask_rate(t)
        else:
            t_on, t_off, alpha_on = self.loop
            middle = self.schedule.inverse(torch.tensor(alpha_on, dtype=t.dtype, device=device))
            late = 1 - (1 - t) / (1 - t_on) * (1 - middle)
            warped = torch.where(t > t_on, late, torch.where(t > t_off, middle, t / t_off * middle))
            rate = self.schedule.mask_rate(warped)
            on = rate[1:] == rate[:-1]
        most = (rate[1:] / (1 - rate[:-1])).clamp(max=1)  # at t = 1 nothing is visible that could be masked
        sigma = most.clamp(max=self.eta) if self.form == "cap" else self.eta * most
        return rate, sigma * on

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`."""
        wanted = self.check(network, x, label)
        rate, sigma = self.rates(x.device)
        t = self.schedule.inverse(1 - rate)
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        drawn = torch.zeros(x.shape, dtype=torch.float64, device=x.device)  # the probability that each token had
        yield State(x, t[:1].expand(len(x)), calls)
        for k in range(self.steps):
            which, what = uniform((len(x), 2, *x.shape[1:]), generator, x.device).unbind(1)
            masked = wanted & (x == network.mask_id)
            remask, mean = self._shares(sigma[k], wanted & ~masked, drawn)
            reveal = 1 - (rate[k + 1] - mean * (1 - rate[k])) / rate[k]
            at = masked & (which < reveal.view(-1, *[1] * (x.dim() - 1)))
            back = wanted & ~masked & (which < remask)
            rows = at.flatten(1).any(1)
            if rows.any():
                law = self.law(
                    network, x[rows], rate[k].expand(len(x))[rows], None if label is None else label[rows], at[rows]
                )
                token = categorical(law, what[at])
                check_drawn(token, network.mask_id, k + 1)
                x = x.masked_scatter(at, token)
                p = law.softmax(-1, dtype=torch.float64).gather(1, token.unsqueeze(1)).squeeze(1)
                drawn = drawn.masked_scatter(at, p)
                calls = calls + self.evaluations * rows
            x = x.masked_fill(back, network.mask_id)
            yield State(x, t[k + 1].expand(len(x)), calls)

    def _shares(self, sigma: Tensor, visible: Where, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chance of each visible token to be masked, and its mean over each example."""
        if not self.confidence:
            return sigma.expand(visible.shape), sigma.expand(len(visible))
        n = visible.flatten(1).sum(1, keepdim=True)
        share = torch.where(visible, -drawn, -math.inf).flatten(1).softmax(1)
        remask = torch.where(visible.flatten(1), sigma * n * share, 0.0).clamp(max=1)
        mean = torch.where(n > 0, remask.sum(1, keepdim=True) / n, sigma).squeeze(1)
        return remask.view(visible.shape), mean

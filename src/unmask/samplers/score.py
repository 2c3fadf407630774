"""The samplers of SEDD for masked data: Tweedie τ-leaping, which is analytic, and Euler steps."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.categorical import categorical, filter_logits
from unmask.networks.base import Network, Positions
from unmask.networks.constrained import Constrained
from unmask.noise import log_scores
from unmask.randomness import Generators, uniform
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import Sampler, State
from unmask.samplers.rows import Failures
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Labels, Tokens


@dataclass(frozen=True)
class ScoreSampler(Sampler):
    """Simulate the reverse process of masked data on a grid of times, from concrete scores (see `ScoreEntropy`).

    With s_{i,y} = α_t / (1 − α_t) · p̃_{i,y} and Z_i = Σ_y p̃_{i,y}, a masked position becomes

        token y with probability c(t, s) p̃_{i,y},   or stays masked with probability 1 − c(t, s) Z_i.

    Where c Z > 1 it is revealed, and the last step reveals all that is left, with tokens in proportion to p̃ (as in the
    published code). What a canvas shows is kept, and is conditioned on as by every sampler of masked models. Filters
    such as `top_p` choose tokens, and leave Z as it is. Of a `Constrained` network, and with guidance, Z is 1.
    """

    schedule: Schedule = field(default_factory=Linear)
    steps: int = 256
    grid: Grid = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.schedule, Schedule, type(self).__name__)
        check_grid(self.steps, self.grid)

    @abstractmethod
    def reveal_rate(self, t: Float[Tensor, " steps"], s: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        """Return c(t, s) for each step from t to s < t."""

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`. A step calls the network for every example; it counts for those with a mask."""
        at = Positions.of(self.check(network, x, label))
        times = grid_times(self.steps, self.grid, x.device)
        rate, reveal = self.schedule.mask_rate(times), self.reveal_rate(times[:-1], times[1:])
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        failures = Failures(x.device)
        normalised = isinstance(network, Constrained) or self.evaluations > 1  # guided predictions are distributions
        rows = at.example * x[0].numel() + at.position
        yield State(x, times[:1].expand(len(x)), calls)
        for k in range(self.steps):
            u_reveal, u_token = uniform((len(x), 2, *x.shape[1:]), generator, x.device).flatten(2).unbind(1)
            here = at.pick(x.flatten(1))
            hidden = here == network.mask_id
            if x.device.type != "cpu" or hidden.any():
                logits = self.predict(network, x, rate[k].expand(len(x)), label, at)
                total = 1.0 if normalised else log_scores(logits).logsumexp(-1).double().exp()
                token = categorical(filter_logits(logits, self.temperature, self.top_k, self.top_p), at.pick(u_token))
                shown = hidden & (at.pick(u_reveal) < reveal[k] * total) if k + 1 < self.steps else hidden
                failures.note(hidden & (token == network.mask_id), k + 1)
                calls = calls + self.evaluations * (x == network.mask_id).flatten(1).any(1)
                x = x.flatten().index_copy(0, rows, torch.where(shown, token, here)).view_as(x)
            yield State(x, times[k + 1].expand(len(x)), calls)
        failures.check()


@dataclass(frozen=True)
class Tweedie(ScoreSampler):
    """Sample by Tweedie τ-leaping, SEDD's analytic sampler (arXiv:2310.16834, Theorem 4.2).

        c(t, s) = (e^{σ_t − σ_s} − 1) α_t / (1 − α_t) = (α_s − α_t) / (1 − α_t)

    See `ScoreSampler`. For scores whose p̃ sum to 1 it is `Ancestral`, step by step.

    Args:
        schedule: gives α at each time of the grid.
        steps: number of steps, at least 1.
        grid: see `Ancestral`.

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> canvas = unmask.all_masked(2, (16,), network.mask_id)
        >>> *_, last = unmask.Tweedie(steps=4).trajectory(network, canvas)
        >>> bool((last.calls <= 4).all())
        True
    """

    def reveal_rate(self, t: Float[Tensor, " steps"], s: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        """See `ScoreSampler.reveal_rate`."""
        return self.schedule.unmask_prob(t, s)


@dataclass(frozen=True)
class Euler(ScoreSampler):
    """Sample by Euler steps of the reverse process (SEDD, arXiv:2310.16834, section 4).

        c(t, s) = (t − s) σ′_t α_t / (1 − α_t) = (t − s) · −α′_t / (1 − α_t)

    See `ScoreSampler`. Under `Linear` it is `Tweedie`; under other schedules it needs more steps.

    Args:
        schedule: gives α at each time of the grid.
        steps: number of steps, at least 1.
        grid: see `Ancestral`.

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> canvas = unmask.all_masked(2, (16,), network.mask_id)
        >>> *_, last = unmask.Euler(unmask.Geometric(), steps=4).trajectory(network, canvas)
        >>> bool((last.calls <= 4).all())
        True
    """

    def reveal_rate(self, t: Float[Tensor, " steps"], s: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
        """See `ScoreSampler.reveal_rate`."""
        return (t - s) * self.schedule.weight(t)

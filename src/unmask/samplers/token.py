"""Samplers for state-dependent schedules (GenMD4): when a position is revealed depends on its token."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.categorical import categorical
from unmask.networks.base import Network
from unmask.randomness import Generators, uniform
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import Sampler, State, check_drawn, flag_of_rank
from unmask.schedules import TokenPolynomial, check_kind, require_schedule
from unmask.types import Labels, Tokens


@dataclass(frozen=True)
class TokenSampler(Sampler):
    """Sample under a state-dependent schedule 1 − α_{t,i} = t^{w_i}; the network is conditioned on the time t.

    Args:
        schedule: gives the exponents w. None: the schedule of the model, in `MaskedDiffusion.sample` and `infill`.
        temperature, top_k, top_p, guidance: see `Sampler`.

    Raises:
        ValueError: if an exponent is 0, infinite or NaN.
    """

    schedule: TokenPolynomial | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule is not None:
            check_kind(self.schedule, TokenPolynomial, type(self).__name__)
            self.schedule.check()

    def powers(self, network: Network) -> Float[Tensor, " vocab"]:
        """Return w; raise a ValueError if there is no schedule, or one for another vocabulary."""
        return require_schedule(self.schedule, network.vocab_size, type(self).__name__).powers.detach()


@dataclass(frozen=True)
class TokenAncestral(TokenSampler):
    """Simulate the reverse process of GenMD4 on a grid of times (MD4, section 6).

    From t to s < t a masked position becomes

        token i      with probability p_i(x_t, t) (1 − (s / t)^{w_i}),
        still masked with the remaining probability, Σ_i p_i(x_t, t) (s / t)^{w_i}.

    Tokens revealed in the same step are drawn independently from one prediction, which is the error of a finite grid.

    Args:
        schedule: see `TokenSampler`.
        steps: number of steps, at least 1.
        grid: see `Ancestral`; a grid of t^w̄, w̄ the average of w, so that the result does not depend on the scale of w.

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> sampler = unmask.TokenAncestral(unmask.TokenPolynomial(vocab_size=5), steps=8)
        >>> bool((sampler(network, unmask.all_masked(2, (16,), network.mask_id)) < 5).all())
        True
    """

    steps: int = 256
    grid: Grid = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.steps, self.grid)

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`."""
        masked = self.check(network, x, label)
        w = self.powers(network)
        t = grid_times(self.steps, self.grid, x.device) ** (1 / w.mean())
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        yield State(x, t[:1].expand(len(x)), calls)
        for k in range(self.steps):
            rows = masked.flatten(1).any(1)
            examples = rows.nonzero().squeeze(1)
            u = uniform(tuple(x.shape), generator, x.device)
            if len(examples):
                noise, labels = t[k].expand(len(examples)), None if label is None else label[examples]
                logits = self.token_logits(network, x[examples], noise, labels, masked[examples])
                p = logits.softmax(-1, dtype=torch.float64)
                reveal = p * -torch.expm1(w * (t[k + 1] / t[k]).log())
                stay = (1 - reveal.sum(1, keepdim=True)).clamp(min=0) * (t[k + 1] > 0)  # exactly 0 in the last step
                token = categorical(torch.cat((reveal, stay), 1).log(), u[masked])
                check_drawn(token, network.mask_id + 1, k + 1)
                x = x.masked_scatter(masked, token)
                masked = x == network.mask_id
                calls = calls + self.evaluations * rows
            yield State(x, t[k + 1].expand(len(x)), calls)


@dataclass(frozen=True)
class TokenFirstHitting(TokenSampler):
    """Jump from one reveal to the next in the continuous-time reverse process of GenMD4 (MD4, section 6).

    In the time τ = −log t, which runs forwards while sampling, a masked position becomes token i at rate

        w_i p_i(x_t, t).

    Every example has its own clock. With n positions masked there are two forms:

    - "thinned": propose a reveal after a waiting time Δτ ~ Exp(n max w), at a uniformly random masked position; draw
      its token i ~ p at that time and accept it with probability w_i / max w. Exact; max w / w_i calls per token i on
      average.
    - "frozen": draw a token i ~ p and a waiting time Δτ ~ Exp(w_i) for every masked position from one call, and reveal
      the position with the shortest. One call per token; exact if all w are equal, otherwise off by the change of p
      between two reveals.

    Args:
        schedule: see `TokenSampler`.
        form: "thinned" or "frozen".

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> sampler = unmask.TokenFirstHitting(unmask.TokenPolynomial(vocab_size=5))
        >>> *_, last = sampler.trajectory(network, unmask.all_masked(2, (16,), network.mask_id))
        >>> last.calls  # equal exponents: nothing is thinned
        tensor([16, 16])
    """

    form: Literal["thinned", "frozen"] = "thinned"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("thinned", "frozen"):
            raise ValueError(f"form must be thinned or frozen, got {self.form!r}")
        if self.schedule is not None and self.form == "thinned":
            w = self.schedule.powers.detach()
            if w.max() > 1000 * w.min():
                warnings.warn(
                    f"exponents from {w.min():.2g} to {w.max():.2g}: a token of the smallest costs "
                    f"{w.max() / w.min():.0f} network calls when sampled exactly; form='frozen' takes one",
                    stacklevel=3,
                )

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`."""
        masked = self.check(network, x, label)
        w = self.powers(network)
        step_function = self._thinned_step if self.form == "thinned" else self._frozen_step
        tau = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        yield State(x, (-tau).exp(), calls)
        step = 0
        while (rows := masked.flatten(1).any(1)).any():
            step += 1
            x, tau = step_function(network, x, tau, label, rows, w, generator, step)
            masked = x == network.mask_id
            calls = calls + self.evaluations * rows
            yield State(x, (-tau).exp(), calls)

    def _thinned_step(
        self,
        network: Network,
        x: Tokens,
        tau: Tensor,
        label: Labels | None,
        rows: Tensor,
        w: Tensor,
        generator: Generators,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """Propose one reveal in each of the unfinished examples `rows`, and accept or reject it."""
        examples = rows.nonzero().squeeze(1)
        wait, place, choice, accept = uniform((len(x), 4), generator, x.device)[examples].unbind(1)
        masked = (x == network.mask_id).flatten(1)[examples]
        n = masked.sum(1)
        tau = tau.masked_scatter(rows, tau[examples] - torch.log1p(-wait) / (n * w.max()))
        at = flag_of_rank(masked.view(-1, *x.shape[1:]), (place * n).long())
        logits = self.token_logits(
            network, x[examples], (-tau[examples]).exp(), None if label is None else label[examples], at
        )
        token = categorical(logits, choice)
        check_drawn(token, network.mask_id, step)
        token = torch.where(accept < w[token] / w.max(), token, network.mask_id)
        return x.masked_scatter(rows.view(-1, *[1] * (x.dim() - 1)), x[examples].masked_scatter(at, token)), tau

    def _frozen_step(
        self,
        network: Network,
        x: Tokens,
        tau: Tensor,
        label: Labels | None,
        rows: Tensor,
        w: Tensor,
        generator: Generators,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """Reveal in each of the unfinished examples `rows` the position of the shortest waiting time."""
        examples = rows.nonzero().squeeze(1)
        choice, wait = uniform((len(x), 2, *x.shape[1:]), generator, x.device)[examples].unbind(1)
        here = x[examples]
        at = here == network.mask_id
        logits = self.token_logits(
            network, here, (-tau[examples]).exp(), None if label is None else label[examples], at
        )
        token = categorical(logits, choice[at])
        check_drawn(token, network.mask_id, step)
        times = torch.full(at.shape, math.inf, dtype=torch.float64, device=x.device)
        times = times.masked_scatter(at, -torch.log1p(-wait[at]) / w[token]).flatten(1)
        first, winner = times.min(1)
        found = here.masked_scatter(at, token).flatten(1).gather(1, winner.unsqueeze(1))
        here = here.flatten(1).scatter(1, winner.unsqueeze(1), found).view_as(here)
        spread = rows.view(-1, *[1] * (x.dim() - 1))
        return x.masked_scatter(spread, here), tau.masked_scatter(rows, tau[examples] + first)

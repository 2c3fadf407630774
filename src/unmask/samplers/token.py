"""Samplers for state-dependent schedules (GenMD4): when a position is revealed depends on its token."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.categorical import categorical
from unmask.networks.base import Network, Positions
from unmask.randomness import Generators, uniform
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import Sampler, State, flag_of_rank
from unmask.samplers.rows import Failures, Rows, known_positions
from unmask.schedules import TokenPolynomial, check_kind, require_schedule
from unmask.types import Labels, Times, Tokens


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
        calls, failures = torch.zeros(len(x), dtype=torch.long, device=x.device), Failures(x.device)
        yield State(x, t[:1].expand(len(x)), calls)
        for k in range(self.steps):
            u = uniform(tuple(x.shape), generator, x.device)
            flags = masked.cpu()  # the one wait of a step
            rows = Rows.of(flags.flatten(1).any(1).tolist(), x.device)
            if len(rows):
                at, here = known_positions(flags, rows, x.device), rows.pick(x)
                labels = None if label is None else rows.pick(label)
                logits = self.token_logits(network, here, t[k].expand(len(rows)), labels, at)
                p = logits.softmax(-1, dtype=torch.float64)
                reveal = p * -torch.expm1(w * (t[k + 1] / t[k]).log())
                stay = (1 - reveal.sum(1, keepdim=True)).clamp(min=0) * (t[k + 1] > 0)  # exactly 0 in the last step
                token = categorical(torch.cat((reveal, stay), 1).log(), at.pick(rows.pick(u).flatten(1)))
                failures.note(token > network.mask_id, k + 1)
                x = rows.put(x, at.replace(here, token.clamp(max=network.mask_id)))
                masked, calls = x == network.mask_id, rows.count(calls, self.evaluations)
            yield State(x, t[k + 1].expand(len(x)), calls)
        failures.check()


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
        w, failures = self.powers(network), Failures(x.device)
        tau = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        yield State(x, (-tau).exp(), calls)
        step, left = 0, masked.flatten(1).sum(1).tolist()
        while any(left):
            step += 1
            rows = Rows.of([count > 0 for count in left], x.device)
            some = rows.pick(x), rows.pick(tau), None if label is None else rows.pick(label)
            if self.form == "thinned":
                u = rows.pick(uniform((len(x), 4), generator, x.device))
                here, clock, token = self._thinned_step(network, *some, u, w)
            else:
                u = rows.pick(uniform((len(x), 2, *x.shape[1:]), generator, x.device))
                here, clock, token = self._frozen_step(network, *some, u, w, [count for count in left if count])
            failures.note(token == network.mask_id, step)
            x, tau, calls = rows.put(x, here), rows.put(tau, clock), rows.count(calls, self.evaluations)
            if self.form == "thinned":  # a proposal may have been rejected: the one wait of a step
                left = failures.check_with((x == network.mask_id).flatten(1).sum(1))
            else:
                left = [max(0, count - 1) for count in left]
            yield State(x, (-tau).exp(), calls)
        failures.check()

    def _thinned_step(
        self,
        network: Network,
        x: Tokens,
        tau: Times,
        label: Labels | None,
        u: Float[Tensor, "batch 4"],
        w: Float[Tensor, " vocab"],
    ) -> tuple[Tokens, Times, Int[Tensor, " batch"]]:
        """Propose one reveal in each example, and accept or reject it: tokens, clocks, and what was proposed."""
        wait, place, choice, accept = u.unbind(1)
        masked = x == network.mask_id
        n = masked.flatten(1).sum(1)
        tau = tau - torch.log1p(-wait) / (n * w.max())
        at = Positions.one_each(flag_of_rank(masked, (place * n).long()))
        token = categorical(self.token_logits(network, x, (-tau).exp(), label, at), choice)
        accepted = accept < w[token.clamp(max=len(w) - 1)] / w.max()
        return at.replace(x, torch.where(accepted, token, network.mask_id)), tau, token

    def _frozen_step(
        self,
        network: Network,
        x: Tokens,
        tau: Times,
        label: Labels | None,
        u: Float[Tensor, "batch 2 *dims"],
        w: Float[Tensor, " vocab"],
        left: list[int],
    ) -> tuple[Tokens, Times, Int[Tensor, " n"]]:
        """Reveal in each example, which has `left` masks, the position of the shortest waiting time."""
        choice, wait = u.flatten(2).unbind(1)
        at = Positions.of(x == network.mask_id, sum(left), max(left))
        token = categorical(self.token_logits(network, x, (-tau).exp(), label, at), at.pick(choice))
        waits = -torch.log1p(-at.pick(wait)) / w[token.clamp(max=len(w) - 1)]
        first, winner = at.replace(torch.full_like(wait, math.inf), waits).min(1)
        found = at.replace(x, token).flatten(1).gather(1, winner.unsqueeze(1))
        return x.flatten(1).scatter(1, winner.unsqueeze(1), found).view_as(x), tau + first, token

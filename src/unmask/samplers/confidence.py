"""Samplers that look at the predictions to choose where to reveal: the surest positions first."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.categorical import categorical, filtered
from unmask.networks.base import Network
from unmask.randomness import Generators
from unmask.samplers.ancestral import Grid, check_grid, grid_times
from unmask.samplers.base import State, check_drawn, uniform_rows
from unmask.samplers.unmasking import Span, Unmasking
from unmask.types import Labels, Where

Measure = Literal["confidence", "margin", "entropy"]


def entropy(logits: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """Return the entropy of softmax(logits) in nats."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)


def sureness(logits: Float[Tensor, "n vocab"], token: Int[Tensor, " n"], measure: Measure) -> Float[Tensor, " n"]:
    """Return how sure each prediction is; larger is surer.

    Args:
        logits: (n, V) before temperature and cuts, which would make all predictions look alike.
        token: (n,) the token that was drawn.
        measure: "confidence": log of the probability of that token. "margin": log of the difference between the
            probabilities of the two most likely tokens. "entropy": minus the entropy, in nats.
    """
    logits = logits.double()
    if measure == "entropy":
        return -entropy(logits)
    if measure == "confidence":
        return logits.log_softmax(-1).gather(1, token.unsqueeze(1)).squeeze(1)
    best = logits.softmax(-1).topk(min(2, logits.shape[1])).values
    return (best[:, 0] - best[:, 1:].sum(1)).log()


class Drawn(NamedTuple):
    """What a call gives for the masked positions of some examples.

    Attributes:
        at: the positions.
        logits: of each, before temperature and cuts.
        token: drawn for each.
        u: a uniform number for each position of the canvas, for orders that are random in part.
    """

    at: Where
    logits: Float[Tensor, "n vocab"]
    token: Int[Tensor, " n"]
    u: Float[Tensor, "batch *dims"]


@dataclass(frozen=True, kw_only=True)
class SurestFirst(Unmasking):
    """Predict every masked position in each call, and keep the tokens where the prediction is surest.

    Not exact, whatever the network: a position's moment depends on its token, as in no reverse process.
    """

    @abstractmethod
    def busy(self, n: Int[Tensor, " batch"], masked: Int[Tensor, " batch"], step: int) -> Bool[Tensor, " batch"]:
        """Return which examples reveal something in a step (0, 1, ...): of n positions so many are still masked."""

    @abstractmethod
    def choose(self, drawn: Drawn, n: Int[Tensor, " batch"], step: int) -> Where:
        """Return which of the masked positions keep their tokens, when n were masked at first."""

    def reveal(
        self, network: Network, state: State, span: Span, label: Labels | None, generator: Generators
    ) -> Iterator[State]:
        """See `Unmasking.reveal`."""
        x, _, calls = state
        masked = span.wanted
        n = left = masked.flatten(1).sum(1)
        step = 0
        while left.any():
            rows = self.busy(n, left, step)
            if rows.any():
                u, what = uniform_rows((2, *x.shape[1:]), rows, generator).unbind(1)
                at, here = masked[rows], x[rows]
                noise = span.noise((left.double() / n.clamp(min=1)).unsqueeze(1))[rows, 0]
                logits = self.predict(network, here, noise, None if label is None else label[rows], at)
                token = categorical(filtered(logits, self.temperature, self.top_k, self.top_p), what[at])
                check_drawn(token, network.mask_id, span.steps + step + 1)
                chosen = self.choose(Drawn(at, logits, token, u), n[rows], step)
                here = torch.where(chosen, here.masked_scatter(at, token), here)
                x = x.index_put((rows.nonzero().squeeze(1),), here)
                masked = span.wanted & (x == network.mask_id)
                left = masked.flatten(1).sum(1)
                calls = calls + self.evaluations * rows
            noise = span.noise((left.double() / n.clamp(min=1)).unsqueeze(1)).squeeze(1)
            state = State(x, self.clock(noise), calls)
            if self.corrections and rows.any():
                state = self.correct(network, state, span, rows, noise, label, generator, span.steps + step + 1)
                x, _, calls = state
            yield state
            step += 1


@dataclass(frozen=True)
class MostConfident(SurestFirst):
    """Reveal a planned number of tokens in each step, where the network is surest (MaskGIT, arXiv:2202.04200).

    Other settings: see `Sampler` and `Unmasking`.

    Args:
        steps: network calls, at most (in each block); a step of the grid that holds no token costs none.
        measure: "confidence", "margin" or "entropy", see `sureness`.
        grid: the part of the positions that stays masked after step i of T is 1 - i / T ("uniform"), or
            cos(pi/2 i / T) ("cosine").
        noise: scale of Gumbel noise that is added to the measure, and falls to 0 with the part that is masked (in
            MaskGIT, in a straight line over the steps: the uniform grid).
    """

    steps: int = 64
    measure: Measure = "confidence"
    grid: Grid = "cosine"
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.steps, self.grid)
        if self.measure not in ("confidence", "margin", "entropy"):
            raise ValueError(f"measure must be confidence, margin or entropy, got {self.measure!r}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {self.noise}")

    def _left(self, n: Int[Tensor, " batch"], step: int) -> Int[Tensor, " batch"]:
        if self.grid == "uniform":
            return torch.div(n * (self.steps - step - 1), self.steps, rounding_mode="floor")
        return (n.double() * self._rate(step) + 1e-9).floor().long()

    def _rate(self, step: int) -> float:
        """Return the part that may stay masked after a step."""
        return float(grid_times(self.steps, self.grid)[step + 1])

    def busy(self, n: Int[Tensor, " batch"], masked: Int[Tensor, " batch"], step: int) -> Bool[Tensor, " batch"]:
        """See `SurestFirst.busy`."""
        return masked > self._left(n, step)

    def choose(self, drawn: Drawn, n: Int[Tensor, " batch"], step: int) -> Where:
        """See `SurestFirst.choose`."""
        at, logits, token, u = drawn
        score = sureness(logits, token, self.measure).clamp(min=-1e300)
        if self.noise:
            score = score - self.noise * self._rate(step) * (-u[at].clamp(min=1e-300).log()).log()
        count = at.flatten(1).sum(1) - self._left(n, step)
        table = torch.full_like(u, -math.inf).masked_scatter(at, score).flatten(1)
        rank = table.argsort(dim=1, descending=True).argsort(dim=1)
        return (rank < count.unsqueeze(1)).view_as(at)


@dataclass(frozen=True)
class EntropyBounded(SurestFirst):
    """Reveal in each call as many tokens as the entropies of their predictions allow (arXiv:2505.24857).

    In the order of growing entropy, tokens are taken while the entropies of those before them sum to `bound` at most:
    the sum bounds what drawing them independently can lose. Entropies are those before temperature and cuts. Other
    settings: see `Sampler` and `Unmasking`.

    Args:
        bound: nats; 0 reveals one token a call (and those that are certain), infinity all.
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bound >= 0:
            raise ValueError(f"bound must be at least 0 nats, got {self.bound}")

    def busy(self, n: Int[Tensor, " batch"], masked: Int[Tensor, " batch"], step: int) -> Bool[Tensor, " batch"]:
        """See `SurestFirst.busy`."""
        return masked > 0

    def choose(self, drawn: Drawn, n: Int[Tensor, " batch"], step: int) -> Where:
        """See `SurestFirst.choose`."""
        table = torch.full_like(drawn.u, math.inf).masked_scatter(drawn.at, entropy(drawn.logits.double())).flatten(1)
        rising, position = table.sort(dim=1)
        before = rising.cumsum(1).roll(1, 1)
        before[:, 0] = 0  # the surest is always taken
        taken = (before <= self.bound) & rising.isfinite()
        return torch.zeros_like(taken).scatter(1, position, taken).view_as(drawn.at)

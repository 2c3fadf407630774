"""Samplers that choose positions by the network's predictions: the most certain first."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.categorical import categorical, filter_logits
from unmask.networks.base import Network, Positions
from unmask.randomness import Generators
from unmask.samplers.ancestral import check_grid, grid_times
from unmask.samplers.base import State
from unmask.samplers.rows import Rows
from unmask.samplers.unmasking import Span, Unmasking
from unmask.types import Labels, Times, Tokens, Where

Measure = Literal["confidence", "margin", "entropy"]
Order = Literal["confidence", "margin", "entropy", "random"]
TokensPerStep = Literal["uniform", "cosine", "llada", "dream"]


def entropy(logits: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """Return the entropy −Σ_v p_v log p_v of p = softmax(logits), in nats."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)


def sureness(logits: Float[Tensor, "n vocab"], token: Int[Tensor, " n"], measure: Measure) -> Float[Tensor, " n"]:
    """Return how certain each prediction is; larger is more certain.

    Args:
        logits: (n, V).
        token: (n,) the token that was drawn; V where there is no distribution, which is not read.
        measure: "confidence": log of the probability of that token. "margin": log of the difference between the
            probabilities of the two most likely tokens. "entropy": minus the entropy, in nats.
    """
    logits = logits.double()
    if measure == "entropy":
        return -entropy(logits)
    if measure == "confidence":
        return logits.log_softmax(-1).gather(1, token.clamp(max=logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
    best = logits.softmax(-1).topk(min(2, logits.shape[1])).values
    return (best[:, 0] - best[:, 1:].sum(1)).log()


class DrawnTokens(NamedTuple):
    """The predictions of one network call, and a token drawn from each.

    Attributes:
        at: the masked positions, n in all, as flags.
        positions: the same as indices.
        logits: before temperature, top-k and top-p.
        filtered: the logits after these.
        token: drawn from the filtered logits.
        u: a uniform number for each position of the canvas, for choices that are partly random.
    """

    at: Where
    positions: Positions
    logits: Float[Tensor, "n vocab"]
    filtered: Float[Tensor, "n vocab"]
    token: Int[Tensor, " n"]
    u: Float[Tensor, "batch *dims"]


@dataclass(frozen=True, kw_only=True)
class SurestFirst(Unmasking):
    """Predict every masked position in each call, and keep the tokens of the most certain predictions.

    Exact, with an exact network, for one token per call where the order depends on the tokens revealed before alone
    (entropy, margin). By confidence in the drawn token it is not, however few tokens are revealed per call: when a
    position is revealed depends on its token, unlike in the reverse process.
    """

    @abstractmethod
    def active_examples(
        self, n: Int[Tensor, " batch"], masked: Int[Tensor, " batch"], step: int
    ) -> Bool[Tensor, " batch"]:
        """Return which examples reveal something in step 0, 1, ..., when `masked` of n positions are still masked.

        What is given and returned is on the host.
        """

    def revealed(
        self, n: Int[Tensor, " batch"], masked: Int[Tensor, " batch"], step: int
    ) -> Int[Tensor, " batch"] | None:
        """Return how many positions a step reveals, if that does not depend on predictions; see `active_examples`.

        None: it depends on them, and the host waits for the device after each step in order to know.
        """
        return None

    @abstractmethod
    def choose(self, drawn: DrawnTokens, n: Int[Tensor, " batch"], step: int) -> Where:
        """Return which of the masked positions keep their tokens; n were masked at the start."""

    def reveal(
        self, network: Network, state: State, span: Span, label: Labels | None, generator: Generators
    ) -> Iterator[State]:
        """See `Unmasking.reveal`."""
        x, _, calls = state
        masked = span.wanted
        n = left = masked.flatten(1).sum(1)
        known = there = n.cpu()  # how many are masked, for the host: at the start, and now
        step = 0
        while there.any():
            number = span.steps_before + step + 1
            rows = Rows.of(self.active_examples(known, there, step).tolist(), x.device)
            if len(rows):
                noise, counts = span.left(left, n), there[list(rows.numbers)]
                drawn = self._draw(network, x, masked, noise, label, generator, rows, counts)
                span.failures.note(drawn.token == network.mask_id, number)
                here, chosen = rows.pick(x), self.choose(drawn, rows.pick(n), step)
                x = rows.put(x, torch.where(chosen, drawn.positions.replace(here, drawn.token), here))
                masked = span.wanted & (x == network.mask_id)
                left, calls = masked.flatten(1).sum(1), rows.count(calls, self.evaluations)
                gone = self.revealed(known, there, step)
                there = torch.tensor(span.failures.check_with(left)) if gone is None else there - gone
            noise = span.left(left, n)
            state = State(x, self.clock(noise), calls)
            if self.corrections and len(rows):
                state = self.correct(network, state, span, rows, noise, label, generator, number)
                x, _, calls = state
            yield state
            step += 1

    def _draw(
        self,
        network: Network,
        x: Tokens,
        masked: Where,
        noise: Times,
        label: Labels | None,
        generator: Generators,
        rows: Rows,
        counts: Int[Tensor, " rows"],
    ) -> DrawnTokens:
        """Draw a token for every masked position of some examples, which have `counts` of them."""
        u, u_token = rows.uniform((2, *x.shape[1:]), generator).unbind(1)
        flags = rows.pick(masked)
        at = Positions.of(flags, int(counts.sum()), int(counts.max()))
        labels = None if label is None else rows.pick(label)
        logits = self.predict(network, rows.pick(x), rows.pick(noise), labels, at)
        filtered = filter_logits(logits, self.temperature, self.top_k, self.top_p)
        token = categorical(filtered, at.pick(u_token.flatten(1)))
        return DrawnTokens(flags, at, logits, filtered, token, u)


@dataclass(frozen=True)
class MostConfident(SurestFirst):
    """Reveal a fixed number of tokens in each step, where the network is most certain (MaskGIT, arXiv:2202.04200).

    Other settings: see `Sampler` and `Unmasking`.

    Args:
        steps: largest number of network calls (per block); a step that reveals no token takes none.
        measure: "confidence", "margin" or "entropy", see `sureness`; or "random": any position, whatever is predicted.
        grid: how many of the n positions each of the T steps reveals. The fraction still masked after step i is
            1 − i / T ("uniform") or cos(π/2 · i / T) ("cosine"), rounded down. "llada": n / T, rounded down, and one
            more in the first n mod T steps. "dream": from time t to s of the grid of that name (see `Ancestral`),
            m (1 − s / t) of the m that are still masked, rounded down.
        noise: scale of the Gumbel noise added to the measure; it decreases with the masked fraction (in MaskGIT
            linearly over the steps, as with the uniform grid).
        measure_filtered: measure the predictions after temperature, top-k and top-p, not before. (Not after top_k=1,
            which makes every prediction certain.)

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2)
        >>> canvas = unmask.all_masked(2, (16,), network.mask_id)
        >>> *_, last = unmask.MostConfident(steps=4, measure="margin", grid="uniform").trajectory(network, canvas)
        >>> last.calls
        tensor([4, 4])
    """

    steps: int = 64
    measure: Order = "confidence"
    grid: TokensPerStep = "cosine"
    noise: float = 0.0
    measure_filtered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.steps, self.grid, get_args(TokensPerStep))
        if self.measure not in get_args(Order):
            raise ValueError(f"measure must be one of {', '.join(get_args(Order))}; got {self.measure!r}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {self.noise}")

    def revealed(self, n: Int[Tensor, " batch"], masked: Int[Tensor, " batch"], step: int) -> Int[Tensor, " batch"]:
        """See `SurestFirst.revealed`."""
        if self.grid == "llada":
            return n // self.steps + (step < n % self.steps)
        if self.grid == "dream":
            t, s = grid_times(self.steps, "dream")[step : step + 2].float()
            return (masked.float() * float(1 - s / t)).long()
        return masked - self._masked_after(n, step)

    def _masked_after(self, n: Int[Tensor, " batch"], step: int) -> Int[Tensor, " batch"]:
        """Return how many of n positions are still masked after a step of the uniform or the cosine grid."""
        if self.grid == "uniform":
            return torch.div(n * (self.steps - step - 1), self.steps, rounding_mode="floor")
        return (n.double() * self._mask_rate_after(step) + 1e-9).floor().long()

    def _mask_rate_after(self, step: int) -> float:
        """Return the fraction that is still masked after a step."""
        return float(grid_times(self.steps, "uniform" if self.grid == "llada" else self.grid)[step + 1])

    def active_examples(
        self, n: Int[Tensor, " batch"], masked: Int[Tensor, " batch"], step: int
    ) -> Bool[Tensor, " batch"]:
        """See `SurestFirst.active_examples`."""
        return self.revealed(n, masked, step) > 0

    def choose(self, drawn: DrawnTokens, n: Int[Tensor, " batch"], step: int) -> Where:
        """See `SurestFirst.choose`."""
        at, u = drawn.at, drawn.positions.pick(drawn.u.flatten(1))
        if self.measure == "random":
            score = u
        else:
            score = sureness(self._measured_logits(drawn), drawn.token, self.measure).clamp(min=-1e300)
        if self.noise:
            score = score - self.noise * self._mask_rate_after(step) * (-u.clamp(min=1e-300).log()).log()
        n_revealed = self.revealed(n, at.flatten(1).sum(1), step)
        table = drawn.positions.replace(torch.full_like(drawn.u, -math.inf), score).flatten(1)
        rank = table.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank < n_revealed.unsqueeze(1)).view_as(at)

    def _measured_logits(self, drawn: DrawnTokens) -> Float[Tensor, "n vocab"]:
        """Return the logits whose certainty decides the order."""
        if not self.measure_filtered:
            return drawn.logits
        return filter_logits(drawn.logits, self.temperature, None, self.top_p) if self.top_k == 1 else drawn.filtered


@dataclass(frozen=True)
class EntropyBounded(SurestFirst):
    """Reveal in each call as many tokens as the entropies of their predictions allow (arXiv:2505.24857).

    With the masked positions sorted by increasing entropy H₁ ≤ H₂ ≤ ..., the first m are revealed, for the largest m
    with

        H₁ + ... + H₍ₘ₋₁₎ ≤ bound.

    The sum bounds the error of drawing them independently. Entropies are those before temperature, top-k and top-p.
    Other settings: see `Sampler` and `Unmasking`.

    Args:
        bound: nats; 0 reveals one token per call (and all that are certain), infinity reveals all.

    Examples:
        >>> network = unmask.Transformer(5, (16,), width=32, depth=1, heads=2)
        >>> canvas = unmask.all_masked(1, (16,), network.mask_id)
        >>> *_, last = unmask.EntropyBounded(bound=5.0).trajectory(network, canvas)
        >>> last.calls  # 4 tokens a call: the entropies are log 5 = 1.61 nats each, and that of the last is not counted
        tensor([4])
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bound >= 0:
            raise ValueError(f"bound must be at least 0 nats, got {self.bound}")

    def active_examples(
        self, n: Int[Tensor, " batch"], masked: Int[Tensor, " batch"], step: int
    ) -> Bool[Tensor, " batch"]:
        """See `SurestFirst.active_examples`."""
        return masked > 0

    def choose(self, drawn: DrawnTokens, n: Int[Tensor, " batch"], step: int) -> Where:
        """See `SurestFirst.choose`."""
        table = torch.full_like(drawn.u, math.inf)
        table = drawn.positions.replace(table, entropy(drawn.logits.double())).flatten(1)
        increasing, position = table.sort(dim=1)
        before = increasing.cumsum(1).roll(1, 1)
        before[:, 0] = 0  # the most certain one is always revealed
        revealed = (before <= self.bound) & increasing.isfinite()
        return torch.zeros_like(revealed).scatter(1, position, revealed).view_as(drawn.at)

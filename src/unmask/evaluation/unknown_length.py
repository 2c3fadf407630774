"""Holes of unknown length: how many tokens a hole of a text has, as far as the text around it says."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from unmask.canvas import Canvas, kept_notes, text_canvas
from unmask.checks import check_choice, check_whole
from unmask.evaluation.known_text import known_text_nats
from unmask.evaluation.protocol import evaluation_mode
from unmask.kinds import require_masked
from unmask.model import MaskedDiffusion
from unmask.networks.base import check_label
from unmask.prompts import LENGTHS
from unmask.randomness import seeded, uniform
from unmask.samplers.base import Sampler
from unmask.schedules import TokenPolynomial
from unmask.types import Allowed, Labels

OPEN = re.compile(r"\[(\d+)-(\d+)\]")
"""A hole of unknown length, such as [1-6]."""
MOST = 64
"""Largest number of combinations of lengths."""
Choice = Literal["draw", "best"]
Prior = Sequence[int | float] | Sequence[Sequence[int | float]] | str
"""Weights of the lengths of a hole, from the smallest on; for several holes such weights for each; see `read_prior`."""


@dataclass(frozen=True)
class LengthPosterior:
    """The probability of each combination of lengths of the holes of a text, given the known text.

    Attributes:
        text: with its holes.
        k: the number of tokens of each hole, for every combination.
        bound: B_k, the bound on −log p(known text) with the holes masked, in nats.
        bound_error: its standard error.
        log_weight: log π(k) + log p(n) − B_k, whose standard error is `bound_error`, too.
        probability: p(k | known text).
        error: its standard error, in which the errors of B_k that all k share cancel.
    """

    text: str
    k: tuple[tuple[int, ...], ...]
    bound: tuple[float, ...]
    bound_error: tuple[float, ...]
    log_weight: tuple[float, ...]
    probability: tuple[float, ...]
    error: tuple[float, ...]

    def best(self) -> tuple[int, ...]:
        """Return the most probable lengths, the shortest of several."""
        return self.k[max(range(len(self.k)), key=self.probability.__getitem__)]

    def draw(self, u: float) -> tuple[int, ...]:
        """Return the lengths that a uniform number in [0, 1) draws."""
        total = torch.tensor(self.probability, dtype=torch.float64).cumsum(0)
        return self.k[int(torch.searchsorted(total, u * total[-1:], right=True))]

    def choose(self, how: Choice, seed: int = 0, *example: int) -> tuple[int, ...]:
        """Return the best lengths, or draw those of an example, which depend on the seed and its number or numbers."""
        check_choice("choose", how, get_args(Choice))
        if how == "best":
            return self.best()
        return self.draw(float(uniform((1,), seeded(seed, *(example or (0,)), LENGTHS), torch.device("cpu"))))

    def log_p(self, k: tuple[int, ...]) -> tuple[float, float]:
        """Return the logarithm of the probability of some lengths, in nats, and its standard error."""
        at = self.k.index(k)
        return math.log(self.probability[at]), self.error[at] / self.probability[at]

    def describe(self) -> list[dict[str, Any]]:
        """Return the probabilities as plain values."""
        rows = zip(self.k, self.probability, self.error, strict=True)
        return [{"k": list(k), "probability": round(p, 6), "error": round(error, 6)} for k, p, error in rows]

    def filled_in(self, k: Sequence[int]) -> str:
        """Return the text with holes of known length, for `make_canvas`."""
        return _filled_in(self.text, k)

    def __str__(self) -> str:
        """Return a table."""
        names = [", ".join(map(str, k)) for k in self.k]
        width = max(6, *map(len, names))
        rows = zip(names, self.probability, self.error, self.bound, self.bound_error, strict=True)
        lines = [f"{k:>{width}}   {p:.4f} ± {error:.4f}   {b:.2f} ± {e:.2f}" for k, p, error, b, e in rows]
        return "\n".join([f"{'tokens':>{width}}   probability       -log p(known text)", *lines])


class Completion(NamedTuple):
    """A completed text.

    Attributes:
        k: the number of tokens that were put into each hole.
        tokens: of the whole text.
        text: the text.
    """

    k: tuple[int, ...]
    tokens: Int[Tensor, " length"]
    text: str


def is_open(text: str) -> bool:
    """Return whether a text has a hole of unknown length."""
    return OPEN.search(text) is not None


def length_posterior(
    model: MaskedDiffusion,
    text: str,
    *,
    prior: Prior | None = None,
    label: Labels | None = None,
    evaluations: int = 256,
    seed: int = 0,
    batch_size: int = 64,
) -> LengthPosterior:
    """Return how probable each length of the holes of a text is, given the known text.

        p(k | known text) ∝ π(k) p(n_k) exp(−B_k),

    where B_k bounds −log p(known text) with the k tokens of the holes masked in every mask that is drawn, and not
    counted: they are marginalised out. p(n_k) is the model's distribution of lengths, where it has one. The random
    masks of the known text are the same for all k, so that their differences are precise.

    Args:
        model: of texts, with a scalar schedule.
        text: in which [1-6] stands for one to six unknown tokens, and [4] and _ as for `text_canvas`.
        prior: π, see `Prior`; None: uniform.
        label: (1,), the class of the text, for a model with classes.
        evaluations: network evaluations for each k. Where the known tokens are at most a quarter of it, B_k is the mean
            over random orders of the sum of −log p(token | those before it in the order), which has no error if the
            network is exact; else it is estimated as `TimeFreeELBO`.
        seed: of the masks.
        batch_size: masked texts at a time.

    Raises:
        ValueError: no hole is of unknown length, a range goes backwards or begins at 0, there are more than 64
            combinations, the longest does not fit, the prior is no such weights, or the model has a state-dependent
            schedule.
    """
    check_whole(2, evaluations=evaluations)
    check_whole(1, batch_size=batch_size)
    if model.network.causal:
        raise ValueError("a left-to-right model takes no account of what follows a hole, so that it has no length")
    require_masked(model.kind, "a hole of unknown length")
    check_label(label, model.network.classes, 1)
    ranges, log_prior = _check_holes(model, text, prior)
    combinations = list(itertools.product(*ranges))
    with kept_notes():  # what there is to say of the text is said when it is completed
        canvases = [text_canvas(model.codec, _filled_in(text, k), model.shape[0]) for k in combinations]
    with evaluation_mode(model):
        drawn = torch.stack(
            [
                known_text_nats(model, canvas, label, evaluations=evaluations, seed=seed, batch_size=batch_size)
                for canvas in tqdm(canvases, desc="measuring lengths", unit="length", delay=2)
            ]
        )
    n = torch.tensor([len(canvas) for canvas in canvases])
    weight = log_prior + log_p_of_lengths(model, n, label) - drawn.mean(1)
    if not weight.isfinite().any():
        raise ValueError(f"{text!r}: the model or the prior gives no probability to any of these lengths")
    p = weight.softmax(0)
    share, nats = p.unsqueeze(1), drawn.where(p.unsqueeze(1) > 0, 0.0)
    influence = share * ((share * nats).sum(0) - nats)  # dp_k = p_k (Σ_j p_j dB_j − dB_k)
    errors = [(part.std(1) / math.sqrt(drawn.shape[1])).tolist() for part in (drawn, influence)]
    found = (drawn.mean(1).tolist(), errors[0], weight.tolist(), p.tolist(), errors[1])
    return LengthPosterior(text, tuple(combinations), *map(tuple, found))


def infill_unknown_length(
    model: MaskedDiffusion,
    text: str,
    *,
    samples: int = 1,
    choose: Choice = "draw",
    sampler: Sampler | None = None,
    label: Labels | None = None,
    allowed: Allowed | None = None,
    seed: int = 0,
    posterior: LengthPosterior | None = None,
    **measured: Any,
) -> list[Completion]:
    """Complete a text whose holes are of unknown length: choose the lengths, then draw the tokens.

    Args:
        model: see `length_posterior`; so is `text`.
        samples: number of completions, each with lengths of its own if they are drawn.
        choose: "draw" lengths from their posterior, or take the "best".
        sampler: the model's own if None.
        label: (1,), the class of the text, for a model with classes.
        allowed: which tokens may be drawn, (V,); see `MaskedDiffusion.infill`. The lengths do not depend on it.
        seed: completion i depends on (seed, i) alone.
        posterior: of the lengths, if it is known.
        measured: of `length_posterior`: prior, evaluations, batch_size.

    Raises:
        ValueError: see `length_posterior`.

    Example:
        for one in infill_unknown_length(model, "The capital of [1-6] is Paris", samples=3):
            print(one.text)
    """
    check_whole(1, samples=samples)
    if posterior is None:
        posterior = length_posterior(model, text, label=label, seed=seed, **measured)
    found = []
    for i in range(samples):
        k = posterior.choose(choose, seed, i)
        canvas = text_canvas(model.codec, posterior.filled_in(k), model.shape[0]).unsqueeze(0).to(model.device)
        x = model.infill(canvas, label, sampler=sampler, generator=[seeded(seed, i)], allowed=allowed)
        found.append(Completion(k, x[0].cpu(), model.decode(x)[0]))
    return found


def longest_canvas(model: MaskedDiffusion, text: str, prior: Prior | None = None) -> Canvas:
    """Return the tokens of a text whose holes are as long as they may be.

    Raises:
        ValueError: what `length_posterior` refuses of a model, a text and a prior.
    """
    ranges, _ = _check_holes(model, text, prior)
    return text_canvas(model.codec, _filled_in(text, [lengths[-1] for lengths in ranges]), model.shape[0])


def _check_holes(
    model: MaskedDiffusion, text: str, prior: Prior | None
) -> tuple[list[range], Float[Tensor, " combinations"]]:
    """Return the lengths that each hole may have, and log π(k) of each combination."""
    if isinstance(model.schedule, TokenPolynomial):
        raise ValueError(
            "the model has a state-dependent schedule, under which tokens that are masked for long are likelier to be "
            "some than others: the known text has no such bound; give the length, as in [4]"
        )
    if model.conditional:
        raise ValueError(
            "the model is of answers to prompts, and does not know how likely a prompt is: give the prompt alone "
            "(--prefix), and the length of the answer is drawn"
        )
    ranges = hole_ranges(text)
    return ranges, _log_prior(ranges, prior)


def _filled_in(text: str, k: Sequence[int]) -> str:
    lengths = iter(k)
    return OPEN.sub(lambda _: f"[{next(lengths)}]", text)


def hole_ranges(text: str) -> list[range]:
    """Return the lengths that each hole of unknown length of a text may have.

    Raises:
        ValueError: see `length_posterior`.
    """
    ranges = []
    for match in OPEN.finditer(text):
        least, most = int(match[1]), int(match[2])
        where = f"{match[0]} at offset {match.start()}"
        if least > most:
            raise ValueError(f"{where} goes backwards: the smaller number of tokens comes first")
        if least < 1:
            raise ValueError(f"{where}: a hole has at least 1 token")
        ranges.append(range(least, most + 1))
    if not ranges:
        raise ValueError("no hole is of unknown length: [1-6] stands for one to six unknown tokens")
    if (count := math.prod(one.stop - one.start for one in ranges)) > MOST:
        raise ValueError(f"the holes have {count} combinations of lengths, of which each is measured: at most {MOST}")
    return ranges


def read_prior(text: str) -> list[list[float]]:
    """Return the weights that a text such as 1,1,2 gives; those of several holes are apart by semicolons.

    Raises:
        ValueError: a part of it is no number.
    """
    try:
        return [[float(weight) for weight in part.split(",")] for part in text.split(";")]
    except ValueError:
        raise ValueError(f"prior {text!r}: expected numbers such as 1,1,2, or 1,2;3,1 for two holes") from None


def _log_prior(ranges: Sequence[range], prior: Prior | None) -> Float[Tensor, " combinations"]:
    """Return log π(k) of each combination; holes are independent."""
    if prior is None:
        prior = [[1.0] * len(lengths) for lengths in ranges]
    prior = read_prior(prior) if isinstance(prior, str) else prior
    weights = [[part] if isinstance(part, int | float) else list(part) for part in prior]
    if len(ranges) == 1 and all(isinstance(part, int | float) for part in prior):
        weights = [[weight for part in weights for weight in part]]
    if [len(part) for part in weights] != [len(lengths) for lengths in ranges]:
        wanted, got = ("; ".join(str(len(part)) for part in some) for some in (ranges, weights))
        raise ValueError(f"the prior needs as many weights as each hole has lengths, {wanted}; got {got}")
    flat = [weight for part in weights for weight in part]
    if not all(0 <= weight < math.inf for weight in flat) or not all(map(any, weights)):
        raise ValueError(f"the prior's weights must be at least 0, and one of each hole positive; got {weights}")
    products = [math.prod(combination) for combination in itertools.product(*weights)]
    log_p = torch.tensor(products, dtype=torch.float64).log()
    return log_p - log_p.logsumexp(0)


def log_p_of_lengths(
    model: MaskedDiffusion, n: Int[Tensor, " lengths"], label: Labels | None = None
) -> Float[Tensor, " lengths"]:
    """Return log p(n) of texts of n tokens, in nats; 0 for a model that has no distribution of lengths.

    Where texts end with the token that also fills them up, this counts as one of theirs, and is not yet among n unless
    the codec puts it there.
    """
    lengths = model.lengths
    if lengths is None:
        return torch.zeros(len(n), dtype=torch.float64)
    ends = int(lengths.ended and not model.codec.wrap[1])
    n = (n + ends).clamp(max=len(lengths.counts))
    return lengths.log_p(n, None if label is None else label.expand(len(n)).cpu())

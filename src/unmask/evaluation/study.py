"""Studies: what samplers do to the samples of a model, and what draws in float32 do to ancestral sampling."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from unmask.checks import check_whole
from unmask.data.base import DataSet
from unmask.evaluation.data import check_codec, check_samples_mean_something, model_data
from unmask.evaluation.ngram import NGram
from unmask.evaluation.perplexity import mean_error, token_entropy
from unmask.evaluation.protocol import evaluation_mode, sampled_in, short_name, versions, weights
from unmask.given import clean_tokens
from unmask.gumbel import effective_temperature
from unmask.kinds import OWN, require_masked
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.networks.base import check_label
from unmask.noise import Scored
from unmask.randomness import generators, seeded
from unmask.report import Figure, Report, brief
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler
from unmask.samplers.confidence import EntropyBounded, MostConfident
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.gumbel import GumbelAncestral
from unmask.samplers.ordered import InOrder
from unmask.samplers.remasking import Remasking
from unmask.samplers.score import Euler, Tweedie
from unmask.samplers.token import TokenAncestral, TokenFirstHitting
from unmask.schedules import TokenPolynomial
from unmask.storage.description import describe
from unmask.types import Labels, Tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

KEPT = 20_000_000
"""Most logits that are kept to find an effective temperature."""

TEST_DATA = "test data"
BOUND_DRAWS = 8
"""Masks by which a model judges its own samples."""


@dataclass(frozen=True)
class StudyReport(Report):
    """Calls, time and quality of samplers; of test data, the same quality.

    Args:
        rows, protocol: see `Report`.
        unit: what a token is called.
    """

    unit: str = "token"

    def figure(self) -> Picture:
        """Draw quality against network calls, and that of test data as a line."""
        from unmask.display.measured import study_figure

        rows = [row for row in self.rows if row["sampler"] != TEST_DATA]
        real = next((row for row in self.rows if row["sampler"] == TEST_DATA), {})
        return study_figure(rows, real, self.unit)


def study_samplers(
    model: MaskedDiffusion,
    data: DataSet | None = None,
    *,
    samples: int = 16,
    label: Labels | None = None,
    guidance: float = 1.0,
    ngram: int | None = None,
    length: int | None = None,
    seed: int = 0,
) -> StudyReport:
    """Compare samplers of every kind that fit a model, at several budgets of network calls.

    Args:
        model: to be sampled.
        data: train and test an n-gram model that judges the samples; None: what the model was trained with, if it
            says so.
        samples: examples from each sampler, at least 2.
        label: class of each example, (samples,); None: no classes are asked for.
        guidance: scale of classifier-free guidance, for examples with a label.
        ngram: order of the n-gram model, 0 for none; None: the largest up to 5 that is quickly counted.
        length: tokens of each text; see `MaskedDiffusion.empty_canvas`.
        seed: of the examples.

    Without data the samples are judged by the model's own bound on their log-likelihood. It is right on average for an
    exact sampler alone; much less is the mark of a sampler that searches for likely samples.

    Raises:
        ValueError: a setting out of range, or data of other tokens than the model's.
    """
    choose = partial(_samplers, model, length)
    return _study("samplers", model, data, choose, samples, label, guidance, ngram, seed, length)


def study_precision(
    model: MaskedDiffusion,
    data: DataSet | None = None,
    *,
    steps: Sequence[int] = (64, 256, 1024),
    samples: int = 16,
    label: Labels | None = None,
    guidance: float = 1.0,
    ngram: int | None = None,
    seed: int = 0,
) -> StudyReport:
    """Compare ancestral sampling with exact draws, and with Gumbel-max draws in float64, float32 and truncated.

    Each row of draws has the temperature that its tokens look drawn at: below 1 where unlikely tokens are lost (FHS,
    section 5).

    Args:
        model: with a scalar schedule.
        steps: numbers of steps.
        data, samples, label, guidance, ngram, seed: see `study_samplers`.

    Raises:
        ValueError: a setting out of range, a model with a state-dependent schedule, or data of other tokens.
    """
    check_whole(1, **{f"steps[{i}]": count for i, count in enumerate(steps)})
    return _study("precision", model, data, lambda: _precisions(model, steps), samples, label, guidance, ngram, seed)


def _study(
    what: str,
    model: MaskedDiffusion,
    data: DataSet | None,
    choose: Callable[[], list[Sampler]],
    samples: int,
    label: Labels | None,
    guidance: float,
    ngram: int | None,
    seed: int,
    length: int | None = None,
) -> StudyReport:
    check_whole(2, samples=samples)
    check_whole(0, seed=seed, ngram=ngram)
    check_label(label, model.network.classes, samples)
    if guidance != 1 and label is None:
        raise ValueError(f"guidance {guidance:g} needs a label of each example")
    chosen = [replace(sampler, guidance=guidance) for sampler in choose()]
    label = None if label is None else label.to(model.device)
    check_samples_mean_something(model)
    judge, real = fit_judge(model, model_data(model) if data is None else data, ngram)
    rows: list[dict[str, Any]] = []
    canvas = model.empty_canvas(samples, seed, length=length, label=label)
    for sampler in tqdm(chosen, desc="samplers", unit="sampler"):
        with evaluation_mode(model):
            rows.append(_measure(model, sampler, judge, canvas, label, seed, bound=not real))
            if what == "precision":
                rows[-1]["temperature"] = _temperature(model, sampler, samples, label, seed)
        tqdm.write(brief(rows[-1]), sys.stderr)  # at once: a study that is cut short has shown what it found
    if real:
        rows.append({"sampler": TEST_DATA} | real)
    protocol = {
        "study": what,
        "examples": samples,
        "seed": seed,
        "labels": None if label is None else label.tolist(),
        "guidance": guidance,
        "judge": f"{len(judge.tables)}-gram, Witten-Bell, of up to 200,000 training examples" if judge else None,
        "bound": None if real else f"the model's own, nats per drawn token, {BOUND_DRAWS} draws",
        "length": length,
        "entropy": "of each example's own histogram of tokens, nats",
        "error": "standard error over examples",
        "network": describe(model.network),
        "threads": torch.get_num_threads(),
        "sampled_in": sampled_in(model),
        **weights(model),
        **versions(model),
    }
    return StudyReport(tuple(rows), protocol, model.codec.unit)


def _samplers(model: MaskedDiffusion, length: int | None = None) -> list[Sampler]:
    """Return samplers of every kind that fit a model, at three budgets of calls."""
    if model.network.causal:
        plain = model.fit_sampler()
        return [plain, replace(plain, top_p=0.9), replace(plain, temperature=0.8)]
    length = length or math.prod(model.shape)
    budgets = sorted({max(1, length // 16), max(1, length // 4), length})
    if model.kind in OWN:
        return [replace(model.fit_sampler(), steps=steps) for steps in budgets]  # type: ignore[call-arg]
    if isinstance(model.schedule, Scored):
        scored = itertools.product(budgets, (Tweedie, Euler, Ancestral))
        return [FirstHitting(), *(kind(model.schedule.schedule, steps, "uniform") for steps, kind in scored)]
    if isinstance(model.schedule, TokenPolynomial):
        frozen = [TokenFirstHitting(model.schedule, form) for form in ("thinned", "frozen")]
        return [*frozen, *(TokenAncestral(model.schedule, steps) for steps in budgets)]
    chosen: list[Sampler] = [FirstHitting(), InOrder(), FirstHitting(block_length=max(1, length // 8))]
    for many in sorted({max(1, length // 64), max(1, length // 16)} - {1}):
        steps = -(-length // many)
        chosen += [
            FirstHitting(tokens_per_call=many),
            FirstHitting(tokens_per_call=many, order=2),
            FirstHitting(tokens_per_call=many, order=2, form="predictor-corrector"),
            FirstHitting(tokens_per_call=2 * many, corrections=1),
            Ancestral(steps=steps, grid="uniform"),
            Ancestral(steps=steps),
            InOrder(tokens_per_call=many),
            MostConfident(steps=steps),
            MostConfident(steps=steps, noise=4.0),
            Remasking(steps=steps, form="rescale", eta=0.1),
        ]
    return [*chosen, EntropyBounded(1.0), EntropyBounded(10.0), FirstHitting(top_p=0.9)]


def _precisions(model: MaskedDiffusion, steps: Sequence[int]) -> list[Sampler]:
    """Return ancestral samplers under the three precisions, and the library's own."""
    if isinstance(model.schedule, TokenPolynomial):
        raise ValueError("the precision study is for models without a learned schedule")
    if model.network.causal:
        raise ValueError("the precision study is of ancestral sampling; the model reads from left to right")
    require_masked(model.kind, "the precision study")
    chosen: list[Sampler] = []
    for many in steps:
        chosen.append(Ancestral(steps=many, grid="uniform"))
        for precision in ("float64", "float32", "truncated"):
            chosen.append(GumbelAncestral(steps=many, precision=precision))
    return chosen


def fit_judge(
    model: MaskedDiffusion, data: DataSet | None, order: int | None
) -> tuple[NGram | None, dict[str, Figure]]:
    """Fit an n-gram model to the training data, and say how it judges the test data.

    Returns:
        the judge, None where there are no data or the vocabulary is too large for one; and the figures of the test
        data, none without data.

    Raises:
        ValueError: the data are not the model's, or the order is too large.
    """
    if data is None:
        return None, {}
    check_codec(model, data)
    vocab = model.network.vocab_size
    order = max((n for n in range(1, 6) if vocab**n <= 2_000_000), default=0) if order is None else order
    judge = None
    if order:
        batches = tqdm(data.split("train").batches(4096, 200_000), desc="judge", delay=2)
        texts = (row for x, _ in batches for row in _without_filling(clean_tokens(x), model.lengths))
        judge = NGram.fit((row.numpy() for row in texts), vocab, order)
    real = torch.cat([clean_tokens(x) for x, _ in data.split("test").batches(4096, 2048)])
    return judge, _figures(real, judge, model.lengths)


def _figures(x: Tokens, judge: NGram | None, lengths: Lengths | None) -> dict[str, Figure]:
    """Return the entropy and the judgement of examples."""
    found = {"entropy": Figure.of(mean_error(token_entropy(x, lengths)))}
    if judge is not None:
        texts = _without_filling(x, lengths)
        found["judge"] = Figure.of(mean_error(torch.cat([judge.nll(row) / row.shape[1] for row in texts])))
    return found


def _without_filling(x: Tokens, lengths: Lengths | None) -> list[Tensor]:
    """Return examples as one batch (n, L), or where they are filled up, each that holds something as a batch (1, n)."""
    if lengths is None:
        return [x.flatten(1)]
    return [row.unsqueeze(0) for row in map(lengths.cut, x) if len(row)]


def _measure(
    model: MaskedDiffusion,
    sampler: Sampler,
    judge: NGram | None,
    canvas: Tokens,
    label: Labels | None,
    seed: int,
    *,
    bound: bool,
) -> dict[str, Any]:
    """Draw a canvas and return a row of the table."""
    network, shared, samples = (
        model.network_for(canvas, to_draw=True),
        isinstance(sampler, GumbelAncestral),
        len(canvas),
    )
    generator = seeded(seed, device=model.device) if shared else generators(seed, samples)
    start = time.perf_counter()
    *_, state = sampler.trajectory(network, canvas, label, generator=generator)
    seconds = (time.perf_counter() - start) / samples
    figures = _figures(state.x.cpu(), judge, model.lengths)
    if bound:
        drawn = canvas == network.mask_id
        own = [seeded(seed, 3, i, device=model.device) for i in range(BOUND_DRAWS * samples)]
        nats = model.nelbo(state.x, label, draws=BOUND_DRAWS, given=~drawn, generator=own)
        figures["bound"] = Figure.of(mean_error(nats.cpu() / drawn.flatten(1).sum(1).cpu()))
    calls = state.calls.double().mean().item()
    return {"sampler": short_name(sampler), "calls": calls, "seconds_per_example": seconds, **figures}


def _temperature(model: MaskedDiffusion, sampler: Any, samples: int, label: Labels | None, seed: int) -> Figure | None:
    """Return the temperature that the tokens look drawn at; None where none fits."""
    network = model.network
    canvas = model.empty_canvas(samples, seed, label=label)
    share = min(1.0, KEPT / (canvas.numel() * network.vocab_size))
    pick = seeded(seed, 1)
    logits, tokens = [], []
    for before, after in _pairs(sampler, model, canvas, label, seed):
        new = (before.x == network.mask_id) & (after.x != network.mask_id)
        new &= (torch.rand(new.shape, generator=pick) < share).to(new.device)
        rows = new.flatten(1).any(1)
        if rows.any():
            noise = sampler.schedule.mask_rate(before.t)[rows]
            with torch.no_grad():
                here = None if label is None else label[rows]
                logits.append(sampler.predict(network, before.x[rows], noise, here, new[rows]).cpu())
            tokens.append(after.x[new].cpu())
    try:
        return Figure.of(effective_temperature(torch.cat(logits), torch.cat(tokens)))
    except ValueError:
        return None


def _pairs(
    sampler: Sampler, model: MaskedDiffusion, canvas: Tensor, label: Labels | None, seed: int
) -> Iterator[tuple[Any, Any]]:
    """Yield each state of a trajectory with the one before it."""
    generator = seeded(seed, 2, device=canvas.device)
    states = sampler.trajectory(model.network, canvas, label, generator=generator)
    before = next(states)
    for after in states:
        yield before, after
        before = after

"""Generative perplexity: what a left-to-right language model thinks of samples, with their entropy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from tqdm import tqdm

from unmask.checks import check_choice, check_whole
from unmask.codecs.text import Text
from unmask.data.base import DataSet
from unmask.evaluation.data import check_fits, check_samples_mean_something, model_data
from unmask.evaluation.judge import Judge, JudgePrecision
from unmask.evaluation.perplexity import Counted, Perplexity, mean_error, retokenise, token_entropy
from unmask.evaluation.protocol import check_processes, evaluation_mode, sampled_in, short_name, versions, weights
from unmask.given import clean_tokens
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.processes import shared
from unmask.report import Figure, Report, brief
from unmask.samplers.base import Sampler
from unmask.samplers.draw import draw_batches
from unmask.storage.description import describe
from unmask.types import Tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

TextForm = Literal["retokenised", "raw"]


@dataclass(frozen=True)
class GenerativeReport(Report):
    """Perplexity of samples under a judge, and their entropy: neither means anything without the other."""

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows with short names."""
        return [{"texts": _name(row)} | {k: v for k, v in row.items() if k not in UNSHOWN} for row in self.rows]

    def figure(self) -> Picture:
        """Draw perplexity against entropy, a point for each temperature and sampler, and data as a star."""
        from unmask.display.measured import frontier_figure

        several = len({row.get("name") for row in self.rows if "sampler" in row}) > 1
        samples = [row | ({"point": _name(row)} if several else {}) for row in self.rows if "sampler" in row]
        data = next(({"name": row["data"], **row} for row in self.rows if "data" in row), None)
        return frontier_figure(samples, data, self.protocol["judge"])


UNSHOWN = ("sampler", "name", "temperature", "data")


def _name(row: dict[str, Any]) -> str:
    if "data" in row:
        return f"test texts of {row['data']}"
    return f"{row['name']}, temperature {row['temperature']:g}"


@shared
def generative(
    model: MaskedDiffusion,
    *,
    judge: str | Judge = "openai-community/gpt2-large",
    samples: int = 1000,
    sampler: Sampler | Sequence[Sampler] | None = None,
    temperatures: Sequence[float] = (),
    texts: TextForm = "retokenised",
    counted: Counted = "all",
    judge_precision: JudgePrecision = "float32",
    data: DataSet | None = None,
    mauve: bool = False,
    batch_size: int = 16,
    seed: int = 0,
) -> GenerativeReport:
    """Measure the perplexity of samples under a causal language model, and their entropy.

    Args:
        model: of texts.
        judge: a causal language model of `transformers`: a folder, a name on the Hub, or a `Judge`.
        samples: number of samples from each sampler; figures depend on it.
        sampler: one, or several; None: the model's own (`MaskedDiffusion.fit_sampler`).
        temperatures: of each sampler, a row for each; none: the sampler's own.
        texts: `retokenised`: samples become text, which the judge cuts into tokens (MDLM, Duo). `raw`: the judge is
            given the model's own tokens, where both have the same (SEDD).
        counted: which tokens are scored: `all`; `first_end`: all but ends of text after the first (MDLM); `until_end`:
            none after the first end.
        judge_precision: of the judge's weights, where it is given by name.
        data: whose test texts are a row of their own; None: what the model was trained with, if that is still there.
        mauve: whether to measure MAUVE (arXiv:2102.01454) too, against as many texts of the data.
        batch_size: samples at a time.
        seed: sample i of a seed is the same whatever the others are.

    Raises:
        ValueError: a setting out of range, a model that is not of texts, or one whose tokens are not the judge's where
            they must be.
        FileNotFoundError: the judge cannot be had.
        ImportError: `transformers`, or for MAUVE `mauve-text`, is not installed.
    """
    check_whole(2, samples=samples)
    check_whole(1, batch_size=batch_size)
    check_whole(0, seed=seed)
    check_choice("texts", texts, get_args(TextForm))
    check_choice("counted", counted, get_args(Counted))
    check_choice("judge_precision", judge_precision, get_args(JudgePrecision))
    codec = model.codec
    if not isinstance(codec, Text):
        raise ValueError(f"generative perplexity is for models of texts; this one's tokens are {codec}")
    check_samples_mean_something(model)
    fitted = [model.fit_sampler(one) for one in (sampler if isinstance(sampler, Sequence) else [sampler])]
    several = len(fitted) > 1
    chosen = [replace(one, temperature=value) for one in fitted for value in temperatures] or fitted
    compared = _compared(model, data)
    if mauve and compared is None:
        raise ValueError("mauve compares with data: name them, as in --data Corpus --data.path FOLDER")
    judge = Judge(judge, judge_precision, model.device) if isinstance(judge, str) else judge
    if texts == "raw" and codec != judge.codec:
        raise ValueError(f"texts raw needs a judge of the model's own tokens, {codec}; {judge.name} has others")
    real = None if compared is None else _real_texts(compared, samples)
    check_processes(model, data=lambda: None if compared is None else compared.split("test").checksum)
    rows: list[dict[str, Any]] = []
    for one in chosen:
        x, calls = draw_samples(model, one, samples, batch_size, seed)
        name = short_name(replace(one, temperature=1.0)) if several else type(one).__name__
        row = {"sampler": describe(one), "name": name, "temperature": one.temperature, "calls": calls}
        row |= _judged(x, codec, model.lengths, judge, texts, counted)
        if mauve and real is not None:
            row["mauve"] = Figure(_mauve(x, real, codec, judge, seed))
        rows.append(row)
        tqdm.write(brief({"texts": _name(row)} | {k: v for k, v in row.items() if isinstance(v, Figure)}), sys.stderr)
    if compared is not None and real is not None:
        rows.append({"data": compared.name, **_judged(real, codec, model.lengths, judge, texts, counted)})
    protocol = {
        "samples": samples,
        "length": model.shape[0],
        "judge": judge.name,
        "judge_commit": judge.commit,
        "judge_precision": judge.precision,
        "judge_context": judge.context,
        "texts": texts,
        "counted": counted,
        "first_token": "not scored",
        "entropy": "of each sample's histogram of the model's own tokens, in nats",
        "error": "standard error over samples",
        "seed": seed,
        "batch_size": batch_size,
        "sampled_in": sampled_in(model),
        **weights(model),
        **versions(model),
    }
    return GenerativeReport(tuple(rows), protocol)


def draw_samples(
    model: MaskedDiffusion, sampler: Sampler, samples: int, batch_size: int, seed: int
) -> tuple[Tokens, float]:
    """Return samples, and the network calls of one on average."""
    canvas = model.empty_canvas(samples, seed)
    how: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "title": "sampling"}
    with evaluation_mode(model):
        network = model.network_for(canvas, to_draw=True)
        found = [
            *draw_batches(network, canvas, sampler, **how, keep=lambda state: (state.x.cpu(), state.calls.tolist()))
        ]
    calls = [call for _, batch in found for call in batch]
    return torch.cat([x for x, _ in found]), sum(calls) / len(calls)


def _compared(model: MaskedDiffusion, data: DataSet | None) -> DataSet | None:
    """Return the data whose test texts are a row of their own: what was named, or the model's own if still there."""
    try:
        chosen = model_data(model) if data is None else data
        if chosen is not None:
            check_fits(model, chosen)
            chosen.split("test")
    except (OSError, ValueError) as error:
        if data is not None:
            raise
        print(f"unmask: note: no texts to compare with: {error}", file=sys.stderr)
        return None
    return chosen


def _real_texts(data: DataSet, count: int) -> Tokens:
    """Return test texts of the data, as many as wanted if there are."""
    return torch.cat([clean_tokens(x) for x, _ in data.split("test").batches(64, count)])


def _judged(
    x: Tokens, codec: Text, lengths: Lengths | None, judge: Judge, texts: TextForm, counted: Counted
) -> dict[str, Any]:
    """Return the perplexity of texts under the judge, and their entropy."""
    ids = x.tolist() if texts == "raw" else retokenise(x, codec, judge.codec)
    found = Perplexity.of(judge.nll(ids, counted))
    return {
        "perplexity_micro": Figure.of(found.micro),
        "perplexity_macro": Figure.of(found.macro),
        "entropy": Figure.of(mean_error(token_entropy(x, lengths))),
        "samples_scored": found.samples,
        "tokens_scored": found.tokens,
    }


def _mauve(x: Tokens, real: Tokens, codec: Text, judge: Judge, seed: int) -> float:
    """Return MAUVE between samples and data, in the judge's features."""
    try:
        import mauve
    except ImportError:
        raise ImportError("MAUVE needs the package mauve-text: pip install 'unmask[mauve]'") from None
    p, q = (judge.features(retokenise(part, codec, judge.codec)).numpy() for part in (real, x))
    return float(mauve.compute_mauve(p_features=p, q_features=q, seed=seed, verbose=False).mauve)

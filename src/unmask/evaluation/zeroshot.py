"""Zero-shot perplexity: on texts that a model has not been trained on, beside published figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tqdm import tqdm

from unmask.checks import check_choice, check_whole
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.benchmarks import BENCHMARKS, Ends, Texts, sequences
from unmask.data.packing import PACKED, Packed, Packing
from unmask.evaluation.likelihood import bounds, drawn_of
from unmask.evaluation.nelbo import Estimate
from unmask.evaluation.protocol import Precision, check_processes, versions, weights
from unmask.evaluation.published import published
from unmask.model import MaskedDiffusion
from unmask.processes import check_same, shared
from unmask.report import Figure, Report
from unmask.storage.description import describe

OURS = "this model"


@dataclass(frozen=True)
class ZeroshotReport(Report):
    """Perplexities per token, by set: of the model, and published ones, whose rows say so."""

    def table(self) -> str:
        """Lay the figures out as papers do: a line for each model, a column for each set."""
        sets = list(dict.fromkeys(row["set"] for row in self.rows if not row["published"]))
        lines: dict[str, dict[str, str]] = {}
        for row in self.rows:
            name = row["model"] + (f", T = {row['steps']}" if row.get("steps") else "")
            value, error = row["perplexity_per_token"]
            digits = 2 if value < 1000 else 0
            shown = f"{value:.{digits}f}"
            if not row["published"]:
                shown += " ± unknown" if error is None else f" ± {error:.{digits}f}"
            lines.setdefault(name, {})[row["set"]] = shown
        head = " " * 30 + "".join(f"{BENCHMARKS[name].title:>17}" for name in sets)
        body = [f"{name:30}" + "".join(f"{cells.get(one, '-'):>17}" for one in sets) for name, cells in lines.items()]
        return "\n".join((head, *body))


@shared
def zeroshot(
    model: MaskedDiffusion,
    *,
    root: str | None = None,
    sets: Sequence[str] | None = None,
    packing: Packing | None = None,
    stride: int | None = None,
    ends: Ends = "document",
    steps: Sequence[int | float] | None = None,
    draws: int = 16,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    precision: Precision = "32-true",
) -> ZeroshotReport:
    """Measure perplexities per token on LAMBADA, WikiText-2 and -103, PTB, One Billion Word and AG News.

    Published figures of the nearest size stand in rows of their own; they are under their authors' own protocols.

    Args:
        model: of texts of a tokenizer.
        root: folder with the sets' files, in folders of their own or not; None: the Hub.
        sets: some of `unmask.data.benchmarks.BENCHMARKS`, which must be there; None: all that can be had.
        packing: how texts fill sequences; see `unmask.data.corpus.Corpus`. None: wrapped for a model whose examples
            begin or end with special tokens, such as [CLS] and [SEP], else concatenated.
        stride: windows start every so many tokens of the concatenated texts, and what an earlier window had is given,
            not counted (`unmask.data.sliding.Sliding`): each token then has a long context, as in the figures that are
            published for GPT-2. None: windows do not overlap, as in those of masked models.
        ends: what a text ends with: `line` has an end after every line, as SEDD's, MDLM's and RADD's scripts.
        steps, draws, limit, batch_size, seed, precision: see `unmask.evaluation.likelihood`.

    Raises:
        ValueError: a setting out of range, or a model of other tokens.
        FileNotFoundError: a set that was named, or every one, cannot be had.
    """
    estimate = Estimate(draws, limit, batch_size, seed, precision)
    if packing is not None:
        check_choice("packing", packing, PACKED)
    check_whole(1, stride=stride)
    check_choice("ends", ends, get_args(Ends))
    for name in sets or ():
        check_choice("sets", name, BENCHMARKS)
    codec = model.codec
    if not isinstance(codec, Tokenizer):
        raise ValueError(f"zero-shot perplexity is for models of a tokenizer's tokens; this one's are {codec}")
    objectives = bounds(model, None, steps)
    if stride is not None and (any(codec.wrap) or packing not in (None, "concatenated")):
        raise ValueError("stride is of concatenated texts, without special tokens around a sequence")
    if stride is not None and stride > model.shape[0]:
        raise ValueError(f"stride must be at most {model.shape[0]}, the length of the model's sequences; got {stride}")
    packing = packing or ("wrapped" if any(codec.wrap) else "concatenated")
    rows: list[dict[str, Any]] = []
    stated: dict[str, dict[str, Any]] = {}
    missing = []
    check_processes(model)
    for name in sets or BENCHMARKS:
        try:
            texts = Texts(name, root, ends)
            split = sequences(texts, codec, model.shape[0], packing, stride)
        except (OSError, ImportError, ValueError) as error:
            if sets:
                raise
            missing.append(str(error))
            check_same(**{name: None})
            continue
        check_same(**{name: split.checksum})
        stated[name] = _stated(texts, split)
        title = texts.benchmark.title
        for label, objective in objectives:
            result = estimate.average(model, objective, split, title)
            perplexity = Figure.of(result.perplexity)
            tqdm.write(f"{title}: {perplexity}" + (f", T = {label}" if label else ""), sys.stderr)
            row = {"set": name, "model": OURS, "published": False} | ({"steps": label} if label else {})
            figures = {"perplexity_per_token": perplexity, "nats_per_token": Figure.of(result.nats_per_token)}
            rows.append(row | {"sequences": result.examples} | figures)
    if not rows:
        raise FileNotFoundError(f"no set can be had: {'; '.join(missing)}")
    for message in missing:
        print(f"unmask: note: left out: {message}", file=sys.stderr)
    size, others = _published_rows(model, list(stated), ends)
    protocol = {
        "sets": stated,
        "published": f"{size}, under their authors' own protocols; bounds, but for GPT-2's",
        "error": "standard error over sequences",
        "packing": packing,
        "windows": "do not overlap" if stride is None else f"every {stride} tokens; what an earlier one had is given",
        **({"wrapped_in": [*codec.before, "…", *codec.after]} if any(codec.wrap) and packing != "concatenated" else {}),
        "length": model.shape[0],
        "objectives": [describe(objective) for _, objective in objectives],
        **drawn_of(objectives[0][1], draws),
        "limit": limit,
        "batch_size": batch_size,
        "seed": seed,
        "precision": precision,
        "tokenizer_sha256": codec.checksum,
        **weights(model),
        **versions(model),
    }
    return ZeroshotReport((*rows, *others), protocol)


def _stated(texts: Texts, split: Packed) -> dict[str, Any]:
    """Return the protocol of a set."""
    benchmark = texts.benchmark
    return {
        "title": benchmark.title,
        "part": benchmark.split,
        "file": texts.file,
        "provenance": texts.provenance,
        "detokeniser": benchmark.detokeniser,
        "ends_after": "line" if texts.ends == "line" else benchmark.document,
        "data_sha256": split.checksum,
    }


def _published_rows(model: MaskedDiffusion, sets: Sequence[str], ends: Ends) -> tuple[str, list[dict[str, Any]]]:
    """Return the size of the published table that is nearest to a model's, and its rows for some sets."""
    size, others = published(model.parameter_count, ends)
    rows = [
        {"set": name, "model": title, "published": True, "perplexity_per_token": Figure(value)}
        for title, values in others.items()
        for name, value in values.items()
        if name in sets
    ]
    return size, rows

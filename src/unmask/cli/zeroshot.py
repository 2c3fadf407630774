"""unmask evaluate MODEL --suite zeroshot: perplexity on texts that a model has not been trained on."""

import math
import sys
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from tqdm import tqdm

from unmask.cli.common import at_least
from unmask.cli.likelihood import bounds
from unmask.cli.report import versions, weights, write
from unmask.codecs.tokenizer import BPE
from unmask.data.benchmarks import BENCHMARKS, Texts, sequences
from unmask.evaluation.likelihood import evaluate
from unmask.evaluation.published import COLUMNS, published
from unmask.model import MaskedDiffusion
from unmask.storage.description import describe

OPTIONS = ("suite", "root", "sets", "packing", "ends", "draws", "limit", "precision", "steps")
NEEDS_DATA = False


def add_arguments(parser: ArgumentParser) -> None:
    """Add what is asked for zero-shot perplexities alone."""
    group = parser.add_argument_group("perplexity on texts that the model was not trained on")
    group.add_argument(
        "--suite",
        type=Literal["zeroshot"],
        help="LAMBADA, WikiText-2 and -103, PTB, One Billion Word, AG News, each with its protocol, beside published "
        "figures",
    )
    group.add_argument(
        "--root", type=str, help="folder with the sets' files, in folders of their own or not; the Hub if not given"
    )
    group.add_argument("--sets", type=str, help=f"some of {','.join(BENCHMARKS)}; all that can be had if not given")
    group.add_argument(
        "--packing",
        type=Literal["concatenated", "wrapped", "padded"],
        default="concatenated",
        help="how texts fill sequences: see --data Corpus of unmask train",
    )
    group.add_argument(
        "--ends",
        type=Literal["document", "line"],
        default="document",
        help="what a text ends with: `line` has an end after every line, as SEDD's, MDLM's and RADD's scripts",
    )


def check(settings: Namespace) -> None:
    """Raise an error for what is known to be wrong before anything is measured."""
    at_least(settings, draws=1, limit=1)
    for name in _names(settings):
        if name not in BENCHMARKS:
            raise ValueError(f"--sets must be some of {', '.join(BENCHMARKS)}; got {name}")


def _names(settings: Namespace) -> list[str]:
    return [name.strip() for name in settings.sets.split(",")] if settings.sets else list(BENCHMARKS)


def measure(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> None:
    """Print the perplexity on each set, by each bound, and write it all.

    Raises:
        ValueError: the model is not of texts of a byte-pair encoding.
        FileNotFoundError: a set that was named, or every one, cannot be had.
    """
    codec = model.codec
    if not isinstance(codec, BPE):
        raise ValueError(f"--suite zeroshot is for models of a byte-pair encoding; this one's tokens are {codec}")
    objectives = bounds(model, None, settings.steps)
    rows: list[dict[str, Any]] = []
    missing = []
    for name in _names(settings):
        try:
            texts = Texts(name, settings.root, settings.ends)
            split = sequences(texts, codec, model.shape[0], settings.packing)
        except (OSError, ImportError, ValueError) as error:
            if settings.sets:
                raise
            missing.append(str(error))
            continue
        benchmark, count = texts.benchmark, min(settings.limit or len(split), len(split))
        stated = {
            "set": name,
            "part": benchmark.split,
            "file": texts.file,
            "detokeniser": benchmark.detokeniser,
            "ends_after": "line" if settings.ends == "line" else benchmark.document,
            "data_sha256": split.checksum,
        }
        for label, objective in objectives:
            batches = split.batches(settings.batch_size, settings.limit)
            bar = tqdm(batches, desc=benchmark.title, total=-(-count // settings.batch_size), unit="batch", delay=2)
            moved = ((x.to(model.device), None) for x, _ in bar)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
                result = evaluate(model.network, objective, moved, draws=settings.draws, seed=settings.seed)
            figures = {"perplexity_per_token": list(result.perplexity), "nats_per_token": list(result.nats_per_token)}
            tqdm.write(
                f"{benchmark.title}: {_figure(*result.perplexity)}" + (f", T = {label}" if label else ""), sys.stderr
            )
            rows.append(stated | {"steps": label, "sequences": result.examples} | figures)
    if not rows:
        raise FileNotFoundError(f"no set can be had: {'; '.join(missing)}")
    print(table(rows, sum(p.numel() for p in model.parameters()), settings))
    for message in missing:
        print(f"unmask: note: left out: {message}", file=sys.stderr)
    protocol = {
        "packing": settings.packing,
        "length": model.shape[0],
        "objectives": [describe(objective) for _, objective in objectives],
        "draws_per_example": settings.draws,
        "limit": settings.limit,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "precision": settings.precision,
        "tokenizer_sha256": codec.checksum,
    }
    write({"rows": rows, "protocol": protocol | weights(settings, model) | versions(model)}, settings, model)


def table(rows: list[dict[str, Any]], parameters: int, settings: Namespace) -> str:
    """Lay the figures out as in the paper, published ones under them, and what they mean below."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    size, others = published(parameters)
    lines = [" " * 30 + "".join(f"{BENCHMARKS[name].title:>17}" for name in sets)]
    for label in dict.fromkeys(row["steps"] for row in rows):
        cells = [
            row["perplexity_per_token"] for name in sets for row in rows if (row["set"], row["steps"]) == (name, label)
        ]
        title = "this model" if label is None else f"this model, T = {label}"
        lines.append(f"{title:30}" + "".join(f"{_figure(*cell):>17}" for cell in cells))
    for title, values in others.items():
        known = dict(zip(COLUMNS, values, strict=True))
        lines.append(
            f"{title:30}" + "".join(f"{known[name]:>17.2f}" if name in known else f"{'-':>17}" for name in sets)
        )
    lines += [
        "",
        f"Perplexity per token ± standard error over sequences (bounds, but for GPT-2's). Published: {size}, under the",
        f"authors' own protocols. Here: packing {settings.packing}, an end after every "
        + ("line" if settings.ends == "line" else "document")
        + f", {settings.draws} masks a sequence. Detokenisers:",
    ]
    lines += [f"  {BENCHMARKS[name].title}: {BENCHMARKS[name].split}; {BENCHMARKS[name].detokeniser}" for name in sets]
    return "\n".join(lines)


def _figure(value: float, error: float) -> str:
    if math.isnan(error):
        return f"{value:.2f} ± unknown"
    return f"{value:.2f} ± {error:.2f}" if value < 1000 else f"{value:.0f} ± {error:.0f}"

"""unmask evaluate MODEL --generate: what a left-to-right language model thinks of samples, with their entropy."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from tqdm import tqdm

from unmask.cli.common import at_least, check_fits, own_data
from unmask.cli.report import check_picture, draw, versions, weights, write
from unmask.cli.sample import SHORT, add_sampler, draw_batches, make_sampler
from unmask.codecs.text import Text
from unmask.data.base import DataSet
from unmask.evaluation.judge import Judge
from unmask.evaluation.perplexity import Perplexity, mean_error, retokenise, token_entropy
from unmask.given import clean_tokens
from unmask.model import MaskedDiffusion
from unmask.storage.description import describe
from unmask.types import Tokens

OWN = ("generate", "n", "judge", "judge_precision", "texts", "counted", "temperatures", "mauve", "figure")
OPTIONS = (*OWN, "sampler", "data", *SHORT)
NEEDS_DATA = False
LAYOUT = "{:32} {:>20} {:>20} {:>17} {:>8} {:>7}"


def add_arguments(parser: ArgumentParser) -> None:
    """Add what is asked for samples of texts alone."""
    group = parser.add_argument_group("perplexity of sampled texts under a left-to-right model, and their entropy")
    group.add_argument(
        "--generate",
        action="store_true",
        help="perplexity and entropy of --n samples; neither means anything without the other: both fall when samples "
        "repeat themselves",
    )
    group.add_argument(
        "--judge",
        type=str,
        default="openai-community/gpt2-large",
        help="a causal language model of `transformers`: a folder, or a name on the Hub",
    )
    group.add_argument(
        "--judge_precision", type=Literal["float32", "bfloat16"], default="float32", help="of the judge's weights"
    )
    group.add_argument(
        "--texts",
        type=Literal["retokenised", "raw"],
        default="retokenised",
        help="retokenised: samples become text, which the judge cuts into tokens (MDLM, Duo); raw: the judge is given "
        "the model's own tokens, where both have the same (SEDD)",
    )
    group.add_argument(
        "--counted",
        type=Literal["all", "first_end", "until_end"],
        default="all",
        help="which tokens are scored: all; all but ends of text after the first (MDLM); none after the first end",
    )
    group.add_argument("--temperatures", type=str, help="some, as in 0.8,0.9,1.0: a row of the table for each")
    group.add_argument("--mauve", action="store_true", help="MAUVE, too, against as many texts of the data")
    add_sampler(group)


def check(settings: Namespace) -> None:
    """Raise an error for what is known to be wrong before anything is measured."""
    at_least(settings, n=2)
    check_picture(settings, "figure")
    if settings.temperatures and settings.temperature is not None:
        raise ValueError("give --temperatures or --temperature, not both")
    _temperatures(settings)


def _temperatures(settings: Namespace) -> list[float]:
    if not settings.temperatures:
        return []
    try:
        found = [float(part) for part in settings.temperatures.split(",")]
    except ValueError:
        found = [0.0]
    if not all(0 < value < float("inf") for value in found):
        raise ValueError(f"--temperatures must be positive numbers with commas between, got {settings.temperatures!r}")
    return found


def measure(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> None:
    """Print perplexity and entropy of samples, and of data beside them, write them with their protocol, and draw them.

    Raises:
        ValueError: the model is not of texts, or its tokens are not the judge's where they must be.
    """
    codec = model.codec
    if not isinstance(codec, Text):
        raise ValueError(f"--generate is for models of texts; this one's tokens are {codec}")
    judge = Judge(settings.judge, settings.judge_precision, model.device)
    if settings.texts == "raw" and codec != judge.codec:
        raise ValueError(f"--texts raw needs a judge of the model's own tokens, {codec}; {settings.judge} has others")
    sampler = make_sampler(model, made.sampler, settings)
    chosen = [replace(sampler, temperature=value) for value in _temperatures(settings)] or [sampler]
    data = compared(model, made, settings)
    real = None if data is None else real_texts(data, settings.n)
    rows = []
    titles = ("perplexity, micro", "perplexity, macro", "entropy, nats", "calls", "MAUVE" if settings.mauve else "")
    print(LAYOUT.format("", *titles).rstrip())
    for one in chosen:
        calls: list[float] = []
        batches = draw_batches(model, one, None, settings, calls)
        bar = tqdm(batches, desc="sampling", total=-(-settings.n // settings.batch_size), unit="batch", delay=2)
        x = torch.cat([batch.cpu() for batch in bar])
        row = {"sampler": describe(one), "temperature": one.temperature, "calls": sum(calls) / len(calls)}
        rows.append(row | judged(x, codec, judge, settings) | similar(x, real, codec, judge, settings))
        print(line(f"{type(one).__name__}, temperature {one.temperature:g}", rows[-1]))
    report: dict[str, Any] = {"rows": rows}
    if data is not None and real is not None:
        report["data"] = {"name": data.name, **judged(real, codec, judge, settings)}
        print(line(f"{len(real)} texts of {data.name}", report["data"]))
    report["protocol"] = protocol(model, judge, settings) | weights(settings, model) | versions(model)
    scored = ", ".join(f"{key} {report['protocol'][key]}" for key in ("judge", "judge_precision", "texts", "counted"))
    print(f"{scored}; errors are standard errors over {settings.n} samples")
    write(report, settings, model)
    if settings.figure:
        from unmask.display.figures import frontier_figure

        draw(lambda: frontier_figure(rows, report.get("data"), settings.judge), settings.figure)


def protocol(model: MaskedDiffusion, judge: Judge, settings: Namespace) -> dict[str, Any]:
    """Return everything that another person needs to get the same figures, but for the weights."""
    return {
        "samples": settings.n,
        "length": model.shape[0],
        "judge": settings.judge,
        "judge_commit": judge.commit,
        "judge_precision": settings.judge_precision,
        "judge_context": judge.context,
        "texts": settings.texts,
        "counted": settings.counted,
        "first_token": "not scored",
        "entropy": "of each sample's histogram of the model's own tokens, in nats",
        "seed": settings.seed,
        "batch_size": settings.batch_size,
    }


def compared(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> DataSet | None:
    """Return the data whose test texts are a row of their own: what was named, or the model's own if still there."""
    if made.data is None:
        return None
    own = own_data(model)
    default = own is not None and describe(made.data) == {"class": own["class_path"], **own["init_args"]}
    try:
        check_fits(model, made.data)
        made.data.split("test")
    except (OSError, ValueError) as error:
        if not default:
            raise
        print(f"unmask: note: no texts to compare with: {error}", file=sys.stderr)
        return None
    return made.data


def real_texts(data: DataSet, n: int) -> Tokens:
    """Return test texts of the data, n if there are as many."""
    return torch.cat([clean_tokens(x) for x, _ in data.split("test").batches(64, n)])


def judged(x: Tokens, codec: Text, judge: Judge, settings: Namespace) -> dict[str, Any]:
    """Return the perplexity of texts under the judge, and their entropy."""
    ids = x.tolist() if settings.texts == "raw" else retokenise(x, codec, judge.codec)
    found = Perplexity.of(judge.nll(ids, settings.counted))
    return {
        "perplexity_micro": list(found.micro),
        "perplexity_macro": list(found.macro),
        "entropy": list(mean_error(token_entropy(x, codec.vocab_size))),
        "samples_scored": found.samples,
        "tokens_scored": found.tokens,
    }


def similar(x: Tokens, real: torch.Tensor | None, codec: Text, judge: Judge, settings: Namespace) -> dict[str, Any]:
    """Return MAUVE (arXiv:2102.01454) between samples and data, in the judge's features, if it is asked for."""
    if not settings.mauve:
        return {}
    if real is None:
        raise ValueError("--mauve compares with data: name them, as in --data Corpus --data.path FOLDER")
    try:
        import mauve
    except ImportError:
        raise ImportError("--mauve needs the package mauve-text: pip install 'unmask[mauve]'") from None
    p, q = (judge.features(retokenise(part, codec, judge.codec)).numpy() for part in (real, x))
    return {"mauve": float(mauve.compute_mauve(p_features=p, q_features=q, seed=settings.seed, verbose=False).mauve)}


def line(name: str, row: dict[str, Any]) -> str:
    """Lay out a row."""
    micro, macro, entropy = (row[key] for key in ("perplexity_micro", "perplexity_macro", "entropy"))
    perplexities = [f"{value:.2f} ± {error:.2f}" for value, error in (micro, macro)]
    calls = f"{row['calls']:.1f}" if "calls" in row else ""
    mauve = f"{row['mauve']:.3f}" if "mauve" in row else ""
    return LAYOUT.format(name, *perplexities, f"{entropy[0]:.3f} ± {entropy[1]:.3f}", calls, mauve).rstrip()

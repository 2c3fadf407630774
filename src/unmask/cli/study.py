"""unmask study: what samplers do to the samples of a model, in one table and one figure."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor
from tqdm import tqdm

from unmask.cli.common import first, instantiate, load_model, new_parser, own_data, parse
from unmask.cli.sample import make_labels
from unmask.data.base import DataSet
from unmask.display.figures import study_figure
from unmask.evaluation.ngram import NGram
from unmask.evaluation.perplexity import mean_error, token_entropy
from unmask.forward import all_masked
from unmask.gumbel import effective_temperature
from unmask.model import MaskedDiffusion
from unmask.randomness import generators, seeded
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler
from unmask.samplers.confidence import EntropyBounded, MostConfident
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.gumbel import GumbelAncestral
from unmask.samplers.ordered import InOrder
from unmask.samplers.remasking import Remasking
from unmask.samplers.token import TokenAncestral, TokenFirstHitting
from unmask.schedules import TokenPolynomial
from unmask.storage.description import describe
from unmask.storage.files import check_writable, replacing

KEPT = 20_000_000
"""Most logits that are kept to find an effective temperature."""


def run(arguments: list[str]) -> None:
    """Run `unmask study`."""
    what = first(arguments, "samplers or precision")
    if what is not None and what not in STUDIES:
        raise ValueError(f"study {what}: there are {' and '.join(STUDIES)}")
    path = first(arguments[1:], "after that the MODEL") if what else None
    own = load_model(path, None) if path else None
    parser = new_parser(
        "study",
        description="`samplers` MODEL: calls, time and quality of every kind of sampler. `precision` MODEL: what "
        "Gumbel-max draws in float32, as public code makes them, do to ancestral sampling.",
    )
    parser.add_argument("what", metavar="samplers|precision", help="what to study")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("--n", type=int, default=16, help="examples from each sampler")
    parser.add_argument("--steps", type=str, help="for `precision`: numbers of steps, as in 64,256,1024")
    parser.add_argument("--ngram", type=int, help="order of the n-gram model that judges, 0 for none; a fitting one")
    parser.add_argument("--seed", type=int, default=0, help="of the examples")
    parser.add_argument("--label", type=str, help="class of all examples, or `all`: n / classes of each")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale of classifier-free guidance for a --label")
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, ...; a GPU where there is one if not given")
    parser.add_argument("--out", type=str, help="file for the figure; its ending chooses the format")
    parser.add_argument("--json", type=str, help="file for all figures and their protocol")
    parser.add_subclass_arguments(
        DataSet, "data", required=False, default=own_data(own), help="trains the judge; by default the model's own data"
    )
    settings = parse(parser, arguments)
    steps = whole_numbers(settings.steps or "64,256,1024")
    for name, least in (("n", 2), ("seed", 0)):
        if settings[name] < least:
            raise ValueError(f"--{name} must be at least {least}, got {settings[name]}")
    out = settings.out or f"{settings.what}.png"
    for option, target in (("out", out), ("json", settings.json)):
        if target:
            check_writable(Path(target), f"--{option}")
    model = own if own and not settings.device else load_model(settings.model, settings.device)
    judge, real = fit_judge(model, instantiate(parser, settings).data, settings.ngram)
    chosen = [replace(one, guidance=settings.guidance) for one in STUDIES[settings.what](model, steps)]
    settings.label = make_labels(settings.label, settings.n, model)
    if settings.label is not None:
        settings.label = settings.label.to(model.device)
    rows: list[dict[str, Any]] = []
    unit, width = model.codec.unit, max(len(short_name(sampler)) for sampler in chosen)
    print(f"{'':{width}} {'calls':>7} {'s/sample':>8}  {'entropy, nats':16} {f'judge, nats/{unit}':22} temperature")
    for sampler in tqdm(chosen, desc="samplers", unit="sampler"):
        rows.append(measure(model, sampler, judge, settings))
        tqdm.write(line(rows[-1], width))  # at once: a study that is cut short has shown what it found
    if real:
        print(line({"sampler": "test data"} | real, width))
    with replacing(out) as figure:
        study_figure(rows, real, unit).savefig(figure, dpi=150)
    print(out)
    if settings.json:
        report = {"rows": rows, "test_data": real, "protocol": protocol(settings, model, judge)}
        with replacing(settings.json) as file:
            file.write_text(json.dumps(report, indent=2) + "\n")


def whole_numbers(text: str) -> list[int]:
    """Read numbers with commas between them; raise a ValueError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--steps must be whole numbers of at least 1 with commas between them, got {text!r}")
    return [int(part) for part in parts]


def samplers(model: MaskedDiffusion, _: list[int]) -> list[Sampler]:
    """Return samplers of every kind that fit a model, at three budgets of calls."""
    length = math.prod(model.shape)
    if isinstance(model.schedule, TokenPolynomial):
        frozen = [TokenFirstHitting(model.schedule, form) for form in ("thinned", "frozen")]
        budgets = sorted({max(1, length // 16), max(1, length // 4), length})
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


def precisions(model: MaskedDiffusion, steps: list[int]) -> list[Sampler]:
    """Return ancestral samplers under the three precisions, and the library's own."""
    if isinstance(model.schedule, TokenPolynomial):
        raise ValueError("the precision study is for models without a learned schedule")
    chosen: list[Sampler] = []
    for many in steps:
        chosen.append(Ancestral(steps=many, grid="uniform"))
        for precision in ("float64", "float32", "truncated"):
            chosen.append(GumbelAncestral(steps=many, precision=precision))
    return chosen


STUDIES = {"samplers": samplers, "precision": precisions}


def fit_judge(model: MaskedDiffusion, data: DataSet | None, order: int | None) -> tuple[NGram | None, dict[str, Any]]:
    """Fit an n-gram model to the training data, and say how it judges the test data.

    Returns:
        the judge, None where there are no data or the vocabulary is too large for one; and the figures of the test
        data in the form of a row of the table, empty without data.

    Raises:
        ValueError: the data are not the model's, or the order is too large.
    """
    if order is not None and order < 0:
        raise ValueError(f"--ngram must be at least 0, got {order}")
    if data is None:
        return None, {}
    if data.codec != model.codec:
        raise ValueError(f"{data.name} has the tokens {data.codec}, but the model was trained on {model.codec}")
    vocab = model.network.vocab_size
    order = max((n for n in range(1, 6) if vocab**n <= 2_000_000), default=0) if order is None else order
    judge = None
    if order:
        batches = data.split("train").batches(4096, 200_000)
        judge = NGram.fit((x.flatten(1).numpy() for x, _ in tqdm(batches, desc="judge", delay=2)), vocab, order)
    real = torch.cat([x for x, _ in data.split("test").batches(4096, 2048)])
    return judge, figures(real, judge, vocab)


def figures(x: Tensor, judge: NGram | None, vocab_size: int) -> dict[str, Any]:
    """Return the entropy and the judgement of examples, each as [value, standard error]."""
    found = {"entropy": list(mean_error(token_entropy(x, vocab_size)))}
    if judge is not None:
        found["judge"] = list(mean_error(judge.nll(x) / x[0].numel()))
    return found


def measure(model: MaskedDiffusion, sampler: Sampler, judge: NGram | None, settings: Namespace) -> dict[str, Any]:
    """Draw examples and return a row of the table."""
    network, studied = model.network, isinstance(sampler, GumbelAncestral | Ancestral) and settings.what == "precision"
    canvas = all_masked(settings.n, model.shape, network.mask_id, device=model.device)
    generator = (
        seeded(settings.seed, device=model.device)
        if isinstance(sampler, GumbelAncestral)
        else generators(settings.seed, settings.n)
    )
    start = time.perf_counter()
    *_, state = sampler.trajectory(network, canvas, settings.label, generator=generator)
    seconds = (time.perf_counter() - start) / settings.n
    row = {
        "sampler": short_name(sampler),
        "calls": state.calls.double().mean().item(),
        "seconds_per_example": seconds,
        **figures(state.x.cpu(), judge, network.vocab_size),
    }
    if studied:
        row["temperature"] = temperature(model, sampler, settings)
    return row


def temperature(model: MaskedDiffusion, sampler: Any, settings: Namespace) -> list[float] | None:
    """Return the temperature that the tokens look drawn at, and its error; None where none fits."""
    network = model.network
    canvas = all_masked(settings.n, model.shape, network.mask_id, device=model.device)
    share = min(1.0, KEPT / (canvas.numel() * network.vocab_size))
    pick = seeded(settings.seed, 1)
    logits, tokens = [], []
    for before, after in pairs(sampler, network, canvas, settings):
        new = (before.x == network.mask_id) & (after.x != network.mask_id)
        new &= (torch.rand(new.shape, generator=pick) < share).to(new.device)
        rows = new.flatten(1).any(1)
        if rows.any():
            noise = sampler.schedule.mask_rate(before.t)[rows]
            with torch.no_grad():
                label = None if settings.label is None else settings.label[rows]
                logits.append(sampler.predict(network, before.x[rows], noise, label, new[rows]).cpu())
            tokens.append(after.x[new].cpu())
    try:
        return list(effective_temperature(torch.cat(logits), torch.cat(tokens)))
    except ValueError:
        return None


def pairs(sampler: Sampler, network: Any, canvas: Tensor, settings: Namespace) -> Iterator[tuple[Any, Any]]:
    """Yield each state of a trajectory with the one before it."""
    generator = seeded(settings.seed, 2, device=canvas.device)
    states = sampler.trajectory(network, canvas, settings.label, generator=generator)
    before = next(states)
    for after in states:
        yield before, after
        before = after


def short_name(sampler: Sampler) -> str:
    """Name a sampler and what is not as by default."""
    plain = type(sampler)()
    parts = [
        f"{field.name}={getattr(sampler, field.name)}"
        for field in fields(sampler)
        if (getattr(sampler, field.name) != getattr(plain, field.name) or field.name == "precision")
        and field.name != "schedule"
    ]
    return f"{type(sampler).__name__}({', '.join(parts)})"


def line(row: dict[str, Any], width: int) -> str:
    """Lay a row out, figures with their standard errors."""

    def figure(name: str) -> str:
        return f"{row[name][0]:.3f} ± {row[name][1]:.3f}" if row.get(name) else ""

    cost = f"{row['calls']:7.1f} {row['seconds_per_example']:8.3f}" if "calls" in row else f"{'':16}"
    return (
        f"{row['sampler']:{width}} {cost}  {figure('entropy'):16} {figure('judge'):22} {figure('temperature')}".rstrip()
    )


def protocol(settings: Namespace, model: MaskedDiffusion, judge: NGram | None) -> dict[str, Any]:
    """Return what another person needs to get the same figures."""
    return {
        "study": settings.what,
        "examples": settings.n,
        "seed": settings.seed,
        "labels": None if settings.label is None else settings.label.tolist(),
        "guidance": settings.guidance,
        "judge": f"{len(judge.tables)}-gram, Witten-Bell, of up to 200,000 training examples" if judge else None,
        "entropy": "of each example's own histogram of tokens, nats",
        "error": "standard error over examples",
        "network": describe(model.network),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "unmask": version("unmask"),
    }

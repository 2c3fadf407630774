"""unmask evaluate [MEASURE] MODEL: how good a model is, by one of several measures, with errors and protocols."""

from __future__ import annotations

import math
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import Namespace

from unmask.cli.common import Parser, at_least, first, instantiate, load_model, parse, trained_with
from unmask.cli.names import given_options
from unmask.cli.sample import SHORT, add_sampler, make_sampler
from unmask.storage.files import check_writable, replacing
from unmask.storage.folders import CONFIG, find_folder
from unmask.storage.signatures import nearest

if TYPE_CHECKING:
    from unmask.data.base import DataSet
    from unmask.model import MaskedDiffusion
    from unmask.report import Report


class Measure(NamedTuple):
    """What one word after `unmask evaluate` does: its help, its own options, and the call of the library.

    `picture` is the option that names the file of its figure, and `data` says what data are for, if it takes any.
    """

    description: str
    add: Callable[[Parser], None]
    measure: Callable[[MaskedDiffusion, Namespace, Namespace], Report]
    picture: str | None = None
    data: str | None = None


def run(arguments: list[str]) -> None:
    """Run `unmask evaluate`."""
    word = arguments[0] if arguments and arguments[0] in MEASURES else None
    name, rest = word or "likelihood", arguments[1:] if word else arguments
    measure = MEASURES[name]
    if word is None and len(rest) > 1 and not rest[1].startswith("-"):
        words = ", ".join(MEASURES)
        raise ArgumentError(
            None, f"no measure {rest[0]!r}{nearest(rest[0], MEASURES)}; before MODEL there is one of {words}"
        )
    parser = make_parser(name, first(rest, "MODEL"))
    check_options(name, parser, rest)
    settings = parse(parser, rest, check=lambda plain: check(plain, measure))
    model = load_model(settings.model, settings.device)
    report = measure.measure(model, instantiate(parser, settings), settings)
    print(report)
    write(report, settings, measure.picture)


def make_parser(name: str, model: str | None) -> Parser:
    """Make the parser of a measure, with the data that the model was trained with as the default."""
    measure = MEASURES[name]
    words = "" if model else f" Without a word: likelihood. The words are {', '.join(MEASURES)}."
    parser = Parser(
        f"evaluate {name}",
        description=f"Measure {measure.description}.{words}",
        epilog=f"Other measures are words before MODEL: unmask evaluate [{'|'.join(MEASURES)}] MODEL.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("--batch_size", type=int, default=16, help="examples at a time")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, ...; a GPU where there is one if not given")
    parser.add_argument("--json", type=str, help="file to write the report to")
    parser.add_argument("--record", action="store_true", help="write it into the model's own folder, for its card")
    if measure.data:
        parser.choose("data", f"{measure.data}; by default the model's own", default=trained_with(model))
    measure.add(parser)
    return parser


def check_options(name: str, parser: Parser, arguments: list[str]) -> None:
    """Raise an ArgumentError for an option that belongs to another measure."""
    for option, _ in given_options(arguments):
        head = option.partition(".")[0]
        if head not in known_options(parser):
            owners = [other for other in MEASURES if head in known_options(make_parser(other, None))]
            if owners:
                how = " or ".join(f"unmask evaluate {owner}" for owner in owners)
                raise ArgumentError(None, f"unknown option --{head} of evaluate {name}: it belongs to {how}")


def known_options(parser: Parser) -> set[str]:
    """Return the names of a parser's options."""
    return {option.lstrip("-") for option in parser._option_string_actions} | parser.choices.keys()


def check(settings: Namespace, measure: Measure) -> None:
    """Raise an error for a value out of range or a file that cannot be written, before anything is loaded."""
    at_least(settings, batch_size=1, seed=0)
    least = {"draws": 1, "limit": 1, "samples": 2}
    at_least(settings, **{name: value for name, value in least.items() if name in settings})
    folder = find_folder(settings.model)
    if measure.picture and settings[measure.picture]:
        check_picture(settings[measure.picture], f"--{measure.picture}")
    if settings.json:
        check_writable(Path(settings.json), "--json")
    if settings.record and (folder is None or not (folder / CONFIG).is_file()):
        raise ValueError(f"--record: {settings.model} is not a model's folder on this machine: it has no {CONFIG}")


def write(report: Report, settings: Namespace, picture: str | None) -> None:
    """Write a report wherever it is wanted."""
    if settings.get("record"):
        report.record(settings.model)
    if settings.json:
        with replacing(settings.json) as target:
            target.write_text(report.to_json(), encoding="utf-8")
    if picture and settings[picture]:
        with replacing(settings[picture]) as target:
            report.figure().savefig(target, dpi=150)
        print(settings[picture])


def check_picture(path: str, option: str) -> None:
    """Raise an error for a file that no picture can be written to."""
    if Path(path).suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{option} {path}: the file must end in .png, .pdf or .svg")
    check_writable(Path(path), option)


def numbers(text: str | None, option: str, kind: Callable[[str], Any], what: str) -> list[Any] | None:
    """Read positive numbers with commas between them; `what` they must be is said in the error."""
    try:
        found = [kind(part.strip()) for part in text.split(",")] if text else []
        if not all(value > 0 for value in found):
            raise ValueError
    except ValueError:
        raise ValueError(f"{option} must be {what} with commas between them, got {text!r}") from None
    return found or None


def whole_numbers(text: str | None) -> list[int] | None:
    """Read the numbers of --steps."""
    return numbers(text, "--steps", int, "whole numbers of at least 1")


def named_data(model: MaskedDiffusion, data: DataSet | None) -> DataSet | None:
    """Return the data that were named; None for those that the model was trained with."""
    from unmask.storage.description import describe

    return None if data is None or describe(data) == model.about.get("data") else data


def _likelihood_options(parser: Parser) -> None:
    parser.add_argument("--split", type=str, default="test", help="part of the data: train, valid or test")
    parser.choose("objective", "the bound (by default TimeFreeELBO; TokenELBO for a learned schedule)")
    parser.add_argument("--breakdown", type=str, help="picture of where the bits go: by position and by token value")
    _estimate_options(parser)


def _estimate_options(parser: Parser) -> None:
    parser.add_argument("--steps", type=str, help="numbers T of steps, as in 100,1000,inf: the bound of each")
    parser.add_argument("--draws", type=int, default=16, help="random masks per example")
    parser.add_argument("--limit", type=int, help="use that many examples, evenly spread; all if not given")
    text = "32-true, or bf16-mixed: products in bfloat16, faster where the processor has it; the report says which"
    parser.add_argument("--precision", type=str, default="32-true", help=text)


def _estimate(settings: Namespace) -> dict[str, Any]:
    """Return the settings of `_estimate_options`."""

    def count(text: str) -> int | float:
        return math.inf if text == "inf" else int(text)

    steps = numbers(settings.steps, "--steps", count, "whole numbers of at least 1, or inf,")
    return {"steps": steps} | {name: settings[name] for name in ("draws", "limit", "precision", "batch_size", "seed")}


def _likelihood(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> Report:
    from unmask.evaluation import likelihood

    if settings.steps and (settings.objective or settings.breakdown):
        raise ValueError("--steps names the bounds: it goes with neither --objective nor --breakdown")
    chosen = {"split": settings.split, "objective": made.objective, "breakdown": bool(settings.breakdown)}
    return likelihood(model, named_data(model, made.data), **chosen, **_estimate(settings))


def _zeroshot_options(parser: Parser) -> None:
    parser.add_argument("--root", type=str, help="folder with the sets' files, perhaps in folders; default: the Hub")
    text = "some of lambada,wikitext2,ptb,wikitext103,lm1b,ag_news; all that can be had if not given"
    parser.add_argument("--sets", type=str, help=text)
    text = "how texts fill sequences: concatenated, wrapped or padded; see --data.help Corpus"
    parser.add_argument("--packing", type=str, default="concatenated", help=text)
    text = "what a text ends with: document; or line, an end after every line, as SEDD's, MDLM's and RADD's scripts"
    parser.add_argument("--ends", type=str, default="document", help=text)
    _estimate_options(parser)


def _zeroshot(model: MaskedDiffusion, _: Namespace, settings: Namespace) -> Report:
    from unmask.evaluation import zeroshot

    sets = [name.strip() for name in settings.sets.split(",")] if settings.sets else None
    chosen = {name: settings[name] for name in ("root", "packing", "ends")}
    return zeroshot(model, sets=sets, **chosen, **_estimate(settings))


def _generate_options(parser: Parser) -> None:
    parser.add_argument("-n", "--samples", type=int, default=1000, help="from each sampler; figures depend on it")
    text = "a causal language model of `transformers`: a folder, or a name on the Hub"
    parser.add_argument("--judge", type=str, default="openai-community/gpt2-large", help=text)
    text = "of the judge's weights: float32 or bfloat16"
    parser.add_argument("--judge_precision", type=str, default="float32", help=text)
    text = "retokenised: samples become text, which the judge tokenises (MDLM, Duo); raw: the judge is given the "
    text += "model's own tokens, where both have the same (SEDD)"
    parser.add_argument("--texts", type=str, default="retokenised", help=text)
    text = "which tokens are scored: all; first_end: all but ends of text after the first (MDLM); until_end: none "
    text += "after the first end"
    parser.add_argument("--counted", type=str, default="all", help=text)
    parser.add_argument("--temperatures", type=str, help="some, as in 0.8,0.9,1.0: a row of the table for each")
    parser.add_argument("--mauve", action="store_true", help="MAUVE, too, against as many texts of the data")
    parser.add_argument("--figure", type=str, help="picture of perplexity against entropy")
    add_sampler(parser)


def _generate(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> Report:
    from unmask.evaluation import generative

    if settings.temperatures and settings.temperature is not None:
        raise ValueError("give --temperatures or --temperature, not both")
    temperatures = numbers(settings.temperatures, "--temperatures", float, "positive numbers") or ()
    names = ("judge", "judge_precision", "samples", "texts", "counted", "mauve", "batch_size", "seed")
    return generative(
        model,
        data=named_data(model, made.data),
        sampler=make_sampler(model, made.sampler, settings),
        temperatures=temperatures,
        **{name: settings[name] for name in names},
    )


def _frechet_options(parser: Parser) -> None:
    parser.add_argument("-n", "--samples", type=int, default=1000, help="from each sampler; figures depend on it")
    parser.add_argument("--steps", type=str, default="16,64,256", help="numbers of steps of the ancestral samplers")
    text = "what looks at the images: inception, or the folder of another model of such images"
    parser.add_argument("--features", type=str, default="inception", help=text)
    parser.add_argument("--guidance", type=float, default=1.0, help=SHORT["guidance"][1])
    parser.add_argument("--figure", type=str, help="picture of the distances against network calls")


def _frechet(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> Report:
    from unmask.evaluation import frechet

    chosen = {name: settings[name] for name in ("features", "samples", "guidance", "batch_size", "seed")}
    steps = whole_numbers(settings.steps) or ()
    return frechet(model, named_data(model, made.data), steps=steps, **chosen)


BOUND = "the likelihood of data under a model: the negative ELBO, with its standard error"
TEXTS = "perplexity on texts that a model was not trained on, each set with its protocol, beside published figures"
JUDGED = "the perplexity of sampled texts under a left-to-right model, and their entropy; neither means anything "
JUDGED += "without the other: both fall when samples repeat themselves"
DISTANCE = "the Fréchet distance of sampled images to the training images, over steps, schedules and grids"
MEASURES = {
    "likelihood": Measure(BOUND, _likelihood_options, _likelihood, "breakdown", "what to measure"),
    "zeroshot": Measure(TEXTS, _zeroshot_options, _zeroshot),
    "generate": Measure(JUDGED, _generate_options, _generate, "figure", "real texts to compare with"),
    "frechet": Measure(DISTANCE, _frechet_options, _frechet, "figure", "images to compare with"),
}

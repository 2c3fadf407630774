"""unmask evaluate [MEASURE] MODEL: how good a model is, by one of several measures, with errors and protocols."""

from __future__ import annotations

import math
from argparse import ArgumentError
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import Namespace

from unmask.cli.common import DEVICE, MODEL, SPEED, Option, Parser, at_least, first, instantiate, load_model, parse
from unmask.cli.plot import PICTURES
from unmask.cli.sample import GUIDANCE, add_sampler, make_sampler
from unmask.storage.files import check_writable, replacing
from unmask.storage.hub import check_model
from unmask.storage.names import given_options
from unmask.storage.recording import recordable
from unmask.storage.settings import read_numbers, trained_with
from unmask.storage.signatures import nearest

if TYPE_CHECKING:
    from unmask.data.base import DataSet
    from unmask.model import MaskedDiffusion
    from unmask.report import Report

FILES = "lambada_test.jsonl, wiki.test.raw or .tokens, ptb.test.txt, news.en.heldout-00000-of-00050, AG News' test.csv"
SAMPLES: Option = ("samples", int, 1000, "number of samples from each sampler; figures depend on it")
ESTIMATE: tuple[Option, ...] = (
    ("steps", str, None, "numbers T of steps, as in 100,1000,inf: the bound of each"),
    ("draws", int, 16, "random masks per example"),
    ("limit", int, None, "use that many examples, evenly spread; all if not given"),
    ("precision", str, "32-true", "32-true, or bf16-mixed: products in bfloat16, faster where the processor has it"),
)
COMMON: tuple[Option, ...] = (
    ("batch_size", int, 16, "examples at a time"),
    ("seed", int, 0, "of all that is drawn"),
    DEVICE,
    ("json", str, None, "file to write the report to"),
    ("record", bool, False, "write it into the model's own folder, for its card"),
)


class Measure(NamedTuple):
    """What one word after `unmask evaluate` does.

    Attributes:
        function: of `unmask.evaluation`.
        description: completes "Measure ...".
        options: of its own.
        picture: the option that names the file of its figure.
        data: what data are for, if it takes any.
        objects: options whose values are objects, and their help.
    """

    function: str
    description: str
    options: tuple[Option, ...]
    picture: str | None = None
    data: str | None = None
    objects: tuple[tuple[str, str], ...] = ()


MEASURES = {
    "likelihood": Measure(
        "likelihood",
        "the likelihood of data under a model: the negative ELBO, with its standard error",
        (
            ("split", str, "test", "part of the data: train, valid, test, or all"),
            ("breakdown", str, None, "picture of where the bits go: by position and by token value"),
            ("per_example", str, None, ".jsonl file for the bound of each example, with its place in the data"),
            *ESTIMATE,
        ),
        "breakdown",
        "what to measure",
        (("objective", "the bound (by default TimeFreeELBO; TokenELBO for a learned schedule)"),),
    ),
    "zeroshot": Measure(
        "zeroshot",
        "perplexity on texts that a model was not trained on, each set with its protocol, beside published figures",
        (
            ("root", str, None, f"folder that the sets' files lie in or below, also compressed: {FILES}; or the Hub"),
            ("sets", str, None, "some of lambada,wikitext2,ptb,wikitext103,lm1b,ag_news; by default all there are"),
            ("packing", str, None, "concatenated (if not given), wrapped (for [CLS] … [SEP] if not given) or padded"),
            ("stride", int, None, "windows overlap: one starts every so many tokens, what an earlier one had is given"),
            ("ends", str, "document", "what a text ends with: document; or line, as SEDD's, MDLM's and RADD's scripts"),
            *ESTIMATE,
        ),
    ),
    "generate": Measure(
        "generative",
        "the perplexity of sampled texts under a left-to-right model, and their entropy; neither means anything "
        "without the other: both fall when samples repeat themselves",
        (
            SAMPLES,
            ("judge", str, "openai-community/gpt2-large", "a causal language model: a folder, or a name on the Hub"),
            ("judge_precision", str, "float32", "of the judge's weights: float32 or bfloat16"),
            ("texts", str, "retokenised", "what is judged: retokenised text (MDLM, Duo); or raw, the tokens (SEDD)"),
            ("counted", str, "all", "which tokens: all; first_end: no end but the first (MDLM); until_end: up to it"),
            ("temperatures", str, None, "some, as in 0.8,0.9,1.0: a row of the table for each"),
            ("mauve", bool, False, "MAUVE, too, against as many texts of the data"),
            ("figure", str, None, "picture of perplexity against entropy"),
        ),
        "figure",
        "real texts to compare with",
        (("sampler", ""),),
    ),
    "frechet": Measure(
        "frechet",
        "the Fréchet distance of sampled images to the training images, over steps, schedules and grids",
        (
            SAMPLES,
            ("steps", str, "16,64,256", "numbers of steps of the ancestral samplers"),
            ("features", str, "inception", "what looks at the images: inception, or the folder of another image model"),
            ("guidance", float, 1.0, GUIDANCE),
            ("figure", str, None, "picture of the distances against network calls"),
        ),
        "figure",
        "images to compare with",
    ),
    "molecules": Measure(
        "molecules",
        "which share of sampled molecules is valid (as RDKit reads SMILES), unique, and new",
        (SAMPLES,),
        data="whose training molecules are not new",
        objects=(("sampler", ""),),
    ),
}


def run(arguments: list[str]) -> None:
    """Run `unmask evaluate`."""
    word = arguments[0] if arguments and arguments[0] in MEASURES else None
    name, rest = word or "likelihood", arguments[1:] if word else arguments
    if word is None and len(rest) > 1 and not rest[0].startswith("-") and not rest[1].startswith("-"):
        hint = nearest(rest[0], MEASURES)
        raise ArgumentError(None, f"no measure {rest[0]!r}{hint}; there are {', '.join(MEASURES)}, before MODEL")
    measure = MEASURES[name]
    parser = make_parser(name, first(rest, "MODEL"))
    check_options(name, parser, rest)
    settings = parse(parser, rest, check=lambda plain: check(plain, measure))
    model = load_model(settings.model, settings.device, settings)
    report = call(measure, model, instantiate(parser, settings), settings)
    print(report)
    write(report, settings, measure.picture)


def make_parser(name: str, model: str | None) -> Parser:
    """Make the parser of a measure, with the data that the model was trained with as the default."""
    measure = MEASURES[name]
    words = f"Other measures are words before MODEL: unmask evaluate [{'|'.join(MEASURES)}] MODEL."
    parser = Parser(f"evaluate {name}", description=f"Measure {measure.description}.", epilog=words)
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_options(*measure.options, *COMMON, *(SPEED if SAMPLES in measure.options else ()))
    if measure.data:
        parser.choose("data", f"{measure.data}; by default the model's own", default=trained_with(model))
    for option, text in measure.objects:
        add_sampler(parser) if option == "sampler" else parser.choose(option, text)
    return parser


def check_options(name: str, parser: Parser, arguments: list[str]) -> None:
    """Raise an ArgumentError for an option that belongs to another measure."""
    for option, _ in given_options(arguments):
        head = option.partition(".")[0]
        if head not in parser.plain | parser.choices.keys():
            parsers = {other: make_parser(other, None) for other in MEASURES}
            owners = [other for other, one in parsers.items() if head in one.plain | one.choices.keys()]
            if owners:
                how = " or ".join(f"unmask evaluate {owner}" for owner in owners)
                raise ArgumentError(None, f"unknown option --{head} of evaluate {name}: it belongs to {how}")


def check(settings: Namespace, measure: Measure) -> None:
    """Raise an error for a value out of range or a file that cannot be written, before anything is loaded."""
    at_least(settings, batch_size=1, seed=0, draws=1, limit=1, samples=2)
    numbers(settings, measure.function)
    if settings.get("temperatures") and settings.temperature is not None:
        raise ValueError("give --temperatures or --temperature, not both")
    check_model(settings.model)
    if measure.picture and settings[measure.picture]:
        check_writable(Path(settings[measure.picture]), f"--{measure.picture}", PICTURES)
    if settings.json:
        check_writable(Path(settings.json), "--json")
    if settings.get("per_example"):
        check_writable(Path(settings.per_example), "--per_example", (".jsonl",))
    if settings.record:
        recordable(settings.model)


def call(measure: Measure, model: MaskedDiffusion, made: Namespace, settings: Namespace) -> Report:
    """Call the function of the library that measures."""
    from unmask import evaluation

    chosen = {name: settings[name] for name, *_ in measure.options if name != "figure"}
    chosen |= {name: bool(settings[name]) for name in ("breakdown", "per_example") if name in chosen}
    chosen |= numbers(settings, measure.function)
    chosen |= {"batch_size": settings.batch_size, "seed": settings.seed}
    chosen |= {name: made[name] for name, _ in measure.objects}
    if measure.data:
        chosen["data"] = named_data(model, made.data)
    if chosen.get("sets"):
        chosen["sets"] = [name.strip() for name in settings.sets.split(",")]
    if "sampler" in chosen:
        chosen["sampler"] = make_sampler(model, made.sampler, settings)
    return getattr(evaluation, measure.function)(model, **chosen)


def numbers(settings: Namespace, function: str) -> dict[str, Any]:
    """Read the options that hold numbers with commas between them."""
    bounds = function in ("likelihood", "zeroshot")

    def count(text: str) -> int | float:
        return math.inf if text == "inf" and bounds else int(text)

    what = "whole numbers of at least 1" + ", or inf," * bounds
    found = {"steps": read_numbers(settings.get("steps"), "--steps", count, what) or (None if bounds else ())}
    temperatures = settings.get("temperatures")
    found["temperatures"] = read_numbers(temperatures, "--temperatures", float, "positive numbers")
    return {name: value for name, value in found.items() if name in settings}


def write(report: Report, settings: Namespace, picture: str | None) -> None:
    """Write a report wherever it is wanted."""
    if settings.get("record"):
        report.record(settings.model)
    if settings.json:
        with replacing(settings.json) as target:
            target.write_text(report.to_json(), encoding="utf-8")
    if settings.get("per_example"):
        report.write_examples(settings.per_example)
        print(settings.per_example)
    if picture and settings[picture]:
        with replacing(settings[picture]) as target:
            report.figure().savefig(target, dpi=150)
        print(settings[picture])


def named_data(model: MaskedDiffusion, data: DataSet | None) -> DataSet | None:
    """Return the data that were named; None for those that the model was trained with."""
    from unmask.storage.description import describe

    return None if data is None or describe(data) == model.about.get("data") else data

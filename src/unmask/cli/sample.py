"""unmask sample MODEL: new examples, as text, as a grid of images, or as an array."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from unmask.checks import read_length
from unmask.cli.common import DEVICE, MODEL, SPEED, Option, Parser, at_least, instantiate, load_model, parse
from unmask.storage.files import check_writable
from unmask.storage.hub import check_model

if TYPE_CHECKING:
    from unmask.model import MaskedDiffusion
    from unmask.samplers.base import Sampler

OUTPUTS = (".txt", ".jsonl", ".csv", ".png", ".npy")
GUIDANCE = "scale of classifier-free guidance for a --label; 1 is none"
SHORT: tuple[Option, ...] = (
    ("temperature", float, None, "divides the logits; like the next three, short for --sampler.temperature"),
    ("top_k", int, None, "draw among the k most likely tokens only"),
    ("top_p", float, None, "draw among the most likely tokens that together have this probability"),
    ("guidance", float, None, GUIDANCE),
)
"""Settings that every sampler has, and that can be given without naming it."""


def run(arguments: list[str]) -> None:
    """Run `unmask sample`."""
    parser = Parser("sample", description="Draw new examples: text to the terminal, images to a PNG, arrays to a .npy.")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_options(
        ("samples", int, 4, "number of examples"),
        ("label", str, None, "class of all examples, by number or name; or `all`: a row of each class"),
        ("length", str, None, "tokens of each text, 40 or 20-60; by default as many as fit, or as it draws"),
        ("empty_prompt", bool, False, "of a model of prompts and answers: answers to an empty prompt"),
    )
    add_sampling_arguments(parser)
    settings = parse(parser, arguments, check=check_sampling_arguments)
    length = read_length(settings.length) if settings.length else None
    made = instantiate(parser, settings)
    model = load_model(settings.model, settings.device, settings)
    sampler = make_sampler(model, made.sampler, settings)
    check_outputs(model, settings)
    label = model.labels(settings.label, settings.samples)
    rows = model.network.classes if settings.label == "all" else None
    if model.conditional and not settings.empty_prompt:
        raise ValueError("the model answers prompts: use `unmask infill MODEL --prefix ...`, or give --empty_prompt")
    from unmask.codecs.classes import allowed_tokens
    from unmask.display.output import default_output, printed
    from unmask.rendering import render

    allowed = None
    if settings.allow is not None or settings.forbid is not None:
        allowed = allowed_tokens(model.codec, settings.allow, settings.forbid, special=True)
    how = {name: settings[name] for name in ("seed", "batch_size", "gif", "live")}
    how |= {"sampler": sampler, "rows": rows, "allowed": allowed, "out": settings.out or default_output(model.codec)}
    canvas = model.empty_canvas(settings.samples, settings.seed, length=length, label=label)
    x = render(model, canvas, label, **how)
    print(how["out"] or printed(model.codec, model.decode(x)))
    if settings.gif:
        print(settings.gif)


def add_sampler(parser: Parser) -> None:
    """Add the choice of a sampler."""
    parser.choose("sampler", "how tokens are drawn (by default FirstHitting; for a learned schedule TokenFirstHitting)")
    parser.add_options(*SHORT)


def add_sampling_arguments(parser: Parser) -> None:
    """Add what `sample` and `infill` share."""
    add_sampler(parser)
    parser.add_options(
        ("preset", Literal["llada", "dream"], None, "in place of --sampler: the procedure published with these models"),
        ("steps", int, None, "for --preset: number of steps, for llada of each block"),
        ("allow", str, None, "characters that may be drawn, such as '0-9a-f '; or numbers of tokens: 0-9,12"),
        ("forbid", str, None, "characters, or numbers, that may not be drawn"),
        ("seed", int, 0, "example i of a seed does not depend on how many there are"),
        ("batch_size", int, 64, "examples at a time"),
        ("out", str, None, "file for the result: .txt, .jsonl, .csv, .png, or .npy for the tokens"),
        ("gif", str, None, "file for an animation of the unmasking (of the first batch)"),
        ("live", bool, False, "show the first examples in the terminal as they appear"),
        DEVICE,
        *SPEED,
    )


def check_sampling_arguments(settings: Namespace) -> None:
    """Raise an error for what can be known to be wrong before anything is loaded or drawn."""
    at_least(settings, samples=1, batch_size=1, seed=0, steps=1)
    if settings.steps is not None and settings.preset is None:
        raise ValueError("--steps goes with --preset; the steps of a --sampler are --sampler.steps")
    check_model(settings.model)
    for option, endings in (("out", OUTPUTS), ("gif", (".gif",))):
        if settings[option]:
            check_writable(Path(settings[option]), f"--{option}", endings)


def make_sampler(model: MaskedDiffusion, sampler: Sampler | None, settings: Namespace) -> Sampler:
    """Return the sampler that the arguments describe, the model's own where they describe none."""
    given = {name: settings[name] for name, *_ in SHORT if settings[name] is not None}
    if settings.get("preset"):
        from unmask.samplers.presets import PRESETS

        given |= {"steps": settings.steps} if settings.steps else {}
        return model.fit_sampler(PRESETS[settings.preset](**given))
    return replace(model.fit_sampler(sampler), **given)


def check_outputs(model: MaskedDiffusion, settings: Namespace) -> None:
    """Raise an error for an output that the model's samples cannot be written to, before any is drawn."""
    from unmask.codecs import Pixels, Text
    from unmask.display.output import check_output

    for option in ("out", "gif"):
        if settings[option]:
            check_output(model.codec, settings[option], f"--{option}")
    if settings.live and not isinstance(model.codec, Text | Pixels):
        raise ValueError("--live: there is no view of plain symbols; the model's data are neither text nor images")

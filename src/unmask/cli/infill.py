"""unmask infill MODEL: complete a text, an image or an array; what is given is kept exactly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from unmask.checks import read_length
from unmask.cli.common import MODEL, Option, Parser, at_least, instantiate, load_model, parse
from unmask.cli.sample import add_sampling_arguments, check_outputs, check_sampling_arguments, make_sampler

OPTIONS: tuple[Option, ...] = (
    ("text_file", str, None, "a UTF-8 file with such a text"),
    ("prefix", str, None, "in place of TEXT: what comes before --unknown tokens, or as many as the model says"),
    ("suffix", str, None, "in place of TEXT: what comes after --unknown tokens"),
    ("chat", str, None, "in place of TEXT, for a chat model: what the user says; --unknown tokens answer it"),
    ("system", str, None, "for --chat: what the conversation begins with"),
    ("unknown", int, None, "for --prefix and --suffix, or --chat: the number of unknown tokens"),
    ("length", str, None, "without --unknown: tokens of the answer, or of the whole text: 40, or 20-60 to draw from"),
    ("placeholder", str, None, "a character that stands for one unknown token; [4] is then text like any other"),
    ("image", str, None, "an image file of the model's size"),
    ("mask", str, None, "an image file of the same size, white where --image is unknown"),
    ("array", str, None, "a .npy file of tokens, of one example or of several, -1 where unknown"),
    ("row", str, None, 'a row of a table, what is known of it: \'{"colour": "red"}\''),
    ("samples", int, 1, "number of alternatives"),
    ("choose", Literal["draw", "best"], "draw", "for a hole such as [1-6]: draw its length or take the best"),
    ("prior", str, None, "weights of its lengths, such as 1,1,2; those of several holes apart by semicolons: 1,2;3,1"),
    ("evaluations", int, 256, "network evaluations for each of its lengths; four times as many halve the errors"),
    ("stop_early", bool, False, "with a --preset: no calls after the block in which the answer to --chat ends"),
    ("score", int, 16, "masks by which the log-likelihood of each of several texts is bounded; 0: not at all"),
    ("label", str, None, "class of the example"),
    ("input", str, None, "many at once: .jsonl, a folder of images x.png with x.mask.png, or .npy like --array's"),
    ("skip_bad", bool, False, "for --input: write why a line cannot be completed in its place, and go on"),
    ("overwrite", bool, False, "for --input: replace --out, and what was begun with other settings"),
)
FORMS = ("text", "text_file", "prefix", "suffix", "unknown", "image", "mask", "array", "row", "chat", "system")
COMMON: tuple[str, ...] = ("samples", "score", "seed", "batch_size", "label", "placeholder", "allow", "forbid")
COMMON += ("choose", "prior", "evaluations")


def run(arguments: list[str]) -> None:
    """Run `unmask infill`."""
    parser = Parser(
        "infill",
        description="Draw what is unknown of a text, an image or an array, and keep the rest.",
        epilog="Examples: unmask infill runs/pydocs 'The [6] statement' -n 3; "
        "unmask infill models/mdlm --prefix 'Once upon a time' --unknown 100 --suffix 'happily ever after.'; "
        "unmask infill runs/digits --image digit.png --mask hole.png -n 10; "
        "unmask infill runs/pydocs --input holes.jsonl --out filled.jsonl",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    text = "a text in which [4] stands for four unknown tokens, [1-6] for one to six; _ for one character or byte"
    parser.add_argument("text", metavar="TEXT", nargs="?", help=text)
    parser.add_options(*OPTIONS)
    add_sampling_arguments(parser)
    settings = parse(parser, arguments, check=check)
    made = instantiate(parser, settings)
    model = load_model(settings.model, settings.device, settings)
    how = {name: settings[name] for name in COMMON}
    how |= {"sampler": make_sampler(model, made.sampler, settings), "out": settings.out}
    how["length"] = read_length(settings.length) if settings.length else None
    how["stop_early"] = settings.stop_early or (False if settings.preset else None)  # presets are as published
    from unmask.infilling import infill_file, infill_one

    if settings.input is not None:
        switches = {name: settings[name] for name in ("skip_bad", "overwrite")}
        print(infill_file(model, settings.input, **how, **switches))
        return
    check_outputs(model, settings)
    given = {name: settings[name] for name in FORMS}
    done = infill_one(model, given, **how, gif=settings.gif, live=settings.live)
    if done.posterior is not None:
        print(done.posterior, file=sys.stderr)
    print(done)


def check(settings: Namespace) -> None:
    """Raise an error for what is known to be wrong: an output, a file, or what is to be completed in several forms."""
    check_sampling_arguments(settings)
    at_least(settings, unknown=1, score=0, evaluations=2)
    if settings.length:
        read_length(settings.length)
    if settings.label == "all":
        raise ValueError("--label all is for sample; name one class")
    if settings.mask is not None and settings.image is None:
        raise ValueError("--mask belongs to --image; in an --array -1 is unknown, in a text the placeholder")
    if settings.image is not None and settings.mask is None:
        raise ValueError("--image needs --mask: an image of the same size, white where unknown")
    around = settings.prefix is not None or settings.suffix is not None
    given = [name for name in ("text", "text_file", "image", "array", "row", "chat") if settings[name] is not None]
    given += ["prefix or suffix"] * around
    if settings.input is not None:
        if given or settings.gif or settings.live or settings.unknown or not settings.out:
            raise ValueError(
                "--input needs --out, a .jsonl; its lines say what is to be completed: no TEXT, --gif, ..."
            )
        if not Path(settings.input).exists():
            raise FileNotFoundError(f"{settings.input}: no such file or folder")
        return
    if settings.skip_bad or settings.overwrite:
        raise ValueError("--skip_bad and --overwrite go with --input")
    if len(given) != 1:
        forms = "TEXT, --input, --text_file, --prefix and --suffix, --image with --mask, --array, --row, or --chat"
        raise ValueError(f"give one of {forms}; got {', '.join(given) or 'none'}")
    if settings.unknown is not None and not around and settings.chat is None:
        raise ValueError("--prefix and --suffix, or --chat, go with --unknown, the number of tokens to draw")
    if settings.system is not None and settings.chat is None:
        raise ValueError("--system goes with --chat")
    if settings.stop_early and settings.chat is None and settings.prefix is None:
        raise ValueError("--stop_early goes with --chat or --prefix, whose texts end")
    for name in ("text_file", "image", "mask", "array"):
        if settings[name] is not None and not Path(settings[name]).is_file():
            raise FileNotFoundError(f"{settings[name]}: no such file")

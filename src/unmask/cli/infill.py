"""unmask infill MODEL: complete a text, an image or an array; what is given is kept exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from unmask.cli.common import Parser, at_least, instantiate, load_model, parse
from unmask.cli.sample import (
    add_sampling_arguments,
    check_outputs,
    check_sampling_arguments,
    draw_and_show,
    make_sampler,
)

if TYPE_CHECKING:
    from unmask.model import MaskedDiffusion
    from unmask.types import Labels, Tokens


def run(arguments: list[str]) -> None:
    """Run `unmask infill`."""
    parser = Parser(
        "infill",
        description="Draw what is unknown of a text, an image or an array, and keep the rest.",
        epilog="Examples: unmask infill runs/pydocs 'The [6] statement' -n 3; "
        "unmask infill models/mdlm --prefix 'Once upon a time' --unknown 100 --suffix 'happily ever after.'; "
        "unmask infill runs/digits --image digit.png --mask hole.png -n 10",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help="a text in which [4] stands for four unknown tokens; for models of characters or bytes _ for one, too",
    )
    parser.add_argument("--text_file", type=str, help="a UTF-8 file with such a text")
    parser.add_argument("--prefix", type=str, help="in place of TEXT: what comes before --unknown tokens")
    parser.add_argument("--suffix", type=str, help="in place of TEXT: what comes after --unknown tokens")
    parser.add_argument("--unknown", type=int, help="for --prefix and --suffix: the number of unknown tokens")
    parser.add_argument(
        "--placeholder", type=str, help="a character that stands for one unknown token; [4] is then text like any other"
    )
    parser.add_argument(
        "--score",
        type=int,
        default=16,
        help="masks by which the log-likelihood of each of several texts, given what was known, is bounded; 0: none",
    )
    parser.add_argument("--image", type=str, help="an image file of the model's size")
    parser.add_argument("--mask", type=str, help="an image file of the same size, white where --image is unknown")
    parser.add_argument(
        "--array", type=str, help="a .npy file of tokens, of one example or of several, -1 where unknown"
    )
    parser.add_argument("-n", "--samples", type=int, default=1, help="number of alternatives")
    parser.add_argument("--label", type=str, help="class of the example")
    add_sampling_arguments(parser)
    settings = parse(parser, arguments, check=check)
    made = instantiate(parser, settings)
    model = load_model(settings.model, settings.device)
    sampler = make_sampler(model, made.sampler, settings)
    check_outputs(model, settings)
    canvas = make_canvas(model, settings).repeat_interleave(settings.samples, 0)
    label = model.labels(settings.label, len(canvas))

    def show(x: Tokens) -> None:
        show_scored(model, canvas, x, label, settings)

    scored = settings.samples > 1 and settings.score and not settings.out
    draw_and_show(model, canvas, label, sampler, settings, show=show if scored else None)


def check(settings: Namespace) -> None:
    """Raise an error for what is known to be wrong: an output, a file, or what is to be completed in several forms."""
    check_sampling_arguments(settings)
    at_least(settings, unknown=1, score=0)
    if settings.label == "all":
        raise ValueError("--label all is for sample; name one class")
    if settings.mask is not None and settings.image is None:
        raise ValueError("--mask belongs to --image; in an --array -1 is unknown, in a text the placeholder")
    if settings.image is not None and settings.mask is None:
        raise ValueError("--image needs --mask: an image of the same size, white where unknown")
    around = settings.prefix is not None or settings.suffix is not None
    given = [name for name in ("text", "text_file", "image", "array") if settings[name] is not None]
    given += ["prefix or suffix"] * around
    if len(given) != 1:
        forms = "TEXT, --text_file, --prefix and --suffix, --image with --mask, or --array"
        raise ValueError(f"give one of {forms}; got {', '.join(given) or 'none'}")
    if around != (settings.unknown is not None):
        raise ValueError("--prefix and --suffix go with --unknown, the number of tokens beside them")
    for name in ("text_file", "image", "mask", "array"):
        if settings[name] is not None and not Path(settings[name]).is_file():
            raise FileNotFoundError(f"{settings[name]}: no such file")


def make_canvas(model: MaskedDiffusion, settings: Namespace) -> Tokens:
    """Return the examples that are to be completed, (1, *dims) or as many as an array holds."""
    from unmask.canvas import around_holes, array_canvas, image_canvas, read_text, text_canvas

    codec, shape = model.codec, model.shape
    if settings.array is not None:
        tokens = array_canvas(codec, settings.array, shape)
        return tokens if tokens.dim() > len(shape) else tokens.unsqueeze(0)
    if settings.image is not None:
        return image_canvas(codec, settings.image, settings.mask, shape).unsqueeze(0)
    if settings.unknown is not None:
        pieces = [(settings.prefix or "", settings.unknown), (settings.suffix or "", 0)]
        return around_holes(codec, pieces, shape[0]).unsqueeze(0)
    text = settings.text if settings.text_file is None else read_text(settings.text_file)
    return text_canvas(codec, text, shape[0], settings.placeholder).unsqueeze(0)


def show_scored(model: MaskedDiffusion, canvas: Tokens, x: Tokens, label: Labels | None, settings: Namespace) -> None:
    """Print each text under the bound on its log-likelihood given what was known, the likeliest first."""
    from unmask.evaluation.alternatives import rank_alternatives

    ranked = rank_alternatives(
        model, canvas, x, label, draws=settings.score, seed=settings.seed, batch_size=settings.batch_size
    )
    for one in ranked:
        known = f" ± {one.error:.2f}" if one.error is not None else ""
        print(f"log p >= {one.log_p:.2f}{known} nats\n{model.codec.decode(x[one.example : one.example + 1])[0]}\n")

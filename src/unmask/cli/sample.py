"""unmask sample MODEL: new examples, as text, as a grid of images, or as an array."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from unmask.cli.common import Parser, at_least, instantiate, load_model, parse
from unmask.storage.files import check_writable
from unmask.storage.folders import find_folder

if TYPE_CHECKING:
    from unmask.model import MaskedDiffusion
    from unmask.samplers.base import Sampler
    from unmask.types import Labels, Tokens

SHORT: dict[str, tuple[type, str]] = {
    "temperature": (float, "divides the logits"),
    "top_k": (int, "draw among the k most likely tokens only"),
    "top_p": (float, "draw among the most likely tokens that together have this probability"),
    "guidance": (float, "scale of classifier-free guidance for a --label; 1 is none"),
}
"""Settings that every sampler has, and that can be given without naming it."""


def run(arguments: list[str]) -> None:
    """Run `unmask sample`."""
    parser = Parser("sample", description="Draw new examples: text to the terminal, images to a PNG, arrays to a .npy.")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("-n", "--samples", type=int, default=4, help="number of examples")
    parser.add_argument(
        "--label",
        type=str,
        help="class of all examples, by number or name, or `all`: samples / classes of each, a row each",
    )
    add_sampling_arguments(parser)
    settings = parse(parser, arguments, check=check_sampling_arguments)
    made = instantiate(parser, settings)
    model = load_model(settings.model, settings.device)
    sampler = make_sampler(model, made.sampler, settings)
    check_outputs(model, settings)
    label = model.labels(settings.label, settings.samples)
    rows = model.network.classes if settings.label == "all" else None
    draw_and_show(model, model.empty_canvas(settings.samples), label, sampler, settings, rows)


def add_sampler(parser: Parser) -> None:
    """Add the choice of a sampler."""
    parser.choose("sampler", "how tokens are drawn (by default FirstHitting; for a learned schedule TokenFirstHitting)")
    for name, (kind, text) in SHORT.items():
        parser.add_argument(f"--{name}", type=kind, help=f"{text}; short for --sampler.{name}")


def add_sampling_arguments(parser: Parser) -> None:
    """Add what `sample` and `infill` share."""
    add_sampler(parser)
    parser.add_argument("--seed", type=int, default=0, help="example i of a seed does not depend on how many there are")
    parser.add_argument("--batch_size", type=int, default=64, help="examples at a time")
    parser.add_argument("--out", type=str, help="file for the result: .txt, .jsonl, .png, or .npy for the tokens")
    parser.add_argument("--gif", type=str, help="file for an animation of the unmasking (of the first batch)")
    parser.add_argument("--live", action="store_true", help="show the first examples in the terminal as they appear")
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, ...; a GPU where there is one if not given")


def check_sampling_arguments(settings: Namespace) -> None:
    """Raise an error for what can be known to be wrong before anything is loaded or drawn."""
    at_least(settings, samples=1, batch_size=1, seed=0)
    find_folder(settings.model)
    for option, endings in (("out", (".txt", ".jsonl", ".png", ".npy")), ("gif", (".gif",))):
        if settings[option] and Path(settings[option]).suffix not in endings:
            names = " or ".join((", ".join(endings[:-1]), endings[-1])) if len(endings) > 1 else endings[0]
            raise ValueError(f"--{option} {settings[option]}: the file must end in {names}")
        if settings[option]:
            check_writable(Path(settings[option]), f"--{option}")


def make_sampler(model: MaskedDiffusion, sampler: Sampler | None, settings: Namespace) -> Sampler:
    """Return the sampler that the arguments describe, the model's own where they describe none."""
    return replace(model.fit_sampler(sampler), **{name: settings[name] for name in SHORT if settings[name] is not None})


def check_outputs(model: MaskedDiffusion, settings: Namespace) -> None:
    """Raise an error for an output that the model's samples cannot be written to, before any is drawn."""
    from unmask.display.output import check_output, default_output

    for option in ("out", "gif"):
        if settings[option]:
            check_output(model.codec, settings[option], f"--{option}")
    if settings.live and default_output(model.codec) == "samples.npy":
        raise ValueError("--live: there is no view of plain symbols; the model's data are neither text nor images")


def draw_and_show(
    model: MaskedDiffusion,
    canvas: Tokens,
    label: Labels | None,
    sampler: Sampler,
    settings: Namespace,
    rows: int | None = None,
    show: Any = None,
) -> None:
    """Draw a canvas, and print or write the result in the form that fits the data, and the animation if wanted."""
    from unmask.display.output import Film, default_output, save_film, save_samples
    from unmask.display.terminal import Live
    from unmask.samplers.draw import draw

    codec, names = model.codec, model.about.get("class_names")
    live = Live(codec, canvas[: settings.batch_size], sys.stderr) if settings.live else None
    film = Film(bool(settings.gif), live)
    x = draw(
        model.network_for(canvas),
        canvas,
        label,
        sampler=sampler,
        seed=settings.seed,
        batch_size=settings.batch_size,
        watch=film if settings.gif or live else None,
        bar=not settings.live,
    )
    film.finish()
    if out := settings.out or default_output(codec):
        save_samples(codec, x, out, rows, names)
        print(out)
    elif show is not None:
        show(x)
    else:
        print(*codec.decode(x), sep="\n\n")
    if settings.gif:
        save_film(codec, film.states, settings.gif, rows, names)
        print(settings.gif)

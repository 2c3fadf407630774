"""Drawing a canvas into a file or onto a terminal, in the form that fits the data."""

import sys
from pathlib import Path

from unmask.display.output import Film, save_film, save_samples
from unmask.display.terminal import Live
from unmask.model import MaskedDiffusion
from unmask.samplers.base import Sampler
from unmask.samplers.draw import draw
from unmask.types import Allowed, Labels, Tokens


def render(
    model: MaskedDiffusion,
    canvas: Tokens,
    label: Labels | None = None,
    *,
    sampler: Sampler | None = None,
    seed: int = 0,
    batch_size: int = 64,
    out: Path | str | None = None,
    gif: Path | str | None = None,
    live: bool = False,
    rows: int | None = None,
    allowed: Allowed | None = None,
) -> Tokens:
    """Draw the masked tokens of a canvas, and write or show them.

    Args:
        model: draws them.
        canvas: (n, *dims), masked where tokens are wanted; `MaskedDiffusion.empty_canvas` for new examples.
        label: class of each example; see `MaskedDiffusion.labels`.
        sampler: the model's own if None.
        seed: example i depends on (seed, i) alone.
        batch_size: examples at a time.
        out: a file for the result: .txt, .jsonl, .csv, .png, or .npy for the tokens.
        gif: a file for an animation of the first batch.
        live: whether to show the first examples on standard error as they appear.
        rows: rows of a grid of images, one for each class.
        allowed: which tokens may be drawn; see `MaskedDiffusion.infill`.

    Returns:
        tokens (n, *dims) on the CPU.
    """
    codec, names = model.codec, model.about.get("class_names")
    film = Film(gif is not None, Live(codec, canvas[:batch_size], sys.stderr) if live else None)
    x = draw(
        model.network_for(canvas, allowed),
        canvas,
        label,
        sampler=model.fit_sampler(sampler),
        seed=seed,
        batch_size=batch_size,
        watch=film if gif or live else None,
        bar=not live,
    )
    film.finish()
    if out is not None:
        save_samples(codec, x, out, rows, names, model.decode)
    if gif is not None:
        save_film(codec, film.states, gif, rows, names)
    return x

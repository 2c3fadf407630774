"""Drawing a canvas into a file or onto a terminal, in the form that fits the data."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unmask.canvas import by_shape
from unmask.codecs.ended import find_end
from unmask.display.output import Film, save_film, save_samples
from unmask.display.terminal import Live
from unmask.model import MaskedDiffusion
from unmask.processes import check_same, first, several, shared
from unmask.samplers.base import Sampler
from unmask.samplers.draw import draw
from unmask.types import Allowed, Labels, Tokens


@shared
def render(
    model: MaskedDiffusion,
    canvas: Tokens | Sequence[Tensor],
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
    """Draw the masked tokens of a canvas, and write or show them; several processes share it, and the first writes.

    Args:
        model: draws them.
        canvas: (n, *dims), masked where tokens are wanted; `MaskedDiffusion.empty_canvas` for new examples. Or one for
            each example, texts of any lengths.
        label: class of each example; see `MaskedDiffusion.labels`.
        sampler: the model's own if None.
        seed: example i depends on (seed, i) alone.
        batch_size: examples at a time.
        out: a file for the result: .txt, .jsonl, .csv, .png, or .npy for the tokens.
        gif: a file for an animation of the first batch, in which all have one length.
        live: whether to show the first examples on standard error as they appear.
        rows: rows of a grid of images, one for each class.
        allowed: which tokens may be drawn; see `MaskedDiffusion.infill`.

    Returns:
        tokens (n, *dims) on the CPU; texts of several lengths are filled up at their ends (`joined`).
    """
    codec, names, groups = model.codec, model.about.get("class_names"), by_shape(canvas)
    found: dict[int, Tensor] = {}
    if several():
        check_same(weights=model.weights_sha256)
    film = Film(gif is not None)
    for number, here in enumerate(groups):
        some = torch.stack([canvas[i] for i in here])
        if live and not number:
            film.live = Live(codec, some[:batch_size], sys.stderr)
        drawn = draw(
            model.network_for(some, allowed, to_draw=True),
            some,
            None if label is None else label[here],
            sampler=model.fit_sampler(sampler),
            seed=seed,
            batch_size=batch_size,
            watch=film if (gif or live) and not number else None,
            bar=not live,
            numbers=here,
        )
        found |= dict(zip(here, drawn, strict=True))
        film.finish()
    each = [found[i] for i in range(len(canvas))]
    x = joined(model, each)
    if out is not None and first():
        texts = (lambda _: [model.decode(one.unsqueeze(0))[0] for one in each]) if len(groups) > 1 else model.decode
        save_samples(codec, x, out, rows, names, texts)
    if gif is not None and first():
        save_film(codec, film.states, gif, rows, names)
    return x


def joined(model: MaskedDiffusion, each: Sequence[Tensor]) -> Tokens:
    """Return examples as one batch; texts of several lengths are filled up as the model's examples are.

    Where these are not, they are filled up to the longest with the token that ends a text, or V if there is none.
    """
    if len({one.shape for one in each}) == 1:
        return torch.stack([*each])
    lengths, codec = model.lengths, model.codec
    if lengths is not None:
        each = [torch.nn.functional.pad(one, (0, model.shape[0] - len(one)), value=lengths.fill) for one in each]
    tokens = (None if lengths is None else lengths.fill, codec.padding, find_end(codec), codec.vocab_size)
    fill = next(token for token in tokens if token is not None)
    return torch.nn.utils.rnn.pad_sequence([*each], batch_first=True, padding_value=fill)

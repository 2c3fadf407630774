"""How much is unknown: the canvases of the alternatives of an input, each of its own length where that is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.canvas import kept_notes, text_canvas
from unmask.evaluation.unknown_length import Choice, LengthPosterior, Prior, length_posterior
from unmask.infilling.requests import Request
from unmask.model import MaskedDiffusion
from unmask.prompts import LENGTHS, prompt_canvas
from unmask.randomness import seeded


@dataclass(frozen=True)
class HowLong:
    """How lengths are found where they are unknown.

    Args:
        choose: for a hole of unknown length: whether to draw its length, or to take the best.
        prior: of its lengths; see `length_posterior`.
        evaluations: network evaluations for each of its lengths.
        length: for a prompt without a number of unknown tokens; see `prompt_canvas`.
    """

    choose: Choice = "draw"
    prior: Prior | None = None
    evaluations: int = 256
    length: int | tuple[int, int] | None = None


class Alternatives(NamedTuple):
    """The canvases of the alternatives of an input.

    Attributes:
        canvases: masked where unknown.
        lengths: log p of the length of each, in nats, and its standard error; zeros where it was not drawn.
        k: the number of tokens of each hole of unknown length; None: there is no such hole.
        posterior: of these numbers.
    """

    canvases: list[Tensor]
    lengths: list[tuple[float, float]]
    k: list[tuple[int, ...]] | None = None
    posterior: LengthPosterior | None = None


def find_alternatives(
    model: MaskedDiffusion,
    request: Request,
    numbers: Sequence[tuple[int, ...]],
    how: HowLong,
    *,
    seed: int,
    batch_size: int,
) -> Alternatives:
    """Find the lengths of what is unknown of an input, for each of its alternatives.

    Args:
        model: that completes it.
        request: the input.
        numbers: of the alternatives: what is drawn for each depends on (seed, *numbers) alone.
        how: lengths are found.
        seed: see above; also of the masks by which lengths are measured.
        batch_size: masked texts at a time.
    """
    label = None if request.label is None else torch.tensor([request.label], device=model.device)
    fixed = [(0.0, 0.0)] * len(numbers)
    with kept_notes():  # what there is to say of the text was said when it was checked
        if request.prompt is not None:
            generator = [seeded(seed, *number, LENGTHS) for number in numbers]
            labels = None if label is None else label.expand(len(numbers))
            canvas, log_p = prompt_canvas(
                model, request.prompt, len(numbers), generator, length=how.length, label=labels
            )
            return Alternatives([*canvas.cpu()], [(value, 0.0) for value in log_p.tolist()])
        if request.holes is None:
            return Alternatives([request.canvas] * len(numbers), fixed)
    measured = {"evaluations": how.evaluations, "seed": seed, "batch_size": batch_size}
    posterior = length_posterior(model, request.holes, prior=how.prior, label=label, **measured)
    k = [posterior.choose(how.choose, seed, *number) for number in numbers]
    with kept_notes():
        canvases = [text_canvas(model.codec, posterior.filled_in(one), model.shape[0]) for one in k]
    drawn = [posterior.log_p(one) for one in k] if how.choose == "draw" else fixed
    return Alternatives(canvases, drawn, k, posterior)

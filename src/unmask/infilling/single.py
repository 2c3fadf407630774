"""Complete one input: alternatives for what is unknown, drawn into a file or returned as texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.canvas import array_canvas, read_text
from unmask.checks import check_whole
from unmask.codecs.table import Table
from unmask.codecs.text import Text
from unmask.display.output import default_output, printed
from unmask.evaluation.alternatives import Alternative, rank_alternatives
from unmask.evaluation.unknown_length import Choice, LengthPosterior, Prior
from unmask.infilling.choosing import HowLong, find_alternatives
from unmask.infilling.requests import Reader, Request, result_of
from unmask.model import MaskedDiffusion
from unmask.rendering import render
from unmask.samplers.base import Sampler
from unmask.samplers.stopping import stop_early as stopping
from unmask.types import Tokens


@dataclass(frozen=True)
class Infilled:
    """The alternatives for what was unknown of an input.

    Attributes:
        x: their tokens, (n, *dims), in the order in which they were drawn; texts of several lengths are filled up.
        texts: what they are as texts, of a chat the answers; rows of a table as JSON. None for other data.
        ranked: bounds on log p of each given what was known, the likeliest first; None where there are none.
        posterior: of the lengths of holes of unknown length; None where there are none.
        files: that were written.
        apart: what is printed between the texts.
    """

    x: Tokens
    texts: tuple[str, ...] | None
    ranked: tuple[Alternative, ...] | None
    posterior: LengthPosterior | None
    files: tuple[str, ...]
    apart: str = "\n\n"

    def __str__(self) -> str:
        """Return the names of the files, if the result is in one; else the texts, the likeliest first."""
        gif = self.files[-1:] if self.files and self.files[-1].endswith(".gif") else ()
        if self.texts is None or len(self.files) > len(gif):
            return "\n".join(self.files)
        if self.ranked is not None:
            shown = "\n".join(f"{one}\n{self.texts[one.example]}\n" for one in self.ranked)
        else:
            shown = self.apart.join(self.texts)
        return "\n".join((shown, *gif))


def infill_one(
    model: MaskedDiffusion,
    given: Mapping[str, Any],
    *,
    sampler: Sampler | None = None,
    samples: int = 1,
    score: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    label: str | int | None = None,
    placeholder: str | None = None,
    allow: str | None = None,
    forbid: str | None = None,
    choose: Choice = "draw",
    prior: Prior | None = None,
    evaluations: int = 256,
    length: int | tuple[int, int] | None = None,
    stop_early: bool | None = None,
    out: Path | str | None = None,
    gif: Path | str | None = None,
    live: bool = False,
) -> Infilled:
    """Complete one text, conversation or image, or the examples of an array.

    Args:
        model: completes it.
        given: the fields of a line for `infill_file`; also {"text_file": path} and {"array": path of a .npy}.
        sampler, seed, batch_size, label, placeholder, allow, forbid: see `infill_file`; so are `choose`, `prior`,
            `evaluations`, `length` and `stop_early`. Alternative i depends on (seed, i) alone.
        samples: number of alternatives, each with a length of its own where that is drawn.
        score: random masks for the bound of each of several texts; 0: no bounds.
        out: a file for the result; None: data go where `default_output` says; texts and rows are returned alone.
        gif: a file for an animation of the unmasking.
        live: whether to show the first examples on standard error as they appear.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: what `infill_file` refuses of a line; or a setting for what is not there.

    Example:
        print(infill_one(model, {"text": "The [1-6] is"}, samples=3))
    """
    check_whole(1, samples=samples, batch_size=batch_size)
    check_whole(0, score=score, seed=seed)
    how = HowLong(choose, prior, evaluations, length)
    own: dict[str, Any] = {"label": label, "placeholder": placeholder, "prior": prior, "length": length}
    reader = Reader(model, **own, allow=allow, forbid=forbid)
    requests = read_requests(reader, given)
    first = requests[0]
    if prior is not None and first.holes is None:
        raise ValueError("--prior is of a hole of unknown length: [1-6] in a text stands for one to six tokens")
    if length is not None and first.prompt is None:
        raise ValueError("--length is for a prefix or a conversation without --unknown, the number of unknown tokens")
    sampler = model.fit_sampler(sampler)
    if first.rule.stops and stop_early is not False:
        sampler = stopping(sampler, model.codec, needed=bool(stop_early))
    canvases: list[Tensor] = []
    lengths: list[tuple[float, float]] = []
    posterior = None
    for request in requests:
        numbers = [(len(canvases) + k,) for k in range(samples)]
        found = find_alternatives(model, request, numbers, how, seed=seed, batch_size=batch_size)
        canvases, lengths, posterior = canvases + found.canvases, lengths + found.lengths, found.posterior
    labels = None
    if first.label is not None:
        labels = torch.full((len(canvases),), first.label, device=model.device)
    target = out or default_output(model.codec)
    x = render(
        model,
        canvases,
        labels,
        sampler=sampler,
        seed=seed,
        batch_size=batch_size,
        out=target,
        gif=gif,
        live=live,
        allowed=reader.allowed(first.rule),
    )
    files = tuple(str(path) for path in (target, gif) if path)
    if isinstance(model.codec, Table):
        return Infilled(x, tuple(printed(model.codec, [row]) for row in model.decode(x)), None, posterior, files, "\n")
    if not isinstance(model.codec, Text):
        return Infilled(x, None, None, posterior, files)
    texts = tuple(result_of(model, first.form, canvas, row) for canvas, row in zip(canvases, x, strict=True))
    ranked = None
    if score and samples > 1 and first.form != "chat" and not out:
        rows = [row[: len(canvas)] for canvas, row in zip(canvases, x, strict=True)]
        bounds: dict[str, Any] = {"draws": score, "seed": seed, "batch_size": batch_size, "lengths": lengths}
        ranked = tuple(rank_alternatives(model, canvases, rows, labels, **bounds))
    return Infilled(x, texts, ranked, posterior, files)


def read_requests(reader: Reader, given: Mapping[str, Any]) -> list[Request]:
    """Return the request that the fields of an input describe; several for an array of several examples."""
    if not isinstance(given, Mapping):
        raise ValueError(f'an input is its fields, such as {{"text": "a [2] b"}}; got {type(given).__name__}')
    fields = {name: value for name, value in given.items() if value is not None}
    if "text_file" in fields:
        fields["text"] = read_text(fields.pop("text_file"))
    if not isinstance(fields.get("array"), str | Path):
        return [reader.read(fields)]
    model = reader.model
    tokens = array_canvas(model.codec, fields["array"], model.shape)
    rows = tokens if tokens.dim() > len(model.shape) else tokens.unsqueeze(0)
    label = reader.number(reader.label)
    rule = reader.rule("array", fields)._replace(labelled=label is not None)
    return [Request("array", {}, row, label, rule) for row in rows]

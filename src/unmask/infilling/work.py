"""Completing some inputs in one batch, each as if it were alone."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from unmask.canvas import Canvas, by_shape, kept_notes
from unmask.evaluation.alternatives import bound_completions
from unmask.infilling.checking import Checked
from unmask.infilling.choosing import Alternatives, HowLong, find_alternatives
from unmask.infilling.journal import Journal
from unmask.infilling.requests import Reader, Request, Rule, filled_up, result_of
from unmask.infilling.sources import Source
from unmask.model import MaskedDiffusion
from unmask.processes import agreed, in_order
from unmask.randomness import Repeated, seeded
from unmask.samplers.base import Sampler
from unmask.samplers.stopping import stop_early
from unmask.storage.files import replacing
from unmask.types import Labels, Tokens


class Drawn(NamedTuple):
    """One alternative.

    Attributes:
        x: its tokens.
        log_p: the bound on that of its tokens, in nats; 0 if it was not bounded.
        error: of the bound; NaN of a single mask.
    """

    x: Int[Tensor, "*dims"]
    log_p: float
    error: float


class Picture(NamedTuple):
    """An image that is to be written: its file and what that holds."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Work:
    """Completes inputs; the settings are those of `infill_file`."""

    model: MaskedDiffusion
    inputs: Source
    reader: Reader
    sampler: Sampler
    samples: int
    score: int
    seed: int
    how: HowLong
    stop: bool | None
    pictures: Path

    def finish(self, checked: Checked, journal: Journal | None, batch_size: int) -> None:
        """Complete the inputs whose results are not in the journal yet, and add these; other processes have none."""
        number, done = self.inputs.number, agreed([] if journal is None else [*journal.places])
        batches = checked.batches(max(1, batch_size // self.samples))
        known = frozenset(done)
        left = ([index for index in batch if number(index) not in known] for batch in batches)
        todo, total = [batch for batch in left if batch], sum(map(len, checked.good.values()))
        with tqdm(total=total, initial=total - sum(map(len, todo)), desc="infilling", unit="input", delay=2) as bar:
            every = in_order(lambda _, batch: self.complete(batch, batch_size), todo, every=1)
            for batch, results in zip(todo, every, strict=True):
                if journal is not None:
                    journal.add({number(index): self._kept(one) for index, one in zip(batch, results, strict=True)})
                bar.update(len(batch))

    def _kept(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the images of a result; return it with their paths, from the results on."""
        for one in result["completions"]:
            if isinstance(one.get("image"), tuple):
                picture = Picture(*one["image"])
                with replacing(picture.path) as target:
                    target.write_bytes(picture.content)
                one["image"] = str(Path(picture.path).relative_to(self.pictures.parent))
        return result

    def complete(self, batch: list[int], batch_size: int) -> list[dict[str, Any]]:
        """Return the results of inputs that share a rule, and the shape of their longest canvases."""
        with kept_notes():  # what there is to say was said when they were checked
            requests = [self.reader.read(self.inputs.fields(index)) for index in batch]
        own = [[(self.inputs.number(index), k) for k in range(self.samples)] for index in batch]
        settings = {"seed": self.seed, "batch_size": batch_size}
        found = [
            find_alternatives(self.model, request, numbers, self.how, **settings)
            for request, numbers in zip(requests, own, strict=True)
        ]
        canvases = [filled_up(self.model, canvas) for one in found for canvas in one.canvases]
        labels = [-1 if one.label is None else one.label for one in requests for _ in range(self.samples)]
        numbers, rule = [number for one in own for number in one], requests[0].rule
        drawn: dict[int, Drawn] = {}
        for group in by_shape(canvases):
            for here in (group[i : i + batch_size] for i in range(0, len(group), batch_size)):
                label = torch.tensor([labels[i] for i in here]) if rule.labelled else None
                canvas = torch.stack([canvases[i] for i in here])
                drawn |= zip(here, self._draw(canvas, label, [numbers[i] for i in here], rule), strict=True)
        results = ([drawn[i * self.samples + k] for k in range(self.samples)] for i in range(len(batch)))
        return [self._result(*one) for one in zip(batch, requests, found, results, strict=True)]

    def _draw(self, canvas: Tokens, label: Labels | None, numbers: list[tuple[int, int]], rule: Rule) -> list[Drawn]:
        """Draw one batch, and bound it."""
        x = canvas.to(self.model.device)
        label = None if label is None else label.to(x.device)
        generator = [seeded(self.seed, *number) for number in numbers]
        stops = rule.stops and self.stop is not False
        sampler = stop_early(self.sampler, self.model.codec) if stops else self.sampler
        x = self.model.infill(x, label, sampler=sampler, generator=generator, allowed=self.reader.allowed(rule))
        if not self.score:
            return [Drawn(one, 0.0, 0.0) for one in x.cpu()]
        masks = Repeated([seeded(self.seed, *number, 1) for number in numbers], self.score)
        bounds = bound_completions(self.model, canvas, x, label, draws=self.score, generator=masks)
        return [Drawn(*one) for one in zip(x.cpu(), *(bound.tolist() for bound in bounds), strict=True)]

    def _result(self, index: int, request: Request, found: Alternatives, drawn: list[Drawn]) -> dict[str, Any]:
        """Return the result of an input: the likeliest of its alternatives first."""
        scored = [self._scored(one, *of_length) for one, of_length in zip(drawn, found.lengths, strict=True)]
        order = sorted(range(self.samples), key=lambda i: -scored[i]["log_p"] if self.score else i)
        name = request.form if request.form in ("array", "image", "row") else "text"
        completions = [
            {name: self._content(index, rank, request, found.canvases[i], drawn[i].x)}
            | ({} if found.k is None else {"k": list(found.k[i])})
            | scored[i]
            for rank, i in enumerate(order)
        ]
        posterior = {} if found.posterior is None else {"lengths": found.posterior.describe()}
        return {**request.kept, "line": self.inputs.number(index), **posterior, "completions": completions}

    def _scored(self, drawn: Drawn, log_p: float, error: float) -> dict[str, Any]:
        """Return the bound of an alternative as JSON holds it, with log p of its length and the error of that."""
        if not self.score:
            return {}
        together = math.hypot(drawn.error, error)
        return {"log_p": round(drawn.log_p + log_p, 4), "error": None if math.isnan(together) else round(together, 4)}

    def _content(self, index: int, rank: int, request: Request, canvas: Canvas, x: Int[Tensor, "*longer"]) -> Any:
        """Return a completion as JSON holds it; of an image what is to be written."""
        content = result_of(self.model, request.form, canvas, x)
        if request.form != "image":
            return content
        from PIL import Image

        path = self.pictures / f"{self.inputs.name(index)}{f'-{rank + 1}' if self.samples > 1 else ''}.png"
        Image.fromarray(content[..., 0] if content.shape[2] == 1 else content).save(file := io.BytesIO(), "PNG")
        return Picture(str(path), file.getvalue())

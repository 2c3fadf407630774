"""Completing some inputs in one batch, each as if it were alone."""

import io
import math
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from unmask.evaluation.alternatives import bound_completions
from unmask.infilling.checking import Checked
from unmask.infilling.journal import Journal
from unmask.infilling.requests import Reader, Request, filled_up, result_of
from unmask.infilling.sources import Source
from unmask.model import MaskedDiffusion
from unmask.randomness import Repeated, seeded
from unmask.samplers.base import Sampler
from unmask.storage.files import replacing
from unmask.types import Labels, Tokens


class Drawn(NamedTuple):
    """One alternative.

    Attributes:
        x: its tokens.
        scored: the bound on its log p, and the error of that; empty if it was not bounded.
    """

    x: Int[Tensor, "*dims"]
    scored: dict[str, Any]


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

    def finish(self, checked: Checked, journal: Journal, batch_size: int) -> None:
        """Complete the inputs whose results are not in the journal yet, and add these."""
        number = self.inputs.number
        left = sum(number(index) not in journal for group in checked.good.values() for index in group)
        total = sum(map(len, checked.good.values()))
        with tqdm(total=total, initial=total - left, desc="infilling", unit="input", delay=2) as bar:
            for batch in checked.batches(max(1, batch_size // self.samples)):
                todo = [index for index in batch if number(index) not in journal]
                if todo:
                    results = self.complete(todo, batch_size)
                    journal.add({number(index): result for index, result in zip(todo, results, strict=True)})
                    bar.update(len(todo))

    def complete(self, batch: list[int], batch_size: int) -> list[dict[str, Any]]:
        """Return the results of inputs whose canvases have one shape."""
        with redirect_stderr(io.StringIO()):  # what there is to say was said when they were checked
            requests = [self.reader.read(self.inputs.fields(index)) for index in batch]
        numbers = [(self.inputs.number(index), k) for index in batch for k in range(self.samples)]
        canvas = torch.stack([filled_up(self.model, one.canvas) for one in requests])
        canvas = canvas.repeat_interleave(self.samples, 0)
        labels = [-1 if one.label is None else one.label for one in requests for _ in range(self.samples)]
        label = None if -1 in labels else torch.tensor(labels)
        parts = [
            self._draw(canvas[i : i + batch_size], None if label is None else label[i : i + batch_size], numbers[i:])
            for i in range(0, len(canvas), batch_size)
        ]
        drawn = [one for part in parts for one in part]
        own = [drawn[i : i + self.samples] for i in range(0, len(drawn), self.samples)]
        return [self._result(*one) for one in zip(batch, requests, own, strict=True)]

    def _draw(self, canvas: Tokens, label: Labels | None, numbers: list[tuple[int, int]]) -> list[Drawn]:
        """Draw one batch, and bound it; there may be numbers of later ones, too."""
        x, numbers = canvas.to(self.model.device), numbers[: len(canvas)]
        label = None if label is None else label.to(x.device)
        generator = [seeded(self.seed, *number) for number in numbers]
        x = self.model.infill(x, label, sampler=self.sampler, generator=generator)
        if not self.score:
            return [Drawn(one, {}) for one in x.cpu()]
        masks = Repeated([seeded(self.seed, *number, 1) for number in numbers], self.score)
        bounds = bound_completions(self.model, canvas, x, label, draws=self.score, generator=masks)
        scored = zip(x.cpu(), *(bound.tolist() for bound in bounds), strict=True)
        return [
            Drawn(one, {"log_p": round(bound, 4), "error": None if math.isnan(error) else round(error, 4)})
            for one, bound, error in scored
        ]

    def _result(self, index: int, request: Request, drawn: list[Drawn]) -> dict[str, Any]:
        """Return the result of an input: the likeliest of its alternatives first."""
        if self.score:
            drawn = sorted(drawn, key=lambda one: -one.scored["log_p"])
        name = request.form if request.form in ("array", "image", "row") else "text"
        contents = [self._content(index, rank, request, one.x.unsqueeze(0)) for rank, one in enumerate(drawn)]
        completions = [{name: content} | one.scored for content, one in zip(contents, drawn, strict=True)]
        return {**request.kept, "line": self.inputs.number(index), "completions": completions}

    def _content(self, index: int, rank: int, request: Request, x: Tokens) -> Any:
        """Return a completion as JSON holds it; an image is written, and its path from the results on returned."""
        content = result_of(self.model, request, x)
        if request.form != "image":
            return content
        from PIL import Image

        folder = self.reader.pictures
        path = folder / f"{self.inputs.name(index)}{f'-{rank + 1}' if self.samples > 1 else ''}.png"
        with replacing(path) as target:
            Image.fromarray(content[..., 0] if content.shape[2] == 1 else content).save(target)
        return str(path.relative_to(folder.parent))

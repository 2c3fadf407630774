"""Bounds on what examples are worth, token by token, and the alternatives for single tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.evaluation.per_example import error_of_mean
from unmask.given import add_excluded, mark_given
from unmask.model import MaskedDiffusion
from unmask.objectives.estimate import draw_loss
from unmask.randomness import Repeated, seeded
from unmask.schedules import TokenPolynomial
from unmask.serving.drawing import check_wanted
from unmask.serving.jobs import Job, Work, joined
from unmask.serving.served import Served
from unmask.types import Times, Tokens, Where

DIGITS = 6


@dataclass(frozen=True)
class Scoring(Work):
    """Bounds the likelihood of examples. The masks of each are a batch by themselves.

    Attributes:
        served: the model.
        draws: random masks of each example.
        shape: dims of the examples.
    """

    served: Served
    draws: int
    shape: tuple[int, ...]

    def run(self, jobs: Sequence[Job]) -> Iterator[None]:
        """See `Work.run`."""
        for job in jobs:
            found = []
            for i in range(len(job.x)):
                if job.over:
                    break
                try:
                    found.append(self._score(job, i))
                except ValueError as error:  # of this example alone, not of the requests beside it
                    job.fail(400, str(error))
                    break
                yield
            job.tell({"event": "end", "model": self.served.name, "draws": self.draws, "examples": found})

    def _score(self, job: Job, i: int) -> dict[str, Any]:
        """Return the bound of one example, in nats and in bits, with what each token adds."""
        model = self.served.model
        x = job.x[i : i + 1].to(model.device)
        label = None if job.label is None else job.label[i : i + 1].to(model.device)
        given, of_length = given_tokens(model, x, job.extra.get("given"), label)
        masks = Repeated([seeded(*job.entropy[i], 1)], self.draws)
        objective = model.fit_objective()
        how: dict[str, Any] = {"draws": self.draws, "given": given, "generator": masks}
        loss = draw_loss(model.network_for(x), objective, x, label, **how)
        drawn = loss.nelbo.double().view(self.draws, 1)
        error = 0.0 if objective.exact else float(error_of_mean(drawn)[0])
        nats = float(drawn.mean()) + of_length
        if not math.isfinite(nats):
            raise ValueError("the model gives this example the probability 0: its bound is infinite")
        bits = (loss.parts.double().view(self.draws, -1).mean(0) / math.log(2)).tolist()
        counted = [True] * len(bits) if given is None else (~given).flatten().tolist()
        tokens = sum(counted)
        return {
            "nats": round(nats, DIGITS),
            "error": None if math.isnan(error) else round(error, DIGITS),
            "tokens": tokens,
            "bits_per_token": round(nats / math.log(2) / tokens, DIGITS),
            "nats_of_length": round(of_length, DIGITS),
            "bits": [round(one, DIGITS) if counts else None for one, counts in zip(bits, counted, strict=True)],
        }


def given_tokens(
    model: MaskedDiffusion, x: Tokens, asked: Where | None, label: Tensor | None
) -> tuple[Where | None, float]:
    """Return which tokens of an example are conditioned on, None if none is, and −log p of its length in nats."""
    given = None if asked is None else asked.to(x.device)
    lengths, of_length = model.lengths, 0.0
    if lengths is not None and x.shape[1:] == model.shape:
        filled = lengths.filled(x)
        given = filled if given is None else given | filled
        of_length = -float(lengths.log_p(lengths.measure(mark_given(x, given)), label)[0])
    given = add_excluded(given, x, model.network.excluded)
    if given is not None and given.all():
        raise ValueError("every token is given: there is nothing to measure")
    return given, of_length


@dataclass(frozen=True)
class Ranking(Work):
    """Finds the likeliest tokens of single positions, given the others; requests of one shape share a batch.

    A row of a request's x is its canvas with one position masked besides, which `extra["positions"]` names.

    Attributes:
        served: the model.
        shape: dims of the canvases.
        labelled: whether there are labels.
    """

    served: Served
    shape: tuple[int, ...]
    labelled: bool

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> Iterator[None]:
        """See `Work.run`."""
        check_wanted(jobs)
        model = self.served.model
        x, label = joined(jobs, model.device)
        position = torch.tensor([i for job in jobs for i in job.extra["positions"]], device=x.device)
        at = torch.zeros_like(x, dtype=torch.bool).flatten(1).scatter(1, position.unsqueeze(1), True).view_as(x)
        share = (x == model.network.mask_id).flatten(1).double().mean(1)
        logits = model.network_for(x)(x, noise_of(model, share), label, at=at)
        p = logits.double().softmax(-1).cpu()
        if not p.isfinite().all():
            raise FloatingPointError("the network's logits are NaN, infinite, or all -inf")
        first = 0
        for job in jobs:
            self._tell(job, p[first : first + len(job.x)])
            first += len(job.x)
        yield

    def _tell(self, job: Job, p: Tensor) -> None:
        """Tell a request the likeliest tokens at each of its positions, and how likely what stands there is."""
        k, now = min(job.extra["k"], p.shape[1]), job.extra["tokens"]
        best, tokens = p.topk(k, sorted=True)
        found = []
        for row, position in enumerate(job.extra["positions"]):
            token = now[position]
            pairs = zip(tokens[row].tolist(), best[row].tolist(), strict=True)
            listed = [self._one(other, chance) for other, chance in pairs if chance > 0]
            here = None if token < 0 else self._one(token, float(p[row, token]))
            found.append({"position": position, "now": here, "alternatives": listed})
        job.tell({"event": "end", "model": self.served.name, "positions": found})

    def _one(self, token: int, chance: float) -> dict[str, Any]:
        looks = self.served.symbols({token})
        return {"token": token, "p": float(f"{chance:.5g}")} | ({"text": looks[str(token)]} if looks else {})


def noise_of(model: MaskedDiffusion, share: Times) -> Times:
    """Return what a network is told where a share of the tokens is masked: that; or, for a learned schedule, t."""
    if isinstance(model.schedule, TokenPolynomial):
        return share ** (1 / model.schedule.powers.detach().double().mean().to(share.device))
    return share


def masked_rows(canvas: Int[Tensor, "*dims"], positions: Sequence[int], mask_id: int) -> Tokens:
    """Return the canvas once for each position, with that position masked besides."""
    flat = canvas.flatten().repeat(len(positions), 1)
    place = torch.tensor(positions, device=canvas.device).unsqueeze(1)
    return flat.scatter(1, place, mask_id).view(-1, *canvas.shape)

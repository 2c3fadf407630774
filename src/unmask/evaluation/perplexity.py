"""Figures of samples."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.codecs.text import Text
from unmask.codecs.tokenizer import Tokenizer
from unmask.evaluation.nelbo import Likelihood
from unmask.lengths import Lengths
from unmask.types import Nats, Tokens


def token_entropy(x: Tokens, lengths: Lengths | None = None) -> Nats:
    """Return the entropy of each example's histogram of tokens, in nats: small where tokens repeat.

    What published generative perplexities must be read together with (FHS, section 5): both fall with the temperature.

    Args:
        x: examples (batch, *dims).
        lengths: of a model whose examples are filled up: what fills them up does not count.
    """
    if lengths is not None:
        each = [token_entropy(row.unsqueeze(0)) if len(row) else x.new_zeros(1).double() for row in map(lengths.cut, x)]
        return torch.cat(each)
    tokens = x.flatten(1).sort(1).values
    changes = torch.nn.functional.pad(tokens[:, 1:] != tokens[:, :-1], (1, 0))
    counts = torch.zeros(tokens.shape, dtype=torch.float64, device=x.device)  # of each value that is there, in order
    counts.scatter_add_(1, changes.cumsum(1), torch.ones_like(counts))
    p = counts / tokens.shape[1]
    return -torch.special.xlogy(p, p).sum(1)


def mean_error(values: Float[Tensor, " n"]) -> tuple[float, float]:
    """Return the mean of some values and its standard error, NaN of a single one."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error


Counted = Literal["all", "first_end", "until_end"]


def causal_nll(
    judge: Callable[..., Any],
    rows: Sequence[Sequence[int]],
    *,
    context: int,
    end: int | None = None,
    counted: Counted = "all",
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Return -log p of the tokens of each row under a left-to-right language model, in nats.

    The first token of a row has no context and is not scored. Rows that are longer than the model's context are cut
    into pieces of that length, each scored by itself.

    Args:
        judge: maps `input_ids` (batch, L) to an object with `logits` (batch, L, V), as those of `transformers` do.
        rows: token ids of the judge's vocabulary.
        context: most tokens that it looks at.
        end: the token that ends a text.
        counted: which of the ends are scored. `all`; `first_end`: the first of a row, and all other tokens (MDLM);
            `until_end`: nothing that comes after the first.
        batch_size: rows at a time.
        device: of the judge.

    Returns:
        For each row a tensor of as many numbers as were scored.
    """
    if counted != "all" and end is None:
        raise ValueError(f"counted={counted!r} needs to know the token that ends a text")
    pieces = [
        (number, row[start : start + context], keep[start : start + context])
        for number, row in enumerate(rows)
        for keep in (_kept(row, end, counted),)
        for start in range(0, len(row), context)
        if len(row) - start > 1
    ]
    found: list[Tensor] = [torch.empty(0) for _ in pieces]
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i][1]))  # alike lengths together
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [pieces[i] for i in chosen]
        ids = torch.zeros(len(batch), max(len(row) for _, row, _ in batch), dtype=torch.long)
        for line, (_, row, _) in zip(ids, batch, strict=True):
            line[: len(row)] = torch.tensor(row)
        with torch.no_grad():
            logits = judge(input_ids=ids.to(device)).logits
        for i, line, law, (_, row, keep) in zip(chosen, ids.to(device), logits, batch, strict=True):
            here = law[: len(row) - 1].float()
            nll = torch.nn.functional.cross_entropy(here, line[1 : len(row)], reduction="none").cpu()
            found[i] = nll[torch.tensor(keep[1:])]
    parts: list[list[Tensor]] = [[torch.empty(0)] for _ in rows]
    for (number, _, _), nll in zip(pieces, found, strict=True):
        parts[number].append(nll)
    return [torch.cat(part) for part in parts]


def _kept(row: Sequence[int], end: int | None, counted: Counted) -> list[bool]:
    """Say which tokens of a row are scored. An end at the very beginning, as `wrapped` sequences have, ends nothing."""
    if counted == "all" or end is None or end not in row[1:]:
        return [True] * len(row)
    first = list(row).index(end, 1)
    if counted == "until_end":
        return [i <= first for i in range(len(row))]
    return [token != end or i == first for i, token in enumerate(row)]


class Perplexity(NamedTuple):
    """Of samples, under a judge; to be read together with their entropy.

    Attributes:
        micro: exp of the mean over all tokens, and its standard error (MDLM, Duo).
        macro: mean over samples of exp of the mean over their tokens, and its standard error (SEDD).
        samples: that have a token to score.
        tokens: that were scored.
    """

    micro: tuple[float, float]
    macro: tuple[float, float]
    samples: int
    tokens: int

    @classmethod
    def of(cls, scores: Sequence[Tensor]) -> "Perplexity":
        """Average over the tokens of samples.

        Raises:
            ValueError: no sample has a token to score.
        """
        scored = [score.double() for score in scores if len(score)]
        if not scored:
            raise ValueError("the samples have no token that can be scored: each has one at most")
        tokens = torch.tensor([len(score) for score in scored])
        likelihood = Likelihood.of(torch.stack([score.sum() for score in scored]), tokens, calls=0)
        each = torch.stack([score.mean().exp() for score in scored])
        return cls(likelihood.perplexity, mean_error(each), len(scored), int(tokens.sum()))


def retokenise(x: Tokens, codec: Text, judge: Tokenizer) -> list[list[int]]:
    """Return samples as tokens of the judge: as text, cut anew; an end of a text stays one, what is around it goes.

    Args:
        x: samples (batch, L).
        codec: what they are tokens of.
        judge: the judge's tokens.
    """
    end = codec.end if isinstance(codec, Tokenizer) else None
    bare = any(codec.wrap) or codec.padding != end  # else the end of a text is what fills it up, too
    rows = []
    for row in (codec.unwrapped(row).tolist() if bare else row.tolist() for row in x):
        found: list[int] = []
        start = 0
        for at in [*(i for i, token in enumerate(row) if token == end), len(row)]:
            if at > start:
                found += judge.encode(codec.decode(torch.tensor([row[start:at]]))[0]).tolist()
            found += [judge.end] * (at < len(row))
            start = at + 1
        rows.append(found)
    return rows

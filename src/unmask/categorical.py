"""Drawing tokens from logits, and filtering logits: temperature, top-k and top-p. Nothing else draws tokens."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.checks import check_whole
from unmask.types import Logits

CHUNK = 256
"""Tokens per chunk: the chunk is found first, then the token within it."""
LIKELY = 4096
"""Tokens among which a processor looks for the nucleus first: they are found in a fifth of the time of a sort."""


def categorical(logits: Float[Tensor, "n vocab"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Draw one token per row from p = softmax(logits) by inverting its cumulative distribution function.

        token = min { v : p_0 + ... + p_v > uniform }

    Probabilities down to 1e-16 are drawn correctly: each keeps the relative precision of the logits' format (at least
    float32), they are summed in float64, and `uniform` has 53 bits. (Gumbel-max on float32 uniforms truncates the
    tails, which lowers the temperature: FHS, section 5; see `unmask.gumbel`.) One random number per row is enough.

    Args:
        logits: (n, V); -inf excludes a token.
        uniform: (n,) float64 in [0, 1), see `unmask.randomness.uniform`.

    Returns:
        (n,) tokens in 0..V-1; V, the mask, for a row that defines no distribution (a NaN, a +inf, or all -inf).
    """
    weights = logits.softmax(-1, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
    vocab = weights.shape[1]
    if vocab <= 2 * CHUNK:
        cumulative = weights.cumsum(1, dtype=torch.float64)
        token = first_exceeding(cumulative, uniform)
    else:  # find the chunk, then the token within it: one pass over the weights, and no second (n, V) tensor
        whole = vocab // CHUNK * CHUNK
        sums = weights[:, :whole].unflatten(1, (-1, CHUNK)).sum(2)
        cumulative = torch.cat((sums, weights[:, whole:].sum(1, keepdim=True)), 1).cumsum(1, dtype=torch.float64)
        chunk = first_exceeding(cumulative, uniform).clamp(max=sums.shape[1]).unsqueeze(1)
        before = torch.where(chunk > 0, cumulative.gather(1, (chunk - 1).clamp(min=0)), 0)
        place = (uniform.unsqueeze(1) * cumulative[:, -1:] - before) / (cumulative.gather(1, chunk) - before)
        inside = chunk * CHUNK + torch.arange(CHUNK, device=weights.device)
        found = torch.where(inside < vocab, weights.gather(1, inside.clamp(max=vocab - 1)), 0)
        place = place.squeeze(1).clamp(max=1 - 2**-53)  # the quotient may have been rounded to 1
        token = chunk.squeeze(1) * CHUNK + first_exceeding(found.cumsum(1, dtype=torch.float64), place)
    return torch.where(cumulative[:, -1].isfinite(), token, vocab)


def first_exceeding(cumulative: Float[Tensor, "n entries"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the first entry of each row whose cumulative weight exceeds `uniform` times the row's total."""
    return torch.searchsorted(cumulative, uniform.unsqueeze(1) * cumulative[:, -1:], right=True).squeeze(1)


def filter_logits(logits: Logits, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Logits:
    """Divide logits by the temperature, then keep the `top_k` most likely tokens, then the nucleus `top_p` of these.

    The logits of the other tokens become -inf. Of tokens with equal logits at the threshold only some are kept, so that
    exactly k remain; for k = 1 the first of them.

    Args:
        logits: (..., V).
        temperature: positive; see `check_filters`.
        top_k: number of tokens to keep, None for all.
        top_p: keep the smallest set of most likely tokens whose total probability reaches this; 1 for all.
    """
    if temperature != 1:
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if (top_k is None or top_k >= logits.shape[-1]) and top_p == 1:
        return logits
    if top_k == 1:
        best, token = logits.max(-1, keepdim=True)
    elif top_k is not None and top_k < logits.shape[-1]:
        best, token = logits.topk(top_k)
    elif logits.device.type == "cpu" and logits.shape[-1] > 4 * LIKELY:
        return _nucleus(logits.flatten(0, -2), top_p).view_as(logits)
    else:
        best, token = logits.sort(dim=-1, descending=True)
    if top_p < 1:
        best = _cut(best, best.softmax(-1, dtype=torch.float64), top_p)
    return torch.full_like(logits, -math.inf).scatter(-1, token, best)


def _cut(best: Float[Tensor, "*rows k"], p: Float[Tensor, "*rows k"], top_p: float) -> Float[Tensor, "*rows k"]:
    """Exclude all logits, most likely first, that come after the nucleus; p are their probabilities."""
    return best.masked_fill(p.cumsum(-1) - p >= top_p, -math.inf)


def _nucleus(logits: Float[Tensor, "n vocab"], top_p: float) -> Float[Tensor, "n vocab"]:
    """Keep the nucleus `top_p`; only the rows whose nucleus is larger than the `LIKELY` likeliest are sorted whole."""
    best, token = logits.topk(LIKELY)
    total = (logits - best[:, :1]).exp().sum(1, keepdim=True, dtype=torch.float64)
    p = (best - best[:, :1]).double().exp() / total
    found = torch.full_like(logits, -math.inf).scatter(1, token, _cut(best, p, top_p))
    wide = ~(p.sum(1) >= top_p)
    if wide.any():
        best, token = logits[wide].sort(dim=1, descending=True)
        cut = _cut(best, best.softmax(1, dtype=torch.float64), top_p)
        found[wide] = torch.full_like(best, -math.inf).scatter(1, token, cut)
    return found


def check_filters(temperature: float, top_k: int | None, top_p: float) -> None:
    """Raise a ValueError unless the settings of `filter_logits` are valid.

    The temperature must be finite and at least 1e-6 (which always draws the most likely token), top_k at least 1, and
    top_p in (0, 1].
    """
    if not 1e-6 <= temperature < math.inf:
        instead = "; top_k=1 draws the most likely token" if temperature == 0 else ""
        raise ValueError(f"temperature must be at least 1e-6 and finite, got {temperature}{instead}")
    check_whole(1, top_k=top_k)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")

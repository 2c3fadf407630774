"""The objective for state-dependent schedules, which also trains the schedule (GenMD4)."""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.checks import check_whole
from unmask.forward import sample_counts
from unmask.networks.base import Network
from unmask.objectives.base import Loss, Objective, length_without_given
from unmask.objectives.scalar import positions_to_predict
from unmask.randomness import Generators, uniform
from unmask.schedules import TokenPolynomial, check_kind, require_schedule
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True, eq=False)
class TokenELBO(Objective):
    """Bound −log p(x) by the continuous-time ELBO under a state-dependent schedule (GenMD4; MD4, section 6).

    With w the exponents of the schedule and p_l the prediction at masked position l,

        −log p(x) ≤ ∫₀¹ (1 / t) E[ Σ_{l masked} g_l ] dt,   g_l = w_{x_l} (−log p_l(x_l) − 1) + Σ_i w_i p_l(i).

    A uniform t gives an estimate of infinite variance if any w ≤ 1. Instead, t is drawn at the time at which a position
    becomes masked. Position l is masked from τ_l on, and t is the n-th smallest of these times:

        τ_l = u_l^(1 / w_{x_l}),   u_l ~ U(0, 1],   n ~ U{1..L},   t = τ_(n),
        nelbo = L · Σ_{l masked} g_l / Σ_{l masked} w_{x_l}.

    This is unbiased, has no singularity in t, and equals `TimeFreeELBO` for equal w (docs/mathematics.md).

    For the gradient in w, several masks are drawn that share t and the position masked at t. It has three parts: the
    derivative of g, the score of the position and its time, and REINFORCE for the other positions (`reinforce_pairs`).

    Args:
        schedule: gives w, and is trained. None: the schedule of the model (see `MaskedDiffusion.nelbo`).
        masks: K, masks per example with the same t, evaluated in one network call; at least 2 to learn w.
        power: as in `TimeFreeELBO`, in the loss of the network only; w is always trained on the bound.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> objective = unmask.TokenELBO(unmask.TokenPolynomial(vocab_size=5))
        >>> objective(network, torch.tensor([[3, 1, 4, 1]])).nelbo / 4  # log 5: it has not learned anything
        tensor([1.6094], dtype=torch.float64)
    """

    schedule: TokenPolynomial | None = None
    masks: int = 2
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule is not None:
            check_kind(self.schedule, TokenPolynomial, "TokenELBO")
            self.schedule.check()
        check_whole(1, masks=self.masks)
        if not 0 <= self.power <= 1:
            raise ValueError(f"power must be in [0, 1], got {self.power}")

    @property
    def calls(self) -> int:
        return self.masks

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        w, masks = require_schedule(self.schedule, network.vocab_size, "TokenELBO").powers, self.masks
        if w.requires_grad and masks < 2:
            raise ValueError("to learn a schedule, TokenELBO needs masks of at least 2, got 1")
        w_x = w[x.flatten(1)]
        length, given = length_without_given(x, given), None if given is None else given.flatten(1)
        log_t, masked = draw_time_and_masks(w_x.detach(), masks, length, given, generator)
        hidden = masked.view(masks * len(x), *x.shape[1:])
        at, counted = positions_to_predict(hidden)
        x = x.repeat(masks, *[1] * (x.dim() - 1))
        label = None if label is None else label.repeat(masks)
        logits = network(x.masked_fill(hidden, network.mask_id), log_t.exp().repeat(masks), label, at=at)
        log_p = (logits if logits.dtype.itemsize >= 4 else logits.float()).log_softmax(-1)
        nll, p = -log_p.gather(1, at.pick(x.flatten(1)).unsqueeze(1)).squeeze(1), log_p.exp()
        nll = nll if counted is None else torch.where(at.pick(counted.flatten(1)), nll, 0)

        def integrand(nll: Tensor, p: Tensor, w: Tensor, w_x: Tensor) -> Float[Tensor, "masks batch length"]:
            """Return g where masked, else 0."""
            expected_w = (p * w.to(p.dtype)).sum(-1)  # not p @ w, which autocast would round
            g = at.pick(w_x.repeat(masks, 1)) * (nll - 1) + expected_w
            g = at.put(g, masks * len(w_x), w_x.shape[1]).view(masked.shape)
            return g if counted is None else torch.where(masked, g, 0)

        scale = length / torch.where(masked, w_x.detach(), 0).sum(-1).clamp(min=torch.finfo(w_x.dtype).tiny)
        parts = scale.unsqueeze(-1) * integrand(nll, p, w.detach(), w_x.detach())
        nelbo = parts.sum(-1)
        loss = (nelbo * masked.double().mean(-1) ** (1 - self.power)).mean()
        if w.requires_grad:
            g = integrand(nll.detach(), p.detach(), w, w_x)
            pathwise = scale * (g + g.detach() * w_x * log_t.unsqueeze(1)).sum(-1)
            score = reinforce_pairs(g.detach() / w_x.detach(), w_x, log_t, masked, length)
            surrogate = pathwise.mean() + score.mean()  # only its gradient matters
            loss = loss + surrogate - surrogate.detach()
        return Loss(loss, nelbo.detach().mean(0), parts.detach().mean(0))


def draw_time_and_masks(
    w_x: Float[Tensor, "batch length"],
    masks: int,
    length: int | Int[Tensor, " batch"],
    given: Bool[Tensor, "batch length"] | None,
    generator: Generators,
) -> tuple[Float[Tensor, " batch"], Bool[Tensor, "masks batch length"]]:
    """Draw for each example a position, the time t at which it becomes masked, and several masks at t.

    Args:
        w_x: exponent of each position's token.
        masks: number of masks.
        length: number of tokens that are not given.
        given: tokens that are never masked.
        generator: see `unmask.randomness`.

    Returns:
        log t, and the masks: each contains the position, and every other one independently with probability t^(w_x).
    """
    batch = len(w_x)
    n = sample_counts(batch, length, generator=generator, device=w_x.device)
    u = 1 - uniform((batch, masks, w_x.shape[1]), generator, w_x.device)
    log_tau = u.transpose(0, 1).contiguous().log() / w_x
    log_tau = log_tau if given is None else log_tau.masked_fill(given, math.inf)
    log_t, position = (part.gather(1, n[:, None] - 1) for part in log_tau[0].sort(dim=1))
    masked = (log_tau <= log_t).scatter(2, position.expand(masks, -1, -1), True)
    if given is not None:  # where every token is, none is masked, at any time
        masked, log_t = masked & ~given, log_t.clamp(max=0)
    return log_t.squeeze(1), masked


def reinforce_pairs(
    h: Float[Tensor, "masks batch length"],
    w_x: Float[Tensor, "batch length"],
    log_t: Float[Tensor, " batch"],
    masked: Bool[Tensor, "masks batch length"],
    length: int | Int[Tensor, " batch"],
) -> Float[Tensor, "pairs batch"]:
    """Return a surrogate whose gradient in w is that of the distribution of the masks, given the position and its time.

    For two masks B and B′ of `draw_time_and_masks` with shared position l, and h = g / w,

        ½ L (h_l(B) − h_l(B′)) ∇ (log P(B) − log P(B′)),   P(B) = ∏_{j in B} t^{w_j} ∏_{j not in B} (1 − t^{w_j}),

    is unbiased, and 0 where the masks agree. It is averaged over the positions l that are in both, each of which is the
    shared one with probability ∝ w_l t^{−w_l}. Given tokens are in neither mask and cancel.

    Args:
        h: g / w where masked, else 0.
        w_x: exponent of each position's token, with a gradient.
        log_t: log of the time.
        masked: the masks.
        length: L, number of tokens that are not given.

    Returns:
        One term for each pair of masks.
    """
    log_rate = w_x * log_t.unsqueeze(1)
    visible = (-torch.expm1(log_rate)).clamp(min=torch.finfo(log_rate.dtype).tiny).log()
    log_p = torch.where(masked, log_rate, visible).sum(-1)
    weight = (w_x.log() - log_rate).detach()
    terms = []
    for a, b in itertools.combinations(range(len(masked)), 2):
        shared = weight.masked_fill(~(masked[a] & masked[b]), -math.inf).softmax(-1).nan_to_num()  # NaN: all is given
        terms.append(length * (shared * (h[a] - h[b])).sum(-1) * (log_p[a] - log_p[b]) / 2)
    return torch.stack(terms)

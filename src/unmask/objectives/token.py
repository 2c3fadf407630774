"""The objective under a state-dependent schedule, which it learns (GenMD4)."""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.forward import sample_counts
from unmask.networks.base import Network
from unmask.objectives.base import Loss, Objective, open_length
from unmask.randomness import Generators, uniform
from unmask.schedules import TokenPolynomial, check_kind, checked
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True, eq=False)
class TokenELBO(Objective):
    """Bound -log p(x) under a state-dependent schedule: the continuous-time ELBO of GenMD4 (MD4, section 6).

    With w the exponents, p the network's prediction at a masked position and x its token, it is the integral over t of

        (1 / t) E[ sum over masked of g ],   g = w_x (-log p_x - 1) + sum_i w_i p_i.

    A uniform t would give an estimate without a finite variance wherever w <= 1. So t is drawn where something happens:
    position l is masked from tau_l = u^(1 / w_x) on, and t is the n-th smallest of these, n ~ U{1..L}. Given t and the
    set that is masked then, position l of it is the one masked at t with probability w_x / (sum over masked of w_x), so

        nelbo = L (sum over masked of g) / (sum over masked of w_x)

    is unbiased, has no singularity in t, and is `TimeFreeELBO` for equal w. Several sets are drawn with the same t and
    the same position masked at it. They give the gradient in w: pathwise where w stands in the bound, by the score of
    the position and its time, and by REINFORCE where w moves the rest of the set, from what two sets say of the
    positions that both hold.

    Args:
        schedule: gives w, and learns it. None: that of the model (`MaskedDiffusion.nelbo` fills it in).
        masks: K, sets of an example at the same time, evaluated in one network call; at least 2 to learn w.
        power: as in `TimeFreeELBO`, in the loss of the network alone; w always follows the bound.
    """

    schedule: TokenPolynomial | None = None
    masks: int = 2
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule is not None:
            check_kind(self.schedule, TokenPolynomial, "TokenELBO")
            self.schedule.check()
        if self.masks != int(self.masks) or self.masks < 1:
            raise ValueError(f"masks must be a whole number of at least 1, got {self.masks}")
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
        w, many = checked(self.schedule, network.vocab_size, "TokenELBO").powers, self.masks
        if w.requires_grad and many < 2:
            raise ValueError("to learn a schedule, TokenELBO needs masks of at least 2, got 1")
        w_x = w[x.flatten(1)]
        length, given = open_length(x, given), None if given is None else given.flatten(1)
        log_t, hidden = draw_masks(w_x.detach(), many, length, given, generator)
        at = hidden.view(many * len(x), *x.shape[1:])
        x = x.repeat(many, *[1] * (x.dim() - 1))
        label = None if label is None else label.repeat(many)
        logits = network(x.masked_fill(at, network.mask_id), log_t.exp().repeat(many), label, at=at)
        log_p = (logits if logits.dtype.itemsize >= 4 else logits.float()).log_softmax(-1)
        nll, p = -log_p.gather(1, x[at].unsqueeze(1)).squeeze(1), log_p.exp()

        def integrand(nll: Tensor, p: Tensor, w: Tensor, w_x: Tensor) -> Float[Tensor, "masks batch length"]:
            """Return g where masked, else 0."""
            g = w_x.expand_as(hidden)[hidden] * (nll - 1) + (p * w.to(p.dtype)).sum(
                -1
            )  # not @: autocast would round it
            return g.new_zeros(hidden.shape).masked_scatter(hidden, g)

        scale = length / torch.where(hidden, w_x.detach(), 0).sum(-1)
        parts = scale.unsqueeze(-1) * integrand(nll, p, w.detach(), w_x.detach())
        of_network = parts.sum(-1)
        loss = (of_network * hidden.double().mean(-1) ** (1 - self.power)).mean()
        if w.requires_grad:
            g = integrand(nll.detach(), p.detach(), w, w_x)
            pathwise = scale * (g + g.detach() * w_x * log_t.unsqueeze(1)).sum(-1)
            of_w = pathwise.mean() + reinforce(g.detach() / w_x.detach(), w_x, log_t, hidden, length).mean()
            loss = loss + of_w - of_w.detach()
        return Loss(loss, of_network.detach().mean(0), parts.detach().mean(0))


def draw_masks(
    w_x: Float[Tensor, "batch length"],
    masks: int,
    length: int | Int[Tensor, " batch"],
    given: Bool[Tensor, "batch length"] | None,
    generator: Generators,
) -> tuple[Float[Tensor, " batch"], Bool[Tensor, "masks batch length"]]:
    """Draw for each example a position, the time at which it is masked, and several sets that are masked then.

    Args:
        w_x: exponent of each position's token.
        masks: number of sets.
        length: number of tokens that are not given.
        given: tokens that are in no set.
        generator: see `unmask.randomness`.

    Returns:
        log t, and the sets: each holds the position, and any other with probability t^(w_x), independently.
    """
    batch = len(w_x)
    n = sample_counts(batch, length, generator=generator, device=w_x.device)
    u = 1 - uniform((batch, masks, w_x.shape[1]), generator, w_x.device)
    log_tau = u.transpose(0, 1).contiguous().log() / w_x
    log_tau = log_tau if given is None else log_tau.masked_fill(given, math.inf)
    log_t, position = (part.gather(1, n[:, None] - 1) for part in log_tau[0].sort(dim=1))
    return log_t.squeeze(1), (log_tau <= log_t).scatter(2, position.expand(masks, -1, -1), True)


def reinforce(
    h: Float[Tensor, "masks batch length"],
    w_x: Float[Tensor, "batch length"],
    log_t: Float[Tensor, " batch"],
    hidden: Bool[Tensor, "masks batch length"],
    length: int | Int[Tensor, " batch"],
) -> Float[Tensor, "pairs batch"]:
    """Return what has the gradient in w that comes from the law of the sets, given the position and its time.

    For two sets of `draw_masks` it is (h - h') / 2 times the difference of the scores, at the position that they were
    drawn with. Of those that both hold, l is that one with probability proportional to w_l t^(-w_l). Tokens that are
    given are in neither set, and drop out of the difference.
    """
    log_rate = w_x * log_t.unsqueeze(1)
    visible = (-torch.expm1(log_rate)).clamp(min=torch.finfo(log_rate.dtype).tiny).log()
    log_law = torch.where(hidden, log_rate, visible).sum(-1)
    weight = (w_x.log() - log_rate).detach()
    terms = []
    for a, b in itertools.combinations(range(len(hidden)), 2):
        chance = weight.masked_fill(~(hidden[a] & hidden[b]), -math.inf).softmax(-1)
        terms.append(length * (chance * (h[a] - h[b])).sum(-1) * (log_law[a] - log_law[b]) / 2)
    return torch.stack(terms)

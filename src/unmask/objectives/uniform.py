"""The objectives of D3PM: the bound of T steps of multinomial diffusion, and the auxiliary cross-entropy."""

import math
from dataclasses import dataclass, field

from unmask.checks import check_whole
from unmask.forward import mask, randomise, sample_times
from unmask.networks.base import Network, Positions
from unmask.noise import Replacing
from unmask.objectives.base import Loss, Objective
from unmask.objectives.scalar import DiscreteELBO
from unmask.randomness import Generators
from unmask.replacing import Step, reverse_kl
from unmask.schedules import CosineSignal, Schedule, check_kind
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True)
class HybridELBO(DiscreteELBO):
    """`DiscreteELBO`, trained with an auxiliary cross-entropy: D3PM with an absorbing state (arXiv:2107.03006).

        loss = T · E_{k ~ U{1..T}} [ ((α_s − α_t) / (1 − α_t) + λ) · Σ_{i masked} −log p̃(x_i | x_t) ]

    The bound is that of `DiscreteELBO`, which for `Linear` is D3PM's L_vb with β_t = 1 / (T − t + 1). λ is D3PM's
    (equation 5); as in the published code, each of the T terms has it. Visible tokens, which the network copies, have
    no cross-entropy here.

    Args:
        schedule: gives α.
        steps: T, at least 1.
        auxiliary: λ, at least 0; D3PM has 0.01 for text and 0.001 for images.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> found = unmask.HybridELBO(steps=1, auxiliary=0.01)(network, torch.tensor([[3, 1, 4, 1]]))
        >>> found.nelbo / 4  # log 5: it has not learned anything
        tensor([1.6094], dtype=torch.float64)
        >>> round(found.loss.item() / found.nelbo.item(), 4)
        1.01
    """

    auxiliary: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_auxiliary(self.auxiliary)

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        k = (self.steps * sample_times(len(x), generator=generator, device=x.device)).ceil()
        t, s = k / self.steps, (k - 1) / self.steps
        x_t = mask(x, t, self.schedule, network.mask_id, given=given, generator=generator)
        weight = self.steps * self.schedule.unmask_prob(t, s)
        at, rate = Positions.of(x_t == network.mask_id), self.schedule.mask_rate(t)
        in_loss = at.spread((weight + self.steps * self.auxiliary) / len(x))
        loss, nll = network.cross_entropy(x_t, x, rate, label, at=at, weight=in_loss)
        parts = weight.unsqueeze(1) * at.put(nll, len(x), x[0].numel())
        return Loss(loss, parts.sum(1), parts)


@dataclass(frozen=True)
class UniformELBO(Objective):
    """Bound −log p(x) by the ELBO of T steps that replace tokens by uniformly random ones (D3PM uniform).

        −log p(x) ≤ Σ_{k=1..T} E_q [ Σ_i KL(q(x_s,i | x_t,i, x_i) || p(x_s,i | x_t)) ],   t = k / T,   s = (k − 1) / T

    See `unmask.replacing` for q and p, and `unmask.forward.randomise` for the noise. The term k = 1 is the
    reconstruction −log p(x | x_{1/T}); the prior term KL(q(x_1 | x) || uniform) is 0, since α_1 = 0 exactly. One k is
    drawn for each example, and its term is multiplied by T (D3PM, arXiv:2107.03006, equations 1 and 4; multinomial
    diffusion, arXiv:2102.05379).

    The network reads tokens 0..V−1 of which some are replaced, and predicts all of them; it should be conditioned on
    the time (it is given 1 − α_t). Tokens that are given are neither replaced nor counted.

    Args:
        schedule: gives α; that of multinomial diffusion by default.
        steps: T, at least 1.
        auxiliary: λ of the auxiliary cross-entropy T · λ · E[ Σ_i −log p̃(x_i | x_t) ] in the loss (D3PM, equation 5,
            for each of the T terms as in the published code); at least 0. The bound does not have it.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> unmask.UniformELBO(steps=1)(network, torch.tensor([[3, 1, 4, 1]])).nelbo / 4  # log 5: all noise at once
        tensor([1.6094], dtype=torch.float64)
    """

    schedule: Schedule = field(default_factory=CosineSignal)
    steps: int = 1000
    auxiliary: float = 0.0

    def __post_init__(self) -> None:
        check_kind(self.schedule, Schedule, "UniformELBO")
        check_whole(1, steps=self.steps)
        _check_auxiliary(self.auxiliary)

    @property
    def process(self) -> Schedule:
        return Replacing(self.schedule, self.steps)

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        k = (self.steps * sample_times(len(x), generator=generator, device=x.device)).ceil()
        t, s = k / self.steps, (k - 1) / self.steps
        x_t = randomise(x, t, self.schedule, network.vocab_size, given=given, generator=generator)
        at = Positions.of(x == x if given is None else ~given, x.numel() if given is None else None)
        log_p = network(x_t, self.schedule.mask_rate(t), label, at=at).double().log_softmax(-1)
        step = Step.of(self.schedule, at.spread(t), at.spread(s), network.vocab_size)
        clean = at.pick(x.flatten(1))
        kl = reverse_kl(log_p, at.pick(x_t.flatten(1)), clean, step)
        loss = self.steps * kl.sum() / len(x)
        if self.auxiliary:
            nll = -log_p.gather(1, clean.unsqueeze(1)).squeeze(1)
            loss = loss + self.steps * self.auxiliary * nll.sum() / len(x)
        parts = self.steps * at.put(kl.detach(), len(x), x[0].numel())
        return Loss(loss, parts.sum(1), parts)


def _check_auxiliary(value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"auxiliary must be at least 0 and finite, got {value}")

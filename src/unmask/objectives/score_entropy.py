"""The objective of SEDD: denoising score entropy for masked data, with its own parameterisation."""

from dataclasses import dataclass, field

from unmask.forward import mask, sample_times
from unmask.networks.base import Network, Positions
from unmask.noise import Scored, log_scores
from unmask.objectives.base import Loss, Objective
from unmask.randomness import Generators
from unmask.schedules import Linear, Schedule, check_kind
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True)
class ScoreEntropy(Objective):
    """Bound −log p(x) by the diffusion-weighted denoising score entropy (SEDD absorb; arXiv:2310.16834, Theorem 3.6).

    The network's outputs f are concrete scores, estimates of the ratios q(x_t with token y at position i) / q(x_t),
    scaled by what all of them have in common (SEDD, appendix C):

        s_{i,y}(x_t) = α_t / (1 − α_t) · p̃_{i,y},   p̃ = exp(f) / V,   α_t / (1 − α_t) = 1 / (e^σ − 1),   α = e^{−σ}.

    Nothing makes the p̃ of a position sum to 1. With K(a) = a (log a − 1), the bound is

        ∫ σ′_t E[ Σ_{i masked, y} s_{i,y} − r_{i,y} log s_{i,y} + K(r_{i,y}) ] dt,   r_{i,y} = 1[y = x_i] / (e^σ − 1)
        = E_{t ~ U(0, 1]} [ −α′_t / (1 − α_t) · Σ_{i masked} (Σ_y p̃_{i,y} − log p̃_{i,x_i} − 1) ].

    For p̃ that sum to 1 it is `ContinuousELBO`, term by term (MD4, appendix; RADD, arXiv:2406.03736); for others it is
    larger than that of the p̃ divided by their sum Z, by Z − 1 − log Z at each position. A network for it is one for
    `TimeFreeELBO`, `FirstHitting` and the others too, which take the p̃ divided by their sum.

    `Linear` is SEDD's log-linear noise σ = −log(1 − (1 − ε) t) for ε = 0, `Geometric` its geometric noise with exact
    ends, so that the bound has no term for t = 0 and none for t = 1.

    Args:
        schedule: gives α.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2, time_conditioning=True)
        >>> x = torch.tensor([[3, 1, 4, 1], [2, 0, 2, 3]])
        >>> def bound(objective):
        ...     return objective(network, x, generator=torch.Generator().manual_seed(0)).nelbo
        >>> bound(unmask.ScoreEntropy()).allclose(bound(unmask.ContinuousELBO()))  # scores of a new network sum to 1
        True
    """

    schedule: Schedule = field(default_factory=Linear)

    def __post_init__(self) -> None:
        check_kind(self.schedule, Schedule, "ScoreEntropy")

    @property
    def process(self) -> Schedule:
        return Scored(self.schedule)

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        t = sample_times(len(x), generator=generator, device=x.device)
        x_t = mask(x, t, self.schedule, network.mask_id, given=given, generator=generator)
        rate, weight = self.schedule.mask_rate(t), self.schedule.weight(t)
        at = Positions.of(x_t == network.mask_id)
        log_p = log_scores(network(x_t, rate, label, at=at))
        entropy = log_p.exp().sum(-1) - log_p.gather(1, at.pick(x.flatten(1)).unsqueeze(1)).squeeze(1) - 1
        loss = (at.spread(weight / len(x)) * entropy).sum()
        parts = weight.unsqueeze(1) * at.put(entropy.detach(), len(x), x[0].numel())
        return Loss(loss, parts.sum(1), parts)

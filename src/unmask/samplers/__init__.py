"""Samplers: they start from a canvas with masks and reveal every masked position.

First-hitting sampling as the paper writes it (FHS, arXiv:2409.02908, section 4). With n tokens masked, the next one is
revealed at the time

    τₙ₋₁ = α⁻¹(1 − u^(1/n) (1 − α(τₙ))),   u ~ U[0, 1),   τ_L = 1,

at one of the n masked positions, chosen uniformly, and its token is drawn from the network's prediction:

    import torch
    from unmask.categorical import categorical

    @torch.no_grad()
    def first_hitting(network, schedule, batch, length, generator=None):
        x = torch.full((batch, length), network.mask_id)
        tau = torch.ones(batch, dtype=torch.float64)
        for n in range(length, 0, -1):
            u, v = torch.rand(2, batch, dtype=torch.float64, generator=generator)
            tau = schedule.inverse(1 - u ** (1 / n) * (1 - schedule.alpha(tau)))
            masked = (x == network.mask_id).double()
            position = torch.multinomial(masked, 1, generator=generator)
            at = torch.zeros_like(x, dtype=torch.bool).scatter(1, position, True)
            x[at] = categorical(network(x, 1 - schedule.alpha(tau), at=at), v)
        return x

`Planned` generalises this. Give every position one uniform number v: it is masked at time t exactly while
v < 1 − α(t). The largest v of the masked positions is distributed as u^(1/n) (1 − α(τₙ)), and each position is equally
likely to hold it, so revealing the positions in decreasing order of v has the same distribution as the loop above. All
times and positions can therefore be planned before the first network call, and a sampler is only the map from v to the
step that reveals each position: `FirstHitting` sorts v, `Ancestral` bins it by a grid of times, `InOrder` ignores it.
The others are not planned: `MostConfident` and `EntropyBounded` choose positions by the network's predictions,
`Remasking` masks revealed tokens again, and `TokenFirstHitting` and `TokenAncestral` are for schedules that depend on
the token. `Tweedie` and `Euler` are SEDD's, and `LeftToRight` is for networks that read from left to right. `llada` and
`dream` return the procedures that were published with these models.
"""

from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler, State
from unmask.samplers.confidence import EntropyBounded, MostConfident
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.gaussian import GaussianAncestral
from unmask.samplers.left_to_right import LeftToRight
from unmask.samplers.ordered import InOrder
from unmask.samplers.presets import dream, llada
from unmask.samplers.remasking import Remasking
from unmask.samplers.score import Euler, Tweedie
from unmask.samplers.token import TokenAncestral, TokenFirstHitting
from unmask.samplers.uniform import UniformAncestral
from unmask.samplers.unmasking import Plan, Planned, Unmasking

__all__ = [
    "Sampler",
    "State",
    "Planned",
    "Plan",
    "Unmasking",
    "FirstHitting",
    "Ancestral",
    "InOrder",
    "MostConfident",
    "EntropyBounded",
    "Remasking",
    "TokenFirstHitting",
    "TokenAncestral",
    "LeftToRight",
    "Tweedie",
    "Euler",
    "UniformAncestral",
    "GaussianAncestral",
    "llada",
    "dream",
]

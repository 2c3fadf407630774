"""Ancestral sampling of Gaussian diffusion of embeddings (Plaid)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.categorical import categorical, filter_logits
from unmask.checks import check_whole
from unmask.networks.base import Network
from unmask.networks.constrained import Constrained
from unmask.networks.gaussian import VectorNetwork, Vectors, expected_vector
from unmask.randomness import Generators, normal, uniform
from unmask.samplers.base import State
from unmask.samplers.redrawing import Redrawing
from unmask.samplers.rows import Failures
from unmask.types import Labels, Tokens


@dataclass(frozen=True)
class GaussianAncestral(Redrawing):
    """Simulate the reverse process of `GaussianELBO` in T steps, then draw the tokens from p(x | z_0).

    From t to s = t − 1 / T, with c = 1 − e^{γ(s) − γ(t)} and ê of the network's prediction at z_t (VDM,
    arXiv:2107.00630, equation 33),

        z_s = α_s ((1 − c) z_t / α_t + c ê) + σ_s √c ε,   ε ~ N(0, 1),   z_1 ~ N(0, 1).

    The vectors are held in float64, and the tokens are drawn exactly (`unmask.categorical`). Temperature, top-k, top-p
    and guidance change the predictions, ê among them. The states show the likeliest tokens until the last draws them.
    What is known is refused, but where the model was trained so; see `Redrawing`.

    With self-conditioning the network is given its estimate of the step before, as published.

    Args:
        steps: T; the network is called T + 1 times.
        fresh: with self-conditioning, whether the estimate is made anew from the same z_t, by a second call in each
            step. That is the model that the bound is of.

    Examples:
        >>> network = unmask.GaussianTransformer(5, (16,), width=32, depth=1, heads=2)
        >>> canvas = unmask.all_masked(2, (16,), network.mask_id)
        >>> *_, last = unmask.GaussianAncestral(steps=4).trajectory(network, canvas)
        >>> last.calls
        tensor([5, 5])
    """

    steps: int = 256
    fresh: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(1, steps=self.steps)

    @torch.no_grad()
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """See `Sampler.trajectory`. The first state is the canvas."""
        inner, forbidden = (network.network, network.forbidden) if isinstance(network, Constrained) else (network, None)
        if not isinstance(inner, VectorNetwork):
            raise ValueError(f"GaussianAncestral is for networks that read noisy vectors, not {type(inner).__name__}")
        unknown, table = self.check(network, x, label).flatten(1), inner.embeddings()
        known, count = ~unknown.unsqueeze(2), self.steps
        fixed = table[x.flatten(1).clamp(max=inner.vocab_size - 1)].double()
        z = torch.where(known, fixed, normal(tuple(fixed.shape), generator, x.device))
        times = torch.arange(count, -1, -1, dtype=torch.float64, device=x.device) / count
        gamma = inner.noise(times)
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        failures = Failures(x.device)
        estimate: Vectors | None = None
        yield State(x, times[:1].expand(len(x)), calls)
        for k in range(count + 1):
            if self.fresh and inner.self_conditioning:
                estimate = expected_vector(
                    self.logits(inner, z, gamma[k], label, None, forbidden).log_softmax(-1), table
                )
                calls = calls + self.evaluations
            logits = self.logits(inner, z, gamma[k], label, estimate, forbidden)
            calls = calls + self.evaluations
            if k == count:
                u = uniform(tuple(x.shape), generator, x.device).flatten()
                token = categorical(logits.flatten(0, 1), u).view(unknown.shape)
                failures.note(unknown & (token == inner.mask_id), k + 1)
            else:
                token = logits.argmax(-1)
                estimate = expected_vector(logits.log_softmax(-1), table)
                z = torch.where(known, fixed, step_back(z, estimate.double(), gamma[k], gamma[k + 1], generator))
                failures.note(~z.isfinite(), k + 1)
            shown = torch.where(unknown, token, x.flatten(1)).view_as(x)
            yield State(shown, times[min(k + 1, count)].expand(len(x)), calls)
        failures.check()

    def logits(
        self,
        network: VectorNetwork,
        z: Vectors,
        gamma: Float[Tensor, ""],
        label: Labels | None,
        estimate: Vectors | None,
        forbidden: Bool[Tensor, "*places vocab"] | None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Return the logits at every position, after guidance, filters and constraints."""
        z, gamma = z.to(network.embeddings().dtype), gamma.expand(len(z))
        null = None if label is None else torch.full_like(label, network.classes or 0)
        if self.guidance == 1 or label is None or null is None:
            found = network.denoise(z, gamma, label, estimate)
        elif self.guidance == 0:
            found = network.denoise(z, gamma, null, estimate)
        else:
            twice = None if estimate is None else estimate.repeat(2, 1, 1)
            both = network.denoise(z.repeat(2, 1, 1), gamma.repeat(2), torch.cat((label, null)), twice)
            found = self.guide(*both.chunk(2))
        if forbidden is not None:
            places = forbidden if forbidden.dim() == 1 else forbidden.flatten(0, -2)
            found = found.masked_fill(places, -torch.inf)
        return filter_logits(
            found.float() if found.dtype.itemsize < 4 else found, self.temperature, self.top_k, self.top_p
        )


def step_back(
    z: Vectors, estimate: Vectors, gamma_t: Float[Tensor, ""], gamma_s: Float[Tensor, ""], generator: Generators
) -> Vectors:
    """Draw z_s given z_t and ê; see `GaussianAncestral`."""
    c = -torch.expm1(gamma_s - gamma_t)
    alpha_t, alpha_s = (torch.sigmoid(-gamma).sqrt() for gamma in (gamma_t, gamma_s))
    noise = normal(tuple(z.shape), generator, z.device)
    return alpha_s * ((1 - c) * z / alpha_t + c * estimate) + (torch.sigmoid(gamma_s) * c).sqrt() * noise

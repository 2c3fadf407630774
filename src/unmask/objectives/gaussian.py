"""The objective of Gaussian diffusion of embeddings (Plaid): a continuous-time bound with all its terms."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.forward import sample_times
from unmask.networks.base import Network
from unmask.networks.gaussian import VectorNetwork, Vectors, expected_vector, log_predictions, noised
from unmask.objectives.base import Loss, Objective
from unmask.randomness import Generators, normal
from unmask.types import Labels, Times, Tokens, Where


@dataclass(frozen=True)
class GaussianELBO(Objective):
    """Bound −log p(x) by the ELBO of Gaussian diffusion of embeddings, as Plaid trains it (arXiv:2305.18619).

    With unit vectors e_i of the tokens x_i, noise as in `LearnedNoise`, p the network's prediction at a position, and
    ê_i = Σ_v p(v | z_t) e_v (categorical reparameterisation),

        −log p(x) ≤ E[ Σ_i −log p(x_i | z_0) ]                                       reconstruction
                  + Σ_i ½ (α_1² |e_i|² + d (σ_1² − 1 − log σ_1²))                    prior: KL(q(z_1 | x) || N(0, 1))
                  + ½ E_{t ~ U(0, 1)} [ γ′(t) e^{−γ(t)} Σ_i |e_i − ê_i(z_t)|² ]      diffusion

    (VDM, arXiv:2107.00630). The prior term is computed, and one of the other two is drawn for each
    example: the first with the probability `reconstruction`, which it is divided by, so that each estimate is unbiased
    and takes one network call.

    The gradient in the network, the embeddings and the ends of the noise schedule is that of the bound. The bound does
    not depend on the shape γ̃ of the schedule, which instead minimises the variance of the estimate: its gradient is
    that of E[ℓ²] / (2 E[ℓ]) with ℓ the diffusion term of an example, as in VDM and Plaid.

    With self-conditioning the network is also given the ê of a first call at the same z_t; in training every fourth
    example is, and gives no gradient to the embeddings and the noise schedule, which that call depends on, too.

    Tokens that are given have their vectors as they are, at every t, and are not counted.

    Args:
        reconstruction: share of the draws that are of the reconstruction term, in (0, 1).

    Examples:
        >>> network = unmask.GaussianTransformer(5, (4,), width=32, depth=1, heads=2)
        >>> found = unmask.GaussianELBO()(network, torch.tensor([[3, 1, 4, 1], [2, 0, 2, 3]]))
        >>> found.loss.backward()  # through the network, the embeddings and the noise schedule
        >>> found.nelbo.shape, network.noise.ends.grad is not None
        (torch.Size([2]), True)
    """

    reconstruction: float = 0.125

    def __post_init__(self) -> None:
        if not 0 < self.reconstruction < 1:
            raise ValueError(f"reconstruction must be in (0, 1), got {self.reconstruction}")

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        if not isinstance(network, VectorNetwork):
            raise ValueError(
                f"GaussianELBO is for networks that read noisy vectors, such as GaussianTransformer; "
                f"{type(network).__name__} reads tokens"
            )
        u = sample_times(len(x), generator=generator, device=x.device)
        first = u <= self.reconstruction  # of these the reconstruction term is drawn, at t = 0
        t = ((u - self.reconstruction) / (1 - self.reconstruction)).clamp(min=0)
        noise = normal((len(x), x[0].numel(), network.dim), generator, x.device)
        return self.terms(network, x.flatten(1), label, first, t, noise, None if given is None else given.flatten(1))

    def terms(
        self,
        network: VectorNetwork,
        x: Int[Tensor, "batch length"],
        label: Labels | None,
        first: Bool[Tensor, " batch"],
        t: Times,
        noise: Vectors,
        given: Bool[Tensor, "batch length"] | None = None,
    ) -> Loss:
        """Return the loss and the bound from what is drawn.

        Args:
            network: of vectors.
            x: tokens.
            label: class of each example.
            first: of which examples the reconstruction term is drawn; then t is 0.
            t: times.
            noise: ε, standard normal.
            given: tokens that are conditioned on.
        """
        rows, frozen = conditioned_rows(network, len(x), x.device)
        shape, slope = network.noise.shape(t)
        scale = scaled_gradients(shape, slope)
        ends = network.noise.ends.double()
        gamma, dgamma = ends[0] + (ends[1] - ends[0]) * shape, (ends[1] - ends[0]) * slope
        table = network.embeddings()
        e = table[x]
        if frozen is not None:
            gamma, dgamma = (torch.where(frozen, part.detach(), part) for part in (gamma, dgamma))
        seen = e if frozen is None else torch.where(frozen.view(-1, 1, 1), e.detach(), e)
        z = noised(seen, gamma, noise)
        z = z if given is None else torch.where(given.unsqueeze(2), seen, z)
        estimate = first_estimate(network, z, gamma, label, rows)
        log_p = log_predictions(network, z, gamma, label, estimate, frozen)
        error = (seen - expected_vector(log_p, table, frozen)).square().sum(-1)
        nll = -log_p.gather(2, x.unsqueeze(2)).squeeze(2)
        weight = dgamma * (-gamma).exp() / (2 * (1 - self.reconstruction))
        diffusion = torch.where(first, 0, weight).unsqueeze(1) * error
        prior = (torch.sigmoid(-ends[1]) * e.square().sum(-1) + prior_of_noise(ends[1], network.dim)) / 2
        parts = torch.where(first.unsqueeze(1), nll / self.reconstruction, diffusion) + prior
        if given is not None:
            parts, diffusion = parts.masked_fill(given, 0), diffusion.masked_fill(given, 0)
        each = diffusion.detach().sum(1)
        scale.append(each / each.mean().clamp(min=torch.finfo(each.dtype).tiny))
        loss, parts = parts.sum() / len(x), parts.detach()
        return Loss(loss, parts.sum(1), parts)


def scaled_gradients(*parts: Times) -> list[Times]:
    """Multiply the gradients that come to some tensors by what is put into the list that is returned."""
    scale: list[Times] = []
    for part in parts:
        if part.requires_grad:
            part.register_hook(lambda grad: grad * scale[0])
    return scale


def conditioned_rows(
    network: VectorNetwork, batch: int, device: torch.device
) -> tuple[slice | None, Bool[Tensor, " batch"] | None]:
    """Return which examples are given an estimate, and which of them are frozen; see `GaussianELBO`."""
    if not network.self_conditioning:
        return None, None
    if not network.training:
        return slice(None), None
    return slice(3, None, 4), torch.arange(batch, device=device) % 4 == 3


@torch.no_grad()
def first_estimate(
    network: VectorNetwork, z: Vectors, gamma: Times, label: Labels | None, rows: slice | None
) -> Vectors | None:
    """Return ê of a call without an estimate for some examples, and 0 for the others; None if for none."""
    if rows is None:
        return None
    estimate = torch.zeros_like(z)
    log_p = log_predictions(network, z[rows], gamma[rows], None if label is None else label[rows])
    estimate[rows] = expected_vector(log_p, network.embeddings())
    return estimate


def prior_of_noise(gamma: Float[Tensor, ""], dim: int) -> Float[Tensor, ""]:
    """Return d (σ² − 1 − log σ²) at the end of the noise schedule."""
    return dim * (F.softplus(-gamma) - torch.sigmoid(-gamma))

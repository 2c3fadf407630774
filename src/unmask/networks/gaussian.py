"""Networks of Gaussian diffusion of embeddings (Plaid): they read noisy vectors in place of tokens."""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unmask.networks.base import At, Network
from unmask.networks.transformer import Transformer
from unmask.types import Labels, Logits, Times, Tokens

Vectors = Float[Tensor, "batch length dim"]
"""A vector at each position, in row-major order."""


class LearnedNoise(nn.Module):
    """The learned noise schedule γ(t) of variational diffusion models (arXiv:2107.00630; Plaid, arXiv:2305.18619).

        z_t = α_t e + σ_t ε,   α_t² = sigmoid(−γ(t)),   σ_t² = sigmoid(γ(t)),   SNR(t) = e^{−γ(t)},
        γ(t) = γ_0 + (γ_1 − γ_0) γ̃(t),   γ̃(t) = (h(t) − h(0)) / (h(1) − h(0)),   h(t) = Σ_j w_j tanh(a_j (t − ½) + b_j).

    a and w are positive, so that γ̃ rises from 0 to 1.

    Args:
        first, last: initial γ_0 and γ_1.
        hidden: number of terms of h.
    """

    def __init__(self, first: float, last: float, hidden: int = 256) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor([first, last]))
        self.slopes, self.shifts, self.weights = (nn.Parameter(torch.randn(hidden)) for _ in range(3))

    def shape(self, t: Times) -> tuple[Times, Times]:
        """Return γ̃(t) and its derivative, in float64."""
        a, b = F.softplus(self.slopes.double()), self.shifts.double()
        w = F.softplus(self.weights.double())
        h = torch.tanh((t.double().unsqueeze(-1) - 0.5) * a + b)
        first, last = (w * torch.tanh(end * a + b) for end in (-0.5, 0.5))
        total = (last - first).sum()
        return (h * w - first).sum(-1) / total, (w * (1 - h**2) * a).sum(-1) / total

    def forward(self, t: Times) -> Times:
        """Return γ(t), in float64."""
        first, last = self.ends.double()
        return first + (last - first) * self.shape(t)[0]


class VectorNetwork(Network):
    """Predict clean tokens from noisy vectors; has the embeddings of the tokens, and the noise schedule.

    A subclass implements `embeddings` and `denoise`, and has an attribute `noise`. It has `GaussianELBO` and
    `GaussianAncestral`, and no other objectives and samplers.

    Attributes:
        dim: entries of a vector.
        noise: the schedule.
        self_conditioning: whether `denoise` takes an earlier estimate.
    """

    vectors = True
    dim: int
    noise: LearnedNoise
    self_conditioning: bool = False

    @property
    def passes(self) -> int:
        return 2 if self.self_conditioning else 1

    @abstractmethod
    def embeddings(self) -> Float[Tensor, "vocab dim"]:
        """Return the vector of each token, of norm 1."""

    @abstractmethod
    def denoise(
        self,
        z: Vectors,
        gamma: Times,
        label: Labels | None = None,
        estimate: Vectors | None = None,
        frozen: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Return logits over the clean token at every position.

        Args:
            z: noisy vectors.
            gamma: γ of each example.
            label: class of each example.
            estimate: of the clean vectors, made before; None: none. Without self-conditioning it is not used.
            frozen: examples that are to give no gradient to the embeddings. None: none.
        """

    def forward(
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, *, at: At | None = None
    ) -> Logits:
        """Raise a ValueError: tokens are not read."""
        raise ValueError(
            f"{type(self).__name__} reads noisy vectors, not tokens: its objective is GaussianELBO and its sampler "
            "GaussianAncestral"
        )


class GaussianTransformer(VectorNetwork, Transformer):
    """The transformer of Plaid, with the blocks and the sizes of `Transformer`, conditioned on the noise.

    The logits have what z says of each token by itself added, α/σ² ⟨z, e_v⟩ (Plaid, the output prior), so that the
    blocks learn what the other positions say. The embeddings, which are unit vectors, and the noise schedule are
    learned.

    Args:
        vocab_size: V, number of token values.
        shape: dims of one example.
        classes: number of classes; None for a network without labels.
        width: width of the residual stream; a multiple of 2 * heads.
        depth: number of blocks.
        heads: number of attention heads.
        dim: entries of the vector of a token.
        hidden: width inside the gated MLP; 8/3 of `width`, rounded to a multiple of 32, if None.
        first_gamma, last_gamma: initial ends of the noise schedule; see `LearnedNoise`.
        self_conditioning: whether the network also reads an estimate of the clean vectors that it made before
            (arXiv:2208.04202).
        dropout: probability of dropping an entry of a residual branch in training.
        absolute_positions: whether to also learn an embedding of each position.
        rotary_base: the lowest rotary frequency has a period of about 2π * rotary_base positions.
        checkpointing: whether to compute each block again in the backward pass instead of keeping what is inside.

    Examples:
        >>> network = unmask.GaussianTransformer(5, (4,), width=32, depth=1, heads=2, dim=8)
        >>> network.embeddings().shape, network.embeddings().norm(dim=1).allclose(torch.ones(5))
        (torch.Size([5, 8]), True)
    """

    def __init__(
        self,
        vocab_size: int,
        shape: tuple[int, ...],
        classes: int | None = None,
        *,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        dim: int = 16,
        hidden: int | None = None,
        first_gamma: float = -3.0,
        last_gamma: float = 6.0,
        self_conditioning: bool = False,
        dropout: float = 0.0,
        absolute_positions: bool = False,
        rotary_base: float = 10_000.0,
        checkpointing: bool = False,
    ) -> None:
        Transformer.__init__(
            self,
            vocab_size,
            shape,
            classes,
            width=width,
            depth=depth,
            heads=heads,
            hidden=hidden,
            time_conditioning=True,
            dropout=dropout,
            absolute_positions=absolute_positions,
            rotary_base=rotary_base,
            checkpointing=checkpointing,
        )
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if not first_gamma < last_gamma:
            raise ValueError(f"first_gamma must be below last_gamma, got {first_gamma} and {last_gamma}")
        self.dim, self.first_gamma, self.last_gamma = dim, first_gamma, last_gamma
        self.self_conditioning = self_conditioning
        self.embed: nn.Module = nn.Linear(dim, width, bias=False)  # type: ignore[assignment]
        self.embed_estimate = nn.Linear(dim, width, bias=False) if self_conditioning else None
        if self.embed_estimate is not None:
            nn.init.zeros_(self.embed_estimate.weight)
        self.table = nn.Parameter(F.normalize(torch.randn(vocab_size, dim), dim=1))
        self.noise = LearnedNoise(first_gamma, last_gamma)

    def embeddings(self) -> Float[Tensor, "vocab dim"]:
        """See `VectorNetwork.embeddings`."""
        return F.normalize(self.table, dim=1)

    def denoise(
        self,
        z: Vectors,
        gamma: Times,
        label: Labels | None = None,
        estimate: Vectors | None = None,
        frozen: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """See `VectorNetwork.denoise`."""
        signal, variance = torch.sigmoid(-gamma), torch.sigmoid(gamma)
        first, last = self.noise.ends.double()
        scaled = z * (signal / self.dim + variance).rsqrt().view(-1, 1, 1).to(z.dtype)
        h = self.embed(scaled).to(z.dtype)  # not that of autocast: it is what blocks add to
        if self.embed_estimate is not None:
            estimate = torch.zeros_like(z) if estimate is None else estimate
            h = h + self.embed_estimate(estimate * math.sqrt(self.dim)).to(z.dtype)
        if self.embed_position is not None:
            h = h + self.embed_position.weight
        condition = self.condition((gamma - first) / (last - first), label, len(z)) if self.condition else None
        logits = self.head(self.run_blocks(h, self.shape, self.angles(self.shape, h), condition))
        weighted = z * (signal.sqrt() / variance).view(-1, 1, 1).to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            return logits.to(z.dtype) + apply_table(weighted, self.embeddings().T, frozen)


def apply_table(
    x: Float[Tensor, "batch length n"], table: Float[Tensor, "n m"], frozen: Bool[Tensor, " batch"] | None
) -> Float[Tensor, "batch length m"]:
    """Return x @ table, of which the frozen examples give no gradient to the table."""
    if frozen is None:
        return x @ table
    return torch.where(frozen.view(-1, 1, 1), x @ table.detach(), x @ table)


def noised(e: Vectors, gamma: Times, noise: Vectors) -> Vectors:
    """Return z = α e + σ ε."""
    alpha, sigma = (torch.sigmoid(sign * gamma).sqrt().view(-1, 1, 1) for sign in (-1, 1))
    return alpha.to(e.dtype) * e + (sigma * noise).to(e.dtype)


def log_predictions(
    network: VectorNetwork,
    z: Vectors,
    gamma: Times,
    label: Labels | None = None,
    estimate: Vectors | None = None,
    frozen: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch length vocab"]:
    """Return log p(v | z) at every position; see `VectorNetwork.denoise`."""
    logits = network.denoise(z, gamma, label, estimate, frozen)
    return (logits if logits.dtype.itemsize >= torch.float32.itemsize else logits.float()).log_softmax(-1)


def expected_vector(
    log_p: Float[Tensor, "batch length vocab"],
    table: Float[Tensor, "vocab dim"],
    frozen: Bool[Tensor, " batch"] | None = None,
) -> Vectors:
    """Return ê = Σ_v p(v) e_v (categorical reparameterisation)."""
    with torch.autocast(table.device.type, enabled=False):
        return apply_table(log_p.exp().to(table.dtype), table, frozen)

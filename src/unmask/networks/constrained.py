"""A network of which some tokens are not allowed: its predictions are restricted to the others, and renormalised."""

import math
from itertools import chain

import torch
from torch import Tensor

from unmask.networks.base import At, Network, Positions
from unmask.types import Allowed, Labels, Logits, Times, Tokens


class Constrained(Network):
    """Restrict every prediction to the set A_i of tokens that are allowed at position i.

        p̃(x_i | x_t) = p(x_i | x_t) / Σ_{v in A_i} p(v | x_t)   for x_i in A_i,   0 otherwise.

    Every sampler then draws allowed tokens only, and every conditional is renormalised. That is not the same as
    conditioning the joint distribution on the constraint. With an exact network, drawing one token per call in the
    random order σ yields

        p̃(x) = p(x) · E_σ ∏_n 1 / p(A_σ(n) | x_σ(1), ..., x_σ(n−1))   for x in A,   not   p(x | A) = p(x) / p(A):

    a token is chosen without regard to how likely it makes the constraint on those that follow. The two are equal where
    positions are independent, and where one position alone is constrained and is revealed first.

    Tokens that a canvas shows are kept, whether they are allowed or not.

    Args:
        network: of the predictions.
        allowed: which tokens are allowed, at every position (V,) or at each one (*dims, V); dims are those of the
            network, or of a text that is shorter.

    Raises:
        ValueError: `allowed` is of another shape or type, or leaves a position with no token that the network predicts;
            says which.
    """

    def __init__(self, network: Network, allowed: Allowed) -> None:
        super().__init__()
        self.network = network
        self.vocab_size, self.shape, self.classes = network.vocab_size, network.shape, network.classes
        self.excluded, self.any_length, self.causal = network.excluded, network.any_length, network.causal
        check_allowed(allowed, network)
        place = next(chain(network.parameters(), network.buffers()), allowed)
        self.register_buffer("forbidden", ~allowed.to(place.device), persistent=False)
        self.forbidden: Tensor

    def forward(
        self,
        x_t: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: At | None = None,
    ) -> Logits:
        """See `Network.forward`."""
        forbidden = self.forbidden
        if forbidden.dim() > 1:
            if x_t.shape[1:] != forbidden.shape[:-1]:
                shape, wanted = tuple(x_t.shape[1:]), tuple(forbidden.shape[:-1])
                raise ValueError(f"`allowed` is for examples of shape {wanted}, got some of shape {shape}")
            if at is not None:
                at = Positions.of(at)
                forbidden = forbidden.flatten(0, -2).index_select(0, at.position)
        return self.network(x_t, noise, label, at=at).masked_fill(forbidden, -math.inf)

    def restrict(self, logits: Logits, position: int) -> Logits:
        """Return logits (batch, V) of one position (row-major) with those of the tokens that it forbids at -inf."""
        forbidden = self.forbidden if self.forbidden.dim() == 1 else self.forbidden.flatten(0, -2)[position]
        return logits.masked_fill(forbidden, -math.inf)


def check_allowed(allowed: object, network: Network) -> None:
    """Raise a ValueError unless `allowed` fits a network and leaves it a token at every position."""
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
        got = allowed.dtype if isinstance(allowed, Tensor) else type(allowed).__name__
        raise ValueError(f"`allowed` must be a tensor of bool, true for the tokens that are allowed; got {got}")
    dims, vocab = tuple(allowed.shape[:-1]), network.vocab_size
    fits = not dims or dims == network.shape or (len(dims) == len(network.shape) == 1 and dims < network.shape)
    if not fits or allowed.shape[-1:] != (vocab,):
        shapes = f"({vocab},) or {(*network.shape, vocab)}"
        raise ValueError(f"`allowed` must be of shape {shapes}, one flag for each token; got {tuple(allowed.shape)}")
    left = allowed.clone()
    left[..., list(network.excluded)] = False
    empty = ~left.any(-1)
    if empty.any():
        place = empty.nonzero()[0].tolist()
        only = bool(allowed[(*place,)].any())
        where = f"position {place[0] if len(place) == 1 else tuple(place)}: " if dims else ""
        raise ValueError(f"{where}no token is allowed" + (" but some that the model never predicts" if only else ""))

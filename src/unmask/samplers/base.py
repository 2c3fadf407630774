"""The base class of samplers: a trajectory of states, and the logits from which tokens are drawn."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.categorical import check_filters, filter_logits
from unmask.networks.base import At, Network, Positions, check_label, check_tokens
from unmask.randomness import Generators
from unmask.types import Labels, Logits, Times, Tokens, Where


class State(NamedTuple):
    """One point of a trajectory.

    Attributes:
        x: tokens, masked where nothing is revealed yet.
        t: time of each example, from 1 down to 0.
        calls: network evaluations per example so far.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> states = unmask.FirstHitting().trajectory(network, unmask.all_masked(1, (4,), 5))
        >>> [(int((state.x == 5).sum()), int(state.calls)) for state in states]  # masks, calls
        [(4, 0), (3, 1), (2, 2), (1, 3), (0, 4)]
    """

    x: Tokens
    t: Times
    calls: Int[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Reveal the masked positions of a canvas; tokens that the canvas shows are never changed.

    Classifier-free guidance of scale s replaces the logits by

        ℓ(x_i | label) + (s − 1) (ℓ(x_i | label) − ℓ(x_i)).

    Args:
        temperature: divides the logits; positive.
        top_k: draw from the k most likely tokens only.
        top_p: draw from the most likely tokens that together have this probability, in (0, 1] (nucleus sampling).
        guidance: scale s of classifier-free guidance. 1: no guidance; 0: the label is ignored. Any other value takes
            two network evaluations per example, in one batch.

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> canvas = torch.tensor([[3, 5, 5, 1]])  # 5 is the mask: the two tokens between are drawn
        >>> x = unmask.FirstHitting(temperature=0.8)(network, canvas)
        >>> x[:, [0, 3]]
        tensor([[3, 1]])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_filters(self.temperature, self.top_k, self.top_p)
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be at least 0 and finite, got {self.guidance}")

    @abstractmethod
    def trajectory(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Iterator[State]:
        """Yield the initial state, then the state after each step.

        Args:
            network: predicts the masked tokens.
            x: canvas (batch, *dims), `network.mask_id` where tokens are to be drawn.
            label: class of each example, for networks with classes.
            generator: see `unmask.randomness`; with one per example, an example does not depend on its batch.

        Raises:
            ValueError: if tokens or labels are out of range, nothing is masked, or guidance lacks labels.
            FloatingPointError: if the logits of a step are NaN, infinite, or all -inf.
        """

    def __call__(
        self, network: Network, x: Tokens, label: Labels | None = None, *, generator: Generators = None
    ) -> Tokens:
        """Return the tokens of the last state of `trajectory`."""
        for state in self.trajectory(network, x, label, generator=generator):
            x = state.x
        return x

    @property
    def evaluations(self) -> int:
        """Network evaluations per example in one call."""
        return 1 if self.guidance in (0, 1) else 2

    def check(self, network: Network, x: Tokens, label: Labels | None) -> Where:
        """Return where a canvas is masked; raise a ValueError if canvas or labels are invalid (see `trajectory`)."""
        check_tokens(x, network.vocab_size + 1)
        check_label(label, network.classes, len(x))
        if self.guidance != 1 and label is None:
            has = "no label was given" if network.classes else "the network takes none (it was built with classes=None)"
            raise ValueError(f"guidance {self.guidance:g} needs a label of each example; {has}")
        masked = x == network.mask_id
        if not masked.any():
            raise ValueError(f"the canvas has no masked position (value {network.mask_id}): nothing to sample")
        return masked

    def predict(self, network: Network, x: Tokens, noise: Times, label: Labels | None, at: At) -> Logits:
        """Return the network's logits at the N positions `at`, after guidance."""
        if self.guidance == 1 or label is None:
            return network(x, noise, label, at=at)
        null = torch.full_like(label, network.classes or 0)
        if self.guidance == 0:
            return network(x, noise, null, at=at)
        twice = Positions.of(at).repeat(2, len(x))
        logits = network(x.repeat(2, *[1] * (x.dim() - 1)), noise.repeat(2), torch.cat((label, null)), at=twice)
        return self.guide(*logits.chunk(2))

    def guide(self, labelled: Logits, unlabelled: Logits) -> Logits:
        """Return guided logits from those with the labels and those without."""
        if labelled.dtype != torch.float64:
            labelled, unlabelled = labelled.float(), unlabelled.float()
        guided = unlabelled + self.guidance * (labelled - unlabelled)
        # Where one of them is -inf, the difference is not finite: take the limit.
        limit = torch.minimum(labelled, unlabelled) if self.guidance < 1 else labelled
        return torch.where(labelled.isneginf() | unlabelled.isneginf(), limit, guided)

    def token_logits(self, network: Network, x: Tokens, noise: Times, label: Labels | None, at: At) -> Logits:
        """Return the logits from which tokens are drawn at `at`: after guidance, temperature, top-k and top-p."""
        return filter_logits(self.predict(network, x, noise, label, at), self.temperature, self.top_k, self.top_p)


def flag_of_rank(flags: Where, rank: Int[Tensor, " batch"]) -> Where:
    """Keep only the set flag number `rank` of each example, counted from 0 in row-major order."""
    flat = flags.flatten(1)
    return ((flat.cumsum(1) == rank.unsqueeze(1) + 1) & flat).view_as(flags)

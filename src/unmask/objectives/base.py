"""What an objective is: a bound on -log p(x), in nats per example, from a network's predictions at masked positions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from unmask.networks.base import Network
from unmask.randomness import Generators
from unmask.types import Labels, Nats, Tokens, Where


class Loss(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: the scalar to backpropagate.
        nelbo: an unbiased estimate of the negative ELBO, an upper bound on -log p(x); nats per example, detached.
        parts: what each token adds to `nelbo`, (batch, L) with the dims flattened.
    """

    loss: Float[Tensor, ""]
    nelbo: Nats
    parts: Float[Tensor, "batch length"]


@dataclass(frozen=True)
class Objective(ABC):
    """Estimate a bound on -log p(x) from random masks of x. It owns its randomness and calls the network."""

    @property
    def calls(self) -> int:
        """Network evaluations an example."""
        return 1

    @abstractmethod
    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        """Mask x at random and weigh the network's cross-entropies.

        Args:
            network: predicts the masked tokens; it is told the mask rate, or the time where the schedule depends on
                the token.
            x: clean tokens (batch, *dims).
            label: class of each example, for a network that takes one.
            given: tokens that are conditioned upon: never masked, and not part of the bound, which is on -log p of the
                others given these. At least one of an example must not be given. None: no token is.
            generator: see `unmask.randomness`.
        """


def open_length(x: Tokens, given: Where | None) -> int | Int[Tensor, " batch"]:
    """Return L: the number of tokens that are not given, of each example where some are."""
    return x[0].numel() if given is None else (~given).flatten(1).sum(1)

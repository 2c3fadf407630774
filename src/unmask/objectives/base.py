"""The base class of objectives: upper bounds on -log p(x) from the network's predictions at masked positions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from unmask.networks.base import Network
from unmask.randomness import Generators
from unmask.schedules import Linear, Schedule, TokenPolynomial
from unmask.types import Labels, Nats, Tokens, Where


class Loss(NamedTuple):
    """The result of an objective.

    Attributes:
        loss: the scalar to backpropagate.
        nelbo: unbiased estimate of the negative ELBO, an upper bound on −log p(x), in nats per example; detached.
        parts: contribution of each token to `nelbo`, (batch, L).

    Examples:
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> found = unmask.TimeFreeELBO()(network, torch.tensor([[3, 1, 4, 1], [2, 0, 2, 3]]))
        >>> found.loss.backward()
        >>> found.nelbo.shape, found.parts.shape
        (torch.Size([2]), torch.Size([2, 4]))
    """

    loss: Float[Tensor, ""]
    nelbo: Nats
    parts: Float[Tensor, "batch length"]


@dataclass(frozen=True)
class Objective(ABC):
    """Estimate an upper bound on −log p(x): mask x at random, call the network, weight its cross-entropies.

    Examples:
        >>> class Twice(unmask.Objective):
        ...     def __call__(self, network, x, label=None, *, given=None, generator=None):
        ...         draw = lambda: unmask.TimeFreeELBO()(network, x, label, given=given, generator=generator)
        ...         return unmask.Loss(*((one + other) / 2 for one, other in zip(draw(), draw())))
        >>> network = unmask.Transformer(5, (4,), width=32, depth=1, heads=2)
        >>> Twice()(network, torch.tensor([[3, 1, 4, 1]])).nelbo / 4  # log 5: it has not learned anything
        tensor([1.6094], dtype=torch.float64)
    """

    @property
    def exact(self) -> bool:
        """Whether it is −log p(x) itself, and nothing is drawn."""
        return False

    @property
    def calls(self) -> int:
        """Network evaluations per example."""
        return 1

    @property
    def process(self) -> Schedule | TokenPolynomial:
        """What a model that is trained with it has as its schedule (`MaskedDiffusion.schedule`)."""
        return getattr(self, "schedule", None) or Linear()

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
        """Return the loss and the bound of a batch.

        Args:
            network: predicts the masked tokens, given the mask rate, or the time under a state-dependent schedule.
            x: tokens (batch, *dims).
            label: class of each example, for networks with classes.
            given: tokens to condition on, which are never masked: the bound is on −log p(other tokens | given tokens).
                At least one token of each example must not be given. None: no token is given.
            generator: see `unmask.randomness`.
        """


def length_without_given(x: Tokens, given: Where | None) -> int | Int[Tensor, " batch"]:
    """Return L, the number of tokens that are not given; one number per example if some are.

    It is 1 for an example of which every token is given: nothing of it can be masked, and it adds nothing to a loss.
    """
    return x[0].numel() if given is None else (~given).flatten(1).sum(1).clamp(min=1)

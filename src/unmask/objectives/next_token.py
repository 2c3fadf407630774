"""The objective of left-to-right models: the likelihood itself."""

from dataclasses import dataclass

import torch

from unmask.networks.base import Network, Positions
from unmask.objectives.base import Loss, Objective
from unmask.objectives.scalar import masked_cross_entropy, positions_to_predict
from unmask.randomness import Generators
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True)
class NextToken(Objective):
    """The negative log-likelihood of a left-to-right model: no bound, and nothing is drawn.

        −log p(x) = Σ_i −log p(x_i | x_<i)

    A token that is given is read like any other, and not counted. What comes out is −log p(others | given) where given
    tokens come first: a prompt, a question. A token given later is conditioned on by those after it alone:

        Σ_{i not given} −log p(x_i | x_<i),

    the likelihood of what `LeftToRight` draws around it. So texts that are filled up have the bound of p(n) p(x | n)
    with a p(x | n) that does not depend on n, and the questions of a conversation are not counted.

    It is for networks that are `causal`, such as `CausalTransformer`.

    Examples:
        >>> network = unmask.CausalTransformer(5, (4,), width=32, depth=1, heads=2)
        >>> unmask.NextToken()(network, torch.tensor([[3, 1, 4, 1]])).nelbo / 4  # log 5: it has not learned anything
        tensor([1.6094], dtype=torch.float64)
    """

    @property
    def exact(self) -> bool:
        return True

    def __call__(
        self,
        network: Network,
        x: Tokens,
        label: Labels | None = None,
        *,
        given: Where | None = None,
        generator: Generators = None,
    ) -> Loss:
        check_objective(self, network)
        counted = torch.ones_like(x, dtype=torch.bool) if given is None else ~given
        at, some = (Positions.of(counted, x.numel()), None) if given is None else positions_to_predict(counted)
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        return masked_cross_entropy(network, x, x, torch.zeros_like(one), label, at=at, weight=one, counted=some)


def check_objective(objective: Objective, network: Network) -> None:
    """Raise a ValueError for the objective of a left-to-right model with another network, or the other way round."""
    if isinstance(objective, NextToken) == network.causal:
        return
    name = type(objective).__name__
    if network.causal:
        raise ValueError(f"the network reads from left to right: its objective is NextToken, got {name}")
    raise ValueError(
        f"NextToken is for networks that read from left to right, such as CausalTransformer; "
        f"{type(network).__name__} predicts masked tokens: take TimeFreeELBO"
    )

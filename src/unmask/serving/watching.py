"""What a network predicted in each step of a sampler: the probabilities of the tokens that were drawn."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from unmask.networks.base import Network, Positions
from unmask.samplers.base import State
from unmask.types import Where


class Watched:
    """Keeps the predictions of a network while it is entered.

    Args:
        network: that a sampler calls.
        evaluations: of each call of the sampler; with two, the first half are those with the label.
        check: called before each network call; may raise.
    """

    def __init__(self, network: Network, evaluations: int, check: Callable[[], None]) -> None:
        self.network, self.evaluations, self.check = network, evaluations, check
        self.calls: list[tuple[Tensor, Any, Tensor]] = []
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> "Watched":
        self.calls = []
        self.handles = [
            self.network.register_forward_pre_hook(lambda *_: self.check()),
            self.network.register_forward_hook(self._keep, with_kwargs=True),
        ]
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, module: Any, arguments: tuple, settings: dict[str, Any], logits: Tensor) -> None:
        if settings.get("at") is not None:
            self.calls.append((arguments[0], settings["at"], logits))

    def probabilities(self, before: State, after: State, changed: Where) -> Float[Tensor, "batch length"]:
        """Return the probability that the network gave each token that a step has drawn, where it is known, else NaN.

        It is that of the last call in which the position was predicted: before temperature, top-k, top-p and guidance.

        Args:
            before, after: the states around the step.
            changed: which tokens the step has changed.
        """
        flat, wanted = after.x.flatten(1), changed.flatten(1) & (after.x != self.network.mask_id).flatten(1)
        p = torch.full(flat.shape, torch.nan, dtype=torch.float64, device=flat.device)
        rows = (after.calls > before.calls).nonzero().squeeze(1)  # the examples that a call was made for
        for x_t, at, logits in self.calls:
            if len(x_t) != len(rows) * self.evaluations:
                continue
            place = Positions.of(at)
            count = len(place.example) // self.evaluations
            example, position = rows[place.example[:count]], place.position[:count]
            here = wanted[example, position]
            example, position = example[here], position[here]
            log_p = logits[:count][here].double().log_softmax(-1)
            p[example, position] = log_p.gather(1, flat[example, position].unsqueeze(1)).squeeze(1).exp()
        return p

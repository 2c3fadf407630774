"""The distribution of some tokens of a canvas, the unknown ones marginalised out."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.networks.base import At, Network, Positions
from unmask.types import Labels, Logits, Times, Tokens


class Marginal(Network):
    """Predict the m counted tokens of a canvas from one another.

    The network sees the whole canvas, in which the counted tokens stand as far as they are revealed; every other token
    is as the canvas has it: given, or a mask that is never revealed. An objective of this network bounds −log p(counted
    tokens | given tokens), and knows nothing of the masks.

    Args:
        network: of the whole canvas.
        canvas: (*dims), masked where unknown.
        counted: (*dims), which of the tokens are counted.

    Raises:
        ValueError: nothing is counted.
    """

    def __init__(self, network: Network, canvas: Int[Tensor, "*dims"], counted: Bool[Tensor, "*dims"]) -> None:
        super().__init__()
        place = counted.flatten().nonzero().squeeze(1)
        if not len(place):
            raise ValueError("no token is counted: there is nothing to predict")
        self.network = network
        self.vocab_size, self.shape, self.classes = network.vocab_size, (len(place),), network.classes
        self.excluded = network.excluded
        self.register_buffer("canvas", canvas, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.canvas: Tensor
        self.place: Tensor

    def whole(self, x: Int[Tensor, "batch counted"]) -> Int[Tensor, "batch *whole"]:
        """Return the canvas of each example (batch, m): (batch, *dims)."""
        whole = self.canvas.flatten().repeat(len(x), 1).index_copy(1, self.place, x)
        return whole.view(len(x), *self.canvas.shape)

    def _there(self, at: At) -> Positions:
        """Return positions among the counted tokens as positions of the canvas."""
        at = Positions.of(at)
        index = None if at.index is None else self.place[at.index]
        return Positions(at.example, self.place[at.position], index, at.kept)

    def forward(
        self,
        x_t: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: At | None = None,
    ) -> Logits:
        """See `Network.forward`."""
        if at is not None:
            return self.network(self.whole(x_t), noise, label, at=self._there(at))
        return self.network(self.whole(x_t), noise, label).flatten(1, -2)[:, self.place]

    def cross_entropy(
        self,
        x_t: Tokens,
        x: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: Positions,
        weight: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """See `Network.cross_entropy`."""
        there = self._there(at)
        return self.network.cross_entropy(self.whole(x_t), self.whole(x), noise, label, at=there, weight=weight)

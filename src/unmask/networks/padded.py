"""Running a network on texts shorter than its own length."""

import torch.nn.functional as F

from unmask.networks.base import At, Network, Positions
from unmask.types import Labels, Logits, Times, Tokens


class Padded(Network):
    """Fill every text up to the network's length, and return the predictions for the text only.

    Args:
        network: a network for sequences (length,).
        fill: the token to fill up with: for a network whose training examples were filled up with it. None: masks; the
            distribution of the text is then the network's, with the tokens after it marginalised out.
    """

    def __init__(self, network: Network, fill: int | None = None) -> None:
        super().__init__()
        self.network, self.fill = network, network.mask_id if fill is None else fill
        self.vocab_size, self.shape, self.classes = network.vocab_size, network.shape, network.classes
        self.excluded, self.causal = network.excluded, network.causal

    def forward(
        self,
        x_t: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: At | None = None,
    ) -> Logits:
        """See `Network.forward`."""
        missing = self.shape[0] - x_t.shape[1]
        padded = F.pad(x_t, (0, missing), value=self.fill)
        if isinstance(at, Positions):
            return self.network(padded, noise, label, at=at)
        if at is not None:
            return self.network(padded, noise, label, at=F.pad(at, (0, missing)))
        return self.network(padded, noise, label)[:, : x_t.shape[1]]

"""Running a network on texts shorter than its own length."""

import torch.nn.functional as F

from unmask.networks.base import At, Network, Positions
from unmask.types import Labels, Logits, Times, Tokens


class Padded(Network):
    """Append masks to every text up to the network's length, and return the predictions for the text only.

    The distribution of the text is then the network's, with the tokens after it marginalised out.

    Args:
        network: a network for sequences (length,).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.vocab_size, self.shape, self.classes = network.vocab_size, network.shape, network.classes

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
        padded = F.pad(x_t, (0, missing), value=self.mask_id)
        if isinstance(at, Positions):
            return self.network(padded, noise, label, at=at)
        if at is not None:
            return self.network(padded, noise, label, at=F.pad(at, (0, missing)))
        return self.network(padded, noise, label)[:, : x_t.shape[1]]

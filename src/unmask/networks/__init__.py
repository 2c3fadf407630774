"""Networks: they read partly masked tokens and predict every masked one.

`Network` is the interface: `forward(x_t, noise, label, at=...)` returns logits over the V token values at the
positions `at`. `HeadedNetwork` is a network that ends in a linear map; it computes logits at these positions only, and
never holds all of them at once. `Transformer` is the default network, `UNet` is for images, `DDiT` is the architecture
of public checkpoints, and `Pretrained` holds any masked language model or bidirectional decoder of `transformers`.
`Constrained` restricts the predictions of another network to some tokens. `CausalTransformer` is the left-to-right
baseline: it predicts the next token. `GaussianTransformer` reads noisy vectors in place of tokens.
"""

from unmask.networks.base import Network, Positions, pick
from unmask.networks.causal import CausalTransformer
from unmask.networks.constrained import Constrained
from unmask.networks.ddit import DDiT
from unmask.networks.gaussian import GaussianTransformer, VectorNetwork
from unmask.networks.head import HeadedNetwork
from unmask.networks.pretrained import Pretrained
from unmask.networks.transformer import Transformer
from unmask.networks.unet import UNet

__all__ = [
    "Network",
    "HeadedNetwork",
    "Positions",
    "pick",
    "Transformer",
    "CausalTransformer",
    "GaussianTransformer",
    "VectorNetwork",
    "UNet",
    "DDiT",
    "Pretrained",
    "Constrained",
]

"""Networks: what reads partly masked tokens and predicts every hidden one."""

from unmask.networks.base import Network, Positions, pick
from unmask.networks.ddit import DDiT
from unmask.networks.head import HeadedNetwork
from unmask.networks.transformer import Transformer
from unmask.networks.unet import UNet

__all__ = ["DDiT", "HeadedNetwork", "Network", "Positions", "Transformer", "UNet", "pick"]

"""Published figures of the tables that `unmask reproduce` trains; facts, as the MD4 paper lists them.

All from arXiv:2406.04329: text8 from its table 1, CIFAR-10 from its table of bits per dimension, the effect of the
number of steps from its table 7. Lower is better.
"""

from typing import NamedTuple

SOURCE = "arXiv:2406.04329 (MD4)"


class Published(NamedTuple):
    """A figure of a paper.

    Attributes:
        value: in the unit of its table.
        bound: whether it is an upper bound, "at most", not the likelihood itself.
        parameters: of the model, in millions, where the paper says so.
    """

    value: float
    bound: bool = True
    parameters: int | None = None

    def __str__(self) -> str:
        """Write it as the paper does: `≤ 1.37`."""
        size = f" ({self.parameters}M)" if self.parameters else ""
        return f"{'≤ ' if self.bound else ''}{self.value:.2f}{size}"


TEXT8 = {
    "Transformer AR": Published(1.23, False),
    "Discrete Flow": Published(1.23, False),
    "AR Argmax Flow": Published(1.39, False),
    "IAF/SCF": Published(1.88, False),
    "ARDM": Published(1.43),
    "MAC": Published(1.40),
    "BFN": Published(1.41),
    "Plaid": Published(1.48),
    "Multinomial diffusion": Published(1.72),
    "D3PM uniform": Published(1.61),
    "D3PM absorb": Published(1.45),
    "SEDD absorb": Published(1.39),
    "MD4": Published(1.37),
    "GenMD4": Published(1.34),
}
"""Bits per character of text8's test part, in sequences of 256."""
CIFAR10 = {
    "PixelRNN": Published(3.00, False),
    "Gated PixelCNN": Published(3.03, False),
    "PixelCNN++": Published(2.92, False, 53),
    "PixelSNAIL": Published(2.85, False, 46),
    "Image Transformer": Published(2.90, False),
    "Sparse Transformer": Published(2.80, False, 59),
    "D3PM absorb": Published(4.40, True, 37),
    "D3PM Gauss": Published(3.44, True, 36),
    "Campbell et al.": Published(3.59, True, 36),
    "Campbell et al. absorb": Published(3.52, True, 28),
    "MD4": Published(2.75, True, 28),
}
"""Bits per dimension of CIFAR-10's test part."""
FINITE_STEPS = {"100": Published(49.8), "1000": Published(48.5), "10000": Published(48.4), "inf": Published(48.4)}
"""Zero-shot perplexity on LAMBADA of MD4 small under the bound of T steps."""

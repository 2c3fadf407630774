"""Published figures of the tables that `unmask reproduce` trains; facts, as the MD4 paper lists them.

From arXiv:2406.04329, but for generative perplexity: text8 from its table 1, CIFAR-10 and ImageNet 64x64 from its table
of bits per dimension, OpenWebText and the zero-shot sets from its tables of perplexities, the effect of the number of
steps from its table 7, Fréchet distances from its figure of ImageNet 64x64. Lower is better, but for entropy.
"""

from typing import NamedTuple

SOURCE = "arXiv:2406.04329 (MD4)"
FLOAT32_SOURCE = "arXiv:2409.02908 (first hitting)"


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

OPENWEBTEXT = {
    "Gaussian diffusion": Published(27.28),
    "SEDD absorb": Published(24.10),
    "MD4": Published(22.13),
    "GenMD4": Published(21.80),
    "MD4 medium": Published(16.64),
}
"""Perplexity per token of GPT-2 on the last 2% of OpenWebText; of small models but for the last."""
IMAGENET64 = {
    "PixelRNN": Published(3.63, False),
    "Gated PixelCNN": Published(3.57, False),
    "Sparse Transformer": Published(3.44, False, 152),
    "Routing Transformer": Published(3.43, False),
    "Perceiver AR": Published(3.40, False, 770),
    "MD4": Published(3.40, True, 198),
}
"""Bits per dimension of ImageNet 64x64."""
SETS = ("lambada", "wikitext2", "ptb", "wikitext103", "lm1b")
"""Short names of the zero-shot sets (`unmask.data.benchmarks`), in the order of the paper."""


def _sets(*values: float, bound: bool = True) -> dict[str, Published]:
    return {name: Published(value, bound) for name, value in zip(SETS, values, strict=True)}


ZEROSHOT = {
    "GPT-2": _sets(45.04, 42.43, 138.43, 41.60, 75.20, bound=False),
    "D3PM": _sets(93.47, 77.28, 200.82, 75.16, 138.92),
    "Plaid": _sets(57.28, 51.80, 142.60, 50.86, 91.12),
    "SEDD absorb": _sets(50.92, 41.84, 114.24, 40.62, 79.29),
    "SEDD absorb, trained again": _sets(49.73, 38.94, 107.54, 39.15, 72.96),
    "MD4": _sets(48.43, 34.94, 102.26, 35.90, 68.10),
    "GPT-2 medium": _sets(35.66, 31.80, 123.14, 31.39, 55.72, bound=False),
    "SEDD absorb medium": _sets(42.77, 31.04, 87.12, 29.98, 61.19),
    "MD4 medium": _sets(44.12, 25.84, 66.07, 25.84, 51.45),
}
"""Zero-shot perplexity per token of GPT-2; of small models where nothing else is said."""
FLOAT32 = (
    {"model": "MDLM, 2,048 steps, float32 draws", "perplexity": 31.24, "entropy": 5.17},
    {"model": "MDLM, 2,048 steps, float64 draws", "perplexity": 126.11, "entropy": 5.66},
    {"model": "MDLM, 2,048 steps, float64 draws cut off as in float32", "perplexity": 28.64, "entropy": 5.12},
)
"""Generative perplexity under GPT-2 large, and entropy in nats, of 8 samples (arXiv:2409.02908)."""
DISTANCES = {
    "Linear, uniform grid": {64: 193.81, 128: 128.18, 256: 72.94, 512: 50.21},
    "Linear, cosine grid": {64: 42.07, 128: 25.16, 256: 18.31, 512: 18.22},
    "Cosine, uniform grid": {64: 47.46, 128: 23.84, 256: 17.80, 512: 18.74},
}
"""Fréchet distance of MD4's samples of ImageNet 64x64 in T steps, by schedule and grid; without classes."""

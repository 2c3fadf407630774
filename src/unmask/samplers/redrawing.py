"""The base class of samplers that draw every position again in each step: of models whose tokens are not masked."""

from dataclasses import dataclass

import torch

from unmask.networks.base import Network
from unmask.samplers.base import Sampler
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True, kw_only=True)
class Redrawing(Sampler):
    """Draw whole examples, every position again in each step.

    What a canvas shows is kept, and the network sees it as it is in every step. That is sampling given the known tokens
    only for a model that was trained so, with the same tokens given; any other canvas is refused.

    Args:
        known: whether canvases may show tokens: of a model that was trained with such tokens given.
            `MaskedDiffusion.fit_sampler` knows.
        filling: tokens that canvases may show in any case, such as those that fill up examples;
            `MaskedDiffusion.fit_sampler` knows them.
    """

    known: bool = False
    filling: tuple[int, ...] = ()

    def check(self, network: Network, x: Tokens, label: Labels | None) -> Where:
        """See `Sampler.check`; a ValueError, too, for a canvas with known tokens that the model cannot take."""
        masked = super().check(network, x, label)
        shown = ~masked & ~torch.isin(x, torch.tensor(self.filling, dtype=x.dtype, device=x.device))
        if not self.known and shown.any():
            example, place = shown.flatten(1).nonzero()[0].tolist()
            raise ValueError(
                f"{f'example {example}: ' if len(x) > 1 else ''}position {place} is known, but the model draws whole "
                "examples: it was not trained to continue or fill in what is known; prompts and holes are for masked "
                "models"
            )
        return masked

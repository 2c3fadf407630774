"""Masked diffusion on discrete data: schedules, networks, objectives, samplers, codecs, and the model of them all.

Data `x` is tokens. `mask(x, t)` hides each with probability `1 - alpha_t`. A network reads `x_t` and predicts every
hidden token. An objective turns the predictions into a bound on `-log p(x)`. A sampler starts from all masks and
reveals.
"""

from unmask.categorical import categorical
from unmask.codecs.base import Codec
from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.codecs.text import Bytes, Characters
from unmask.codecs.tokenizer import BPE
from unmask.evaluation.likelihood import Likelihood, evaluate
from unmask.forward import all_masked, mask, sample_times
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.networks.transformer import Transformer
from unmask.objectives.base import Loss, Objective
from unmask.objectives.scalar import ContinuousELBO, DiscreteELBO, TimeFreeELBO
from unmask.objectives.token import TokenELBO
from unmask.randomness import generators
from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler, State
from unmask.samplers.confidence import EntropyBounded, MostConfident
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.ordered import InOrder
from unmask.samplers.remasking import Remasking
from unmask.samplers.token import TokenAncestral, TokenFirstHitting
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule, TokenPolynomial

__all__ = [
    "Schedule",
    "Linear",
    "Polynomial",
    "Cosine",
    "Geometric",
    "TokenPolynomial",
    "mask",
    "all_masked",
    "sample_times",
    "Network",
    "Transformer",
    "Objective",
    "Loss",
    "ContinuousELBO",
    "DiscreteELBO",
    "TimeFreeELBO",
    "TokenELBO",
    "Sampler",
    "State",
    "FirstHitting",
    "Ancestral",
    "InOrder",
    "MostConfident",
    "EntropyBounded",
    "Remasking",
    "TokenFirstHitting",
    "TokenAncestral",
    "categorical",
    "generators",
    "Codec",
    "Characters",
    "Bytes",
    "BPE",
    "Pixels",
    "Symbols",
    "MaskedDiffusion",
    "Likelihood",
    "evaluate",
]

# The public names, in the order of the sentence that describes the library.
from . import (
    canvas,
    categorical,
    checkpoints,
    codecs,
    data,
    evaluation,
    forward,
    gumbel,
    infilling,
    inspection,
    networks,
    objectives,
    processes,
    prompts,
    randomness,
    rendering,
    samplers,
    schedules,
    serving,
    storage,
    training,
    types,
)
from .schedules import Cosine, CosineSignal, Geometric, Linear, Polynomial, Schedule, TokenPolynomial
from .forward import all_masked, mask, sample_times
from .networks.base import Network, Positions, pick
from .networks.head import HeadedNetwork
from .networks.transformer import Transformer
from .networks.causal import CausalTransformer
from .networks.gaussian import GaussianTransformer
from .networks.unet import UNet
from .networks.ddit import DDiT
from .networks.pretrained import Pretrained
from .objectives.base import Loss, Objective
from .objectives.scalar import ContinuousELBO, DiscreteELBO, TimeFreeELBO
from .objectives.gaussian import GaussianELBO
from .objectives.next_token import NextToken
from .objectives.score_entropy import ScoreEntropy
from .objectives.token import TokenELBO
from .objectives.uniform import HybridELBO, UniformELBO
from .samplers.base import Sampler, State
from .samplers.unmasking import Plan, Planned
from .samplers.first_hitting import FirstHitting
from .samplers.ancestral import Ancestral
from .samplers.ordered import InOrder
from .samplers.confidence import EntropyBounded, MostConfident
from .samplers.remasking import Remasking
from .samplers.token import TokenAncestral, TokenFirstHitting
from .samplers.left_to_right import LeftToRight
from .samplers.score import Euler, Tweedie
from .samplers.uniform import UniformAncestral
from .samplers.gaussian import GaussianAncestral
from .samplers.presets import dream, llada
from .randomness import generators
from .codecs.base import Codec
from .codecs.text import Bytes, Characters, Text
from .codecs.tokenizer import BPE, Tokenizer
from .codecs.pixels import Pixels
from .codecs.symbols import Symbols
from .data.base import DataSet, Examples, Split, Windows
from .model import MaskedDiffusion
from .opening import load
from .acceleration import accelerate
from .exporting import export
from .report import Figure, Report
from .prompts import prompt_canvas
from .infilling import infill_file, infill_one
from .training.settings import Optimizer, Run
from .training.pulling import pull
from .training.start import train

__all__ = [
    "Schedule",
    "Linear",
    "Polynomial",
    "Cosine",
    "CosineSignal",
    "Geometric",
    "TokenPolynomial",
    "mask",
    "all_masked",
    "sample_times",
    "Network",
    "HeadedNetwork",
    "Positions",
    "pick",
    "Transformer",
    "CausalTransformer",
    "GaussianTransformer",
    "UNet",
    "DDiT",
    "Pretrained",
    "Objective",
    "Loss",
    "ContinuousELBO",
    "DiscreteELBO",
    "TimeFreeELBO",
    "NextToken",
    "ScoreEntropy",
    "HybridELBO",
    "UniformELBO",
    "GaussianELBO",
    "TokenELBO",
    "Sampler",
    "State",
    "Planned",
    "Plan",
    "FirstHitting",
    "Ancestral",
    "InOrder",
    "MostConfident",
    "EntropyBounded",
    "Remasking",
    "TokenFirstHitting",
    "TokenAncestral",
    "LeftToRight",
    "Tweedie",
    "Euler",
    "UniformAncestral",
    "GaussianAncestral",
    "llada",
    "dream",
    "categorical",
    "generators",
    "Codec",
    "Text",
    "Characters",
    "Bytes",
    "Tokenizer",
    "Pixels",
    "Symbols",
    "DataSet",
    "Split",
    "Examples",
    "Windows",
    "MaskedDiffusion",
    "load",
    "accelerate",
    "export",
    "prompt_canvas",
    "infill_one",
    "infill_file",
    "Report",
    "Figure",
    "evaluation",
    "Optimizer",
    "Run",
    "train",
    "pull",
    "training",
    "inspection",
]

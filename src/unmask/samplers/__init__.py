"""Samplers."""

from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler, State
from unmask.samplers.confidence import EntropyBounded, MostConfident
from unmask.samplers.first_hitting import FirstHitting
from unmask.samplers.gumbel import GumbelAncestral
from unmask.samplers.ordered import InOrder
from unmask.samplers.remasking import Remasking
from unmask.samplers.token import TokenAncestral, TokenFirstHitting
from unmask.samplers.unmasking import Plan, Planned, Unmasking

__all__ = [
    "Ancestral",
    "EntropyBounded",
    "FirstHitting",
    "GumbelAncestral",
    "InOrder",
    "MostConfident",
    "Plan",
    "Planned",
    "Remasking",
    "Sampler",
    "State",
    "TokenAncestral",
    "TokenFirstHitting",
    "Unmasking",
]

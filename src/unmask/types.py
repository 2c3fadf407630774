"""Every shape in the library. Dimension names are checked at run time in the tests (jaxtyping)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Int[Tensor, "batch *dims"]
"""Text (batch, length) or images (batch, height, width, channels); values 0..V-1, and V for the mask."""

Where = Bool[Tensor, "batch *dims"]
"""One flag per token, of the shape of the tokens."""

Logits = Float[Tensor, "*rows vocab"]
"""Unnormalised log-probabilities over the V clean values; the mask is never predicted."""

Labels = Int[Tensor, "batch"]
"""One class per example, 0..classes-1; the value `classes` is the null label."""

Times = Float[Tensor, "batch"]
"""Times in [0, 1]: 0 is data, 1 is all masks."""

Nats = Float[Tensor, "batch"]
"""Nats per example, summed over its dims."""

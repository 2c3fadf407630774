"""The tensor types of the library. The tests check their dimensions at run time (jaxtyping)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Int[Tensor, "batch *dims"]
"""Text (batch, length) or images (batch, height, width, channels); values 0..V-1, and V where masked."""

Where = Bool[Tensor, "batch *dims"]
"""One flag per token, with the shape of the tokens."""

Logits = Float[Tensor, "*rows vocab"]
"""Unnormalised log-probabilities over the V token values; the mask is never predicted."""

Labels = Int[Tensor, "batch"]
"""One class per example, 0..classes-1; the value `classes` is the null label."""

Times = Float[Tensor, "batch"]
"""Times in [0, 1]: at 0 nothing is masked, at 1 everything."""

Nats = Float[Tensor, "batch"]
"""Nats per example, summed over its tokens."""

Allowed = Bool[Tensor, "*places vocab"]
"""Which token values may be drawn: at every position (V,), or at each one (*dims, V)."""

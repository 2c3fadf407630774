"""The last product of a network and its cross-entropy as one: logits exist a piece at a time, and never all."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unmask.networks.base import At, Network, Positions
from unmask.types import Labels, Logits, Times, Tokens

PRODUCT = 2**25
"""Most logits that one product makes: enough rows for a fast product, few enough to be held."""
SOFTMAX = 2**21
"""Most logits in float32 at a time on a CPU, so that they stay in its caches."""


def linear_cross_entropy(
    h: Float[Tensor, "n width"],
    head: nn.Linear,
    target: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
    """Return sum of weight * nll and the nll, -log softmax(head(h)) at the targets; the sum alone has a gradient.

    The gradient, in h and the head, is made on the way forward, from the same logits: no second product, and no (N, V)
    tensor is kept. (`torch.nn.functional.linear_cross_entropy` does so too, but weighs values of the target, not
    positions.) Under autocast the products are made in its type; softmax, weights and sums in float32 or better.
    """
    parts = (h, head.weight, head.bias)
    wanted = [torch.is_grad_enabled() and part is not None and part.requires_grad for part in parts]
    loss, nll = _LinearCrossEntropy.apply(*parts, target, weight.detach(), wanted)
    return loss, nll


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, matrix: Tensor, bias: Tensor | None, target: Tensor, weight: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor]:
        kind = h.device.type
        autocast = torch.is_autocast_enabled(kind) and h.dtype != torch.float64  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(kind) if autocast else h.dtype
        precise = torch.promote_types(dtype, torch.float32)
        nll = h.new_empty(len(h), dtype=precise)
        of_h, of_matrix, of_bias = (
            torch.zeros_like(part, dtype=precise) if want and part is not None else None
            for part, want in zip((h, matrix, bias), wanted, strict=True)
        )
        with torch.autocast(kind, enabled=False):
            m, b = matrix.to(dtype), None if bias is None else bias.to(dtype)
            many = max(1, PRODUCT // len(m))
            few = max(1, SOFTMAX // len(m)) if kind == "cpu" else many
            for start in range(0, len(h), many):
                here = slice(start, start + many)
                x = h[here].to(dtype)
                logits = nn.functional.linear(x, m, b)
                pieces = zip(
                    *(t.split(few) for t in (logits, target[here], weight[here], nll[here])),
                    strict=True,
                )
                for z, y, w, out in pieces:
                    law = z.log_softmax(-1, dtype=precise)
                    y = y.unsqueeze(1)
                    out.copy_(law.gather(1, y).squeeze(1).neg_())
                    if any(wanted):  # weight * (softmax - one-hot), in place of the logits
                        w = w.to(precise).unsqueeze(1)
                        law.exp_().mul_(w).scatter_add_(1, y, -w)
                        z.copy_(law)
                    if of_bias is not None:
                        of_bias += law.sum(0)
                if of_h is not None:
                    of_h[here] = (logits @ m).to(precise)
                if of_matrix is not None:
                    of_matrix += logits.T @ x
        ctx.grads = [None if grad is None else grad.to(h.dtype) for grad in (of_h, of_matrix, of_bias)]
        ctx.mark_non_differentiable(nll)
        return (weight.double() * nll).sum(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.grads:
            raise RuntimeError("linear_cross_entropy goes backward once: its gradients were given away")
        grads, ctx.grads = ctx.grads, []
        return *(None if part is None else part.mul_(grad) for part in grads), None, None, None


class HeadedNetwork(Network):
    """A network that ends in one linear map, `head`, of the same features at every position.

    A subclass writes `features` in place of `forward`.
    """

    head: nn.Linear

    @abstractmethod
    def features(
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, at: Positions | None = None
    ) -> Tensor:
        """Return what the head reads: (batch, L, width), or (N, width) at the N positions."""

    def compile_body(self) -> None:
        """Compile `features`."""
        self.features = torch.compile(self.features)  # type: ignore[method-assign]

    def forward(
        self,
        x_t: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: At | None = None,
    ) -> Logits:
        """See `Network.forward`."""
        logits = self.head(self.features(x_t, noise, label, None if at is None else Positions.of(at)))
        return logits if at is not None else logits.view(*x_t.shape, self.vocab_size)

    def cross_entropy(
        self,
        x_t: Tokens,
        x: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: Positions,
        weight: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """See `Network.cross_entropy`. The logits are never held all at once."""
        h = self.features(x_t, noise, label, at)
        return linear_cross_entropy(h, self.head, at.pick(x.flatten(1)), weight)

"""A linear head fused with its cross-entropy, so that the logits are never held all at once."""

from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from unmask.networks.base import At, Network, Positions, weighted_sum
from unmask.types import Labels, Logits, Times, Tokens

LOGITS_PER_PRODUCT = 2**25
"""Largest number of logits per matrix product: enough rows for a fast product, few enough to hold in memory."""
LOGITS_PER_SOFTMAX = 2**21
"""Largest number of float32 logits per softmax on a CPU, so that they stay in its caches."""


@runtime_checkable
class LinearMap(Protocol):
    """What maps features to logits: `torch.nn.Linear`, or what has its weight and bias."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...

    def __call__(self, h: Tensor) -> Tensor: ...


def linear_cross_entropy(
    h: Float[Tensor, "n width"],
    head: LinearMap,
    target: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
    """Return Σ weight · nll and nll = −log softmax(head(h))_target; only the sum has a gradient.

    The gradient in h and the head is computed in the forward pass from the same logits, so the backward pass needs no
    second product, and no (N, V) tensor is kept. (`torch.nn.functional.linear_cross_entropy` does the same, but its
    weights are per target value, not per position.) Under autocast, matrix products use its dtype; softmax, weights and
    sums use float32 or better.
    """
    parts = (h, head.weight, head.bias)
    needs_grad = [torch.is_grad_enabled() and part is not None and part.requires_grad for part in parts]
    loss, nll = _LinearCrossEntropy.apply(*parts, target, weight.detach(), needs_grad)
    return loss, nll


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, matrix: Tensor, bias: Tensor | None, target: Tensor, weight: Tensor, needs_grad: list[bool]
    ) -> tuple[Tensor, Tensor]:
        kind = h.device.type
        autocast = torch.is_autocast_enabled(kind) and h.dtype != torch.float64  # autocast does not apply to float64
        dtype = torch.get_autocast_dtype(kind) if autocast else h.dtype
        precise = torch.promote_types(dtype, torch.float32)
        nll = h.new_empty(len(h), dtype=precise)
        grad_h, grad_matrix, grad_bias = (
            torch.zeros_like(part, dtype=precise) if needed and part is not None else None
            for part, needed in zip((h, matrix, bias), needs_grad, strict=True)
        )
        with torch.autocast(kind, enabled=False):
            m, b = matrix.to(dtype), None if bias is None else bias.to(dtype)
            rows = max(1, LOGITS_PER_PRODUCT // len(m))
            rows_per_softmax = max(1, LOGITS_PER_SOFTMAX // len(m)) if kind == "cpu" else rows
            room = h.new_empty(min(rows, len(h)), len(m), dtype=dtype)  # of every product: new memory is slow
            for start in range(0, len(h), rows):
                here = slice(start, start + rows)
                x = h[here].to(dtype)
                logits = room[: len(x)]
                if b is None:
                    torch.mm(x, m.T, out=logits)
                else:
                    torch.addmm(b, x, m.T, out=logits)
                pieces = zip(
                    *(t.split(rows_per_softmax) for t in (logits, target[here], weight[here], nll[here])),
                    strict=True,
                )
                for z, y, w, out in pieces:
                    log_p = z.log_softmax(-1, dtype=precise)
                    y = y.unsqueeze(1)
                    out.copy_(log_p.gather(1, y).squeeze(1).neg_())
                    grad_z = log_p
                    if any(needs_grad):  # weight * (softmax - one-hot), which overwrites the logits
                        w = w.to(precise).unsqueeze(1)
                        grad_z.exp_().mul_(w).scatter_add_(1, y, -w)
                        z.copy_(grad_z)
                    if grad_bias is not None:
                        grad_bias += grad_z.sum(0)
                if grad_h is not None:
                    grad_h[here] = (logits @ m).to(precise)
                if grad_matrix is not None and dtype == precise:
                    grad_matrix.addmm_(logits.T, x)
                elif grad_matrix is not None:
                    grad_matrix += logits.T @ x
        ctx.grads = [None if grad is None else grad.to(h.dtype) for grad in (grad_h, grad_matrix, grad_bias)]
        ctx.mark_non_differentiable(nll)
        return weighted_sum(weight.double(), nll), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.grads:
            raise RuntimeError("linear_cross_entropy goes backward once: its gradients have been freed")
        grads, ctx.grads = ctx.grads, []
        return *(None if part is None else part.mul_(grad) for part in grads), None, None, None


class HeadedNetwork(Network):
    """A network that ends in a linear map `head`, applied to the features of every position.

    A subclass implements `features` instead of `forward`.

    Examples:
        >>> class Bag(unmask.HeadedNetwork):
        ...     def __init__(self, vocab_size, shape, classes=None, width=8):
        ...         super().__init__()
        ...         self.vocab_size, self.shape, self.classes, self.width = vocab_size, shape, classes, width
        ...         self.embed = torch.nn.Embedding(vocab_size + 1, width)  # the last one is the mask
        ...         self.head = torch.nn.Linear(width, vocab_size)
        ...     def features(self, x_t, noise=None, label=None, at=None):
        ...         h = self.embed(x_t).mean(1, keepdim=True).expand(*x_t.shape, -1)
        ...         return unmask.pick(h, at)
        >>> Bag(5, (4,))(torch.tensor([[5, 1, 5, 1]]), at=torch.tensor([[True, False, True, False]])).shape
        torch.Size([2, 5])
    """

    head: LinearMap

    @abstractmethod
    def features(
        self, x_t: Tokens, noise: Times | None = None, label: Labels | None = None, at: Positions | None = None
    ) -> Tensor:
        """Return the features, the input of `head`: (batch, L, width), or (N, width) at the N positions."""

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
        """See `Network.cross_entropy`. The logits are never all held at once."""
        h = self.features(x_t, noise, label, at)
        return linear_cross_entropy(h, self.head, at.pick(x.flatten(1)), weight)

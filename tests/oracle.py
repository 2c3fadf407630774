"""Networks that return the exact conditionals p(x_i | visible) of a known distribution, without training."""

import itertools
import math

import torch
from torch import Tensor

from unmask.networks.base import At, Network, pick
from unmask.types import Labels, Logits, Times, Tokens


class Oracle(Network):
    """Counts its evaluations; a subclass implements the posterior marginals.

    Under a state-dependent schedule the posterior depends on the time: each completion has the weight ∏ t^{w_x} over
    the masked positions, so tokens masked at a small t are likely to have a small exponent.
    """

    def __init__(self, vocab_size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.vocab_size, self.shape = vocab_size, shape
        self.evaluations = 0
        self.powers: Tensor | None = None

    def marginals(self, x_t: Tensor, potential: Tensor | None = None) -> Tensor:
        """Return p(x_i | visible) of tokens (batch, L), with weights (batch, V) of masked values: (batch, L, V)."""
        raise NotImplementedError

    def under(self, powers: Tensor) -> "Oracle":
        """Switch to the posterior under a schedule with these exponents, where `noise` is the time; return self."""
        self.powers = powers
        return self

    def forward(
        self,
        x_t: Tokens,
        noise: Times | None = None,
        label: Labels | None = None,
        *,
        at: At | None = None,
    ) -> Logits:
        self.evaluations += len(x_t)
        if self.powers is None:
            p = self.marginals(x_t.flatten(1))
        else:
            p = self.marginals(x_t.flatten(1), noise.double().unsqueeze(1) ** (self.powers - self.powers.min()))
        logits = p.log().view(*x_t.shape, self.vocab_size)
        return pick(logits, at)


class Table(Oracle):
    """A random distribution over all V^L states of L positions: correlated, with full support."""

    def __init__(self, vocab_size: int = 3, length: int = 3, seed: int = 0, peak: float = 1.5) -> None:
        super().__init__(vocab_size, (length,))
        states = torch.tensor(list(itertools.product(range(vocab_size), repeat=length)))
        logits = peak * torch.randn(len(states), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("states", states)
        self.register_buffer("p", logits.softmax(0))

    def marginals(self, x_t: Tensor, potential: Tensor | None = None) -> Tensor:
        masked = x_t[:, None] == self.mask_id
        weight = ((self.states == x_t[:, None]) | masked).all(-1) * self.p
        if potential is not None:
            weight = weight * torch.where(masked, potential[:, self.states], 1).prod(-1)
        one_hot = torch.nn.functional.one_hot(self.states, self.vocab_size).to(self.p.dtype)
        return torch.einsum("bs,slv->blv", weight, one_hot) / weight.sum(1)[:, None, None]

    def log_prob(self, x: Tensor) -> Tensor:
        return self.p.log()[self.index(x)]

    def index(self, x: Tensor) -> Tensor:
        """Return the number of each state in `states`."""
        powers = self.vocab_size ** torch.arange(x.shape[1] - 1, -1, -1, device=x.device)
        return (x * powers).sum(1)


class MarkovChain(Oracle):
    """A Markov chain of any length; its marginals are computed by the forward-backward algorithm."""

    def __init__(self, vocab_size: int = 3, length: int = 64, seed: int = 0) -> None:
        super().__init__(vocab_size, (length,))
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(vocab_size + 1, vocab_size, dtype=torch.float64, generator=generator)
        self.register_buffer("start", draw[0].softmax(0))
        self.register_buffer("step", (1.5 * draw[1:]).softmax(1))

    def marginals(self, x_t: Tensor, potential: Tensor | None = None) -> Tensor:
        seen = torch.nn.functional.one_hot(x_t, self.vocab_size + 1)[..., : self.vocab_size].to(self.start.dtype)
        hidden = torch.ones_like(seen[:, :1]) if potential is None else potential.unsqueeze(1)
        seen = torch.where((x_t == self.mask_id).unsqueeze(-1), hidden, seen)
        forward, backward = [self.start * seen[:, 0]], [torch.ones_like(seen[:, 0])]
        for i in range(1, x_t.shape[1]):
            forward.append(normalised(forward[-1] @ self.step * seen[:, i]))
            backward.append(normalised((backward[-1] * seen[:, -i]) @ self.step.T))
        return normalised(torch.stack(forward, 1) * torch.stack(backward[::-1], 1))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.start.log()[x[:, 0]] + self.step.log()[x[:, :-1], x[:, 1:]].sum(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        x = [torch.multinomial(self.start, n, replacement=True, generator=generator)]
        for _ in range(self.shape[0] - 1):
            x.append(torch.multinomial(self.step[x[-1]], 1, generator=generator).squeeze(1))
        return torch.stack(x, 1)


def pairwise_correlated(length: int, strength: float) -> Table:
    """Return an Ising model as a table: log p is a random coupling of every pair of spins, plus a random field."""
    oracle, generator = Table(2, length), torch.Generator().manual_seed(0)
    spin = 2.0 * oracle.states.double() - 1
    couplings = torch.randn(length, length, dtype=torch.float64, generator=generator)
    field = torch.randn(length, dtype=torch.float64, generator=generator)
    oracle.p = (strength * (spin @ couplings * spin).sum(1) + 0.3 * spin @ field).softmax(0)
    return oracle


def parallel_draw_probabilities(oracle: Table, size: int, form: str | None) -> Tensor:
    """The distribution of tokens drawn `size` at a time in random order, by enumeration of orders and outcomes."""
    length, states = oracle.shape[0], oracle.states
    cache: dict[frozenset[int], Tensor] = {}

    def predictions(shown: frozenset[int]) -> Tensor:
        if shown not in cache:
            hidden = torch.tensor([i not in shown for i in range(length)])
            cache[shown] = oracle.marginals(states.masked_fill(hidden, oracle.mask_id))
        return cache[shown]

    total = torch.zeros(len(states), dtype=torch.float64)
    orders = list(itertools.permutations(range(length)))
    for order in orders:
        probability, last = torch.ones(len(states), dtype=torch.float64), None
        for call, start in enumerate(range(0, length, size)):
            p = predictions(frozenset(order[:start]))
            group = order[start : start + size]
            lost = math.comb(len(group), 2)  # pairs drawn independently
            for i, position in enumerate(group):
                c = 0.0
                if form == "extrapolation" and call:
                    c = i / size + (math.comb(size, 2) / size**2 if call == 1 else 0)
                if form == "predictor-corrector" and call % 2:
                    c = (math.comb(size, 2) + lost) / (size * len(group))
                elif form == "predictor-corrector" and call and start + size >= length:
                    c = i / size
                q = p[:, position] if last is None else p[:, position] + c * (p - last)[:, position]
                q = q.clamp(min=0) / q.clamp(min=0).sum(1, keepdim=True)
                probability = probability * q.gather(1, states[:, position : position + 1]).squeeze(1)
            last = p
        total += probability
    return total / len(orders)


def normalised(x: Tensor) -> Tensor:
    return x / x.sum(-1, keepdim=True)

"""LLaDA's and Dream's generation, written again as plain loops over one example from their descriptions."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import get_args

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import stats
from torch import Tensor

from oracle import Oracle, Table
from unmask.cli.common import Parser
from unmask.cli.sample import add_sampling_arguments
from unmask.networks.base import Network
from unmask.networks.transformer import Transformer
from unmask.randomness import generators, seeded
from unmask.samplers.base import Sampler
from unmask.samplers.confidence import MostConfident
from unmask.samplers.presets import PRESETS, dream, llada

MASK = -1  # in the plain loops
ALGORITHMS = ["entropy", "maskgit_plus", "topk_margin"]
SIZES = [(5, 26), (13, 26), (60, 38)]


def small_network(vocab_size: int, length: int, seed: int) -> Network:
    """Return a network of float64 with random weights, sure of some tokens and unsure of others."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Transformer(vocab_size, (length,), width=16, depth=2, heads=2).double().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return network


class Tied(Oracle):
    """Two tokens and few values of the logits, which depend on the position and on how many tokens are known."""

    def __init__(self, length: int, seed: int) -> None:
        super().__init__(2, (length,))
        self.register_buffer("level", torch.randint(-1, 2, (length + 1, length, 2), generator=seeded(seed)) / 2)

    def marginals(self, x_t: Tensor) -> Tensor:
        return self.level[(x_t != self.mask_id).sum(1)].double().exp()


def prompts(network: Network, lengths: list[int], seed: int = 0) -> list[list[int]]:
    tokens = torch.randint(0, network.vocab_size, (len(lengths), max(lengths)), generator=seeded(seed)).tolist()
    return [row[:n] for row, n in zip(tokens, lengths, strict=True)]


def continued(network: Network, begun: list[list[int]], length: int) -> Tensor:
    """Return the canvases of prompts of different lengths."""
    return torch.tensor([row + [network.mask_id] * (length - len(row)) for row in begun])


@torch.no_grad()
def probabilities(network: Network, x: list[int], top_p: float = 1.0) -> list[list[float]]:
    """Return the predictions at every position, those outside the nucleus removed."""
    tokens = torch.tensor([[network.mask_id if token == MASK else token for token in x]])
    return [nucleus(row, top_p) for row in network(tokens)[0].double().softmax(-1).tolist()]


def nucleus(p: list[float], top_p: float) -> list[float]:
    """Keep the most likely tokens, up to the first with which they have more than top_p, and normalise."""
    kept, total = [0.0] * len(p), 0.0
    for token in sorted(range(len(p)), key=lambda token: -p[token]):
        if total <= top_p:
            kept[token] = p[token]
        total += p[token]
    return [value / sum(kept) for value in kept]


def largest(values: list[float]) -> int:
    return values.index(max(values))


def surest(score: dict[int, float], count: int) -> list[int]:
    """Return the positions with the largest scores, of equal ones the first."""
    return sorted(score, key=lambda i: (-score[i], i))[:count]


def due_in_llada(masks: int, step: int, steps: int) -> int:
    return masks // steps + (1 if step < masks % steps else 0)


def due_in_dream(masks: int, step: int, steps: int) -> int:
    t = torch.linspace(1, 1e-3, steps + 1)
    return int(torch.tensor(masks) / 1 * (1 - t[step + 1] / t[step])) if step < steps - 1 else masks


def certainty(p: list[float], token: int, alg: str) -> float:
    first, second = sorted(p)[-1:-3:-1]
    entropy = -sum(value * math.log(value + 1e-10) for value in p)
    return {"maskgit_plus": p[token], "topk_margin": first - second, "entropy": -entropy}[alg]


def llada_by_hand(network: Network, prompt: list[int], gen_length: int, steps: int, block_length: int) -> list[int]:
    x = prompt + [MASK] * gen_length
    blocks = gen_length // block_length
    assert gen_length % block_length == 0 and steps % blocks == 0
    for block in range(blocks):
        end = len(prompt) + (block + 1) * block_length
        masks = x[end - block_length : end].count(MASK)
        for step in range(steps // blocks):
            p = probabilities(network, x)
            score = {i: max(p[i]) for i in range(end) if x[i] == MASK}
            for i in surest(score, due_in_llada(masks, step, steps // blocks)):
                x[i] = largest(p[i])
    return x


def dream_by_hand(
    network: Network, prompt: list[int], new_tokens: int, steps: int, alg: str, top_p: float
) -> list[int]:
    x = prompt + [MASK] * new_tokens
    for step in range(steps):
        p = probabilities(network, x, top_p)
        score = {i: certainty(p[i], largest(p[i]), alg) for i in range(len(x)) if x[i] == MASK}
        for i in surest(score, due_in_dream(len(score), step, steps)):
            x[i] = largest(p[i])
    return x


@pytest.mark.parametrize("steps", [1, 4, 6, 9])
@pytest.mark.parametrize(("vocab_size", "length"), SIZES)
def test_llada_is_the_published_procedure(vocab_size: int, length: int, steps: int) -> None:
    """A batch of prompts of different lengths, so that the blocks of its examples start at different positions."""
    network = small_network(vocab_size, length, seed=vocab_size)
    begun = prompts(network, [length - 6 * blocks for blocks in (1, 2, 3, 4)])
    sampler = llada(steps, block_length=6)
    canvas = continued(network, begun, length)
    *_, state = sampler.trajectory(network, canvas, generator=generators(0, 4))
    by_hand = [llada_by_hand(network, row, 6 * n, steps * n, 6) for n, row in enumerate(begun, 1)]
    assert state.x.tolist() == by_hand
    assert state.calls.tolist() == [n * min(steps, 6) for n in (1, 2, 3, 4)]
    others = [replace(sampler, **{name: value}) for name, value in (("block_length", None), ("measure", "margin"))]
    others += [replace(sampler, blocks_after_prompt=False)] + [replace(sampler, grid="uniform")] * (steps == 4)
    if steps in (4, 6):
        assert all(other(network, canvas).tolist() != by_hand for other in others)


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("steps", [1, 5, 24, 40])
@pytest.mark.parametrize(("vocab_size", "length"), SIZES)
def test_dream_is_the_published_procedure(vocab_size: int, length: int, steps: int, alg: str) -> None:
    network = small_network(vocab_size, length, seed=vocab_size)
    begun = prompts(network, [1, 5, 13, length - 1])
    for top_p in (1.0, 0.7):
        sampler = dream(steps, temperature=0.0, top_p=top_p, alg=alg)
        x = sampler(network, continued(network, begun, length), generator=generators(0, 4))
        assert x.tolist() == [dream_by_hand(network, row, length - len(row), steps, alg, top_p) for row in begun]


def test_dreams_settings_matter() -> None:
    network = small_network(13, 26, seed=13)
    canvas = continued(network, prompts(network, [1, 5, 13]), 26)
    samplers = [dream(9, 0.0, 0.7, alg) for alg in ALGORITHMS]
    samplers += [replace(samplers[0], grid="llada"), replace(samplers[0], measure_filtered=False)]
    found = [sampler(network, canvas).tolist() for sampler in samplers]
    assert all(one != other for one, other in itertools.combinations(found, 2))


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_first_position_and_the_first_token(seed: int) -> None:
    network = Tied(26, seed)
    begun = prompts(network, [2, 8, 14, 20], seed)
    canvas = continued(network, begun, 26)
    x = llada(4, block_length=6)(network, canvas)
    by_hand = [llada_by_hand(network, row, 26 - len(row), 4 * (26 - len(row)) // 6, 6) for row in begun]
    assert x.tolist() == by_hand
    for alg in ALGORITHMS:
        x = dream(9, temperature=0.0, top_p=1.0, alg=alg)(network, canvas)
        assert x.tolist() == [dream_by_hand(network, row, 26 - len(row), 9, alg, 1.0) for row in begun]


def test_as_many_tokens_are_due_as_published() -> None:
    """Also where the product of masks and fraction is close to a whole number: 1,000 masks and 27 steps."""
    for steps in (1, 2, 3, 7, 27, 64, 200):
        n = torch.tensor([*range(1, 66), 128, 200, 512, 1000])
        for grid, due in (("llada", due_in_llada), ("dream", due_in_dream)):
            sampler, left = MostConfident(steps, grid=grid), n.clone()
            for step in range(steps):
                base = n if grid == "llada" else left
                expected = [due(masks, step, steps) for masks in base.tolist()]
                found = sampler.revealed(n, left, step)
                assert found.tolist() == expected, (grid, steps, step)
                left = left - found
            assert (left == 0).all()


State = tuple[int, ...]
Step = Callable[[State, list[list[float]], int], Iterator[tuple[State, float]]]


def exact(oracle: Table, step: Step, steps: int, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Return the probability of every final state, by enumeration of all that can happen in each step."""
    reached: dict[State, float] = {(MASK,) * oracle.shape[0]: 1.0}
    for number in range(steps):
        after: dict[State, float] = defaultdict(float)
        for x, weight in reached.items():
            p = probabilities(oracle, list(x))
            sharpened = [[value ** (1 / temperature) for value in row] for row in p]
            filtered = [nucleus([value / sum(row) for value in row], top_p) for row in sharpened]
            for following, probability in step(x, p if top_p == 1 else filtered, number, filtered):
                after[following] += weight * probability
        reached = after
    return torch.tensor([reached.get(tuple(state), 0.0) for state in oracle.states.tolist()], dtype=torch.float64)


def draws(x: State, p: list[list[float]]) -> Iterator[tuple[dict[int, int], float]]:
    """Yield each choice of a token for every mask, with its probability."""
    masked = [i for i, token in enumerate(x) if token == MASK]
    for tokens in itertools.product(range(len(p[0])), repeat=len(masked)):
        yield dict(zip(masked, tokens, strict=True)), math.prod(p[i][v] for i, v in zip(masked, tokens, strict=True))


def keep(x: State, drawn: dict[int, int], positions: list[int] | tuple[int, ...]) -> State:
    return tuple(drawn[i] if i in positions else token for i, token in enumerate(x))


def check_distribution(oracle: Table, sampler: Sampler, p: Tensor, n: int = 30_000) -> None:
    counts = oracle.index(sampler(oracle, torch.full((n, *oracle.shape), oracle.mask_id), generator=seeded(0)))
    counts = counts.bincount(minlength=len(p))
    torch.testing.assert_close(p.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert counts[p < 1e-12].sum() == 0
    assert stats.chisquare(counts[p > 1e-12], n * p[p > 1e-12]).pvalue > 1e-3
    assert stats.chisquare(counts, n * oracle.p).pvalue < 1e-6  # not the distribution of the table


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_random_remasking_follows_its_distribution(temperature: float) -> None:
    def step(x: State, p: list[list[float]], number: int, q: list[list[float]]) -> Iterator[tuple[State, float]]:
        masked = [i for i, token in enumerate(x) if token == MASK]
        chosen = list(itertools.combinations(masked, due_in_llada(4, number, 3)))
        for drawn, probability in draws(x, q):
            for positions in chosen:
                yield keep(x, drawn, positions), probability / len(chosen)

    oracle = Table(2, 4, seed=1)
    sampler = llada(3, temperature, "random", block_length=None)
    check_distribution(oracle, sampler, exact(oracle, step, 3, temperature))


def test_random_remasking_with_a_token_per_step_is_exact() -> None:
    oracle = Table(3, 3)
    x = llada(temperature=1.0, remasking="random", block_length=2)(
        oracle, torch.full((30_000, 3), 3), generator=seeded(0)
    )
    assert stats.chisquare(oracle.index(x).bincount(minlength=27), 30_000 * oracle.p).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_low_confidence_remasking_follows_its_distribution(temperature: float) -> None:
    """Tokens are drawn at the temperature, their probabilities are those without it."""

    def step(x: State, p: list[list[float]], number: int, q: list[list[float]]) -> Iterator[tuple[State, float]]:
        for drawn, probability in draws(x, q):
            score = {i: p[i][token] for i, token in drawn.items()}
            yield keep(x, drawn, surest(score, due_in_llada(4, number, 3))), probability

    oracle = Table(2, 4, seed=1)
    check_distribution(oracle, llada(3, temperature, block_length=None), exact(oracle, step, 3, temperature))


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_dream_follows_its_distribution(alg: str) -> None:
    """Tokens are drawn, and certainty is measured, after temperature and top-p."""

    def step(x: State, _: list[list[float]], number: int, q: list[list[float]]) -> Iterator[tuple[State, float]]:
        for drawn, probability in draws(x, q):
            score = {i: certainty(q[i], token, alg) for i, token in drawn.items()}
            yield keep(x, drawn, surest(score, due_in_dream(len(drawn), number, 4))), probability

    oracle = Table(3, 3, seed=2)
    check_distribution(oracle, dream(4, 0.7, 0.85, alg), exact(oracle, step, 4, 0.7, 0.85))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.85)])
def test_dreams_origin_follows_its_distribution(temperature: float, top_p: float) -> None:
    def step(x: State, _: list[list[float]], number: int, q: list[list[float]]) -> Iterator[tuple[State, float]]:
        t = torch.linspace(1, 1e-3, 4, dtype=torch.float64).tolist()
        revealed = 1 - t[number + 1] / t[number] if number < 2 else 1.0
        for drawn, probability in draws(x, q):
            for flags in itertools.product((False, True), repeat=len(drawn)):
                chance = math.prod(revealed if flag else 1 - revealed for flag in flags)
                yield keep(x, drawn, [*itertools.compress(drawn, flags)]), probability * chance

    oracle = Table(3, 3, seed=2)
    sampler = dream(3, temperature, top_p, alg="origin")
    check_distribution(oracle, sampler, exact(oracle, step, 3, temperature, top_p))


@pytest.mark.parametrize("steps", [1, 3, 64])
def test_dreams_origin_has_the_published_times(steps: int) -> None:
    oracle = Table(3, 3)
    states = list(dream(steps, alg="origin").trajectory(oracle, torch.full((2, 3), 3), generator=seeded(0)))
    times = [*torch.linspace(1, 1e-3, steps + 1).tolist()[:-1], 0.0]
    assert [state.t.tolist() for state in states] == [[t, t] for t in times]


def test_the_recommended_settings() -> None:
    settings = {"measure": "confidence", "grid": "llada", "steps": 32, "block_length": 32, "blocks_after_prompt": True}
    assert llada() == MostConfident(top_k=1, **settings)
    settings = {"measure": "entropy", "grid": "dream", "steps": 512, "measure_filtered": True}
    assert dream() == MostConfident(temperature=0.2, top_p=0.95, **settings)
    assert llada(block_length=None, guidance=2.0).guidance == 2.0


def test_refusals() -> None:
    for make, message in (
        (lambda: llada(remasking="high"), "remasking"),
        (lambda: dream(alg="margin"), "alg"),
        (lambda: dream(steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: MostConfident(measure="luck"), "measure"),
        (lambda: MostConfident(grid="square"), "grid"),
    ):
        with pytest.raises((ValueError, TypeCheckError), match=message):
            make()


def test_the_command_line_has_every_preset() -> None:
    parser = Parser("sample")
    add_sampling_arguments(parser)
    (action,) = [action for action in parser._actions if action.dest == "preset"]
    assert get_args(action._typehint) == tuple(PRESETS)

"""The generation procedures published with LLaDA and Dream, with the settings that their authors recommend.

Neither is exact with these settings, even with an exact network (see `SurestFirst`): they search for likely samples.
`llada(temperature=1.0, remasking="random")` with one token per step is exact. Left out are LLaDA's classifier-free
guidance, which masks the prompt, its options for the end token, and Dream's `alg_temp`: they are off in the recommended
settings.
"""

from collections.abc import Callable
from typing import Any, Literal

from unmask.samplers.ancestral import Ancestral
from unmask.samplers.base import Sampler
from unmask.samplers.confidence import MostConfident, Order
from unmask.schedules import Linear


def llada(
    steps: int = 32,
    temperature: float = 0.0,
    remasking: Literal["low_confidence", "random"] = "low_confidence",
    **settings: Any,
) -> MostConfident:
    """Return the sampler of LLaDA (arXiv:2502.09992, and `generate.py` of its code).

    Blocks of 32 tokens after the prompt are finished from left to right. Each step predicts every mask of the block and
    keeps the tokens that have the largest probabilities at temperature 1: the same number in each step, and one more
    in the first steps where the masks cannot be divided evenly.

    Args:
        steps: of each block; in the published code `steps * block_length / gen_length`.
        temperature: 0 takes the most likely token.
        remasking: "random" keeps tokens at random positions.
        settings: any other of `MostConfident`, such as `block_length`; None is one block.

    Raises:
        ValueError: if a setting is invalid.

    Examples:
        >>> sampler = unmask.llada(steps=16)
        >>> sampler.grid, sampler.block_length
        ('llada', 32)
    """
    measures: dict[str, Order] = {"low_confidence": "confidence", "random": "random"}
    blocks = {"block_length": 32, "blocks_after_prompt": True}
    measure = _look_up(measures, "remasking", remasking)
    return MostConfident(steps, measure, "llada", **blocks | settings | _temperature(temperature))


def dream(
    steps: int = 512,
    temperature: float = 0.2,
    top_p: float = 0.95,
    alg: Literal["entropy", "maskgit_plus", "topk_margin", "origin"] = "entropy",
    **settings: Any,
) -> Sampler:
    """Return the sampler of Dream (arXiv:2508.15487, and `generation_utils.py` of its code).

    From time t to s of a grid a fraction 1 − s / t of the masks is revealed: rounded down, where the prediction is most
    certain after temperature and top-p; or, with `alg="origin"`, each mask with that probability.

    It differs from the published code in three ways. That code counts the masks on average over the batch; here each
    example is counted alone. It measures certainty in the precision of the network, in which many positions are tied in
    bfloat16; here in float64. And it applies top-k after top-p.

    Args:
        steps: of the time grid; those that reveal nothing take no network call.
        temperature: 0 takes the most likely token, and measures certainty at temperature 1.
        top_p: see `Sampler`.
        alg: "entropy": minus the entropy; "maskgit_plus": probability of the token; "topk_margin": difference between
            the two most likely tokens; "origin": random, the reverse process itself.
        settings: any other of `MostConfident`, or of `Ancestral` for "origin".

    Raises:
        ValueError: if a setting is invalid.

    Examples:
        >>> sampler = unmask.dream(steps=64)
        >>> sampler.measure, sampler.top_p
        ('entropy', 0.95)
    """
    filters = {"top_p": top_p} | settings | _temperature(temperature)
    if alg == "origin":
        return Ancestral(Linear(), steps, "dream", **filters)
    measures: dict[str, Order] = {"entropy": "entropy", "maskgit_plus": "confidence", "topk_margin": "margin"}
    return MostConfident(steps, _look_up(measures, "alg", alg), "dream", measure_filtered=True, **filters)


PRESETS: dict[str, Callable[..., Sampler]] = {"llada": llada, "dream": dream}
"""The published procedures by name."""


def _temperature(temperature: float) -> dict[str, Any]:
    """Return the settings of a temperature, where 0 takes the most likely token."""
    return {"temperature": temperature} if temperature else {"temperature": 1.0, "top_k": 1}


def _look_up(measures: dict[str, Order], name: str, value: str) -> Order:
    """Return the measure that a value stands for."""
    if value not in measures:
        raise ValueError(f"{name} must be one of {', '.join(measures)}; got {value!r}")
    return measures[value]

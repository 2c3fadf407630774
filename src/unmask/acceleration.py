"""Sampling faster: products in bfloat16, and a compiled network."""

from unmask.checks import check_choice, check_compiler
from unmask.model import MaskedDiffusion
from unmask.networks.accelerated import Accelerated
from unmask.training.precision import decide

PRECISIONS = ("auto", "32-true", "bf16-mixed")
WIDE = 256
"""Width from which samples are drawn in bfloat16 on a processor; of narrower networks training alone was measured."""


def accelerate(model: MaskedDiffusion, *, precision: str = "auto", compile: bool = False) -> MaskedDiffusion:
    """Make a model draw samples faster, in `sample`, `infill` and all measures that sample it.

    Tokens are still drawn in float64 (`unmask.categorical`), from logits that are rounded to bfloat16. Bounds on
    likelihoods are computed as before.

    Args:
        model: on its device and in evaluation mode. It is changed.
        precision: "32-true": products in the format of its weights. "bf16-mixed": in bfloat16. "auto": in bfloat16
            where that is faster by the rule of `unmask.training.precision`: on GPUs that have it in hardware, and on
            processors that do, for a width of at least 256 or a vocabulary of at least 4,096.
        compile: whether to compile the network for inputs of a few sizes (`Accelerated`); it needs a C++ compiler.

    Returns:
        the model.

    Raises:
        ValueError: an unknown precision; `compile` for a left-to-right model, or without a compiler;
            a model of vectors.

    Example:
        model = unmask.accelerate(unmask.load("runs/text8"), precision="bf16-mixed", compile=True)
    """
    check_choice("precision", precision, PRECISIONS)
    if model.network.vectors:
        if compile or precision == "bf16-mixed":
            raise ValueError("models of vectors with noise are sampled in the format of their weights, not compiled")
        return model
    if compile:
        check_compiler()
        if model.network.causal:
            raise ValueError("compile is not for left-to-right models: each token that they read has another length")
    chosen = decide(model.network, model.device, least_width=WIDE).precision if precision == "auto" else precision
    model.accelerated = (Accelerated(model.network, chosen, compile),)
    return model

"""The same network, with its weights, for examples of another shape."""

from typing import Any

from unmask.networks.base import Network
from unmask.networks.pretrained import Pretrained
from unmask.networks.transformers_models import positions
from unmask.storage.description import build, describe
from unmask.storage.model_files import without_memory

IN_TRAINING = ("dropout", "checkpointing", "gradient_checkpointing")
"""Settings of networks that may be others than the weights were trained with."""


def fit_network(network: Network, shape: tuple[int, ...], **settings: Any) -> Network:
    """Return a network with the same weights for examples of another shape, or with other settings for training.

    Args:
        network: with its weights, which are shared.
        shape: dims of an example.
        settings: some of `IN_TRAINING`.

    Raises:
        ValueError: a setting that the network does not have or that its weights decide; or the shape does not fit the
            weights, as where positions are learned.
    """
    described = describe(network)
    for name in settings:
        if name not in IN_TRAINING:
            raise ValueError(f"network.{name} cannot be chosen: it comes with the weights")
        if name not in described:
            raise ValueError(f"network.{name}: {type(network).__name__} has no such setting")
    if tuple(shape) == network.shape and not settings:
        return network
    if len(shape) != len(network.shape):
        raise ValueError(f"the data have examples of shape {shape}, the network of shape {network.shape}")
    if isinstance(network, Pretrained):
        most, rotary = positions(network.model.config)
        if shape[0] > most and not rotary:
            raise ValueError(f"the model has positions for {most} tokens, the data have examples of {shape[0]}")
    with without_memory():
        fitted = build(Network, described | {"shape": tuple(shape)} | settings, "network", (type(network).__module__,))
    try:
        fitted.load_state_dict(network.state_dict(), assign=True)
    except RuntimeError as error:
        if tuple(shape) == network.shape:
            raise ValueError(f"the weights do not fit these settings: {' '.join(str(error).split())}") from error
        raise ValueError(
            f"the data have examples of shape {shape}, but the weights are for shape {network.shape}: their positions "
            "are learned, so that the shape must be the same (rotary positions take any length)"
        ) from None
    return fitted.train(network.training)

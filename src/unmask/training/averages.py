"""The moving average of the weights."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from unmask.training.sharding import like, load_local, local, reshard


class MovingAverage(Callback):
    """Average the weights exponentially; validate, export and finish with the average.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the steps n, so that short runs forget their start; the
    average begins with the weights after the first step. What is frozen is its own average, and is held once. Of
    weights that are sharded each process averages its rows. Averages of weights in half precision are in float32: what
    a step adds to them, (1 - decay) of a difference, would be rounded away.

    Args:
        decay: in [0, 1).

    Attributes:
        held: the averages of the trained parameters, or of their rows that are here, in order.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be in [0, 1), got {decay}")
        self.decay, self.latest, self.count = decay, 0, 0
        self.held: list[Tensor] = []
        self._current: list[Tensor] = []
        self._loaded: dict[str, Any] | None = None

    def decay_at(self, step: int) -> float:
        """Return the decay at a step, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin with the weights, or with the averages of a checkpoint that was read already."""
        self.held = [_at_least_float32(local(parameter)) for parameter in _trained(pl_module)]
        if self._loaded is not None:
            self._load(pl_module, self._loaded)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step <= self.latest:
            return
        current = [local(parameter) for parameter in _trained(pl_module)]
        if self.count:
            self.average(current, trainer.global_step - 1)
        else:
            torch._foreach_copy_(self.held, current)
        self.latest, self.count = trainer.global_step, self.count + 1

    def average(self, current: list[Tensor], step: int) -> None:
        """Take the weights after a step, counted from 0, into the average."""
        current = [weight.to(average.dtype) for weight, average in zip(current, self.held, strict=True)]
        torch._foreach_lerp_(self.held, current, 1 - self.decay_at(step))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        reshard(pl_module)
        self._current = [local(parameter).clone() for parameter in _trained(pl_module)]
        _set_weights(pl_module, self.held)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        reshard(pl_module)
        _set_weights(pl_module, self._current)
        self._current = []

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        _set_weights(pl_module, self.held)

    def averaged(self, pl_module: Any) -> dict[str, Any]:
        """Return the state of the module with the averages; of sharded weights the rows that are here."""
        state = pl_module.state_dict(keep_vars=True)
        averages = dict(zip(map(id, _trained(pl_module)), self.held, strict=True))
        return {name: like(value, averages.get(id(value), local(value))) for name, value in state.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.latest = state_dict["latest_update_step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the averages into "state_dict", and the weights that are trained into "current_model_state"."""
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = self.averaged(pl_module)
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.count)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.count = int(checkpoint["averaging_state"]["n_averaged"])
        load_local(pl_module, checkpoint["current_model_state"])
        self._loaded = checkpoint["state_dict"]
        if self.held:
            self._load(pl_module, self._loaded)

    @torch.no_grad()
    def _load(self, pl_module: Any, state: dict[str, Any]) -> None:
        names = {id(value): name for name, value in pl_module.state_dict(keep_vars=True).items()}
        for parameter, average in zip(_trained(pl_module), self.held, strict=True):
            average.copy_(state[names[id(parameter)]])
        self._loaded = None


def _trained(module: Any) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@torch.no_grad()
def _set_weights(module: Any, values: list[Tensor]) -> None:
    for parameter, value in zip(_trained(module), values, strict=True):
        local(parameter).copy_(value)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)

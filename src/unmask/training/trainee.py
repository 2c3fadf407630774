"""The training step, as lightning wants it."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from unmask.given import clean_tokens, given_and_clean
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.randomness import seeded
from unmask.training.loggers import logs_now
from unmask.training.optimizer import new_optimizer, parameter_groups
from unmask.training.settings import Optimizer


class NotFiniteError(FloatingPointError):
    """The loss is NaN or infinite."""


class Trainee(LightningModule):
    """What lightning trains: a model under an objective.

    All randomness of a step is a pure function of the seed and the step's number, so that a run that was resumed equals
    the run that was never interrupted.
    """

    def __init__(
        self,
        model: MaskedDiffusion,
        objective: Objective,
        optimizer: Optimizer,
        seed: int,
        label_dropout: float,
        given: bool = False,
        lengths: Lengths | None = None,
    ) -> None:
        super().__init__()
        self.lengths = lengths
        self.given = given or bool(model.network.excluded)
        never = torch.tensor(model.network.excluded, dtype=torch.long)
        self.register_buffer("never", never, persistent=False)
        self.never: Tensor
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.seed, self.label_dropout = seed, label_dropout
        self.length = math.prod(model.shape)

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> Tensor:
        x, label = batch
        trainer, network = self.trainer, self.model.network
        part = batch_idx % trainer.accumulate_grad_batches
        generator = seeded(self.seed, trainer.global_step, part, trainer.global_rank, device=self.device)
        torch.manual_seed(generator.initial_seed())  # dropout layers draw from the global generator
        if label is not None and self.label_dropout:
            dropped = torch.rand(label.shape, generator=generator, device=self.device) < self.label_dropout
            label = label.masked_fill(dropped, network.classes or 0)
        given = None
        if self.given:
            given, x = x < 0, clean_tokens(x)
            given = given | torch.isin(x, self.never) if len(self.never) else given
        loss, nelbo, _ = self.objective(network, x, label, given=given, generator=generator)
        length = self.length if given is None else (~given).sum().clamp(min=1) / len(x)
        self.log("loss", loss / length, prog_bar=True)
        self.log("bits", nelbo.mean() / (length * math.log(2)), prog_bar=True)
        return loss / length  # per token, so that learning rates and clipping do not depend on the length

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()  # lightning does so after the next forward pass, which then has gradients in memory

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.device.type == "cpu" or logs_now(self.trainer):
            self.check_finite(outputs["loss"])  # waits for the GPU, hence not at every step there

    def check_finite(self, loss: Tensor) -> None:
        """Raise a FloatingPointError unless the loss is finite."""
        if not loss.isfinite():
            raise NotFiniteError(f"step {self.trainer.global_step}: the loss is {loss.item()}; training stops")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the learning rates of the settings: after a loss that was not finite they may be others."""
        step, schedules = checkpoint["global_step"], checkpoint["lr_schedulers"]
        rates = [group["lr"] for group in parameter_groups(self.model, self.optimizer)]
        for state, schedule in zip(checkpoint["optimizer_states"], schedules, strict=True):
            if list(schedule["base_lrs"]) == rates:
                continue
            now = [rate * self.optimizer.factor(step, self.trainer.max_steps) for rate in rates]
            schedule.update(base_lrs=rates, _last_lr=now)
            for group, rate, current in zip(state["param_groups"], rates, now, strict=True):
                group.update(lr=current, initial_lr=rate)

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        x, label = batch
        generator = seeded(self.seed, batch_idx, device=self.device)
        of_length = 0 if self.lengths is None else -self.lengths.log_p(self.lengths.measure(x), label)
        given, x = given_and_clean(x, self.model.network.excluded)
        nelbo = draw_loss(self.model.network, self.objective, x, label, draws=1, given=given, generator=generator).nelbo
        nelbo = nelbo + of_length
        tokens = x.numel() if given is None else int((~given).sum())
        bits = nelbo.sum() / (tokens * math.log(2))
        self.log("valid_bits", bits, prog_bar=True, batch_size=tokens, sync_dist=True)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if gradient_clip_val and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:  # lightning's own refuses a fused optimizer under bf16-mixed, which has no scaling
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        optimizer = new_optimizer(self.model, self.optimizer)
        steps = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optimizer.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

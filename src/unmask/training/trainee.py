"""The training step, as lightning wants it."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from unmask.data.order import Division
from unmask.given import clean_tokens, given_and_clean
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.randomness import Share, seeded
from unmask.training.gradients import average_whole, clip_norm, clip_value
from unmask.training.held_out import HeldOut
from unmask.training.loggers import logs_now
from unmask.training.optimizer import new_optimizer, parameter_groups
from unmask.training.settings import Optimizer
from unmask.training.sharding import Sharded, shard, whole_state
from unmask.training.stopping import SIGNALS


class NotFiniteError(FloatingPointError):
    """The loss is NaN or infinite."""


class Trainee(LightningModule):
    """What lightning trains: a model under an objective.

    All randomness of a step is a pure function of the seed, the step's number and the example's in it, so that a run
    that was resumed equals the run that was never interrupted, and one of several processes that of one. Dropout inside
    the network alone depends on the share of the step (`unmask.data.order.Division`) that an example is in.
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
        division: Division | None = None,
    ) -> None:
        super().__init__()
        self.division = division or Division(1)
        self.figures = self.before = self.sums = torch.zeros(2 + len(SIGNALS), dtype=torch.float64)
        self.stop_wanted = 0  # the number of a signal that came
        self.lengths = lengths
        self.given = given or bool(model.network.excluded)
        never = torch.tensor(model.network.excluded, dtype=torch.long)
        self.register_buffer("never", never, persistent=False)
        self.never: Tensor
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.seed, self.label_dropout = seed, label_dropout
        self.length = math.prod(model.shape)
        self.whole: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        """Shard the network, where the strategy does that."""
        strategy = self.trainer.strategy
        if isinstance(strategy, Sharded) and not isinstance(self.model.network, FSDPModule):
            low = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            shard(self.model.network, strategy.mesh, low)

    def on_train_end(self) -> None:
        if isinstance(self.trainer.strategy, Sharded):
            self.whole = whole_state(self.model)

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> Tensor:
        x, label = batch
        step, network, part = self.trainer.global_step, self.model.network, batch_idx % self.division.passes
        share = self.division.share(part)
        dropout = torch.default_generator if self.device.type == "cpu" else torch  # torch's own looks for GPUs: 2 ms
        dropout.manual_seed(seeded(self.seed, step, share, 0).initial_seed())
        generator = Share(seeded(self.seed, step, 0, 0, device=self.device), share, self.division.shares)
        if label is not None and self.label_dropout:
            of_all = torch.rand(len(label) * generator.shares, generator=generator.generator, device=self.device)
            label = label.masked_fill(generator.of(of_all) < self.label_dropout, network.classes or 0)
        given = None
        if self.given:
            given, x = x < 0, clean_tokens(x)
            given = given | torch.isin(x, self.never) if len(self.never) else given
        loss, nelbo, _ = self.objective(network, x, label, given=given, generator=generator)
        length = self.length if given is None else self._mean((~given).sum() / len(x)).clamp(min=1 / len(x))
        self._note(part, loss.detach() / length, nelbo.mean() / (length * math.log(2)))
        return loss / length  # per token, so that learning rates and clipping do not depend on the length

    def _mean(self, figure: Tensor) -> Tensor:
        """Return the mean of a figure over all processes."""
        return figure if self.division.processes == 1 else self.trainer.strategy.reduce(figure, reduce_op="mean")

    def _note(self, part: int, loss: Tensor, bits: Tensor) -> None:
        """Take down the figures of a pass; log those of the step, over all passes and processes, after its last."""
        wanted = [torch.full_like(loss, self.stop_wanted == number) for number in SIGNALS]
        figures = torch.stack((loss, bits.to(loss.dtype), *wanted))
        if part == 0:
            self.before, self.figures = self.figures, torch.zeros_like(figures)
        self.figures = self.figures + figures
        if part + 1 == self.division.passes:
            self.figures = self._mean(self.figures / self.division.passes)
            self.log("loss", self.figures[0])  # not prog_bar, for which lightning reads it in each step
            self.log("bits", self.figures[1])

    def stops_now(self) -> int:
        """Return the number of the signal that a process got, the same in all of them; 0: none did.

        Read on a GPU is what was known a step before, for which nothing waits.
        """
        if self.division.processes == 1:
            return self.stop_wanted
        known = self.figures if self.device.type == "cpu" else self.before
        return next((number for number, got in zip(SIGNALS, known[2:].tolist(), strict=True) if got), 0)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()  # lightning does so after the next forward pass, which then has gradients in memory

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.device.type == "cpu" or logs_now(self.trainer):
            self.check_finite()  # waits for the GPU, hence not at every step there

    def check_finite(self) -> None:
        """Raise a FloatingPointError unless the loss is finite; in all processes, since it is that of all."""
        if not self.figures[0].isfinite():
            raise NotFiniteError(f"step {self.trainer.global_step}: the loss is {self.figures[0]:g}; training stops")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if isinstance(self.trainer.strategy, Sharded):
            average_whole(self.parameters())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the learning rates of the settings: after a loss that was not finite they may be others, and those
        of a run that is made longer fall later.

        Also count batches as there are now: on another number of processes a step may have more of them.
        """
        _recount(checkpoint, self.division.passes)
        step, schedules = checkpoint["global_step"], checkpoint["lr_schedulers"]
        rates = [group["lr"] for group in parameter_groups(self.model, self.optimizer)]
        for state, schedule in zip(checkpoint["optimizer_states"], schedules, strict=True):
            now = [rate * self.optimizer.factor(step, self.trainer.max_steps) for rate in rates]
            schedule.update(base_lrs=rates, _last_lr=now)
            for group, rate, current in zip(state["param_groups"], rates, now, strict=True):
                group.update(lr=current, initial_lr=rate)

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # nats, tokens

    def validation_step(self, batch: HeldOut, batch_idx: int) -> None:
        x, label = batch.x, batch.label
        of_all = seeded(self.seed, batch.number, device=self.device)
        generator = Share(of_all, batch.share, self.division.shares, batch.whole)
        of_length = 0 if self.lengths is None else -self.lengths.log_p(self.lengths.measure(x), label)
        given, x = given_and_clean(x, self.model.network.excluded)
        nelbo = draw_loss(self.model.network, self.objective, x, label, draws=1, given=given, generator=generator).nelbo
        nelbo = nelbo + of_length
        tokens = torch.ones_like(x).sum() if given is None else (~given).sum()
        if batch.counted:
            self.sums += torch.stack((nelbo.sum(), tokens))

    def on_validation_epoch_end(self) -> None:
        nats, tokens = self._mean(self.sums)
        self.log("valid_bits", nats / (tokens * math.log(2)), sync_dist=True)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if gradient_clip_val and gradient_clip_algorithm == "value":
            clip_value(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:  # lightning's own refuses a fused optimizer under bf16-mixed, which has no scaling
            clip_norm(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        optimizer = new_optimizer(self.model, self.optimizer, fused=self.trainer.precision != "16-mixed")
        steps = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optimizer.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _recount(checkpoint: dict[str, Any], passes: int) -> None:
    """Have a checkpoint count batches as if a step had always had that many."""
    step = checkpoint["global_step"]
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    more = step * (passes - round(progress["total"]["ready"] / max(1, step)))
    for part in (progress["total"], progress["current"]):
        part.update({name: count + more for name, count in part.items() if isinstance(count, int)})

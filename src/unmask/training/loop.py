"""The training step, and the run around it."""

import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unmask.data.base import DataSet
from unmask.data.order import Order
from unmask.given import clean_tokens, given_and_clean
from unmask.model import MaskedDiffusion
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.randomness import seeded
from unmask.schedules import TokenPolynomial
from unmask.storage.checkpoint import load_tree
from unmask.training.callbacks import Bar, Keep, MovingAverage, SafetensorsIO, Speed, logs_now
from unmask.training.settings import Optimizer, Run


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
    ) -> None:
        super().__init__()
        self.given = given
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
        given = x < 0 if self.given else None
        x = x if given is None else clean_tokens(x)
        loss, nelbo, _ = self.objective(network, x, label, given=given, generator=generator)
        length = self.length if given is None else (~given).sum() / len(x)
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
            cause = "--optimizer.lr"
            if isinstance(self.model.schedule, TokenPolynomial) and self.model.schedule.learned:
                cause += " or --optimizer.schedule_lr"
            raise FloatingPointError(
                f"step {self.trainer.global_step}: the loss is {loss.item()}; training stops. "
                f"A checkpoint that was written before is kept. Try a lower {cause}"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        x, label = batch
        generator = seeded(self.seed, batch_idx, device=self.device)
        given, x = given_and_clean(x)
        nelbo = draw_loss(self.model.network, self.objective, x, label, draws=1, given=given, generator=generator).nelbo
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
        settings = self.optimizer
        network = self.model.network
        decays = [
            p
            for m in network.modules()
            if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
            for p in (m.weight,)
        ]
        ids = {id(p) for p in decays}
        others = [p for p in network.parameters() if id(p) not in ids]
        if settings.schedule_lr and not isinstance(self.model.schedule, TokenPolynomial):
            raise ValueError(
                "optimizer.schedule_lr is for the exponents of TokenELBO; this objective learns no schedule"
            )
        exponents = [p for name, p in self.model.named_parameters() if name.startswith("schedule.") and p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": decays, "weight_decay": settings.weight_decay}]
        groups += [{"params": others, "weight_decay": 0.0}]
        if exponents:
            groups += [{"params": exponents, "weight_decay": 0.0, "lr": settings.schedule_lr or settings.lr}]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)
        steps = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: settings.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def plan_training(
    model: MaskedDiffusion,
    data: DataSet,
    objective: Objective,
    optimizer: Optimizer,
    run: Run,
    trainer: dict[str, Any],
) -> Callable[[], int]:
    """Check everything that can be checked before training; return what then does it and says at which step it ended.

    Training goes on from `run.checkpoint` where that exists, and leaves the model with its averaged weights.

    Args:
        model: with initial weights.
        data: its train and valid parts are used.
        objective: what is minimised.
        optimizer: how.
        run: where, how long, how often.
        trainer: arguments of lightning's Trainer; `max_steps` is needed.

    Raises:
        ValueError: settings that do not fit the data.
        FloatingPointError: (from what is returned) the loss is not finite; the last checkpoint is kept.
        KeyboardInterrupt: (from what is returned) says how to go on.
    """
    _quieten()
    _check(trainer)
    every = trainer.get("accumulate_grad_batches", 1)
    callbacks = [MovingAverage(run.ema), Speed(run.compile), Keep(run.checkpoint, run.checkpoint_every)]
    if trainer.get("enable_progress_bar") is not False:
        callbacks.append(Bar(trainer["max_steps"]))
    log_every = trainer.get("log_every_n_steps") or max(1, min(10, trainer["max_steps"] // 20))
    loop = _new_trainer(
        **trainer | {"log_every_n_steps": log_every},
        precision=run.precision,
        callbacks=callbacks,
        logger=[CSVLogger(run.out, name="logs"), TensorBoardLogger(run.out, name="tensorboard")],
        plugins=[SafetensorsIO()],
        default_root_dir=run.out,
        max_epochs=-1,
        val_check_interval=run.evaluate_every * every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        inference_mode=False,
    )
    train_split = data.split("train")
    order = Order(
        len(train_split), run.batch_size, run.seed, lambda: loop.global_step * every, loop.global_rank, loop.world_size
    )
    on_gpu = loop.strategy.root_device.type == "cuda"
    loading: dict[str, Any] = {"batch_size": None, "collate_fn": _as_it_is, "pin_memory": on_gpu}
    batches = DataLoader(train_split, sampler=order, num_workers=run.workers, **loading)
    held_out: Any = list(data.split("valid").batches(run.batch_size, run.evaluate_examples))
    valid: DataLoader = DataLoader(held_out, **loading)
    trainee = Trainee(model, objective, optimizer, run.seed, run.label_dropout, data.given)

    def go() -> int:
        if run.compile:
            model.network.compile_body()
        before = load_tree(run.checkpoint) if run.checkpoint.exists() else None
        if before is not None and before["global_step"] >= trainer["max_steps"]:
            trainee.load_state_dict(before["state_dict"])  # the average; nothing is left to do
            model.eval()
            return before["global_step"]
        try:
            loop.fit(trainee, batches, valid, ckpt_path=None if before is None else run.checkpoint)
        except SystemExit:  # what lightning makes of Ctrl-C
            kept = "go on with --resume" if run.checkpoint.exists() else "there is no checkpoint yet"
            raise KeyboardInterrupt(f"interrupted at step {loop.global_step}; {kept}") from None
        model.eval()
        return loop.global_step

    return go


def _check(trainer: dict[str, Any]) -> None:
    """Raise a ValueError for arguments of lightning's Trainer that it would only fail on later, or not at all."""
    for name, default in (("max_steps", -1), ("accumulate_grad_batches", 1), ("log_every_n_steps", None)):
        value = trainer.get(name, default)
        if value is not None and value < 1:
            raise ValueError(f"trainer.{name} must be at least 1, got {value}")
    if not (trainer.get("gradient_clip_val") or 0) >= 0:
        raise ValueError(f"trainer.gradient_clip_val must be at least 0, got {trainer['gradient_clip_val']}")


def _new_trainer(**settings: Any) -> Trainer:
    try:
        return Trainer(**settings)
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _quieten() -> None:
    """Keep lightning's remarks about choices that are made here on purpose off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*isinstance.*LeafSpec.*", ".*litlogger.*"):
        warnings.filterwarnings("ignore", message)

"""Training: the only file that imports lightning."""

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unmask.checkpoint import load_tree, save_tree
from unmask.data.base import DataSet
from unmask.data.order import Order
from unmask.metrics.likelihood import draw_nelbo
from unmask.model import MaskedDiffusion
from unmask.objectives import Objective
from unmask.randomness import seeded


@dataclass(frozen=True)
class Optimizer:
    """AdamW with a warm-up and a decay of the learning rate.

    Args:
        lr: the highest learning rate.
        warmup_steps: steps over which it rises from 0.
        decay: how it falls to `final` of that by the last step: "cosine", "linear", or "constant" (it does not).
        final: the fraction of `lr` that is left at the end.
        schedule_lr: in place of `lr` for the exponents of a learned schedule (`TokenELBO`); `lr` if None.
        weight_decay: of matrices; embeddings, gains and biases do not decay.
        beta1: decay of the gradient's mean.
        beta2: decay of its square's mean.
    """

    lr: float = 1e-3
    warmup_steps: int = 100
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final: float = 0.0
    schedule_lr: float | None = None
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98

    def __post_init__(self) -> None:
        for name, value in (("lr", self.lr), ("schedule_lr", self.schedule_lr)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"optimizer.{name} must be positive, got {value}")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError("optimizer.warmup_steps and optimizer.weight_decay must be at least 0")

    def factor(self, step: int, max_steps: int) -> float:
        """Return what multiplies `lr` at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps))
        fall = {"cosine": 0.5 - 0.5 * math.cos(math.pi * done), "linear": done, "constant": 0.0}[self.decay]
        return 1 - (1 - self.final) * fall


def logs_now(trainer: Any) -> bool:
    """Whether this step's figures are written to the logs."""
    return trainer.global_step % trainer.log_every_n_steps == 0


class Trainee(LightningModule):
    """What lightning trains: a model under an objective.

    All randomness of a step is a pure function of the seed and the step's number, so that a run that was resumed equals
    the run that was never interrupted.
    """

    def __init__(
        self, model: MaskedDiffusion, objective: Objective, optimizer: Optimizer, seed: int, label_dropout: float
    ) -> None:
        super().__init__()
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
        loss, nelbo = self.objective(network, x, label, generator=generator)
        self.log("loss", loss / self.length, prog_bar=True)
        self.log("bits", nelbo.mean() / (self.length * math.log(2)), prog_bar=True)
        return loss / self.length  # per token, so that learning rates and clipping do not depend on the length

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.device.type == "cpu" or logs_now(self.trainer):
            self.check_finite(outputs["loss"])  # waits for the GPU, hence not at every step there

    def check_finite(self, loss: Tensor) -> None:
        """Raise a FloatingPointError unless the loss is finite."""
        if not loss.isfinite():
            raise FloatingPointError(
                f"step {self.trainer.global_step}: the loss is {loss.item()}; training stops. "
                "The last checkpoint is kept. Try a lower --optimizer.lr"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        x, label = batch
        generator = seeded(self.seed, batch_idx, device=self.device)
        nelbo = draw_nelbo(self.model.network, self.objective, x, label, draws=1, generator=generator)
        self.log(
            "valid_bits", nelbo.mean() / (self.length * math.log(2)), prog_bar=True, batch_size=len(x), sync_dist=True
        )

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
        decays = [p for m in network.modules() if isinstance(m, nn.Linear) for p in (m.weight,)]
        ids = {id(p) for p in decays}
        others = [p for p in network.parameters() if id(p) not in ids]
        exponents = [p for name, p in self.model.named_parameters() if name.startswith("schedule.") and p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": decays, "weight_decay": settings.weight_decay}]
        groups += [{"params": others, "weight_decay": 0.0}]
        if exponents:
            groups += [{"params": exponents, "weight_decay": 0.0, "lr": settings.schedule_lr or settings.lr}]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)
        steps = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: settings.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class MovingAverage(WeightAveraging):
    """Average the weights exponentially; validate, export and finish with the average.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the steps n, so that short runs forget their start.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be in [0, 1), got {decay}")
        self.decay, self.step = decay, 0
        super().__init__(multi_avg_fn=self.average)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        self.step = step_idx or 0
        return step_idx is not None

    def average(self, average: Any, current: Any, _: Any) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, 1 - decay)
        else:  # whole numbers, in a buffer, have no average
            torch._foreach_copy_(average, current)


class Keep(Checkpoint):
    """Write the whole state of training to one file, every so many steps and at the last."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if due and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            pl_module.check_finite(outputs["loss"])
            trainer.save_checkpoint(self.path)


class SafetensorsIO(CheckpointIO):
    """Checkpoints without pickle; see `unmask.checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_tree(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load_tree(path)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Speed(Callback):
    """Log tokens per second, counted between log lines."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.since, self.tokens = time.perf_counter(), 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.tokens += batch[0].numel() * trainer.world_size
        if logs_now(trainer):
            now = time.perf_counter()
            pl_module.log("tokens/s", self.tokens / (now - self.since), prog_bar=True)
            self.since, self.tokens = now, 0


class Bar(TQDMProgressBar):
    """A progress bar over all steps of the run; a line now and then where nobody watches."""

    def __init__(self, max_steps: int) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else max(1, max_steps // 20))

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description("training")

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


@dataclass(frozen=True)
class Run:
    """Where and how long a model is trained, beside what lightning's Trainer is told.

    Args:
        out: folder of the run.
        seed: of the initial weights, the order of the data and the masks.
        batch_size: examples per step and process.
        ema: decay of the moving average of the weights, which is what is evaluated and saved.
        label_dropout: chance to replace a label by the null label, for models that are to work without one too.
        precision: "32-true", "bf16-mixed", ..., as lightning names them; "auto" measures which is faster here.
        compile: whether to compile the network's body (`torch.compile`); it needs a C++ compiler.
        evaluate_every: steps between evaluations on the validation part.
        evaluate_examples: examples of it that are used, evenly spread.
        checkpoint_every: steps between checkpoints.
        workers: processes that read data; 0 reads in this one, which is fastest for data in memory or mapped.
    """

    out: str
    seed: int = 0
    batch_size: int = 64
    ema: float = 0.999
    label_dropout: float = 0.1
    precision: str = "auto"
    compile: bool = False
    evaluate_every: int = 500
    evaluate_examples: int = 512
    checkpoint_every: int = 500
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "evaluate_every", "evaluate_examples", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {self.label_dropout}")

    @property
    def checkpoint(self) -> Path:
        """The file that holds the whole state of training."""
        return Path(self.out, "checkpoints", "last.safetensors")


def plan_training(
    model: MaskedDiffusion,
    data: DataSet,
    objective: Objective,
    optimizer: Optimizer,
    run: Run,
    trainer: dict[str, Any],
) -> Callable[[], None]:
    """Check everything that can be checked before training; return what then does it, in place.

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
    """
    _quieten()
    if trainer.get("max_steps", -1) < 1:
        raise ValueError(f"trainer.max_steps must be at least 1, got {trainer.get('max_steps', -1)}")
    every = trainer.get("accumulate_grad_batches", 1)
    callbacks = [MovingAverage(run.ema), Speed(), Keep(run.checkpoint, run.checkpoint_every)]
    if trainer.get("enable_progress_bar") is not False:
        callbacks.append(Bar(trainer["max_steps"]))
    loop = Trainer(
        **trainer
        | {"log_every_n_steps": trainer.get("log_every_n_steps") or max(1, min(10, trainer["max_steps"] // 20))},
        precision=run.precision,  # type: ignore[arg-type]
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
    loading: dict[str, Any] = {
        "batch_size": None,
        "collate_fn": _as_it_is,
        "pin_memory": loop.strategy.root_device.type == "cuda",
    }
    batches = DataLoader(train_split, sampler=order, num_workers=run.workers, **loading)
    held_out: Any = list(data.split("valid").batches(run.batch_size, run.evaluate_examples))
    valid: DataLoader = DataLoader(held_out, **loading)
    trainee = Trainee(model, objective, optimizer, run.seed, run.label_dropout)

    def go() -> None:
        if run.compile:
            model.network.compile_body()
        before = load_tree(run.checkpoint) if run.checkpoint.exists() else None
        if before is not None and before["global_step"] >= trainer["max_steps"]:
            trainee.load_state_dict(before["state_dict"])  # the average; nothing is left to do
        else:
            loop.fit(trainee, batches, valid, ckpt_path=None if before is None else run.checkpoint)
        model.eval()

    return go


def _as_it_is(batch: Any) -> Any:
    return batch


def _quieten() -> None:
    """Keep lightning's remarks about choices that are made here on purpose off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*isinstance.*LeafSpec.*", ".*litlogger.*"):
        warnings.filterwarnings("ignore", message)

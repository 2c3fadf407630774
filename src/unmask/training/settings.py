"""What a training run can be told, beside what lightning's Trainer is told."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
        if self.warmup_steps < 0 or not self.weight_decay >= 0:
            raise ValueError("optimizer.warmup_steps and optimizer.weight_decay must be at least 0")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"optimizer.{name} must be in [0, 1), got {value}")
        if not 0 <= self.final <= 1:
            raise ValueError(f"optimizer.final must be in [0, 1], got {self.final}")

    def factor(self, step: int, max_steps: int) -> float:
        """Return what multiplies `lr` at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps))
        fall = {"cosine": 0.5 - 0.5 * math.cos(math.pi * done), "linear": done, "constant": 0.0}[self.decay]
        return 1 - (1 - self.final) * fall


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
        if self.seed < 0 or self.workers < 0:
            raise ValueError(f"seed and workers must be at least 0, got {self.seed} and {self.workers}")
        if not self.out:
            raise ValueError("out must name a folder, got an empty string")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {self.label_dropout}")

    @property
    def checkpoint(self) -> Path:
        """The file that holds the whole state of training."""
        return Path(self.out, "checkpoints", "last.safetensors")

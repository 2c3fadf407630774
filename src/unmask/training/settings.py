"""What a training run can be told: the optimizer, the run itself, and what is passed on to lightning's Trainer.

Plain values and no import of torch or lightning: the command line checks these before it imports either.
"""

import math
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from unmask.storage.folders import BEST, CHECKPOINT
from unmask.storage.remote import check_url, is_remote


@dataclass(frozen=True)
class Optimizer:
    """AdamW, or Muon for the matrices inside a network and AdamW for the rest, with a warm-up and a decay of the rates.

    Args:
        kind: "AdamW", or "Muon", which learns more in a step that costs a little more.
        lr: the highest learning rate of AdamW.
        matrix_lr: that of Muon.
        embedding_lr: that of AdamW for the embeddings and the head, as far as they are trained; `lr` if None.
        momentum: of Muon.
        warmup_steps: steps over which it rises from 0.
        decay: how it falls to `final` of that by the last step: "cosine", "linear", or "constant" (it does not).
        final: the fraction of `lr` that is left at the end.
        schedule_lr: in place of `lr` for a learned schedule (the exponents of `TokenELBO`, the noise of
            `GaussianELBO`); `lr` if None.
        weight_decay: of matrices, times their rate; embeddings, gains and biases do not decay.
        beta1: decay of the gradient's mean.
        beta2: decay of its square's mean.

    Examples:
        >>> optimizer = unmask.Optimizer(lr=1e-3, warmup_steps=10)
        >>> [round(optimizer.factor(step, max_steps=110), 2) for step in (0, 9, 60, 110)]
        [0.1, 1.0, 0.5, 0.0]
    """

    kind: Literal["AdamW", "Muon"] = "AdamW"
    lr: float = 1e-3
    matrix_lr: float = 0.02
    embedding_lr: float | None = None
    momentum: float = 0.95
    warmup_steps: int = 100
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final: float = 0.0
    schedule_lr: float | None = None
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98

    def __post_init__(self) -> None:
        if self.kind not in ("AdamW", "Muon"):
            raise ValueError(f"optimizer.kind must be AdamW or Muon, got {self.kind!r}")
        for name in ("lr", "matrix_lr", "embedding_lr", "schedule_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"optimizer.{name} must be positive, got {value}")
        if self.warmup_steps < 0 or not self.weight_decay >= 0:
            raise ValueError("optimizer.warmup_steps and optimizer.weight_decay must be at least 0")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2), ("momentum", self.momentum)):
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


PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
"""Of lightning's, those that have float64, which mask rates and draws need: not MPS."""
LOGGERS = {"TensorBoardLogger": "tensorboard", "CSVLogger": None, "WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
LOGGERS |= {"CometLogger": "comet-ml", "NeptuneLogger": "neptune", "LitLogger": "litlogger"}
"""Lightning's loggers, and the packages that they need."""


@dataclass(frozen=True)
class Run:
    """Where and how long a model is trained, beside what lightning's Trainer is told.

    Args:
        out: folder of the run.
        seed: of the initial weights, the order of the data and the masks.
        batch_size: examples per step and process.
        ema: decay of the moving average of the weights, which is what is evaluated and saved.
        label_dropout: chance to replace a label by the null label, for models that are to work without one too.
        precision: "32-true", "bf16-mixed", ..., as lightning names them; "auto" chooses by the rule of
            `unmask.training.precision`, and `--resume` keeps what was chosen.
        compile: whether to compile the network's body (`torch.compile`); it needs a C++ compiler.
        evaluate_every: steps between evaluations on the validation part.
        evaluate_examples: examples of it that are used, evenly spread.
        checkpoint_every: steps between checkpoints.
        workers: processes that read data; 0 reads in this one, which is fastest for data in memory or mapped.
        peer_timeout: seconds that a process of several waits for another, at the start and in each step.
        train: the weights that are trained, others are frozen: `embed`, `head`, `last:4` (blocks), or names with
            wildcards, with commas between them; all if not given.
        freeze: which of these are frozen, named in the same way.
        lora: rank of a low-rank adapter (arXiv:2106.09685), trained and saved in place of the weights that it is for.
        lora_alpha: scale of the adapter; twice the rank if not given.
        lora_targets: names of linear maps, with wildcards and commas, that are adapted; all but the output embedding if
            not given.
        lora_dropout: probability of dropping an entry of what goes into the adapter.
        keep_best: whether the model is that of the best evaluation, not that of the last step.
        patience: evaluations without a better one after which training ends, if given.
        mirror: URL, such as s3://bucket/run, to which the run is copied after each checkpoint, in the background;
            `unmask pull` brings it back.

    Examples:
        >>> run = unmask.Run("runs/mine", batch_size=16, ema=0.99)
        >>> run.precision
        'auto'
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
    peer_timeout: int = 600
    train: str | None = None
    freeze: str | None = None
    lora: int | None = None
    lora_alpha: float | None = None
    lora_targets: str | None = None
    lora_dropout: float | None = None
    keep_best: bool = False
    patience: int | None = None
    mirror: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "evaluate_every", "evaluate_examples", "checkpoint_every", "peer_timeout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lora", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lora_alpha", "lora_targets", "lora_dropout"):
            if getattr(self, name) is not None and self.lora is None:
                raise ValueError(f"{name} goes with lora, the rank of an adapter")
        if self.seed < 0 or self.workers < 0:
            raise ValueError(f"seed and workers must be at least 0, got {self.seed} and {self.workers}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        if not self.out:
            raise ValueError("out must name a folder, got an empty string")
        if is_remote(self.out):
            raise ValueError(f"out must be a folder of this machine, got {self.out}; that can be its --mirror")
        if self.mirror is not None:
            check_url(self.mirror, "mirror")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {self.label_dropout}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")

    @property
    def best(self) -> Path:
        """The file that holds the weights of the best evaluation, where they are kept."""
        return Path(self.out) / BEST

    @property
    def checkpoint(self) -> Path:
        """The file that holds the whole state of training."""
        return Path(self.out) / CHECKPOINT


@dataclass(frozen=True)
class TrainerSettings:
    """What is passed on to lightning's Trainer.

    From Python, `strategy` and `profiler` may be objects of lightning's too, and the list `logger` may hold some.

    Args:
        max_steps: steps of the optimizer.
        max_time: when to stop earlier, as "DD:HH:MM:SS".
        accelerator: "auto", "cpu", or "gpu" or "cuda", which are the same.
        strategy: "auto", "ddp", ..., as lightning names them.
        devices: how many, which, or "auto".
        num_nodes: machines.
        accumulate_grad_batches: batches whose gradients are summed up for one step.
        gradient_clip_val: the greatest norm of the gradient, or the greatest value; None does not clip.
        gradient_clip_algorithm: "norm" or "value".
        log_every_n_steps: steps between two rows of the logs; at most 10, at least twenty rows, if None.
        enable_progress_bar: whether to draw one.
        deterministic: whether to use deterministic algorithms alone, or "warn" where there is none.
        benchmark: whether cuDNN tries out its algorithms.
        detect_anomaly: whether to look for the operation that makes a gradient NaN; slow.
        profiler: "simple", "advanced" or "pytorch".
        logger: a class of lightning's loggers by name ("WandbLogger"), or {"class_path": name, "init_args": {...}},
            or a list of these; TensorBoard if None or true, none if false. metrics.csv, which the loss curve is drawn
            from, is written always.
    """

    max_steps: int = 1000
    max_time: str | None = None
    accelerator: str = "auto"
    strategy: str = "auto"
    devices: int | list[int] | str = "auto"
    num_nodes: int = 1
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    log_every_n_steps: int | None = None
    enable_progress_bar: bool = True
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    profiler: str | None = None
    logger: bool | str | list | dict | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "num_nodes", "accumulate_grad_batches", "log_every_n_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"trainer.{name} must be at least 1, got {value}")
        if isinstance(self.accelerator, str) and self.accelerator not in ACCELERATORS:
            raise ValueError(f"trainer.accelerator must be one of {', '.join(ACCELERATORS)}; got {self.accelerator!r}")
        if self.max_time is not None and not re.fullmatch(r"\d{1,5}(:\d\d){3}", self.max_time):
            raise ValueError(f"trainer.max_time must be DD:HH:MM:SS, such as 00:08:00:00, got {self.max_time!r}")
        for wanted in self.logger if isinstance(self.logger, list) else [self.logger]:
            check_logger(wanted)
        if not 0 <= (self.gradient_clip_val or 0) < math.inf:
            raise ValueError(f"trainer.gradient_clip_val must be at least 0, got {self.gradient_clip_val}")
        if self.gradient_clip_algorithm not in (None, "norm", "value"):
            raise ValueError(
                f"trainer.gradient_clip_algorithm must be norm or value, got {self.gradient_clip_algorithm!r}"
            )

    @property
    def rows_every(self) -> int:
        """Steps between two rows of the logs."""
        return self.log_every_n_steps or max(1, min(10, self.max_steps // 20))


def check_logger(wanted: Any) -> None:
    """Raise an error for a logger of lightning's that there is not, or whose package is not installed.

    Raises:
        ValueError: an unknown name; one with a module is looked up when the trainer is built.
        ImportError: the package is not installed; names it.
    """
    name = wanted.get("class_path") if isinstance(wanted, dict) else wanted
    if not isinstance(name, str) or "." in name:
        return
    if name not in LOGGERS:
        raise ValueError(f"trainer.logger: unknown logger {name!r}; known are {', '.join(LOGGERS)}, or module.Class")
    package = LOGGERS[name]
    if package is not None and find_spec(package.partition("-")[0].replace("comet", "comet_ml")) is None:
        raise ImportError(f"trainer.logger: {name} needs a package that is not installed: pip install {package}")

"""Training: the only code that imports lightning."""

from unmask.training.callbacks import MovingAverage
from unmask.training.loop import plan_training
from unmask.training.settings import Optimizer, Run

__all__ = ["MovingAverage", "Optimizer", "Run", "plan_training"]

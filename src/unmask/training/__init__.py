"""Training: the only code that imports lightning, and only once something is trained."""

from typing import Any

from unmask.training.settings import Optimizer, Run, TrainerSettings

HOMES = {
    "train": "start",
    "dry_run": "rehearsal",
    "plan_training": "loop",
    "plan": "planning",
    "pull": "pulling",
    "Cluster": "planning",
    "weightless": "planning",
    "MovingAverage": "averages",
}
__all__ = [
    "Cluster",
    "MovingAverage",
    "Optimizer",
    "Run",
    "TrainerSettings",
    "dry_run",
    "plan",
    "plan_training",
    "pull",
    "train",
    "weightless",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)

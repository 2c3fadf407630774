"""What a kill leaves: some work that ends at the k-th call that moves or removes something."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest


class Die(BaseException):
    """What a kill is in these tests: nothing catches it but `finally`, and there every move dies again."""


def killed_at(k: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> bool:
    """Do some work that is killed at the k-th call that moves or removes something; return whether it was."""
    calls, dead = iter(range(1, 1_000_000)), []

    def hooked(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if dead or next(calls) == k:
                dead.append(True)
                raise Die
            return real(*arguments, **settings)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, hooked(getattr(os, name)))
        with suppress(Die):
            work()
    return bool(dead)

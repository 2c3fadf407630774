"""Figures at fixed seeds are what they were when they were recorded (tests/golden.py)."""

import json
from typing import Any

import pytest

import golden

BEFORE: dict[str, Any] = json.loads(golden.STORED.read_text())
SAME = golden.machine() == BEFORE["machine"]
"""Whether the last bits can be expected to agree; elsewhere float64 rounds otherwise, and float32 more so."""


def test_objectives() -> None:
    now = golden.objectives()
    assert now == (BEFORE["objectives"] if SAME else pytest.approx(BEFORE["objectives"], rel=1e-9))


def test_samplers() -> None:
    assert golden.samplers() == BEFORE["samplers"]


@pytest.mark.slow
def test_runs() -> None:
    now, before = golden.runs(), BEFORE["runs"]
    if SAME:
        assert now == before
    else:
        assert now["digits"] == pytest.approx(before["digits"], rel=0.01)
        assert now["resumed, sum"] == pytest.approx(before["resumed, sum"], rel=1e-3)

"""Figures at fixed seeds are what they were when they were recorded (tests/golden.py)."""

import json
from typing import Any

import pytest

import fresh
import golden

BEFORE: dict[str, Any] = json.loads(golden.STORED.read_text())


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of today, from a process with as many threads as there were then."""
    target = tmp_path_factory.mktemp("golden") / "now.json"
    done = fresh.finish(golden.write, target, BEFORE["machine"]["threads"], folder=target.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(target.read_text())


def test_objectives(now: dict[str, Any]) -> None:
    same = now["machine"] == BEFORE["machine"]
    assert now["objectives"] == (BEFORE["objectives"] if same else pytest.approx(BEFORE["objectives"], rel=1e-9))


def test_samplers(now: dict[str, Any]) -> None:
    assert now["samplers"] == BEFORE["samplers"]


def test_runs(now: dict[str, Any]) -> None:
    """To the last bit on a machine of the same kind; elsewhere float32 rounds otherwise."""
    if now["machine"] == BEFORE["machine"]:
        assert now["runs"] == BEFORE["runs"]
    else:
        assert now["runs"]["digits"] == pytest.approx(BEFORE["runs"]["digits"], rel=0.01)
        assert now["runs"]["resumed, sum"] == pytest.approx(BEFORE["runs"]["resumed, sum"], rel=1e-3)

"""Figures at fixed seeds are what they were when they were recorded (tests/golden.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import golden

BEFORE: dict[str, Any] = json.loads(golden.STORED.read_text())


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of today, from a process with as many threads as there were then."""
    target = tmp_path_factory.mktemp("golden") / "now.json"
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root / "src"), str(root)])
    threads = str(BEFORE["machine"]["threads"])
    waiting = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}  # other tests need the cores
    environment = os.environ | waiting | {"PYTHONPATH": paths}
    command = [sys.executable, "-m", "tests.golden", str(target)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
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

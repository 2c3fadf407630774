"""The examples of public docstrings run, and every public class has one."""

import doctest
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask
import unmask.serving
from unmask.display.measured import curve_of

GIVEN = {"torch": torch, "np": np, "unmask": unmask}
"""What the examples do not import."""
CLASSES = {name: value for name in unmask.__all__ if inspect.isclass(value := getattr(unmask, name))}
FUNCTIONS = {name: value for name in unmask.__all__ if inspect.isfunction(value := getattr(unmask, name))}


def test_the_reference_lists_every_public_class_and_function() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^   ([\w.]+)$", page, re.MULTILINE)
    named: list[Any] = [*CLASSES.values(), *FUNCTIONS.values()]
    public = {value.__name__ for value in named}  # BPE is an old name of Tokenizer
    wanted = public | {f"serving.{name}" for name in unmask.serving.__all__}
    assert wanted - {*listed} <= {"categorical"}  # it stands under the module of its name
    assert len(listed) == len({*listed})


@pytest.mark.parametrize("value", [*CLASSES.values(), *FUNCTIONS.values(), curve_of])
def test_the_examples_of_docstrings_run(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    failures: list[str] = []
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(recurse=False).find(value, value.__name__, globs=dict(GIVEN)):
        runner.run(test, out=failures.append)
    assert not failures, "".join(failures)


def test_every_public_class_has_an_example() -> None:
    assert len(CLASSES) > 40
    assert [name for name, value in CLASSES.items() if "\n    >>> " not in (inspect.getdoc(value) or "")] == []

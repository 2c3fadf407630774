"""The papers' comparisons: every row of a table trained under one protocol, beside the published figures.

report = unmask.reproduction.reproduce("text8", data="wiki27.txt", minutes=10, out="runs/reproduce-text8")
print(report)
"""

from typing import Any

from unmask.reproduction.table import Row, Table
from unmask.reproduction.tables import TABLES

HOMES = {"reproduce": "tabling", "Reproduction": "report"}
__all__ = ["TABLES", "Reproduction", "Row", "Table", "reproduce"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)

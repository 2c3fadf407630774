"""A report: figures and a protocol."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Report:
    """Rows of figures, and what another person needs to get the same."""

    rows: tuple[dict[str, Any], ...]
    protocol: dict[str, Any]

    def __str__(self) -> str:
        lines = [*(item for row in self.rows for item in row.items()), *self.protocol.items()]
        return "\n".join(f"{name.replace('_', ' '):24} {value}" for name, value in lines)

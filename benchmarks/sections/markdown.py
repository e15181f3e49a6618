"""How every section writes its tables."""

from collections.abc import Callable
from typing import Any

Rows = list[dict[str, Any]]

Section = tuple[str, str, Callable[[Any], str]]
"""Name of the JSON file, title, and what makes the text from its figures."""


def percent(value: float, digits: int = 2) -> str:
    return f"{100 * value:.{digits}f} %"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])

"""How things are shown: tables on stdout for people, one JSON object for programs.

Notes and progress go to stderr. Off a terminal there are no colours, and lines are never cut.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorank.report.words import count, milliseconds, percent, precise, share, size, times

__all__ = [
    "Column",
    "asides",
    "count",
    "milliseconds",
    "note",
    "percent",
    "precise",
    "say",
    "share",
    "show",
    "show_json",
    "size",
    "table",
    "times",
]

WIDE = 10_000
"""Columns where there is no terminal: whatever reads the output breaks lines itself."""

NOTHING = "–"


class Column(NamedTuple):
    """A column of a table: the rows' key, its heading, how a value is written."""

    key: str
    heading: str
    write: Callable[[Any], str] = str


def asides() -> AbstractContextManager[Any]:
    """Send to stderr what models and libraries print while a command works."""
    return contextlib.redirect_stdout(sys.stderr)


def say(sentence: str) -> None:
    """Tell a person something on stderr."""
    _console(sys.stderr).print(Text(sentence), soft_wrap=True)


def note(sentence: str) -> None:
    """Tell a person something on stderr that is good to know."""
    say(f"note: {sentence}")


def show_json(answer: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, and nothing else."""
    print(json.dumps(answer, indent=2, allow_nan=False))


def show(*parts: str | Table) -> None:
    """Print lines and tables on stdout."""
    console = _console(sys.stdout)
    for part in parts:
        if isinstance(part, str):  # a long line breaks where the terminal does
            console.print(Text(part), soft_wrap=True)
        else:
            console.print(part)


def table(rows: Sequence[Mapping[str, Any]], columns: Iterable[Column]) -> Table:
    """Lay out rows; columns without any value are left out, numbers stand to the right.

    Example:
        >>> [c.header for c in table([{"a": 1}], [Column("a", "A"), Column("b", "B")]).columns]
        ['A']
    """
    laid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    used = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    for column in used:
        values = [row.get(column.key) for row in rows]
        numbers = all(v is None or isinstance(v, (int, float)) for v in values)
        laid.add_column(
            column.heading,
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=numbers,
        )
    for row in rows:
        laid.add_row(*(Text(_written(row.get(c.key), c.write)) for c in used))
    return laid


def _written(value: Any, write: Callable[[Any], str]) -> str:
    return NOTHING if value is None else write(value)


def _console(file: Any) -> Console:
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=WIDE)

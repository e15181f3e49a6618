"""What a network costs and how often it is right, before and after."""

from typing import Any

from rich.table import Table

from lorank import Cost
from lorank.cli.show import Column, count, percent, precise, share, size, table

COLUMNS = [
    Column("what", ""),
    Column("accuracy", "accuracy", precise),
    Column("macs", "MACs", count),
    Column("macs_share", "", percent),
    Column("params", "params", count),
    Column("params_share", "", percent),
    Column("bytes", "memory", size),
]
LAYERS = [
    Column("layer", "layer"),
    Column("layout", "layout"),
    Column("rank", "rank"),
    Column("full_rank", "of"),
    Column("energy", "energy", percent),
    Column("macs_share", "MACs", percent),
    Column("params_share", "params", percent),
    Column("stays_dense", "stays dense"),
]
"""One row a layer that was measured."""

UNITS = {"macs": "MACs", "params": "parameters"}


def figures(cost: Cost, accuracy: float | None) -> dict[str, Any]:
    """Put a network's accuracy and cost in one row.

    Example:
        >>> figures(Cost(10, 8, 40), None)
        {'accuracy': None, 'params': 10, 'macs': 8, 'bytes': 40}
    """
    return {"accuracy": accuracy, **cost._asdict()}


def compared(before: dict[str, Any], after: dict[str, Any], names: tuple[str, str]) -> Table:
    """Lay out two rows of figures, the second with its shares of the first."""
    shares = {f"{unit}_share": share(after[unit], before[unit]) for unit in UNITS}
    return table([{"what": names[0], **before}, {"what": names[1], **after, **shares}], COLUMNS)


def reached(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Say in words what share of MACs and parameters is left.

    Example:
        >>> reached({"macs": None, "params": 8}, {"macs": None, "params": 2})
        '25.0 % of the parameters'
    """
    shares = {word: share(after[unit], before[unit]) for unit, word in UNITS.items()}
    return ", ".join(f"{percent(s)} of the {word}" for word, s in shares.items() if s is not None)


def layer_shares(row: dict[str, Any]) -> dict[str, Any]:
    """Shares of a layer's cost that a cut leaves."""
    return {f"{unit}_share": share(row[f"{unit}_kept"], row[unit]) for unit in UNITS if unit in row}

"""Convolutions as operators: a row a layer, and the picture of their spectra."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorank.compression.operator import Operator
from lorank.compression.operator_cut import CutError
from lorank.errors import extra
from lorank.report.pictures import AFTER, BEFORE, COLUMNS, CUT
from lorank.report.tables import Row

DIGITS = 5
"""Digits of a spectrum that are worth showing."""


def operator_rows(
    found: Mapping[str, Operator], cuts: Mapping[str, CutError] | None = None
) -> list[Row]:
    """Describe every convolution as an operator, and what a cut does to it.

    Args:
        found: from :func:`lorank.compression.operators`.
        cuts: from :func:`lorank.compression.cut_errors`, for some of the layers.

    Returns:
        A row a layer; every value is ready for JSON.

    Example:
        >>> import torch
        >>> from lorank.compression.operator import operators
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1))
        >>> rows = operator_rows(operators(model, torch.ones(1, 1, 6, 6)))
        >>> rows[0]["layer"], rows[0]["kind"], len(rows[0]["quantiles"])
        ('0', 'exact', 65)
    """
    cuts = cuts or {}
    return [
        {
            "layer": name,
            **operator._asdict(),
            "size": list(operator.size),
            "padding": operator.padding
            if isinstance(operator.padding, str)
            else [*operator.padding],
            "quantiles": [float(f"{value:.{DIGITS}g}") for value in operator.quantiles],
            "cut": _cut(cuts[name]) if name in cuts else None,
        }
        for name, operator in found.items()
    ]


def _cut(cut: CutError) -> Row:
    return cut._asdict() | {"norm": list(cut.norm)}


def draw_operators(
    path: str | Path, rows: Sequence[Row], title: str = "", form: str | None = None
) -> None:
    """Draw each layer's singular values, its certified norm and the reshaped kernel's.

    Args:
        path: the picture to write.
        rows: from :func:`operator_rows`.
        title: above all.
        form: ``"png"``, ``"svg"`` or ``"pdf"``; by default the path's ending.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = extra("matplotlib.figure", "plot").Figure(layout="constrained")
    columns = min(COLUMNS, max(1, len(rows)))
    lines = math.ceil(len(rows) / columns)
    figure.set_size_inches(2.6 * columns + 0.4, 1.9 * lines + 0.8)
    grid = figure.add_gridspec(max(1, lines), columns)
    for index, row in enumerate(rows):
        draw_operator(figure.add_subplot(grid[index // columns, index % columns]), row)
    if rows:
        shown = figure.axes[-1].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(title)
    figure.savefig(Path(path), dpi=120, format=form)


def draw_operator(axes: Any, row: Row) -> None:
    """Draw one layer's singular values from the largest to the smallest, and both norms."""
    values = row["quantiles"]
    share = [100 * i / (len(values) - 1) for i in range(len(values))]
    axes.plot(share, values, color=AFTER, lw=1.5, label="singular values")
    axes.axhline(row["upper"], color=CUT, lw=1, label="certified norm")
    axes.axhline(row["reshaped_norm"], color=BEFORE, lw=1, ls="--", label="reshaped kernel's norm")
    axes.set_ylim(0, 1.08 * row["upper"] or 1.0)
    axes.set_xlim(0, 100)
    size = "×".join(map(str, row["size"]))
    axes.set_title(f"{row['layer']}  {size}, {row['kind']}", fontsize=8, parse_math=False)
    axes.set_xlabel("share of values, %", fontsize=7)
    axes.tick_params(labelsize=7)

"""The pictures of a record as files for a paper, drawn by matplotlib."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lorank.errors import extra, unknown
from lorank.report import pictures
from lorank.report.charts import shared_floor
from lorank.report.record import Layer, Record

FORMATS = ("png", "svg", "pdf")
A_SHEET = 24
"""Spectra in one picture: more would not fit a page."""


def check_format(name: str) -> None:
    """Insist on a format that pictures are written in.

    Raises:
        LorankError: if it is unknown.

    Example:
        >>> check_format("svg")
    """
    if name not in FORMATS:
        raise unknown("format of pictures", name, FORMATS)


def figures(record: Record) -> Iterator[tuple[str, Any]]:
    """Draw a record's curves and spectra.

    Args:
        record: what happened.

    Yields:
        A name and a matplotlib figure: ``training``, and ``spectra`` (``spectra-2`` and so on
        where there are many layers); none for what the record does not have.

    Raises:
        MissingExtraError: if matplotlib is not installed.

    Cost: about a second for 24 layers.
    """
    make = extra("matplotlib.figure", "plot").Figure
    if record.epochs:
        yield "training", _training(make, record)
    layers = [layer for layer in record.layers if layer.before]
    floor = shared_floor([layer.before for layer in layers])
    for number, start in enumerate(range(0, len(layers), A_SHEET), 1):
        name = "spectra" if number == 1 else f"spectra-{number}"
        yield name, _spectra(make, layers[start : start + A_SHEET], floor)


def _training(make: Any, record: Record) -> Any:
    """Accuracy and ranks above, the loss below."""
    figure = make(figsize=(7, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    gap = math.nan
    epochs = [
        pictures.Epoch(e.stage, gap if e.accuracy is None else e.accuracy, e.ranks or 0)
        for e in record.epochs
    ]
    pictures.draw_epochs(above, epochs)
    above.set_xlabel("")
    losses = [e.terms.get("loss") for e in record.epochs]
    shown = [gap if loss is None else loss for loss in losses]
    below.plot(range(1, len(shown) + 1), shown, color=pictures.AFTER, marker=".")
    below.set_xlabel("epoch")
    below.set_ylabel("loss")
    below.locator_params("x", integer=True)
    return figure


def _spectra(make: Any, layers: Sequence[Layer], floor: float) -> Any:
    columns = min(pictures.COLUMNS, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = make(figsize=(1.75 * columns, 1.6 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(layers):
            axes.set_visible(False)
            continue
        layer = layers[index]
        rank = layer.full_rank if layer.rank is None else layer.rank
        spread = pictures.Spread(layer.before, layer.after, rank)
        pictures.draw_spectrum(axes, layer.layer, spread)
        axes.set_title(axes.get_title(), fontsize=7, parse_math=False)
        axes.set_yscale("log")
        axes.set_ylim(floor, 1.3)
    return figure

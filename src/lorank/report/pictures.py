"""Pictures from plain values. Matplotlib draws them, without a window and without its globals."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lorank.errors import extra

BEFORE, AFTER, CUT, PALE = "#9aa5b1", "#1f6feb", "#d1495b", "#e6e9ed"
NAMES = ("singular values before, over the largest", "after", "cut")
COLUMNS = 4


class Spread(NamedTuple):
    """One layer's singular values before and after, largest first, and the rank it was cut to."""

    before: Sequence[float]
    after: Sequence[float]
    rank: int


class Epoch(NamedTuple):
    """One epoch of a run: its stage, the accuracy after it, and the sum of all ranks (or 0)."""

    stage: str
    accuracy: float
    ranks: int


def available() -> bool:
    """Whether pictures can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def require() -> None:
    """Refuse to go on where pictures cannot be drawn.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    extra("matplotlib", "plot")


def draw_run(
    path: str | Path, epochs: Sequence[Epoch], layers: Mapping[str, Spread], title: str = ""
) -> None:
    """Draw a run: accuracy and ranks by epoch, then each layer's spectrum with its cut.

    Args:
        path: the picture to write; its ending says in which format.
        epochs: in order.
        layers: layer name → its singular values and rank.
        title: above all.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = extra("matplotlib.figure", "plot").Figure(layout="constrained")
    rows = math.ceil(len(layers) / COLUMNS)
    figure.set_size_inches(10, 3.2 + 1.9 * rows)
    grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=[1.6] + [1.0] * rows)
    draw_epochs(figure.add_subplot(grid[0, :]), epochs)
    for index, (name, spread) in enumerate(layers.items()):
        place = grid[1 + index // COLUMNS, index % COLUMNS]
        draw_spectrum(figure.add_subplot(place), name, spread)
    if layers:
        shown = figure.axes[-1].get_lines()
        figure.legend(shown, NAMES[: len(shown)], loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(title)
    figure.savefig(Path(path), dpi=120)


def draw_epochs(axes: Any, epochs: Sequence[Epoch]) -> None:
    """Draw accuracy by epoch, stages in turn, with the sum of ranks behind it."""
    numbers = range(1, len(epochs) + 1)
    axes.plot(numbers, [100 * e.accuracy for e in epochs], color=AFTER, marker=".", zorder=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy, %", color=AFTER)
    axes.set_xlim(0.5, max(1, len(epochs)) + 0.5)
    for index, epoch in enumerate(epochs):
        if index == 0 or epoch.stage != epochs[index - 1].stage:
            axes.axvline(index + 0.5, color=PALE, zorder=1)
            place = (index + 0.6, 1.02)
            axes.annotate(epoch.stage, place, xycoords=("data", "axes fraction"), fontsize=8)
    ranked = [(n, e.ranks) for n, e in zip(numbers, epochs, strict=True) if e.ranks]
    if ranked:
        behind = axes.twinx()
        behind.step(*zip(*ranked, strict=True), where="mid", color=CUT, alpha=0.6)
        behind.set_ylim(bottom=0)
        behind.set_ylabel("sum of ranks", color=CUT)


def draw_spectrum(axes: Any, name: str, spread: Spread) -> None:
    """Draw a layer's singular values before and after, each over its largest, and the cut."""
    for values, colour in ((spread.before, BEFORE), (spread.after, AFTER)):
        top = max(values, default=0.0) or 1.0
        axes.plot(range(1, len(values) + 1), [v / top for v in values], color=colour, lw=1.5)
    axes.axvline(spread.rank + 0.5, color=CUT, lw=1, ls="--")
    axes.set_ylim(0, 1.05)
    axes.set_title(f"{name}  {spread.rank} of {len(spread.before)}", fontsize=8)
    axes.locator_params("x", integer=True, nbins=5)
    axes.tick_params(labelsize=7)

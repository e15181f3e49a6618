"""A picture of singular values, each with the probability that it is signal."""

from collections.abc import Sequence
from pathlib import Path

from lorank.errors import extra
from lorank.report.pictures import AFTER, BEFORE, CUT
from lorank.report.plots import check_format


def draw_signals(
    path: str | Path,
    values: Sequence[float],
    shrunk: Sequence[float],
    signal: Sequence[float],
    *,
    bulk: float,
    title: str = "",
    format: str = "png",  # noqa: A002 - matplotlib's name
) -> None:
    """Draw observed and shrunk singular values above, P(signal) below.

    Args:
        path: the picture to write.
        values: observed singular values, descending.
        shrunk: their posterior means.
        signal: P(signal) of the first of them; the others were not looked at.
        bulk: the largest singular value that noise alone is expected to have.
        title: above both.
        format: ``"png"``, ``"svg"`` or ``"pdf"``.

    Raises:
        LorankError: if the format is unknown.
        MissingExtraError: if matplotlib is not installed.
    """
    check_format(format)
    figure = extra("matplotlib.figure", "plot").Figure(figsize=(7, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    places = range(1, len(values) + 1)
    above.plot(places, values, "o", color=BEFORE, ms=4, label="observed")
    above.plot(places, shrunk, ".", color=AFTER, label="posterior mean")
    above.axhline(bulk, color=CUT, lw=1, ls="--", label="edge of the noise")
    above.set_ylabel("singular value")
    above.set_ylim(bottom=0)
    above.legend(frameon=False)
    below.bar(places[: len(signal)], signal, color=AFTER)
    below.axhline(0.5, color=CUT, lw=1, ls="--")
    below.set_ylim(0, 1.05)
    below.set_ylabel("P(signal)")
    below.set_xlabel("component")
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.savefig(Path(path), format=format, dpi=150)

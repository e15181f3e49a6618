"""A picture of the error against the rank and against what is stored, for several forms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lorank.errors import extra
from lorank.report.pictures import AFTER, BEFORE, CUT
from lorank.report.plots import check_format

COLOURS = (AFTER, CUT, BEFORE, "#2a9d8f")


class Decay(NamedTuple):
    """One form's relative error by rank, from rank 0, and the numbers that a rank stores."""

    errors: Sequence[float]
    numbers: int


def draw_decay(
    path: str | Path,
    decays: Mapping[str, Decay],
    rank: int,
    title: str = "",
    format: str = "png",  # noqa: A002 (matplotlib's name)
) -> None:
    """Draw relative errors on a logarithmic axis, over ranks and over numbers stored.

    Args:
        path: the picture to write.
        decays: form → its errors; the first is drawn strongest, and its rank is marked.
        rank: rank that was chosen for the first form.
        title: above both.
        format: ``"png"``, ``"svg"`` or ``"pdf"``.

    Raises:
        LorankError: if the format is unknown.
        MissingExtraError: if matplotlib is not installed.
    """
    check_format(format)
    figure = extra("matplotlib.figure", "plot").Figure(figsize=(9, 3.6), layout="constrained")
    by_rank, by_numbers = figure.subplots(1, 2, sharey=True)
    for (name, decay), colour in zip(decays.items(), COLOURS, strict=False):
        # The last rank of a full decomposition has no error, and a logarithm none of zero.
        points = [(r, e) for r, e in enumerate(decay.errors) if e > 0]
        style = {"color": colour, "label": name, "lw": 2 if colour == AFTER else 1.3}
        by_rank.plot([r for r, _ in points], [e for _, e in points], **style)
        by_numbers.plot([r * decay.numbers for r, _ in points], [e for _, e in points], **style)
    by_rank.axvline(rank, color=BEFORE, lw=1, ls="--")
    by_numbers.axvline(rank * next(iter(decays.values())).numbers, color=BEFORE, lw=1, ls="--")
    by_rank.set_xlabel("rank of each matrix")
    by_numbers.set_xlabel("numbers stored")
    by_rank.set_ylabel("relative error")
    by_rank.set_yscale("log")
    by_rank.legend(frameon=False)
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.savefig(path, format=format, dpi=150)

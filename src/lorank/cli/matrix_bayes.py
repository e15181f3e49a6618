"""``lorank matrix bayes``: rank, noise and shrunk values of one matrix."""

import math
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lorank.atomic import replacing
from lorank.bayes import Collapsed, Prior, collapsed
from lorank.bayes.entries import check_range, column_means
from lorank.cli.options import Json
from lorank.cli.places import check_places
from lorank.cli.show import Column, asides, percent, show, show_json, size, table
from lorank.errors import LorankError
from lorank.files.matrix import checked_ending, read_table, write_matrix
from lorank.linalg import svd
from lorank.report.signals import draw_signals

SHOWN = 8
"""Rows beyond the rank that are still shown."""


def bayes(
    matrix: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A matrix: .csv or .npy.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write the posterior mean of the matrix: .csv or .npy.",
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether line 1 of a CSV is names of columns; found out if not said.",
            show_default=False,
        ),
    ] = None,
    center: Annotated[
        bool, typer.Option("--center", help="Take off each column's mean first.")
    ] = False,
    noise: Annotated[
        float | None, typer.Option(metavar="SIGMA", help="Noise in one entry, where it is known.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(metavar="N", help="Expected number of components a priori.")
    ] = 5.0,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw singular values with P(signal): .png, .svg or .pdf."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the rank of a noisy matrix, its noise, and the matrix behind it.

    A cumulative shrinkage prior on the singular values, directions integrated out: each component
    is told from noise with a probability, and the noise level is inferred. Rank 0 is an answer.

    Examples:
      lorank matrix bayes panel.csv --center --plot signal.png
      lorank matrix bayes years.csv --header
      lorank matrix bayes noisy.npy -o clean.npy
      lorank matrix bayes noisy.npy --noise 0.1 --json
    """
    with asides():
        for place in (matrix, output):
            if place is not None:
                checked_ending(place)
        check_places(matrix, output, plot, "FILE")
        read = read_table(matrix, header)
        Y = torch.from_numpy(read.values)
        _check(matrix, Y)
        shape = (Y.shape[0], Y.shape[1])
        means = torch.from_numpy(column_means(read.values)) if center else torch.zeros(shape[1])
        U, s, Vh = svd(Y - means)
        found = collapsed(s, shape, noise=noise, prior=Prior(alpha=alpha))
        if plot is not None:  # first, because a package may be missing: nothing is left behind
            _draw(plot, matrix, s, found, shape)
        if output is not None:
            write_matrix(output, ((U * found.shrunk) @ Vh + means).numpy())
        answer = _answer(matrix, s, found, shape, center)
        answer |= {"header": read.header, "row_names": read.names}
        answer |= {"output": output and str(output), "plot": plot and str(plot)}
    show_json(answer) if as_json else _show(answer)


def _check(matrix: Path, Y: torch.Tensor) -> None:
    if min(Y.shape) < 2:
        raise LorankError(
            f"{matrix}: a rank is told from noise in a matrix of at least two rows and two "
            f"columns, found {Y.shape[0]}×{Y.shape[1]}"
        )
    if torch.isinf(Y).any():
        raise LorankError(f"{matrix}: entries are finite, found {int(Y.isinf().sum())} infinite")
    if torch.isnan(Y).any():
        raise LorankError(
            f"{matrix}: {int(Y.isnan().sum())} of {Y.numel()} entries are missing, and this "
            "command needs all; in Python, lorank.bayes.BayesianSVD(method='nuts') does not"
        )
    check_range(Y.numpy())


def _draw(plot: Path, matrix: Path, s: torch.Tensor, found: Collapsed, shape: tuple) -> None:
    with replacing(plot) as draft:
        draw_signals(
            draft,
            s.tolist(),
            found.shrunk.tolist(),
            found.signal.tolist(),
            bulk=_bulk(found, shape),
            title=f"{matrix.name}: rank {found.rank()}, noise {found.noise:.4g}",
            format=plot.suffix.removeprefix("."),
        )


def _bulk(found: Collapsed, shape: tuple[int, int]) -> float:
    return found.noise * (math.sqrt(shape[0]) + math.sqrt(shape[1]))


def _answer(
    matrix: Path, s: torch.Tensor, found: Collapsed, shape: tuple[int, int], center: bool
) -> dict[str, Any]:
    return {
        "matrix": str(matrix),
        "rows": shape[0],
        "columns": shape[1],
        "centered": center,
        "rank": found.rank(),
        "ranks": {by: found.rank(by) for by in ("edge", "mode", "slabs")},
        "rank_distribution": found.edge_count.tolist(),
        "noise": found.noise,
        "noise_sd": found.noise_sd,
        "detection_edge": found.edge,
        "values": s.tolist(),
        "shrunk": found.shrunk.tolist(),
        "signal": found.signal.tolist(),
    }


COLUMNS = (
    Column("component", "Component"),
    Column("value", "Observed", lambda value: f"{value:.4g}"),
    Column("shrunk", "Shrunk", lambda value: f"{value:.4g}"),
    Column("signal", "P(signal)", percent),
)


def _left_out(answer: dict[str, Any]) -> str:
    parts = {"line 1": answer["header"], "column 1": answer["row_names"]}
    taken = [part for part, is_names in parts.items() if is_names]
    return f" ({' and '.join(taken)} read as names)" if taken else ""


def _show(answer: dict[str, Any]) -> None:
    spread = f" ± {answer['noise_sd']:.2g}" if answer["noise_sd"] else ""
    chance = answer["rank_distribution"][answer["rank"]]
    rows = [
        {"component": i + 1, "value": y, "shrunk": s, "signal": p}
        for i, (y, s, p) in enumerate(
            zip(answer["values"], answer["shrunk"], answer["signal"], strict=False)
        )
    ]
    show(
        f"{answer['matrix']}: {answer['rows']} × {answer['columns']}{_left_out(answer)}, "
        f"rank {answer['rank']} "
        f"(probability {percent(chance)}), noise {answer['noise']:.4g}{spread} in an entry.",
        table(rows[: answer["rank"] + SHOWN], COLUMNS),
    )
    for key in ("output", "plot"):
        if answer[key]:
            show(f"Wrote {answer[key]}, {size(Path(answer[key]).stat().st_size)}.")

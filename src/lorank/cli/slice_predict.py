"""``lorank slice predict``: the slice that a trained finder finds in each scan."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lorank.cli.network import device as place
from lorank.cli.options import Device, Json
from lorank.cli.show import Column, asides, note, percent, show, show_json, table
from lorank.cli.slice_train import told
from lorank.errors import LorankError
from lorank.localization import RULES, Finder, load_finder
from lorank.localization.cases import read_cases, read_table
from lorank.localization.finder import Found
from lorank.localization.projection import project
from lorank.localization.reading import read_volume
from lorank.localization.train import error_figures


def predict(
    finder: Annotated[
        Path,
        typer.Argument(
            metavar="FINDER",
            help="A finder.safetensors, or the folder of its run.",
            show_default=False,
        ),
    ],
    scans: Annotated[
        list[str],
        typer.Argument(
            metavar="SCAN...",
            help="A .nii, .nii.gz or .npy file, a folder of DICOM files, or a CSV table of scans.",
            show_default=False,
        ),
    ],
    step: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rows between windows; more are faster.")
    ] = 1,
    rule: Annotated[
        str, typer.Option(metavar="NAME", help=f"How to decide: {', '.join(RULES)}.")
    ] = "line",
    spacing: Annotated[
        str | None,
        typer.Option(metavar="AxBxC", help="Spacing in mm, for .npy: such as 1x1x2.5."),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            metavar="LETTERS", help="Where the axes grow to, for .npy: such as RAS or SPL."
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(metavar="UID", help="Series of a DICOM folder that holds several."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="The finder's backbone, where it is a function of your own or has options in "
            "words, to have it made.",
        ),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find the slice in scans.

    Slices count from 0 along the scan's own axis, those of a DICOM series from the feet up; the
    file of the slice is named too. The confidence is the share of validation scans with such a
    score that were right within 10 mm: for scans unlike those it says little. Of a table, which
    has the right slices, the errors are summed up. A scan that cannot be used is named at the end;
    the others are found.

    Examples:
      lorank slice predict runs/l3 scan.nii.gz
      lorank slice predict runs/l3 patient/series --json
      lorank slice predict runs/l3 scan.npy --spacing 0.8x0.8x2.5 --axes LPS
      lorank slice predict runs/l3 test.csv --step 6
    """
    with asides():
        found = load_finder(finder, backbone=backbone)
        found.network.to(place(device))
        given = lengths(spacing)
        rows, failed = [], []
        for scan in scans:
            try:
                rows += _rows(found, scan, step, rule, given, axes, series)
            except LorankError as error:
                if len(scans) == 1:
                    raise
                failed.append({"scan": scan, "reason": str(error)})  # the others are still found
    errors = [row["error_mm"] for row in rows if row["error_mm"] is not None]
    answer = {
        "finder": str(finder),
        "rule": rule,
        "step": step,
        "tolerance_mm": None if found.confidence is None else found.confidence.tolerance,
        "scans": rows,
        "errors": error_figures(errors) if errors else None,
        "failed": failed,
    }
    if found.confidence is None:
        note("this finder has no confidence: it was not calibrated on 10 scans or more")
    if rows or as_json:
        show_json(answer) if as_json else _show(answer)
    if failed:
        reasons = "; ".join(map(_named, failed))
        raise LorankError(f"{len(failed)} of {len(scans)} scans could not be used: {reasons}")


def lengths(text: str | None) -> tuple[float, ...] | None:
    """Read a spacing as it is typed.

    Raises:
        LorankError: if it is not of that form.

    Example:
        >>> lengths("1x1x2.5")
        (1.0, 1.0, 2.5)
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split("x"))
    except ValueError:
        raise LorankError(f"--spacing is three lengths such as 1x1x2.5, found {text!r}") from None


def _rows(
    finder: Finder,
    scan: str,
    step: int,
    rule: str,
    spacing: tuple[float, ...] | None,
    axes: str | None,
    series: str | None,
) -> list[dict[str, Any]]:
    """Find the slice of one scan, or of each scan of a table."""
    if Path(scan).suffix.lower() == ".csv" or scan.startswith("synthetic:"):
        if (spacing, axes, series) != (None, None, None):
            raise LorankError(
                f"{scan} states spacing, axes and series in its own columns: leave --spacing, "
                "--axes and --series out"
            )
        return _table(finder, scan, step, rule)
    volume = read_volume(scan, spacing=spacing, axes=axes, series=series)
    projection = project(volume, finder.view)
    return [_row(finder.locate(projection, step=step, rule=rule), None, None)]


def _table(finder: Finder, spec: str, step: int, rule: str) -> list[dict[str, Any]]:
    cases = read_cases(spec, finder.view)
    tests = [case for case in cases if case.split == "test"]
    if spec.startswith("synthetic:") or any(row.split for row in read_table(spec)):
        if not tests:
            raise LorankError(f"{spec} names splits, and no scan of the split 'test'")
        cases = tests
    rows = []
    for case in cases:
        found = finder.locate(case.projection, step=step, rule=rule)
        error = (found.row - case.target) * finder.view.row_mm
        rows.append(_row(found, case.projection.slice_at(case.target), error))
    return rows


def _row(found: Found, target: int | None, error: float | None) -> dict[str, Any]:
    return {
        "scan": found.name,
        "slice": found.slice,
        "file": found.file,
        "mm_from_top": round(found.mm, 3),
        "score": round(found.score, 4),
        "confidence": None if found.confidence is None else round(found.confidence, 4),
        "target": target,
        "error_mm": None if error is None else round(error, 3),
    }


def _named(failure: dict[str, str]) -> str:
    """Why a scan could not be used, with its name where the reason leaves it out."""
    scan, reason = failure["scan"], failure["reason"]
    return reason if scan in reason else f"{scan}: {reason}"


COLUMNS = (
    Column("scan", "scan"),
    Column("slice", "slice"),
    Column("file", "file"),
    Column("mm_from_top", "mm from top", lambda value: f"{value:.1f}"),
    Column("score", "score", lambda value: f"{value:.3f}"),
    Column("confidence", "confidence", percent),
    Column("target", "true slice"),
    Column("error_mm", "error, mm", lambda value: f"{value:.1f}"),
)


def _show(answer: dict[str, Any]) -> None:
    errors = answer["errors"]
    show(table(answer["scans"], COLUMNS), *([told("errors", errors)] if errors else []))

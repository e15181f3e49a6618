"""``lorank report``: one HTML page about a run or a compression."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from lorank.atomic import replacing
from lorank.cli.network import writable
from lorank.cli.options import Json
from lorank.cli.record import read_record
from lorank.cli.show import asides, show, show_json, size
from lorank.errors import LorankError
from lorank.report.page import GENERATOR, render
from lorank.report.plots import check_format, figures
from lorank.report.record import Figures, Record, Timing
from lorank.training.reading import checked, read_json
from lorank.training.record import read_run
from lorank.training.run import DENSE, FOLDED

PAGE, BENCH = "report.html", "bench.json"
DOTS = 200
"""An inch, of a picture for a paper."""

HEAD = 2000
"""Bytes at the beginning of a page in which it says who made it."""


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder of a lorank train run, ended or not, or the FILE of compress --record.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"Page to write, *.html; by default {PAGE} in the folder, or beside the record.",
        ),
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Answer of lorank bench --json, for measured times; by default {BENCH} in the "
            "folder, if it is there.",
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Draw curves and spectra as files for a paper too."),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="NAME", help="Of these files: png, svg or pdf.")
    ] = "png",
    as_json: Json = False,
) -> None:
    """Make one HTML page: what was compressed, what came of it, and how.

    Last step, for a look or for somebody else. The page holds figures before and after, each
    layer's spectrum with its cut, a table to sort, training curves, and the command that made
    it. It is one file, and loads nothing from any network.

    Examples:
      lorank report runs/digits
      lorank report runs/digits -o digits.html --pictures figures --format svg
      lorank report r.json
    """
    with asides():
        check_format(format_)
        page = _place(run, output)
        record = _timed(_read(run), run, bench)
        drawn = [] if pictures is None else _draw(record, _folder(pictures), format_)
        text = render(record)
        with replacing(page) as draft:
            draft.write_text(text, encoding="utf-8")
        answer = {
            "page": str(page),
            "page_bytes": page.stat().st_size,
            "ended": record.ended,
            "layers": len(record.layers),
            "epochs": len(record.epochs),
            "notes": record.notes,
            "pictures": [str(path) for path in drawn],
        }
    show_json(answer) if as_json else _show(answer)


def _read(run: Path) -> Record:
    if not run.exists():
        raise LorankError(f"a report is about the folder of a run or a record, found none: {run}")
    return read_run(run) if run.is_dir() else read_record(run)


def _place(run: Path, output: Path | None) -> Path:
    """Choose where the page goes; only a page of ours is written over.

    Raises:
        LorankError: if it cannot be written, or another file is there.
    """
    beside = run / PAGE if run.is_dir() else run.with_suffix(".html")
    if not run.exists():
        _read(run)
    page = writable(beside if output is None else output, ".html")
    if page.exists() and GENERATOR.encode() not in page.read_bytes()[:HEAD]:
        raise LorankError(
            f"only a page of lorank report is written over, and {page} is another file: "
            "name the page with --output"
        )
    return page


def _draw(record: Record, folder: Path, ending: str) -> list[Path]:
    """Write the pictures of a record, each as a whole."""
    drawn = []
    for name, figure in figures(record):
        path = folder / f"{name}.{ending}"
        with replacing(path) as draft:
            figure.savefig(draft, format=ending, dpi=DOTS)
        drawn.append(path)
    return drawn


def _folder(path: Path) -> Path:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise LorankError(f"pictures need a folder, and {path} cannot be one: {error}") from None
    return path


@dataclass(frozen=True)
class _Timed:
    """The answer of ``lorank bench --json``, as far as it is needed here."""

    models: list[Timing]
    device: str | None = None
    threads: int | None = None
    dtype: str | None = None
    batch: int | None = None
    input: str | None = None


def _timed(record: Record, run: Path, bench: Path | None) -> Record:
    """Add measured times, where somebody measured them."""
    if bench is None:
        bench = run / BENCH
        if not (run.is_dir() and bench.is_file()):
            return record
    if not bench.is_file():
        raise LorankError(f"--bench names an answer of lorank bench --json, found none: {bench}")
    found = checked(bench, read_json(bench), _Timed)
    about = {key: getattr(found, key) for key in ("device", "threads", "dtype", "batch", "input")}
    first = [row for row in found.models if row.engine == found.models[0].engine]
    times = {Path(row.model).name: row.median for row in first}
    after = FOLDED if record.kind == "train" else Path(record.facts.get("file", "")).name
    return replace(
        record,
        timings=[replace(row, model=Path(row.model).name or row.model) for row in found.models],
        timed_on={key: str(value) for key, value in about.items() if value is not None},
        before=_with_latency(record.before, times.get(DENSE)),
        after=_with_latency(record.after, times.get(after)),
    )


def _with_latency(figures: Figures | None, seconds: float | None) -> Figures | None:
    return figures if figures is None else replace(figures, latency=seconds)


def _show(answer: dict) -> None:
    layers, epochs = answer["layers"], answer["epochs"]
    show(
        *(f"Note: {note}" for note in answer["notes"]),
        f"Wrote {answer['page']}, {size(answer['page_bytes'])}: {layers} layers"
        + (f", {epochs} epochs." if epochs else "."),
        *(f"Wrote {path}." for path in answer["pictures"]),
    )

"""Where the commands on one matrix may write: refused before any work is done."""

from pathlib import Path

from lorank.cli.network import writable
from lorank.errors import LorankError
from lorank.report.plots import check_format


def check_places(given: Path, output: Path | None, plot: Path | None, word: str) -> None:
    """Insist on places that can be written, each named once.

    Args:
        given: what is read.
        output: what is to be written, of an ending that the command has looked at.
        plot: the picture to be drawn.
        word: the name that the command's help has for what is read.

    Raises:
        LorankError: if a place cannot be written, a picture has an unknown format, or a file is
            named twice.
    """
    if output is not None:
        writable(output, output.suffix)
    if plot is not None:
        check_format(plot.suffix.removeprefix("."))
        writable(plot, plot.suffix)
    places = [place.resolve() for place in (given, output, plot) if place is not None]
    if len(set(places)) < len(places):
        raise LorankError(f"{word}, --output and --plot are different files, found one twice")

"""The commands, and the way into them."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import lorank
from lorank.cli.bench import bench
from lorank.cli.compress import compress
from lorank.cli.export import export
from lorank.cli.faults import exit_code
from lorank.cli.inspect import inspect
from lorank.cli.matrix import matrix
from lorank.cli.report import report
from lorank.cli.slice import group as scans
from lorank.cli.structured import structured
from lorank.cli.taught import taught
from lorank.cli.train import train

COMMANDS = (inspect, train, compress, bench, export, report, structured)
"""In the order in which they are used."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"lorank {lorank.__version__}")
        raise typer.Exit()


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Low-rank deep networks: measure, choose, apply.

    Measure a network's singular values, choose a rank for each layer, and get a smaller, plain
    network back: with training in SVD form (best), or without.

    Examples:
      lorank inspect resnet20 --weights resnet20.th
      lorank train resnet8 --data digits --out runs/digits
      lorank compress resnet20 --weights resnet20.th --macs 0.5 -o small.safetensors
      lorank bench runs/digits --data digits
      lorank export runs/digits digits.onnx
      lorank report runs/digits
      lorank structured --data digits
    """


app = typer.Typer(
    name="lorank",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(help=taught(_root)["help"])(_root)
for command in COMMANDS:
    app.command(**taught(command))(command)
app.add_typer(matrix, name="matrix")
app.add_typer(scans, name="slice")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what was typed after ``lorank``; by default ``sys.argv``.

    Returns:
        The exit code: 0, 1 (unexpected), 2 (wrong input), 130 (interrupted).

    Example:
        >>> main(["--version"])
        lorank ...
        0
    """
    for stream in (sys.stdout, sys.stderr):
        change = getattr(stream, "reconfigure", None)
        if change is not None:
            change(errors="replace")  # bars and signs, on a terminal without them
    typed = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if typed in (["matrix"], ["slice"]):  # a group alone shows what is in it
        typed.append("--help")
    run = typer.main.get_command(app)
    about = {"prog_name": "lorank", "standalone_mode": False, "obj": tuple(map(str, typed))}
    return exit_code(lambda: run.main(typed, **about))

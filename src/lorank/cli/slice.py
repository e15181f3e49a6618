"""``lorank slice``: find a slice in a CT scan, and train what finds it."""

from collections.abc import Callable
from typing import Any

import typer

from lorank.cli.slice_predict import predict
from lorank.cli.slice_train import train
from lorank.cli.taught import taught

SLICE: tuple[Callable[..., Any], ...] = (train, predict)
"""The commands on scans, in the order of their help."""

HELP = "Find a slice in a CT scan: train on scans with a known slice, predict on others."

group = typer.Typer(help=HELP, short_help=HELP, no_args_is_help=True, rich_markup_mode=None)
for command in SLICE:
    group.command(**taught(command))(command)

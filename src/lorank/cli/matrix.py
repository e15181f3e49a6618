"""``lorank matrix``: one matrix or image instead of a network."""

from collections.abc import Callable
from typing import Any

import typer

from lorank.cli.matrix_bayes import bayes
from lorank.cli.matrix_qsvd import qsvd
from lorank.cli.taught import taught

MATRIX: tuple[Callable[..., Any], ...] = (qsvd, bayes)
"""The commands on one matrix, in the order of their help."""

matrix = typer.Typer(
    help="Low rank for one matrix or image, without a network.",
    short_help="Low rank for one matrix or image, without a network.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for command in MATRIX:
    matrix.command(**taught(command))(command)

"""The command line. Thin: parse, call, print."""

from lorank.cli.app import main

__all__ = ["main"]

"""The only place that touches model files."""

from lorank.files.checkpoint import load, save

__all__ = ["load", "save"]

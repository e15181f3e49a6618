"""The only place that touches model files."""

from lorank.files.checkpoint import load, read_manifest, save
from lorank.files.onnx import Parity, export

__all__ = ["Parity", "export", "load", "read_manifest", "save"]

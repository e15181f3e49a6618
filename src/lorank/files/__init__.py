"""The only place that touches model files."""

from lorank.files.checkpoint import load, read_manifest, save
from lorank.files.exported import export_program
from lorank.files.huggingface import save_folder
from lorank.files.onnx import export
from lorank.files.parity import Parity
from lorank.files.quantized import Quantized, export_int8, quantize
from lorank.files.runtime import OnnxModel

__all__ = [
    "OnnxModel",
    "Parity",
    "Quantized",
    "export",
    "export_int8",
    "export_program",
    "load",
    "quantize",
    "read_manifest",
    "save",
    "save_folder",
]

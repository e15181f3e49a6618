"""int8 ONNX files, by ONNX Runtime's own quantizer: weights in one byte, sums in whole numbers."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from lorank.atomic import replacing
from lorank.compression.agreement import Compared
from lorank.compression.trace import Example
from lorank.errors import LorankError, extra, unknown
from lorank.files.onnx import export
from lorank.files.parity import Parity, brief, exporting
from lorank.files.runtime import OnnxModel

METHODS = ("auto", "dynamic", "static")
"""When the scale of a layer's input is chosen: at each call, or once, on calibration data."""

PRODUCTS = ("MatMul", "Gemm", "Conv")
"""Operations with a stored weight that have a fast int8 kernel on a CPU."""

RECURRENT = ("LSTM", "GRU", "RNN")
"""Operations with stored weights that stay in float."""

STATIC = (*PRODUCTS, "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
"""Operations that pass int8 on, so that a chain of layers stays in it."""

FLOAT32 = 1
"""ONNX's number for it."""


class Quantized(NamedTuple):
    """What an int8 file is, next to the float file it was made of.

    Attributes:
        method: ``dynamic`` or ``static``.
        layers: how many products by a stored weight run in int8.
        float_layers: how many of them stayed in float.
        relative_error: ‖y_int8 − y‖₂ / ‖y‖₂ over all outputs for the example.
        max_error: largest difference of an entry over the largest entry.
        cosine: of one input's outputs in int8 and in float, on average.
        float_bytes: size of the float file.
        int8_bytes: size of the int8 file.
    """

    method: str
    layers: int
    float_layers: int
    relative_error: float
    max_error: float
    cosine: float
    float_bytes: int
    int8_bytes: int


def quantize(
    source: str | Path,
    path: str | Path,
    example: Example,
    *,
    calibration: Iterable[Example] = (),
    method: str = "auto",
) -> Quantized:
    """Write a float32 ONNX file in int8, run it, and say how far its outputs are from float.

    A layer computes ``W·x ≈ s_w·s_x·(Q_w·(Q_x − z))``: 8-bit whole numbers times two scales.
    ``dynamic`` chooses ``s_x`` and ``z`` anew at each call, needs no data, and is the way for
    linear layers. It also takes embeddings, and convolutions: these become smaller, but slower
    than in float. ``static`` chooses them once, on calibration data, and passes int8 on from
    layer to layer: the way for convolutional networks. ``auto`` is static where there is
    calibration data and convolutions hold half of the weights or more. Weights have a scale for
    each output; where input and weight differ in sign they take 7 bits, because processors
    without VNNI would run over at 8.

    Args:
        source: an ONNX file in float32, such as :func:`lorank.files.export` writes.
        path: the int8 file to write, by custom ``*.onnx``; it may be ``source``.
        example: inputs to judge the outputs on: a tensor, a tuple, or a dict of named ones.
        calibration: examples of the same form from real data; each may have several rows.
        method: ``auto``, ``dynamic`` or ``static``.

    Returns:
        The method, the error found and both sizes.

    Raises:
        MissingExtraError: if onnx or onnxruntime is not installed.
        LorankError: if the file cannot be read or holds other weights than float32, there is
            no product by a stored weight, ``static`` has no calibration data, the example
            does not fit, or an output is not finite: nothing is written then.

    Cost: reads the weights once; ``static`` also runs the float file on each calibration example.

    Example:
        >>> import torch, lorank.files
        >>> source = Path(tempfile.mkdtemp()) / "a.onnx"
        >>> x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
        >>> _ = lorank.files.export(nn.Linear(64, 64), x, source)
        >>> found = quantize(source, source.with_name("b.onnx"), x)
        >>> found.method, found.layers, found.relative_error < 0.05
        ('dynamic', 1, True)
    """
    extra("onnxruntime", "onnx")
    if method not in METHODS:
        raise unknown("method of quantization", method, METHODS)
    float_bytes, plain = _size(source), OnnxModel(source)
    expected, graph = plain.outputs(example), _loaded(source)
    batches = list(calibration)
    way = _way(graph, method, bool(batches))
    with exporting(), replacing(path) as draft:
        if way == "static":
            _static(graph, draft, _reader(plain, batches))
        else:
            _dynamic(graph, draft)
        layers, rest = _counted(draft)
        compared = Compared()
        compared.add(expected, OnnxModel(draft, called="the int8 file").outputs(example))
        error = compared.agreement()
        if not error.relative_error < float("inf"):
            raise LorankError(
                "the outputs of an int8 file must be finite where those in float are, found "
                f"an error of {error.relative_error}: nothing was written"
            )
        return Quantized(way, layers, rest, *error, float_bytes, _size(draft))


def export_int8(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    calibration: Iterable[Example] = (),
    method: str = "auto",
    dynamic_batch: bool = True,
    dynamic_length: bool = False,
) -> tuple[Parity, Quantized]:
    """Export a folded or dense network as an int8 ONNX file.

    It is exported in float32 and checked against torch first (:func:`lorank.files.export`), then
    quantized (:func:`quantize`); only the int8 file stays.

    Args:
        model: a network in float32 without layers in SVD form; it is not changed.
        example: what the model is called with, and what the error is found on.
        path: the file to write.
        calibration: examples from real data, for networks with convolutions.
        method: ``auto``, ``dynamic`` or ``static``.
        dynamic_batch: leave the first axis of every input open.
        dynamic_length: leave the second axis of every input open too.

    Returns:
        How well the float file agrees with torch, and what quantizing it changed.

    Raises:
        MissingExtraError: if onnx, onnxscript or onnxruntime is not installed.
        LorankError: as the two functions do.

    Example:
        >>> import torch
        >>> x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
        >>> target = Path(tempfile.mkdtemp()) / "a.onnx"
        >>> parity, found = export_int8(nn.Linear(64, 64), x, target)
        >>> parity.relative_error < parity.tolerance, found.int8_bytes == target.stat().st_size
        (True, True)
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        parity = export(
            model, example, source, dynamic_batch=dynamic_batch, dynamic_length=dynamic_length
        )
        return parity, quantize(source, path, example, calibration=calibration, method=method)


def _size(path: str | Path) -> int:
    return Path(path).stat().st_size if Path(path).is_file() else 0


def _loaded(source: str | Path) -> Any:
    """Read a graph whose weights can be quantized."""
    graph = extra("onnx", "onnx").load(str(source))
    weights = _weights(graph)
    if not weights:
        raise LorankError(
            f"int8 needs a linear layer or a convolution with stored weights, and {source} has none"
        )
    other = next((w.name for _, w in weights if w.data_type != FLOAT32), None)
    if other is not None:
        raise LorankError(f"int8 starts from weights in float32, and {other!r} is of another dtype")
    return graph


def _weights(graph: Any) -> list[tuple[str, Any]]:
    """Operation and stored weight of each product by one."""
    stored = {entry.name: entry for entry in graph.graph.initializer}
    nodes = [node for node in graph.graph.node if node.op_type in PRODUCTS]
    return [(n.op_type, stored[n.input[1]]) for n in nodes if n.input[1] in stored]


def _way(graph: Any, method: str, calibrated: bool) -> str:
    if method == "static" and not calibrated:
        raise LorankError("static quantization needs calibration data, found none")
    if method != "auto":
        return method
    sizes = [(kind, _numel(weight)) for kind, weight in _weights(graph)]
    conv = sum(size for kind, size in sizes if kind == "Conv")
    return "static" if calibrated and 2 * conv >= sum(size for _, size in sizes) else "dynamic"


def _numel(weight: Any) -> int:
    size = 1
    for axis in weight.dims:
        size *= axis
    return size


def _dynamic(graph: Any, draft: Path) -> None:
    """Quantize weights; inputs at each call.

    Convolutions need unsigned weights, without which ONNX Runtime's kernel is slow, and take one
    scale; so they have a pass of their own.
    """
    tool = extra("onnxruntime.quantization", "onnx")
    signed = {"weight_type": tool.QuantType.QInt8, "per_channel": True, "reduce_range": True}
    passes = [(["MatMul", "Gather"], signed), (["Conv"], {"weight_type": tool.QuantType.QUInt8})]
    for kinds, options in passes:
        with _quantizing():
            tool.quantize_dynamic(graph, draft, op_types_to_quantize=kinds, **options)
        graph = extra("onnx", "onnx").load(str(draft))


def _static(graph: Any, draft: Path, reader: Iterator[dict[str, Any]]) -> None:
    """Quantize weights and maps, with the ranges that the maps had on calibration data."""
    tool = extra("onnxruntime.quantization", "onnx")
    with _quantizing():
        tool.quantize_static(
            graph,
            draft,
            _Reader(reader),
            quant_format=tool.QuantFormat.QDQ,
            op_types_to_quantize=list(STATIC),
            per_channel=True,
            reduce_range=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
        )


class _Reader:
    """What ONNX Runtime's calibration asks: the next inputs, or nothing."""

    def __init__(self, feeds: Iterator[dict[str, Any]]):
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _reader(plain: OnnxModel, batches: Sequence[Example]) -> Iterator[dict[str, Any]]:
    feeds = [plain.feeds(example) for example in batches]
    return iter(feeds)


@contextlib.contextmanager
def _quantizing() -> Iterator[None]:
    try:
        yield
    except LorankError:
        raise
    except Exception as error:
        raise LorankError(f"ONNX Runtime could not quantize the file: {brief(error)}") from error


def _counted(draft: Path) -> tuple[int, int]:
    """Count products by a stored weight in int8, and in float."""
    graph = extra("onnx", "onnx").load(str(draft))
    nodes = graph.graph.node
    restored = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
    whole = sum(n.op_type in ("MatMulInteger", "ConvInteger") for n in nodes)
    whole += sum(n.op_type in PRODUCTS and n.input[1] in restored for n in nodes)
    stored = {entry.name for entry in graph.graph.initializer}
    recurrent = sum(n.op_type in RECURRENT and n.input[1] in stored for n in nodes)
    return whole, len(_weights(graph)) + recurrent


def rows(tensor: Tensor, count: int) -> list[Tensor]:
    """Part a batch into examples of some rows each, the last one as large as the others.

    Example:
        >>> import torch
        >>> [len(part) for part in rows(torch.ones(5, 2), 2)]
        [2, 2]
    """
    return [part for part in tensor.split(count) if len(part) == count]

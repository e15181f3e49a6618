"""What a network runs on: torch as it is, torch compiled, ONNX Runtime in float and in int8."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lorank.cli.network import Shape, fitting
from lorank.errors import LorankError, unknown
from lorank.files import export
from lorank.files.parity import brief
from lorank.files.quantized import quantize, rows
from lorank.files.runtime import OnnxModel

ENGINES = ("eager", "compiled", "onnx", "int8")
"""In the order in which they are explained."""

ON_CPU = ("onnx", "int8")
CALIBRATION = 16
"""Rows of one calibration call."""


class Bench(NamedTuple):
    """What engines are made with.

    Attributes:
        engines: which, in the order asked for.
        example: what is timed: a batch, on the device.
        inputs: what outputs are compared on, on the CPU.
        calibration: inputs that int8 scales are chosen on; ``None`` where there are no data.
        folder: a place for files that nobody keeps.
        channels_last: whether torch keeps images with their channels last.
    """

    engines: Sequence[str]
    example: Tensor
    inputs: Tensor
    calibration: Tensor | None
    folder: Path
    channels_last: bool = False


class Runner(nn.Module):
    """A network on an engine, called with batches of any size.

    Args:
        engine: its name.
        call: what computes.
        take: makes of a batch what ``call`` takes: dtype, device, order in memory.
        batch: rows of one call where it takes no other number: a batch is parted, and its last
            part filled up.
        facts: what there is to tell about it, a part of its row in the table.
    """

    def __init__(
        self,
        engine: str,
        call: Callable[[Tensor], Any],
        take: Callable[[Tensor], Tensor],
        batch: int | None = None,
        **facts: Any,
    ):
        super().__init__()
        self.engine, self.call, self.take, self.batch = engine, call, take, batch
        self.facts = facts

    def forward(self, x: Tensor) -> Any:
        """Give one output tensor, or a tuple of several, with a row for each of the input's."""
        parts = [self._part(part) for part in x.split(self.batch or len(x))]
        joined = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return joined[0] if len(joined) == 1 else joined

    def _part(self, x: Tensor) -> list[Tensor]:
        missing = (self.batch or len(x)) - len(x)
        filled = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        return [y[: len(x)] for y in tensors(self.call(self.take(filled)))]


def tensors(found: Any) -> list[Tensor]:
    """Every tensor of an output, in order."""
    return [x for x in tree_leaves(found) if isinstance(x, Tensor)]


def read_engines(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Read the engines that a person named, each once.

    Raises:
        LorankError: if there is none of that name.

    Example:
        >>> read_engines(None), read_engines(["int8", "eager", "int8"])
        (('eager',), ('int8', 'eager'))
    """
    for text in texts or ():
        if text not in ENGINES:
            raise unknown("engine", text, ENGINES)
    return tuple(dict.fromkeys(texts or ["eager"]))


def of_network(label: str, model: nn.Module, bench: Bench) -> Iterator[Runner]:
    """Put a network on each engine; it may be changed in how it lies in memory.

    Raises:
        LorankError: if an engine cannot run it.
    """
    written = _written(label, model, bench) if set(ON_CPU) & set(bench.engines) else None
    layout = torch.channels_last if bench.channels_last else torch.contiguous_format
    model.to(bench.example.device)
    if bench.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def take(x: Tensor) -> Tensor:
        return fitting(x, model).contiguous(memory_format=layout)

    for engine in bench.engines:
        if engine == "eager":
            yield Runner(engine, model, take)
        elif engine == "compiled":
            yield _compiled(label, model, take, bench)
        else:
            assert written is not None
            yield from of_file(label, written, bench, (engine,))


def of_file(
    label: str, path: Path, bench: Bench, engines: Sequence[str] | None = None
) -> Iterator[Runner]:
    """Put an ONNX file on ONNX Runtime: as it is, and in int8 where that is asked for.

    Raises:
        LorankError: if ONNX Runtime cannot run it, or it takes several inputs.
    """
    asked = [e for e in (engines or bench.engines) if e in ON_CPU] or ["onnx"]
    for engine in asked:
        if engine == "onnx":
            yield _onnx(path, "onnx")
        else:
            yield _int8(label, path, bench)


def _written(label: str, model: nn.Module, bench: Bench) -> Path:
    """Export a network, with an open batch size where it can be had."""
    path = bench.folder / f"{_plain(label)}.onnx"
    example = fitting(bench.inputs[: len(bench.example)], model)
    try:
        export(model, example, path)
    except LorankError as error:
        if "dynamic_batch=False" not in str(error):
            raise
        export(model, example, path, dynamic_batch=False)
    return path


def _plain(label: str) -> str:
    return re.sub(r"\W+", "-", label)


def one_input(file: OnnxModel, path: Path) -> Shape:
    """Size of a file's only input, without the batch; open axes are refused.

    Raises:
        LorankError: if there are several inputs, or a size is open.
    """
    if len(file.inputs) != 1:
        raise LorankError(f"bench feeds one input, and {path} takes {len(file.inputs)}")
    slot = file.inputs[0]
    if not slot.shape or None in slot.shape[1:]:
        raise LorankError(f"{path} leaves the size of {slot} open: name it with --input or --data")
    size = tuple(s for s in slot.shape[1:] if s is not None)
    return Shape(size, not slot.dtype.is_floating_point)


def _onnx(path: Path, engine: str, **facts: Any) -> Runner:
    file = OnnxModel(path)
    if len(file.inputs) != 1:
        raise LorankError(f"bench feeds one input, and {path} takes {len(file.inputs)}")
    slot = file.inputs[0]

    def take(x: Tensor) -> Tensor:
        return (x.to(slot.dtype) if x.is_floating_point() else x).contiguous()

    batch = slot.shape[0] if slot.shape else None
    return Runner(engine, file, take, batch, file_bytes=path.stat().st_size, **facts)


def _int8(label: str, path: Path, bench: Bench) -> Runner:
    plain = _onnx(path, "int8")
    target = bench.folder / f"{_plain(label)}-int8.onnx"
    batch = plain.batch or CALIBRATION
    calls = [] if bench.calibration is None else rows(plain.take(bench.calibration), batch)
    judged = plain.take(bench.inputs[: plain.batch or len(bench.inputs)])
    found = quantize(path, target, judged, calibration=calls)
    return _onnx(target, "int8", int8=found.method)


def _compiled(
    label: str, model: nn.Module, take: Callable[[Tensor], Tensor], bench: Bench
) -> Runner:
    """Compile for the batch that is timed, and say how long it took."""
    example = take(bench.example)
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            compiled = torch.compile(model, dynamic=False)
            compiled(example)
    except Exception as error:
        if any(type(e).__name__ == "InvalidCxxCompiler" for e in _chain(error)):
            raise LorankError(
                "the engine 'compiled' needs a C++ compiler such as g++, and torch found none"
            ) from error
        raise LorankError(f"torch.compile failed on {label}: {brief(error)}") from error
    seconds = time.perf_counter() - began
    return Runner("compiled", compiled, take, len(example), compile_seconds=seconds)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or getattr(found, "inner_exception", None)

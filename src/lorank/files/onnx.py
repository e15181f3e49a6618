"""ONNX files of folded networks, checked against torch before anyone sees them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorank.atomic import replacing
from lorank.compression.trace import Example
from lorank.errors import LorankError, extra
from lorank.files.parity import (
    Open,
    Parity,
    arguments,
    brief,
    cases,
    dtypes,
    exporting,
    failed,
    frozen,
    judged,
    on_cpu,
    opened,
    tolerance,
    traced_on,
)
from lorank.files.runtime import OnnxModel

CHECKED = (torch.float16, torch.float32, torch.float64)
"""Precisions that ONNX Runtime computes in on a CPU."""

LARGEST = 2**31 - 2**20
"""Bytes of weights that one ONNX file can hold: protobuf stops at 2 GiB."""


def export(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    dynamic_length: bool = False,
    opset: int | None = None,
) -> Parity:
    """Write a folded or dense network as one ONNX file, and check it against torch.

    A copy of the model is exported, in evaluation mode on the CPU. ONNX Runtime then runs the
    file on the example and, with open axes, at one other size of each; the file appears only if
    both agree with torch to 1000·eps of the largest output entry (20·eps in half precision).
    Inputs and outputs have the model's dtypes, the file no path of the machine it was made on; a
    weight that an embedding and a linear layer share may be stored twice. Attention is computed
    by its plain path: torch's fast one writes zeros where a padding mask hides an input.

    Args:
        model: a network without layers in SVD form; it is not changed.
        example: what the model is called with: a tensor, a tuple of arguments or a dict of named
            ones.
        path: the file to write, by custom ``*.onnx``.
        dynamic_batch: leave the first axis of every input open; otherwise the file takes the
            example's batch size only.
        dynamic_length: leave the second axis of every input open too, as the length of a
            sequence.
        opset: version of the operator set; by default the exporter's own choice.

    Returns:
        The errors found.

    Raises:
        MissingExtraError: if onnx, onnxscript or onnxruntime is not installed.
        LorankError: if a layer is in SVD form, the weights are on the meta device, in bfloat16
            or too large for one file, the model does not run on the example or cannot be
            exported, the opset cannot be had, or the file does not agree with torch.

    Cost: a trace, and two forward passes for each of two batch sizes.

    Example:
        >>> import tempfile, lorank
        >>> target = Path(tempfile.mkdtemp()) / "small.onnx"
        >>> low = lorank.decompose(nn.Sequential(nn.Linear(8, 8)), {"0": 2})
        >>> parity = export(lorank.fold(low), torch.ones(1, 8), target)
        >>> parity.relative_error < parity.tolerance, parity.batches
        (True, (1, 2))
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        extra(package, "onnx")
    plain, example = frozen(model), on_cpu(example)
    _check(plain, example)
    allowed = tolerance(plain, example)
    with exporting(), replacing(path) as draft:
        open_ = opened(example, batch=dynamic_batch, length=dynamic_length)
        found = cases(plain, example, open_)
        names = _output_names(len(found[0].expected))
        program = _converted(plain, traced_on(found, open_), open_, names, opset)
        _write(program, draft)
        return judged(found, lambda x: _run(draft, x), allowed, open_.rows, "ONNX Runtime")


def _check(model: nn.Module, example: Example) -> None:
    """Refuse what no ONNX file can hold, or ONNX Runtime not check."""
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if size > LARGEST:
        raise LorankError(f"one ONNX file holds up to 2 GiB, and the weights are {size} bytes")
    for dtype in dtypes(model, example):
        if dtype not in CHECKED:
            raise LorankError(
                f"ONNX Runtime checks float16, float32 and float64 on the CPU, found {dtype}: "
                "export model.float()"
            )


def _output_names(count: int) -> list[str]:
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _converted(
    model: nn.Module, example: Example, open_: Open, names: list[str], opset: int | None
) -> Any:
    """Run torch's exporter."""
    args, kwargs = arguments(example)
    shapes = open_.spec(kwargs or args, open_.names) if open_.names else None
    try:
        program: Any = torch.onnx.export(
            model,
            args,
            kwargs=kwargs,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            output_names=names,
            dynamic_shapes=shapes,
        )
    except Exception as error:
        raise failed("torch's exporter", model, open_, error) from error
    written = program.model.opset_imports.get("")
    if opset is not None and written != opset:
        raise LorankError(f"opset {opset} was asked for, and torch's exporter gave {written}")
    return program


def _write(program: Any, draft: Path) -> None:
    """Write one file, without the exporter's notes: they hold the paths of source files."""
    graph = program.model.graph
    for entry in (*graph.all_nodes(), *graph.inputs, *graph.initializers.values()):
        entry.metadata_props.clear()
    try:
        program.save(str(draft), external_data=False)
    except ValueError as error:
        raise LorankError(f"the ONNX file could not be written: {brief(error)}") from error


def _run(path: Path, example: Example) -> list[Tensor]:
    """Run a file on the CPU; its inputs are the example's tensors in order."""
    return OnnxModel(path, called="the file").outputs(example)

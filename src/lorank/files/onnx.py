"""ONNX files of folded networks, checked against torch before anyone sees them."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lorank.compression.trace import Example, describe, run
from lorank.errors import LorankError, extra
from lorank.files.atomic import replacing
from lorank.nn import Factored
from lorank.nn.surgery import exchange

TOLERANCE = {torch.float16: 20, torch.float32: 1000, torch.float64: 1000}
"""Accepted relative error, in units of the precision's eps. Half precision is given less room:
its kernels add up in float32 and round once a layer."""

LARGEST = 2**31 - 2**20
"""Bytes of weights that one ONNX file can hold: protobuf stops at 2 GiB."""


class Parity(NamedTuple):
    """How well ONNX Runtime agrees with torch on an exported file.

    Attributes:
        max_error: largest difference of any output entry.
        relative_error: largest difference over the largest entry, of the worst output.
        tolerance: what ``relative_error`` had to stay below.
        batches: batch sizes that were compared; empty where the batch size is fixed.
    """

    max_error: float
    relative_error: float
    tolerance: float
    batches: tuple[int, ...]


def export(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    opset: int | None = None,
) -> Parity:
    """Write a folded or dense network as one ONNX file, and check it against torch.

    A copy of the model is exported, in evaluation mode on the CPU. ONNX Runtime then runs the
    file on the example and, with a dynamic batch, on one more row; the file appears only if
    both agree with torch to 1000·eps of the largest output entry (20·eps in half precision).
    Inputs and outputs have the model's dtypes, the file no path of the machine it was made on; a
    weight that an embedding and a linear layer share may be stored twice.

    Args:
        model: a network without layers in SVD form; it is not changed.
        example: what the model is called with: a tensor, a tuple of arguments or a dict of named
            ones.
        path: the file to write, by custom ``*.onnx``.
        dynamic_batch: leave the first axis of every input open; otherwise the file takes the
            example's batch size only.
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
    extra("onnx", "onnx")
    extra("onnxscript", "onnx")
    runtime = extra("onnxruntime", "onnx")
    plain = _copy(model)
    example = tree_map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x, example)
    tolerance = _tolerance(plain, example)
    with torch.no_grad(), _silence(), replacing(path) as draft:
        cases = [(example, _outputs(plain, example))]
        rows = _rows(example) if dynamic_batch else None
        if rows is not None:
            cases.append(_case(plain, _resized(example, rows + 1)))
        # Traced on two rows at least: torch.export takes one row for a constant.
        traced = cases[-1][0] if rows == 1 else example
        _write(_converted(plain, traced, rows is not None, len(cases[0][1]), opset), draft)
        errors = [_error(expected, _run(runtime, draft, x)) for x, expected in cases]
        parity = Parity(
            max(error for error, _ in errors),
            max(relative for _, relative in errors),
            tolerance,
            () if rows is None else (rows, rows + 1),
        )
        if not parity.relative_error <= tolerance:
            raise LorankError(
                f"ONNX Runtime must agree with torch to {tolerance:.1e} of the largest output "
                f"entry, found {parity.relative_error:.1e}: nothing was written"
            )
    return parity


def _copy(model: nn.Module) -> nn.Module:
    """Copy a model for export, or say why it cannot be exported."""
    low = [name for name, module in model.named_modules() if isinstance(module, Factored)]
    if low:
        raise LorankError(
            f"export takes plain layers, and {low[0]!r} is in SVD form: call lorank.fold first "
            "(an exporter makes one dense weight of its factors, and the saving is lost)"
        )
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.device.type == "meta" for t in tensors):
        raise LorankError("a model is exported with its weights, and they are on the meta device")
    size = sum(t.numel() * t.element_size() for t in tensors)
    if size > LARGEST:
        raise LorankError(f"one ONNX file holds up to 2 GiB, and the weights are {size} bytes")
    return exchange(model, {}).cpu().eval()


def _tolerance(model: nn.Module, example: Example) -> float:
    """Accepted relative error: that of the coarsest precision among weights and inputs."""
    tensors = [*model.parameters(), *(x for x in tree_leaves(example) if isinstance(x, Tensor))]
    dtypes = {t.dtype for t in tensors if t.is_floating_point()} or {torch.float32}
    for dtype in dtypes:
        if dtype not in TOLERANCE:
            raise LorankError(
                f"ONNX Runtime checks float16, float32 and float64 on the CPU, found {dtype}: "
                "export model.float()"
            )
    return max(TOLERANCE[dtype] * torch.finfo(dtype).eps for dtype in dtypes)


def _outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """Every output tensor of a model, in order."""
    try:
        found = run(model, example)
    except Exception as error:
        raise LorankError(
            f"the model must run on the example, and failed on {describe(example)}: {_brief(error)}"
        ) from error
    tensors = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
    if not tensors:
        raise LorankError(f"a model to export must return tensors, found {type(found).__name__}")
    return tensors


def _case(model: nn.Module, example: Example) -> tuple[Example, list[Tensor]]:
    """Another batch size with torch's outputs."""
    try:
        return example, _outputs(model, example)
    except LorankError as error:
        raise _static(f"the model fails on {describe(example)}") from error


def _static(reason: str) -> LorankError:
    return LorankError(f"the batch size must stay open, and {reason}: pass dynamic_batch=False")


def _rows(example: Example) -> int | None:
    """Batch size of an example; ``None`` where no input has an axis."""
    sizes = {len(x) for x in tree_leaves(example) if isinstance(x, Tensor) and x.ndim}
    if len(sizes) > 1:
        raise _static(f"the inputs' first axes differ: {', '.join(map(str, sorted(sizes)))}")
    if sizes == {0}:
        raise LorankError("an example needs at least one row, found none")
    return next(iter(sizes), None)


def _resized(example: Example, rows: int) -> Example:
    """Repeat the rows of an example, or leave some out, so that there are as many as wanted."""

    def resized(x: Any) -> Any:
        has_rows = isinstance(x, Tensor) and x.ndim > 0
        return x[torch.arange(rows) % len(x)] if has_rows else x

    return tree_map(resized, example)


def _converted(
    model: nn.Module, example: Example, dynamic: bool, outputs: int, opset: int | None
) -> Any:
    """Run torch's exporter; ``outputs`` tensors are named."""
    args, kwargs = _arguments(example)
    shapes = tree_map(_open_axis, kwargs or args) if dynamic else None
    names = ["output"] if outputs == 1 else [f"output_{i}" for i in range(outputs)]
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
        reason = f"torch's exporter failed on {type(model).__name__}: {_brief(error)}"
        raise (_static(reason) if dynamic else LorankError(reason)) from error
    written = program.model.opset_imports.get("")
    if opset is not None and written != opset:
        raise LorankError(f"opset {opset} was asked for, and torch's exporter gave {written}")
    return program


def _open_axis(x: Any) -> dict[int, str] | None:
    return {0: "batch"} if isinstance(x, Tensor) and x.ndim else None


def _arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def _brief(error: BaseException) -> str:
    """First line of the innermost error: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *(line[:200].rstrip(":") for line in lines[:1])])


def _write(program: Any, draft: Path) -> None:
    """Write one file, without the exporter's notes: they hold the paths of source files."""
    graph = program.model.graph
    for entry in (*graph.all_nodes(), *graph.inputs, *graph.initializers.values()):
        entry.metadata_props.clear()
    try:
        program.save(str(draft), external_data=False)
    except ValueError as error:
        raise LorankError(f"the ONNX file could not be written: {_brief(error)}") from error


def _run(runtime: Any, path: Path, example: Example) -> list[Tensor]:
    """Run a file on the CPU; its inputs are the example's tensors in order."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    inputs = [x for x in tree_leaves(_arguments(example)) if isinstance(x, Tensor)]
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.as_tensor(y) for y in session.run(None, feeds)]
    except Exception as error:
        raise LorankError(f"ONNX Runtime must run the file, and failed: {_brief(error)}") from error


def _error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[float, float]:
    """Largest difference of any output, and largest relative difference."""
    if len(expected) != len(found):
        raise LorankError(
            f"the file must give torch's {len(expected)} outputs, and gives {len(found)}"
        )
    errors = [_difference(y, z) for y, z in zip(expected, found, strict=True)]
    return max(error for error, _ in errors), max(relative for _, relative in errors)


def _difference(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """Largest difference, absolute and over the largest finite entry.

    Infinite where the shapes, the NaN or the Inf differ.
    """
    if expected.shape != found.shape:
        return float("inf"), float("inf")
    if expected.numel() == 0:
        return 0.0, 0.0
    y, z = expected.double(), found.double()
    same = (y == z) | (y.isnan() & z.isnan())
    gap = torch.where(same, 0.0, (y - z).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf).max()
    scale = y.abs().nan_to_num(nan=0.0, posinf=0.0).max()
    return float(gap), float(gap / scale) if gap > 0 else 0.0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's warnings and log records, which are about itself, from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

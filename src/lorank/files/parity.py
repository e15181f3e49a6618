"""Does a written file compute what the model computes? It is asked before the file appears."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lorank.compression.trace import Example, describe, run
from lorank.errors import LorankError
from lorank.nn import Factored
from lorank.nn.surgery import exchange

TOLERANCE = {torch.float16: 20, torch.bfloat16: 20, torch.float32: 1000, torch.float64: 1000}
"""Accepted relative error, in units of the precision's eps. Half precision is given less room:
its kernels add up in float32 and round once a layer."""

CALL = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\n\s*(\S[^\n]*)')
"""A line of source in what torch.export says."""

BRANCH = re.compile(r"data-dependent", re.IGNORECASE)
"""What torch.export says where a decision depends on the data."""


class Parity(NamedTuple):
    """How well an exported file agrees with the model.

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


class Case(NamedTuple):
    """An example, and every output tensor that the model gives for it, in order."""

    example: Example
    expected: list[Tensor]


class Open(NamedTuple):
    """Sizes of an example's axes that stay open in the file; ``None`` where one is fixed."""

    rows: int | None
    length: int | None

    @property
    def names(self) -> dict[int, str]:
        """Open axis → its name."""
        sizes = {0: self.rows, 1: self.length}
        return {axis: word for axis, word in ((0, "batch"), (1, "length")) if sizes[axis]}

    def spec(self, example: Example, names: Mapping[int, Any]) -> Any:
        """Name the open axes of each input, in the form of the example; others are fixed."""

        def of(x: Any) -> dict[int, Any] | None:
            axes = {a: name for a, name in names.items() if isinstance(x, Tensor) and x.ndim > a}
            return axes or None

        return tree_map(of, example)

    def fault(self, reason: str) -> LorankError:
        """Say why the axes cannot stay open."""
        if self.length:
            rule, way = "batch size and length", "dynamic_length=False or dynamic_batch=False"
        else:
            rule, way = "the batch size", "dynamic_batch=False"
        return LorankError(f"{rule} must stay open, and {reason}: pass {way}")


def frozen(model: nn.Module) -> nn.Module:
    """Copy a model for export, on the CPU and in evaluation mode, or say why it cannot be.

    Raises:
        LorankError: if a layer is in SVD form, or weights are on the meta device.
    """
    low = [name for name, module in model.named_modules() if isinstance(module, Factored)]
    if low:
        raise LorankError(
            f"export takes plain layers, and {low[0]!r} is in SVD form: call lorank.fold first "
            "(an exporter makes one dense weight of its factors, and the saving is lost)"
        )
    if any(t.device.type == "meta" for t in (*model.parameters(), *model.buffers())):
        raise LorankError("a model is exported with its weights, and they are on the meta device")
    return exchange(model, {}).cpu().eval()


def on_cpu(example: Example) -> Example:
    """Take an example to the CPU, without its history."""
    return tree_map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x, example)


def dtypes(model: nn.Module, example: Example) -> set[torch.dtype]:
    """Floating precisions of a model's weights and its inputs."""
    tensors = [*model.parameters(), *(x for x in tree_leaves(example) if isinstance(x, Tensor))]
    return {t.dtype for t in tensors if t.is_floating_point()} or {torch.float32}


def tolerance(model: nn.Module, example: Example) -> float:
    """Accepted relative error: that of the coarsest precision among weights and inputs."""
    found = dtypes(model, example)
    return max(TOLERANCE.get(dtype, 20) * torch.finfo(dtype).eps for dtype in found)


def opened(example: Example, *, batch: bool, length: bool) -> Open:
    """Read the sizes of the axes that shall stay open off an example.

    Raises:
        LorankError: if inputs differ in them, or there is no row.
    """
    fixed = Open(1 if batch else None, 1 if length else None)
    sizes = [_size(example, axis, fixed) for axis in (0, 1)]
    return Open(sizes[0] if batch else None, sizes[1] if length else None)


def _size(example: Example, axis: int, wanted: Open) -> int | None:
    if not wanted[axis]:
        return None
    inputs = [x for x in tree_leaves(example) if isinstance(x, Tensor) and x.ndim > axis]
    sizes = {x.shape[axis] for x in inputs}
    if len(sizes) > 1:
        which = ("first", "second")[axis]
        raise wanted.fault(f"the inputs' {which} axes differ: {', '.join(map(str, sorted(sizes)))}")
    if sizes == {0}:
        raise LorankError(f"an example needs at least one {('row', 'step')[axis]}, found none")
    return next(iter(sizes), None)


def cases(model: nn.Module, example: Example, open_: Open) -> list[Case]:
    """Run a model on the example and, where axes are open, at one other size of each.

    Raises:
        LorankError: if the model does not run.
    """
    found = [Case(example, outputs(model, example))]
    if open_.names:
        rows = None if open_.rows is None else open_.rows + 1
        other = _resized(_resized(example, 0, rows), 1, _other(open_.length))
        try:
            found.append(Case(other, outputs(model, other)))
        except LorankError as error:
            raise open_.fault(f"the model fails on {describe(other)}") from error
    return found


def _other(length: int | None) -> int | None:
    """Another length: a shorter one where there is, for positions may end at the example's."""
    return None if length is None else length - 1 if length > 2 else length + 1


def _resized(example: Example, axis: int, size: int | None) -> Example:
    """Repeat the entries along an axis, or leave some out, so that there are as many as wanted."""

    def resized(x: Any) -> Any:
        if size is None or not isinstance(x, Tensor) or x.ndim <= axis:
            return x
        return x.index_select(axis, torch.arange(size) % x.shape[axis])

    return tree_map(resized, example)


def traced_on(found: Sequence[Case], open_: Open) -> Example:
    """Choose the example for tracing: torch.export takes an axis of size one for a constant."""
    return found[-1 if 1 in open_ else 0].example


def outputs(model: Callable[..., Any], example: Example) -> list[Tensor]:
    """Every output tensor of a model, in order.

    Raises:
        LorankError: if it does not run on the example, or returns no tensor.
    """
    try:
        found = run(model, example)  # type: ignore[arg-type]
    except Exception as error:
        raise LorankError(
            f"the model must run on the example, and failed on {describe(example)}: {brief(error)}"
        ) from error
    tensors = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
    if not tensors:
        raise LorankError(f"a model to export must return tensors, found {type(found).__name__}")
    return tensors


def arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Part an example into arguments in order and named ones."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def judged(
    found: Sequence[Case],
    compute: Callable[[Example], Sequence[Tensor]],
    allowed: float,
    rows: int | None,
    reader: str,
) -> Parity:
    """Compare a file, as its reader computes it, with the model.

    Raises:
        LorankError: if they differ by more than allowed.
    """
    errors = [_error(case.expected, compute(case.example)) for case in found]
    worst = max(relative for _, relative in errors)
    if not worst <= allowed:
        raise LorankError(
            f"{reader} must agree with torch to {allowed:.1e} of the largest output "
            f"entry, found {worst:.1e}: nothing was written"
        )
    batches = () if rows is None else (rows, rows + 1)
    return Parity(max(error for error, _ in errors), worst, allowed, batches)


def _error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[float, float]:
    """Largest difference of any output, and largest relative difference."""
    if len(expected) != len(found):
        raise LorankError(
            f"the file must give torch's {len(expected)} outputs, and gives {len(found)}"
        )
    errors = [difference(y, z) for y, z in zip(expected, found, strict=True)]
    return max(error for error, _ in errors), max(relative for _, relative in errors)


def difference(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """Largest difference, absolute and over the largest finite entry.

    Infinite where the shapes, the NaN or the Inf differ.

    Example:
        >>> difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
        (0.5, 0.25)
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


def brief(error: BaseException) -> str:
    r"""First line of the innermost error, and the line of the model that it is about.

    Exporters wrap an error in pages of advice.

    Example:
        >>> brief(RuntimeError("no\nmore"))
        'RuntimeError: no'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = ": ".join([type(error).__name__, *(line[:200].rstrip(":") for line in lines[:1])])
    return said + _place(str(error))


def failed(tool: str, model: nn.Module, open_: Open, error: Exception) -> LorankError:
    """Say why an exporter failed, and what may help."""
    text = str(error)
    if BRANCH.search(text):
        return LorankError(
            f"an exported network takes the same way for all data, and that of "
            f"{type(model).__name__} depends on them{_place(text)}: nothing was written"
        )
    reason = f"{tool} failed on {type(model).__name__}: {brief(error)}"
    return open_.fault(reason) if open_.names else LorankError(reason)


def _place(text: str) -> str:
    """Name the line of source that an exporter's message ends with."""
    found = CALL.findall(text)
    if not found:
        return ""
    file, line, function, code = found[-1]
    return f" at {code.strip().rstrip(':')!r} ({Path(file).name}, line {line}, in {function})"


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Keep what exporters print and warn of from the user, and attention on its plain path.

    They speak about themselves, in pages. Attention's fast path, which no exporter
    follows, writes zeros where a padding mask hides an input; the plain path does not.
    """
    before, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.CRITICAL)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            stack.enter_context(torch.no_grad())
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(before)

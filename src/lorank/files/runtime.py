"""Run ONNX files on the CPU, with torch tensors in and out."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lorank.compression.trace import Example
from lorank.errors import LorankError, extra
from lorank.files.parity import arguments, brief

DTYPES = {
    "tensor(float16)": torch.float16,
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}
"""ONNX Runtime's word for a dtype → torch's."""


class Slot(NamedTuple):
    """An input of a file.

    Attributes:
        name: as the file says it.
        dtype: of its tensors.
        shape: sizes of its axes; ``None`` where one is open.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Write it as a person would: ``input (open, 3, 32, 32) float32``."""
        sizes = ", ".join("open" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({sizes}) {str(self.dtype).removeprefix('torch.')}"

    def takes(self, x: Tensor) -> bool:
        """Whether a tensor fits."""
        sizes = zip(self.shape, x.shape, strict=False)
        fits = all(mine is None or mine == its for mine, its in sizes)
        return x.dtype == self.dtype and x.ndim == len(self.shape) and fits


class OnnxModel:
    """An ONNX file that is called like a model.

    Args:
        path: the file.
        threads: threads of one operation; by default as many as torch takes.
        called: what error messages call the file; by default its path.

    Attributes:
        inputs: what the file takes, in order.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
        LorankError: if there is no such file, or ONNX Runtime cannot read it.

    Example:
        >>> import tempfile, lorank.files
        >>> target = Path(tempfile.mkdtemp()) / "a.onnx"
        >>> _ = lorank.files.export(torch.nn.Linear(3, 2), torch.ones(1, 3), target)
        >>> file = OnnxModel(target)
        >>> str(file.inputs[0]), file(torch.ones(5, 3)).shape
        ('input (open, 3) float32', torch.Size([5, 2]))
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, called: str | None = None):
        self._runtime = extra("onnxruntime", "onnx")
        self._called = called or str(path)
        if not Path(path).is_file():
            raise LorankError(f"there is no ONNX file {self._called}")
        try:
            self._session = self._opened(Path(path), threads or torch.get_num_threads())
            found = [(i.name, i.type, i.shape) for i in self._session.get_inputs()]
        except Exception as error:
            raise self._failed(error) from error
        self.inputs = tuple(self._slot(*entry) for entry in found)

    def _opened(self, path: Path, threads: int) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        # Its threads wait for work by turning, and would slow whoever computes next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return self._runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def _slot(self, name: str, kind: str, shape: list[Any] | None) -> Slot:
        if kind not in DTYPES:
            raise LorankError(f"input {name!r} of {self._called} is a {kind}, which torch lacks")
        return Slot(
            name, DTYPES[kind], tuple(s if isinstance(s, int) else None for s in shape or ())
        )

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Give the outputs: one tensor, or a tuple of several."""
        found = self.outputs(named or args)
        return found[0] if len(found) == 1 else tuple(found)

    def outputs(self, example: Example) -> list[Tensor]:
        """Give every output, in order.

        Args:
            example: a tensor, a tuple of arguments, or a dict of named ones. The tensors in it
                fill the file's inputs by name where all names are the file's, else in order.

        Raises:
            LorankError: if they do not fit, or ONNX Runtime fails on them.
        """
        feeds = self.feeds(example)
        try:
            return [torch.as_tensor(y) for y in self._session.run(None, feeds)]
        except Exception as error:
            raise self._failed(error) from error

    def feeds(self, example: Example) -> dict[str, Any]:
        """Give the tensors of an example as ONNX Runtime takes them, by name.

        Raises:
            LorankError: if they do not fit.
        """
        args, named = arguments(example)
        tensors = [x for x in tree_leaves((args, named)) if isinstance(x, Tensor)]
        by_name = [named.get(slot.name) for slot in self.inputs]
        if named and all(isinstance(x, Tensor) for x in by_name):
            tensors = [x for x in by_name if isinstance(x, Tensor)]
        fits = len(tensors) == len(self.inputs)
        if not fits or not all(s.takes(x) for s, x in zip(self.inputs, tensors, strict=True)):
            found = _listed(map(_written, tensors))
            raise LorankError(f"{self._called} takes {_listed(self.inputs)}, found {found}")
        return {s.name: x.numpy(force=True) for s, x in zip(self.inputs, tensors, strict=True)}

    def _failed(self, error: Exception) -> LorankError:
        return LorankError(f"ONNX Runtime must run {self._called}, and failed: {brief(error)}")


def _written(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"


def _listed(entries: Any) -> str:
    return "; ".join(map(str, entries)) or "none"

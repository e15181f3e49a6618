"""Products that are what their precision promises, whatever the training around them is set to."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch


def exact(device: torch.device) -> contextlib.AbstractContextManager:
    """Switch autocast off for one device's operations, and TF32 on a GPU.

    A product in bfloat16 is not a weight, and a Gram matrix in it is 1 ± 0.004 on its diagonal;
    TF32, which cuDNN takes for convolutions in float32 by default, is off by 1e-3 where 1e-7 is
    promised. TF32 is a setting of the whole process: it is off until the last thread has left,
    and under ``torch.compile``, which cannot set it, as the user has it. A backward pass runs
    after this, with the user's settings.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16), exact(torch.device("cpu")):
        ...     (torch.eye(2) @ torch.eye(2)).dtype
        torch.float32
    """
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    if device.type == "cuda" and not torch.compiler.is_compiling():
        return _whole_float32()
    return torch.autocast(device.type, enabled=False)


class _TF32:
    """Off while anybody is inside."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before: tuple[bool, Any] = True, None

    def leave_off(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = torch.backends.cudnn.enabled, _products()
                # Not by cuDNN's own switch: what is set there no longer follows the general one.
                torch.backends.cudnn.enabled = False
                if self.before[1] is not None:
                    _set_products(OFF)
            self.inside += 1

    def put_back(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                torch.backends.cudnn.enabled, products = self.before
                if products is not None:
                    _set_products(products)


TF32 = _TF32()
NAMED = hasattr(torch.backends.cuda.matmul, "fp32_precision")
"""Whether this torch names precisions; older ones know TF32 or not."""
OFF = "ieee" if NAMED else False


def _products() -> Any:
    """The setting of matrix products, where it is less than float32; else none."""
    if not NAMED:
        return torch.backends.cuda.matmul.allow_tf32 or None
    value = torch.backends.cuda.matmul.fp32_precision
    return None if value in ("ieee", "none") else value


def _set_products(value: Any) -> None:
    setattr(torch.backends.cuda.matmul, "fp32_precision" if NAMED else "allow_tf32", value)


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    TF32.leave_off()
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        TF32.put_back()

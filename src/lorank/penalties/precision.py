"""Penalties are computed in float32 at least, also under autocast."""

import contextlib

import torch
from torch import Tensor


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Switch autocast off for one device's operations.

    A Gram matrix in bfloat16 is 1 ± 0.004 on its diagonal: the penalty would be rounding noise.

    Args:
        device: where the tensors are.

    Returns:
        A context manager.

    Example:
        >>> with no_autocast(torch.device("cpu")):
        ...     torch.is_autocast_enabled("cpu")
        False
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return float32 for half precision; float32 and float64 stay as they are.

    Example:
        >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

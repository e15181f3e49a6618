"""Gains of layers with weights: convolutions, linear layers, BatchNorm on its own or folded."""

from typing import Any

import torch
from torch import Tensor, nn

from lorank.compression.operator_layers import is_convolution, kernel_of
from lorank.errors import LorankError
from lorank.nn.conv import SVDConv
from lorank.nn.factored import carries_hooks
from lorank.nn.linear import SVDLinear
from lorank.nn.operator import CONVOLUTIONS, is_operator, runs_as
from lorank.nn.pair import Pair

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WHOLE = (*CONVOLUTIONS, nn.Linear, *BATCH_NORMS, nn.PReLU)
FORMS = (SVDConv, SVDLinear, Pair)
"""Layers that have a gain of their own here, dense and in other forms."""


def has_gain(module: nn.Module) -> bool:
    """Whether a layer's gain is known: one of torch's own, in SVD form, or a folded pair.

    A subclass that runs in its own way is none of them.

    Example:
        >>> has_gain(nn.Linear(1, 1)), has_gain(nn.LayerNorm(1))
        (True, False)
    """
    if isinstance(module, (SVDConv, SVDLinear, Pair)):
        return is_operator(module) and runs_as(module, FORMS)
    return runs_as(module, WHOLE)


def gain(module: Any, read: tuple[int, ...], tol: float, norm: Any = None) -> float:
    """Certified norm of a layer with weights, together with the BatchNorm after it.

    Args:
        module: the layer (:func:`has_gain`).
        read: shape of what it reads.
        tol: relative gap of a convolution's norm.
        norm: a BatchNorm in evaluation mode, multiplied into the weight in float64.

    Raises:
        LorankError: if the layer carries hooks, uses the batch's own statistics, or is a
            convolution that its symbol does not describe.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = nn.init.eye_(layer.weight)
        >>> round(gain(layer, (1, 2), 1e-3), 6)
        1.0
    """
    for layer in (module, norm):
        if layer is not None:
            refuse_hooks(layer)
    if isinstance(module, BATCH_NORMS):
        return float(_scale(module).abs().max())
    if isinstance(module, nn.PReLU):
        return float(_exact(module.weight).abs().max().clamp_min(1.0))
    scale = None if norm is None else _scale(norm)
    if is_convolution(module):
        return _convolution(module, read, tol, scale)
    weight = _exact(module.product() if isinstance(module, Pair) else module.weight)
    return _norm(weight if scale is None else scale.unsqueeze(-1) * weight)


def refuse_hooks(module: nn.Module) -> None:
    """Refuse a module with hooks.

    Raises:
        LorankError: if it has any.
    """
    if carries_hooks(module):
        raise LorankError(f"{type(module).__name__} carries hooks, which may do anything")


def folds(module: Any, norm: Any, written: tuple[int, ...]) -> bool:
    """Whether a BatchNorm scales the output channels of a layer.

    Args:
        module: the layer before it.
        norm: what comes after it.
        written: shape of what the layer writes.
    """
    if not isinstance(norm, BATCH_NORMS) or not has_gain(module):
        return False
    if is_convolution(module):
        return len(written) == len(module.kernel_size) + 2
    linear = isinstance(module, nn.Linear | SVDLinear | Pair)
    return linear and len(written) == 2


def _convolution(module: Any, read: tuple[int, ...], tol: float, scale: Tensor | None) -> float:
    axes = len(module.kernel_size)
    kernel = kernel_of(module, tuple(read[-axes:]))
    weight = _exact(kernel.weight)
    if scale is not None and kernel.transposed:
        blocks = weight.unflatten(0, (kernel.groups, -1))
        by_channel = scale.view(kernel.groups, 1, -1, *(1,) * axes)
        weight = (blocks * by_channel).flatten(0, 1)
    elif scale is not None:
        weight = weight * scale.view(-1, *(1,) * (axes + 1))
    # Without taps there is one frequency, and nothing to save by a wide bracket.
    return kernel.bracket(weight, tol if weight[0, 0].numel() > 1 else 1e-9).upper


def _scale(norm: Any) -> Tensor:
    """Factor of each channel in evaluation mode: ``γ/√(variance + ε)``."""
    if norm.running_var is None:
        raise LorankError("it normalises by the batch's own statistics, also in evaluation mode")
    scale = (_exact(norm.running_var) + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * _exact(norm.weight)


def _norm(matrix: Tensor) -> float:
    """Largest singular value, with room for its rounding (Golub and Van Loan, 8.6)."""
    room = 10 * sum(matrix.shape) * torch.finfo(matrix.dtype).eps
    return float(torch.linalg.matrix_norm(matrix, 2)) * (1 + room)


def _exact(tensor: Tensor) -> Tensor:
    """Copy a tensor to float64 on the CPU, where certificates are made."""
    return tensor.detach().to(device="cpu", dtype=torch.float64)

"""The transpose of a linear layer: what it does to a vector on its output side."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lorank.errors import LorankError
from lorank.nn.factored import Factored
from lorank.nn.pair import Pair

_FORWARD: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)
_BACKWARD: tuple[Any, ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def has_transpose(layer: object) -> bool:
    """Whether :func:`transpose_apply` knows the layer.

    Example:
        >>> has_transpose(nn.Linear(2, 2)), has_transpose(nn.ReLU())
        (True, False)
    """
    if isinstance(layer, Pair):
        return all(has_transpose(part) for part in layer)
    if isinstance(layer, Factored):
        return type(layer).transpose_apply is not Factored.transpose_apply
    plain = isinstance(layer, nn.Linear) or _stores_transpose(layer) or _sweeps(layer)
    return plain or hasattr(layer, "transpose_apply")


def _sweeps(layer: object) -> bool:
    """Whether it is a plain convolution, of numbers or of quaternions."""
    return isinstance(layer, _ConvNd) or all(
        hasattr(layer, name) for name in ("kernel_size", "real_weight")
    )


def _stores_transpose(layer: object) -> bool:
    """Whether it is the linear layer of the GPT-2 family, known by its name."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def transpose_apply(layer: nn.Module, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Apply ``Wᵀ``: the adjoint of a layer without its bias, ``⟨W·x, y⟩ = ⟨x, Wᵀ·y⟩``.

    Args:
        layer: linear or convolutional, plain, folded into a pair, or in SVD form.
        y: ``(…, out)``, or a batch of maps ``(batch, out, *size)`` for a convolution.
        size: size of the convolution's input map; by default the smallest that gives ``y``'s.

    Returns:
        ``(…, in)``, or maps ``(batch, in, *size)``; differentiable in ``y`` and the weights.

    Raises:
        LorankError: if the layer has no transpose here, or ``y`` does not fit it.

    Cost: that of the layer on as many rows, ``r·(in + out)`` MACs a row in SVD form.

    Example:
        >>> import torch, lorank
        >>> dense = nn.Linear(6, 4, bias=False)
        >>> x, y = torch.randn(6), torch.randn(4)
        >>> low = lorank.decompose(dense, {"": 2})
        >>> bool(torch.isclose(low(x) @ y, x @ transpose_apply(low, y), atol=1e-5))
        True
    """
    if isinstance(layer, Pair):
        return _pair(layer, y, size)
    own = getattr(layer, "transpose_apply", None)
    if own is not None:
        return own(y, size)
    if isinstance(layer, nn.Linear):
        check_rows(y, layer.out_features)
        return F.linear(y, layer.weight.mT)
    if _sweeps(layer):
        return _convolution(layer, y, size)
    if _stores_transpose(layer):
        check_rows(y, layer.get_parameter("weight").shape[1])
        return F.linear(y, layer.get_parameter("weight"))
    raise LorankError(
        f"a transpose is that of a linear layer or a convolution, found {type(layer).__name__}"
    )


def check_rows(y: Tensor, features: int) -> None:
    """Refuse rows that a layer does not give.

    Raises:
        LorankError: if the last axis has another size.
    """
    if y.ndim == 0 or y.shape[-1] != features:
        raise LorankError(
            f"the transpose reads rows of {features} outputs, found shape {tuple(y.shape)}"
        )


def check_zeros(padding_mode: str) -> None:
    """Refuse padding whose transpose is no convolution.

    Raises:
        LorankError: if the map is padded with anything but zeros.
    """
    if padding_mode != "zeros":
        raise LorankError(
            f"the transpose of a convolution is for zero padding, found {padding_mode!r}"
        )


def sweep_adjoint(
    y: Tensor,
    kernel: Tensor,
    size: Sequence[int],
    around: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
) -> Tensor:
    """The adjoint of one convolution, plain or transposed, onto maps of a given size.

    Args:
        y: ``(batch, out, *size)``.
        kernel: as torch stores it.
        size: of the maps to give.
        around: zeros around the map, as ``F.pad`` wants them.
        stride: of the convolution, as ``dilation`` and ``groups``.
        dilation: distance of the taps.
        groups: number of groups.
        transposed: the convolution is a transposed one.

    Example:
        >>> import torch
        >>> one = (1, 1)
        >>> y, kernel = torch.ones(1, 2, 4, 4), torch.ones(2, 3, 3, 3)
        >>> sweep_adjoint(y, kernel, (6, 6), (0, 0, 0, 0), one, one, 1, False).shape
        torch.Size([1, 3, 6, 6])
    """
    d = len(size)
    if transposed:
        widened = F.pad(y, list(around)) if any(around) else y
        x = _FORWARD[d - 1](widened, kernel, None, stride, 0, dilation, groups)
        return _crop(x, [0] * d, size)
    before = [around[2 * (d - 1 - a)] for a in range(d)]
    padded = [n + sum(around[2 * (d - 1 - a) :][:2]) for a, n in enumerate(size)]
    reached = [
        (m - 1) * stride[a] + dilation[a] * (kernel.shape[2 + a] - 1) + 1
        for a, m in enumerate(y.shape[2:])
    ]
    left = [p - r for p, r in zip(padded, reached, strict=True)]
    if any(not 0 <= rest < step for rest, step in zip(left, stride, strict=True)):
        raise LorankError(
            f"a map of size {tuple(size)} does not give one of size {tuple(y.shape[2:])}"
        )
    x = _BACKWARD[d - 1](y, kernel, None, stride, 0, left, groups, dilation)
    return _crop(x, before, size)


def _crop(x: Tensor, before: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cut a map out; where it is too small the rest of it is zero."""
    for axis, (start, length) in enumerate(zip(before, size, strict=True), 2):
        missing = start + length - x.shape[axis]
        if missing > 0:
            x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, missing])
        x = x.narrow(axis, start, length)
    return x


def smallest(
    size: Sequence[int],
    taps: Sequence[int],
    around: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
) -> tuple[int, ...]:
    """The smallest input map that gives an output map of a size.

    Example:
        >>> smallest((4, 4), (3, 3), (1, 1, 1, 1), (2, 2), (1, 1), False)
        (7, 7)
    """
    found = []
    for a, m in enumerate(size):
        both = sum(around[2 * (len(size) - 1 - a) :][:2])
        reach = dilation[a] * (taps[a] - 1)
        plain = (m - 1) * stride[a] + reach + 1 - both
        found.append((m + both - reach - 1) // stride[a] + 1 if transposed else plain)
    return tuple(found)


def _convolution(layer: Any, y: Tensor, size: Sequence[int] | None) -> Tensor:
    """The adjoint of torch's own convolutions."""
    from lorank.nn.conv import pads  # conv needs this file too

    check_zeros(layer.padding_mode)
    weight = layer.real_weight() if hasattr(layer, "real_weight") else layer.weight
    taps, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    around = (
        pads(layer.padding, dilation, taps) if layer.padding != "valid" else [0] * 2 * len(taps)
    )
    check_maps(y, layer.out_channels, len(taps))
    if size is None:
        size = smallest(y.shape[2:], taps, around, stride, dilation, layer.transposed)
    return sweep_adjoint(y, weight, size, around, stride, dilation, layer.groups, layer.transposed)


def check_maps(y: Tensor, channels: int, axes: int) -> None:
    """Refuse maps that a convolution does not give.

    Raises:
        LorankError: if they are not a batch of maps of these channels.
    """
    if y.ndim != axes + 2 or y.shape[1] != channels:
        raise LorankError(
            f"the transpose reads maps (batch, {channels}, …) of {axes} axes, "
            f"found shape {tuple(y.shape)}"
        )


def _pair(pair: Pair, y: Tensor, size: Sequence[int] | None) -> Tensor:
    """Through the second layer, then through the first; maps between have the first's own size."""
    between = None
    if size is not None:
        if not _sweeps(pair[0]):
            return transpose_apply(pair[0], transpose_apply(pair[1], y), size)
        first: Any = pair[0]
        weight = first.weight
        with torch.no_grad():  # past the hooks, so that a tap keeps what the network gave
            between = first.forward(weight.new_zeros(1, first.in_channels, *size)).shape[2:]
    return transpose_apply(pair[0], transpose_apply(pair[1], y, between), size)

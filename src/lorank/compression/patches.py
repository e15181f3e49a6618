"""What a layer reads for one output position, as the rows of a matrix."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg import Unfolding
from lorank.nn.conv import pads


def patches(
    layer: Any, view: Unfolding, x: Tensor, positions: int | None, generator: torch.Generator
) -> Tensor:
    """Gather the patches ``(groups, rows, in / groups · taps)`` that a layer reads.

    A dense layer is ``patch · W``; taps that fall on padding read what the padding holds. A
    transposed convolution is a convolution of its input with zeros between the entries.

    Args:
        layer: linear or convolution, dense or in SVD form.
        view: any view of its weight.
        x: the layer's input.
        positions: at most so many output positions of each sample, drawn anew in each call;
            ``None`` takes all.
        generator: draws the positions.

    Example:
        >>> layer = torch.nn.Conv1d(1, 1, 2)
        >>> view = Unfolding(1, 1, (2,))
        >>> patches(layer, view, torch.tensor([[[1.0, 2.0, 3.0]]]), None, torch.Generator())
        tensor([[[1., 2.],
                 [2., 3.]]])
    """
    if not view.kernel_size:
        return _rows(x, positions, generator).unsqueeze(0)
    axes = len(view.kernel_size)
    x = x if x.ndim == axes + 2 else x.unsqueeze(0)
    swept = _stuffed(layer, view, x) if view.transposed else _padded(layer, view, x)
    stride = (1,) * axes if view.transposed else tuple(layer.stride)
    for axis in range(axes):
        reach = layer.dilation[axis] * (view.kernel_size[axis] - 1) + 1
        swept = swept.unfold(2 + axis, reach, stride[axis])[..., :: layer.dilation[axis]]
    if view.transposed:
        swept = swept.flip(tuple(range(-axes, 0)))
    samples, channels = swept.shape[:2]
    where = _drawn(tuple(swept.shape[2 : 2 + axes]), positions, generator, x.device)
    chosen = swept[(slice(None), slice(None), *where)]  # (samples, channels, positions, *taps)
    grouped = chosen.reshape(samples, view.groups, channels // view.groups, len(where[0]), -1)
    return grouped.permute(1, 0, 3, 2, 4).reshape(view.groups, samples * len(where[0]), -1)


def check_positions(positions: int | None) -> None:
    """Refuse a number of positions that is none.

    Raises:
        LorankError: if it is no whole number of at least 1, and not ``None``.
    """
    whole = isinstance(positions, int) and not isinstance(positions, bool)
    if positions is not None and not (whole and positions >= 1):
        raise LorankError(
            f"positions must be a whole number of at least 1, or None, found {positions!r}"
        )


def _rows(x: Tensor, positions: int | None, generator: torch.Generator) -> Tensor:
    if x.ndim < 3 or positions is None:
        return x.reshape(-1, x.shape[-1])
    x = x.flatten(1, -2)
    (where,) = _drawn((x.shape[1],), positions, generator, x.device)
    return x[:, where].reshape(-1, x.shape[-1])


def _drawn(
    size: tuple[int, ...], positions: int | None, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, ...]:
    """Indices of some positions of a map, along each of its axes."""
    count = torch.Size(size).numel()
    if positions is None or positions >= count:
        flat = torch.arange(count)
    else:
        flat = torch.randperm(count, generator=generator)[:positions]
    return torch.unravel_index(flat.to(device), size)


def _padded(layer: Any, view: Unfolding, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    around = pads(layer.padding, layer.dilation, view.kernel_size)
    return F.pad(x, around, mode=mode) if any(around) else x


def _stuffed(layer: Any, view: Unfolding, x: Tensor) -> Tensor:
    """Zeros between and around the entries, so that the transposed convolution is a plain one."""
    axes = len(view.kernel_size)
    size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *size)
    spread[(..., *(slice(None, None, s) for s in layer.stride))] = x
    around: list[int] = []
    for axis in reversed(range(axes)):
        reach = layer.dilation[axis] * (view.kernel_size[axis] - 1) - layer.padding[axis]
        around += [reach, reach + layer.output_padding[axis]]
    return F.pad(spread, around)

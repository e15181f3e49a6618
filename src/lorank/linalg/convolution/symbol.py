"""The symbol of a convolution: one small matrix for each frequency.

A convolution with taps ``K_p`` sends a plane wave ``e^{i⟨a, x⟩}·v`` to ``e^{i⟨a, x⟩}·F(a)v``. The
matrix ``F(a) = Σ_p K_p·e^{i⟨p, a⟩}`` is its symbol, also called its spectral density matrix. Under
circular padding the singular values of the layer are those of F at the frequencies of the discrete
Fourier transform; under zero padding F is their law for large images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.linalg.svd import check_matrix, working_dtype


class Grid(NamedTuple):
    """Frequencies, and how many of the full grid each of them stands for.

    Shapes: ``angles (points, axes)`` in radians, float64; ``multiplicity (points,)``, 1 or 2.
    """

    angles: Tensor
    multiplicity: Tensor


def frequency_grid(size: Sequence[int], shift: float = 0.0) -> Grid:
    """Half of the grid ``2π(j + shift)/n``: of each pair ``{a, −a}`` one frequency.

    The taps are real, so ``F(−a)`` is the conjugate of ``F(a)`` and has the same singular values.
    A frequency that is its own negative (all angles 0 or π) counts once, any other twice.

    Args:
        size: n along each axis; for circular padding, the image.
        shift: 0, or one half for a grid between those frequencies.

    Returns:
        The frequencies and their multiplicities, whose sum is the number of points of the grid.

    Raises:
        LorankError: if a size is below 1 or the shift is neither 0 nor one half.

    Example:
        >>> grid = frequency_grid((4, 4))
        >>> len(grid.angles), int(grid.multiplicity.sum())
        (10, 16)
    """
    if not size or min(size) < 1:
        raise LorankError(f"a grid needs a size of at least 1 along each axis, found {tuple(size)}")
    if shift not in (0.0, 0.5):
        raise LorankError(f"a grid is shifted by 0 or 0.5 of a step, found {shift}")
    steps = [torch.arange(n) for n in size]
    index = torch.cartesian_prod(*steps).reshape(-1, len(size))
    sizes = torch.tensor(size)
    mirrored = (-index - round(2 * shift)) % sizes
    place, mirror = (_place(i, size) for i in (index, mirrored))
    kept = place <= mirror
    angles = 2 * math.pi * (index[kept] + shift).double() / sizes
    return Grid(angles, 1 + (place[kept] < mirror[kept]).long())


def _place(index: Tensor, size: Sequence[int]) -> Tensor:
    """Position of each index tuple in the full grid, last axis fastest."""
    place = torch.zeros(len(index), dtype=torch.long)
    for axis, n in enumerate(size):
        place = place * n + index[:, axis]
    return place


def symbol(weight: Tensor, angles: Tensor) -> Tensor:
    """``F(a) = Σ_p K_p·e^{i⟨p, a⟩}``, taps counted from the centre of the kernel.

    Another origin of the taps would multiply F by a unit number, so for its singular values even
    kernels, whose taps lie at half-integers, need no care. A layer with dilation d has the symbol
    of its undilated kernel at ``d·a``. Differentiable in the weight.

    Args:
        weight: ``(*batch, out, in, *kernel)``, real, one kernel axis for each angle; float32 and
            below give complex64, float64 gives complex128.
        angles: ``(*points, axes)`` in radians.

    Returns:
        ``(*batch, *points, out, in)``, complex.

    Raises:
        LorankError: if the weight is not a real float tensor with these axes.

    Cost: two real products of ``points·taps·out·in`` MACs. Source: Sedghi, Gupta and Long, 2019,
    on the grid of a Fourier transform; evaluated directly, which needs no grid.

    Example:
        >>> box = torch.ones(1, 1, 3)
        >>> symbol(box, torch.tensor([[0.0], [torch.pi]])).real.round().flatten().tolist()
        [3.0, -1.0]
    """
    axes = angles.shape[-1]
    _check_real(weight)
    if weight.ndim < axes + 2:
        raise LorankError(
            f"a kernel with {axes} axes is (out, in, *taps), found shape {tuple(weight.shape)}"
        )
    with exact(weight.device):
        W = weight.to(working_dtype(weight.dtype))
        *batch, rows, columns = W.shape[:-axes]
        taps = W.flatten(-axes).flatten(-3, -2).mT
        phase = angles.reshape(-1, axes).double() @ _offsets(W.shape[-axes:]).to(angles.device).mT
        real, imaginary = (f(phase).to(W) @ taps for f in (torch.cos, torch.sin))
    values = torch.complex(real, imaginary)
    return values.reshape(*batch, *angles.shape[:-1], rows, columns)


def _offsets(kernel: Sequence[int]) -> Tensor:
    """Positions of the taps around their centre, ``(taps, axes)``."""
    centred = [torch.arange(k, dtype=torch.float64) - (k - 1) / 2 for k in kernel]
    return torch.cartesian_prod(*centred).reshape(-1, len(kernel))


def polyphase(weight: Tensor, stride: Sequence[int]) -> Tensor:
    """Write a strided kernel as an unstrided one that reads every phase of the image as channels.

    ``y[m] = Σ_p K_p·x[s·m + p] = Σ_t Σ_a K_{s·t + a}·x_a[m + t]`` with the phases
    ``x_a[m] = x[s·m + a]``: the phases are a reordering of the image, so no singular value changes.

    Args:
        weight: ``(out, in, *kernel)``, or with batch axes in front.
        stride: s along each kernel axis.

    Returns:
        ``(out, in·prod(stride), *⌈kernel/stride⌉)``, filled with zeros at the end of each axis.

    Raises:
        LorankError: if a stride is below 1.

    Example:
        >>> polyphase(torch.ones(8, 4, 3, 3), (2, 2)).shape
        torch.Size([8, 16, 2, 2])
    """
    if min(stride) < 1:
        raise LorankError(f"a stride is at least 1, found {tuple(stride)}")
    axes = len(stride)
    kernel = weight.shape[-axes:]
    missing = [-k % s for k, s in zip(kernel, stride, strict=True)]
    W = F.pad(weight, [m for size in reversed(missing) for m in (0, size)])
    for axis, s in enumerate(stride):
        W = W.unflatten(axis - axes, (-1, s))  # the axes after it are still whole
        W = W.movedim(axis - axes, -axes - 1)
    return W.flatten(-2 * axes - 1, -axes - 1).contiguous()


def dilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Write out a dilated kernel, zeros between its taps.

    Args:
        weight: ``(…, *kernel)``.
        dilation: distance of two taps along each kernel axis.

    Raises:
        LorankError: if a dilation is below 1.

    Example:
        >>> dilated(torch.ones(1, 1, 3), (2,)).flatten().tolist()
        [1.0, 0.0, 1.0, 0.0, 1.0]
    """
    if min(dilation) < 1:
        raise LorankError(f"a dilation is at least 1, found {tuple(dilation)}")
    kernel = weight.shape[-len(dilation) :]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    wide = weight.new_zeros(*weight.shape[: -len(dilation)], *reach)
    wide[(..., *(slice(None, None, d) for d in dilation))] = weight
    return wide


def by_group(weight: Tensor, groups: int) -> Tensor:
    """Separate the groups, ``(groups, out/groups, in/groups, *kernel)``: they do not interact.

    Args:
        weight: ``(out, in/groups, *kernel)``, as torch stores it.
        groups: number of groups; the layer's singular values are those of all groups together.

    Raises:
        LorankError: if the output channels do not divide into the groups.

    Example:
        >>> by_group(torch.ones(8, 1, 3, 3), 8).shape
        torch.Size([8, 1, 1, 3, 3])
    """
    if groups < 1 or weight.shape[0] % groups:
        raise LorankError(
            f"groups must divide the first axis of a kernel, found {groups} groups and "
            f"shape {tuple(weight.shape)}"
        )
    return weight.unflatten(0, (groups, -1))


def check_kernel(weight: Tensor) -> None:
    """Insist on a kernel ``(out, in, *taps)`` of finite real floats, with one to three axes.

    Raises:
        LorankError: otherwise.
    """
    _check_real(weight)
    if not 3 <= weight.ndim <= 5:
        raise LorankError(
            "a convolution's kernel is (out, in, *taps) with one to three axes of taps, "
            f"found shape {tuple(weight.shape)}"
        )
    check_matrix(weight)


def _check_real(weight: Tensor) -> None:
    if not weight.is_floating_point():
        raise LorankError(f"a kernel's spectrum needs a real float tensor, found {weight.dtype}")

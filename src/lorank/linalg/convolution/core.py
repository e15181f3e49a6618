"""The small core of a convolution in SVD form: the same operator, on as many channels as it needs.

A 1×1 map with orthonormal columns changes no singular value, and commutes with every padding. So
where the outer kernel spans fewer than all output channels, they are exchanged for an orthonormal
basis of what it spans, and likewise the input channels.
"""

import torch
from torch import Tensor

from lorank.linalg.precision import exact
from lorank.linalg.svd import SVD, working_dtype
from lorank.linalg.unfold import Unfolding


def core_kernel(view: Unfolding, factors: SVD) -> Tensor:
    """Kernel with the nonzero singular values of ``U·diag(|S|)·Vh``, on the fewest channels.

    Each side of a layer of rank r keeps ``min(c, r·taps)`` channels, taps those that the kernel of
    this side sweeps: r of them in layout ``channel`` on the side of the 1×1 kernel.

    Differentiable to the first order. The bases are constants of the gradient, and the gradient of
    whatever depends on the singular values alone is not changed by that: such a function sees the
    part of a change that lies in both bases, and there they are exact.

    Args:
        view: the layer's geometry.
        factors: as the layer holds them; U and Vh need not be orthonormal.

    Returns:
        ``(out', in'/groups, *kernel)``, or as a transposed layer stores it; the dense kernel where
        no side becomes smaller.

    Cost: a QR of each thin kernel, ``O(c·(r·taps)²)``, and ``out'·in'·r·taps`` MACs.

    Example:
        >>> view = Unfolding(8, 6, (3, 3))
        >>> core_kernel(view, SVD(torch.ones(8, 2), torch.ones(2), torch.ones(2, 54))).shape
        torch.Size([2, 6, 3, 3])
    """
    G, r = view.groups, factors.S.shape[-1]
    dtype = working_dtype(factors.U.dtype)
    U, S, Vh = (f.to(dtype) for f in factors)
    with exact(U.device):
        out, into = view.out_channels // G, view.in_channels // G
        rows = U.reshape(G, out, -1)  # (groups, out, outer taps · r)
        columns = (S.abs().unsqueeze(-1) * Vh).reshape(G, r, into, -1)
        columns = columns.transpose(1, 2).reshape(G, into, -1)  # (groups, in, r · inner taps)
        rows, columns = _spanned(rows), _spanned(columns)
        left = rows.reshape(G, -1, r)
        right = columns.unflatten(2, (r, -1)).transpose(1, 2).reshape(G, r, -1)
        small = Unfolding(
            G * rows.shape[1],
            G * columns.shape[1],
            view.kernel_size,
            G,
            view.transposed,
            view.layout,
        )
        return small.kernel(left @ right)


def _spanned(side: Tensor) -> Tensor:
    """Coordinates of the columns of ``(groups, c, n)`` in an orthonormal basis, where n < c."""
    if side.shape[2] >= side.shape[1]:
        return side
    basis = torch.linalg.qr(side.detach()).Q
    return basis.mT @ side

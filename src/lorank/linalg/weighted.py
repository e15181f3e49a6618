"""The best cut of a weight for what it does: errors weighed by what goes in and what comes out.

A layer ``y = W·x`` whose input has the second moment ``G = E[x·xᵀ]`` loses
``E‖(W − Ŵ)·x‖² = ‖(W − Ŵ)·G^½‖_F²`` by a cut. Where it is known how much an error of each output
direction costs, ``H = E[g·gᵀ]`` of the gradients that arrive there, it loses
``‖H^½·(W − Ŵ)·G^½‖_F²``: the Kronecker-factored second-order model of the loss (Martens and
Grosse, 2015). Both are a truncated SVD of the whitened matrix. It is computed here from Gram
matrices and without an inverse, so that moments of any rank will do.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.svd import SVD, product_svd
from lorank.linalg.unfold import Unfolding

DAMPING = 0.1
"""Share of the isotropic part in the weight of the outputs: few gradients say little about the
directions that they leave out."""


class Moments(NamedTuple):
    """Second moments at one layer, per group of channels, in float64.

    Attributes:
        inputs: ``(groups, n, n)``, mean of ``x·xᵀ`` over the patches that one output position
            reads, in the order ``(in / groups, *kernel_size)``; or ``(groups, 1, 1)``, the mean of
            ``‖x‖²/n``, for patches too large for a moment: every direction then counts alike.
        outputs: ``(groups, m, m)``, sum over positions of ``g·gᵀ`` of the gradients at the output,
            mean over samples; ``None`` where only the inputs were watched.
        rows: how many patches ``inputs`` was averaged over.

    Example:
        >>> x = torch.randn(100, 3, dtype=torch.float64)
        >>> Moments((x.mT @ x / 100)[None], None, 100).inputs.shape
        torch.Size([1, 3, 3])
    """

    inputs: Tensor
    outputs: Tensor | None
    rows: int


def shrink(moment: Tensor, rows: int) -> Tensor:
    """Draw a moment of few samples towards a multiple of the identity.

    ``(1 − ρ)·G + ρ·(tr G / n)·I`` with the oracle approximating ``ρ``: near 0 with many samples a
    feature, near 1 with few, where the cut becomes the plain one. A moment of nothing becomes the
    identity.

    Args:
        moment: ``(..., n, n)``, symmetric and not negative.
        rows: how many samples it is the mean of.

    Source: Chen, Wiesel, Eldar and Hero, Shrinkage algorithms for MMSE covariance estimation,
    IEEE Transactions on Signal Processing 2010, equation 23.

    Example:
        >>> shrink(torch.zeros(2, 2), 10).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    n = moment.shape[-1]
    eye = torch.eye(n, dtype=moment.dtype, device=moment.device)
    trace = moment.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = moment.square().sum((-2, -1))
    spread = (rows + 1 - 2 / n) * (square - trace.square() / n)
    rho = ((1 - 2 / n) * square + trace.square()) / spread.clamp_min(torch.finfo(spread.dtype).tiny)
    rho = torch.where(trace > 0, rho.clamp(0, 1), 1.0)[..., None, None]
    mean = torch.where(trace > 0, trace / n, 1.0)[..., None, None]
    return (1 - rho) * moment + rho * mean * eye


class Weighed(NamedTuple):
    """A kernel's matrix, and the square roots of what weighs its two sides (all per group)."""

    matrix: Tensor
    """``H^½·A``, ``(groups, rows, columns)``."""
    right: Tensor
    """``G_in^½``, ``(groups, columns, columns)``, or ``G_in`` itself where rows are fewer."""


def weighted_singular_values(view: Unfolding, kernel: Tensor, moments: Moments) -> Tensor:
    """Singular values of ``H^½·A·G_in^½`` in descending order: what each rank is worth.

    ``A`` is the kernel in its layout. Where the outer operation sweeps several taps, ``G_in`` is
    the mean of the input's moment over them.

    Args:
        view: the kernel's layout.
        kernel: the dense weight.
        moments: of the layer; ``shrink`` is applied here.

    Returns:
        ``(r,)``, or ``(groups, r)``, in float64. Values below ``√eps`` of the largest one are
        noise: they come from a Gram matrix.

    Raises:
        LorankError: if the moments do not fit the kernel, or something is not finite.

    Cost: ``O(m·n·min(m, n) + n²·m)``.

    Example:
        >>> view = Unfolding(2, 2)
        >>> moments = Moments(torch.diag(torch.tensor([4.0, 1.0])).double()[None], None, 10**9)
        >>> [round(v, 3) for v in weighted_singular_values(view, torch.eye(2), moments).tolist()]
        [2.0, 1.0]
    """
    weighed = _weigh(view, kernel, _beside(kernel, moments))
    squares = _eigen(weighed, vectors=False)[0]
    values = squares.clamp_min(0).sqrt().flip(-1)
    return values if view.groups > 1 else values[0]


def weighted_cut(view: Unfolding, kernel: Tensor, moments: Moments, rank: int) -> SVD:
    """Best rank-r factors for the weighed error, as the SVD of the matrix that they make.

    The row space comes from the whitened matrix; the left factor is then the least-squares
    solution for it over whole patches, which for a layer without outer taps is the optimum, and
    otherwise improves on it.

    Args:
        view: the kernel's layout.
        kernel: the dense weight, in any float dtype.
        moments: of the layer.
        rank: between 1 and ``min(view.shape)``.

    Returns:
        ``U``, ``S``, ``Vh`` of ``Ŵ`` as a matrix in the layout, float64; with a group axis for
        grouped convolutions.

    Raises:
        LorankError: as :func:`weighted_singular_values`, or if the rank is out of range.

    Source: the linear case is principal component analysis of the outputs: Zhang, Zou, He and
    Sun, Accelerating very deep convolutional networks, TPAMI 2016, section 3.1; Wang et al.,
    SVD-LLM, 2024, gives the same optimum by a Cholesky factor.

    Example:
        >>> view = Unfolding(2, 2)
        >>> seen = Moments(torch.diag(torch.tensor([0.01, 1.0])).double()[None], None, 10**9)
        >>> U, S, Vh = weighted_cut(view, torch.diag(torch.tensor([2.0, 1.0])), seen, 1)
        >>> (U * S @ Vh).abs().round(decimals=3).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    full = min(view.shape)
    if not 1 <= rank <= full:
        raise LorankError(f"a rank must be between 1 and {full}, found {rank}")
    moments = _beside(kernel, moments)
    weighed = _weigh(view, kernel, moments)
    _, vectors = _eigen(weighed, vectors=True)
    leading = vectors[..., -rank:].flip(-1)
    if _wide(weighed.matrix):
        rows = leading.mT @ weighed.matrix
    else:
        rows = _times(leading.mT, weighed.right) @ (weighed.matrix.mT @ weighed.matrix)
    V = torch.linalg.qr(rows.mT)[0].mT  # orthonormal even where fewer directions carry anything
    U = _least_squares(view, kernel, moments, V)
    ones = U.new_ones(U.shape[0], rank)
    factors = product_svd(U, ones, V)
    return factors if view.groups > 1 else SVD(*(factor[0] for factor in factors))


def compensated(view: Unfolding, kernel: Tensor, moments: Moments, cross: Tensor) -> Tensor:
    """Kernel that does best on a changed input what another does on the true one.

    ``argmin_W' E‖W·x − W'·x̂‖² = W·E[x·x̂ᵀ]·E[x̂·x̂ᵀ]⁻¹``, by ridge regression towards W with the
    penalty ``tr E[x̂·x̂ᵀ] / rows``: few samples say little, and must not overshoot.

    Args:
        view: any layout of the kernel.
        kernel: the dense weight W that reads the true patches x.
        moments: of the changed patches x̂.
        cross: ``E[x·x̂ᵀ]``, ``(groups, n, n)``.

    Returns:
        A kernel of the same shape, float64.

    Raises:
        LorankError: as :func:`weighted_singular_values`.

    Example:
        >>> half = Moments(0.25 * torch.eye(2).double()[None], None, 10**9)
        >>> cross = 0.5 * torch.eye(2).double()[None]  # x̂ = x / 2
        >>> compensated(Unfolding(1, 2), torch.ones(1, 2), half, cross).round(decimals=6).tolist()
        [[2.0, 2.0]]
    """
    moments, cross = _beside(kernel, moments), cross.to(kernel.device)
    _check(view, kernel, moments._replace(inputs=cross))
    _check(view, kernel, moments)
    if _isotropic(view, moments):
        raise LorankError(
            "a changed input needs whole moments, found the power of the inputs alone"
        )
    G = moments.inputs
    trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)
    ridge = torch.where(trace > 0, trace / moments.rows, 1.0)[..., None, None]
    eye = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    W = _patches(view, view.matrix(kernel.detach().double()))
    W = W + torch.linalg.solve(G + ridge * eye, W @ (cross - G), left=False)
    order = outer_blocks(view).to(W.device).reshape(-1)
    return view.kernel(W[..., order].reshape(view.groups, *view.shape))


def weighted_error(view: Unfolding, change: Tensor, moments: Moments) -> float:
    """Compute ``‖H^½·D·G^½‖_F²`` of a change D of a kernel, summed over groups.

    Args:
        view: any layout of the kernel; only its channels and groups count.
        change: the difference of two dense weights.
        moments: of the layer.

    Raises:
        LorankError: as :func:`weighted_singular_values`.

    Example:
        >>> seen = Moments(2 * torch.eye(3).double()[None], None, 10**9)
        >>> round(weighted_error(Unfolding(1, 3), torch.ones(1, 3), seen), 6)
        6.0
    """
    moments = _beside(change, moments)
    _check(view, change, moments)
    D = _patches(view, view.matrix(change.detach().double()))
    weighed = _times(D, shrink(moments.inputs, moments.rows))
    if moments.outputs is not None:
        weighed = _damped(moments.outputs) @ weighed
    return float((weighed * D).sum())


def _beside(kernel: Tensor, moments: Moments) -> Moments:
    """Moments where the kernel is: calibrated on one device, a network may be cut on another."""
    inputs, outputs, rows = moments
    outputs = None if outputs is None else outputs.to(kernel.device)
    return Moments(inputs.to(kernel.device), outputs, rows)


def _weigh(view: Unfolding, kernel: Tensor, moments: Moments) -> Weighed:
    _check(view, kernel, moments)
    A = view.matrix(kernel.detach().double()).reshape(view.groups, *view.shape)
    if moments.outputs is not None:
        half = _root(_damped(moments.outputs))
        A = (half @ A.reshape(view.groups, half.shape[-1], -1)).reshape(A.shape)
    where = outer_blocks(view).to(kernel.device)
    G = shrink(moments.inputs, moments.rows)
    if _isotropic(view, moments):
        return Weighed(A, G if _wide(A) else G.sqrt())
    inner = torch.stack([G[:, rows][:, :, rows] for rows in where]).mean(0)
    return Weighed(A, inner if _wide(A) else _root(inner))


def _isotropic(view: Unfolding, moments: Moments) -> bool:
    """Whether only the power of the inputs is known."""
    return moments.inputs.shape[-1] < view.patch_size


def _times(A: Tensor, right: Tensor) -> Tensor:
    """``A·G``, where G is a matrix, or a number times the identity."""
    return A * right if right.shape[-1] == 1 else A @ right


def _wide(matrix: Tensor) -> bool:
    return matrix.shape[-2] <= matrix.shape[-1]


def _eigen(weighed: Weighed, *, vectors: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) of the smaller Gram matrix of the whitened matrix."""
    A, right = weighed
    if _wide(A):
        gram = _times(A, right) @ A.mT
    else:
        M = _times(A, right)
        gram = M.mT @ M
    gram = (gram + gram.mT) / 2
    if vectors:
        return tuple(torch.linalg.eigh(gram))  # pyright: ignore[reportReturnType]
    return torch.linalg.eigvalsh(gram), gram


def _least_squares(view: Unfolding, kernel: Tensor, moments: Moments, V: Tensor) -> Tensor:
    """Left factor ``(groups, rows, r)`` that serves a row space best: ``N = W·G·Bᵀ·(B·G·Bᵀ)⁺``.

    ``B = I ⊗ V`` gives the r inner channels at each of the T outer taps.
    """
    if _isotropic(view, moments):
        return view.matrix(kernel.detach().double()).reshape(view.groups, *view.shape) @ V.mT
    where = outer_blocks(view).to(kernel.device)
    (taps, columns), rank, groups = where.shape, V.shape[-2], view.groups
    order = where.reshape(-1)
    G = shrink(moments.inputs, moments.rows)[:, order][:, :, order]
    blocks = G.reshape(groups, taps, columns, taps, columns)
    BG = torch.einsum("grc,gtcsd->gtrsd", V, blocks)
    BGB = torch.einsum("gtrsd,gqd->gtrsq", BG, V).reshape(groups, taps * rank, taps * rank)
    W = _patches(view, view.matrix(kernel.detach().double()))[..., order]
    WGB = W @ BG.reshape(groups, taps * rank, taps * columns).mT
    N = WGB @ torch.linalg.pinv(BGB, hermitian=True)
    return N.reshape(groups, -1, taps, rank).reshape(groups, -1, rank)


def outer_blocks(view: Unfolding) -> Tensor:
    """Where the columns of a layout lie in a patch, for each tap of the outer operation.

    Returns:
        ``(T, columns)``, whole numbers below ``in / groups · taps``.

    Example:
        >>> outer_blocks(Unfolding(1, 1, (2, 2), layout="spatial")).tolist()
        [[0, 2], [1, 3]]
    """
    patch = torch.arange(view.patch_size).reshape(-1, *view.kernel_size)
    order = [*(a + 1 for a in view.outer_axes), 0, *(a + 1 for a in view.inner_axes)]
    return patch.permute(order).reshape(-1, view.shape[1])


def _patches(view: Unfolding, matrix: Tensor) -> Tensor:
    """Write a matrix in a layout as ``(groups, out / groups, patch)``."""
    where = outer_blocks(view).to(matrix.device)
    A = matrix.reshape(view.groups, view.out_channels // view.groups, *where.shape)
    W = A.new_empty(*A.shape[:2], where.numel())
    W[..., where.reshape(-1)] = A.flatten(2)
    return W


def _damped(moment: Tensor) -> Tensor:
    n = moment.shape[-1]
    trace = moment.diagonal(dim1=-2, dim2=-1).sum(-1)
    mean = torch.where(trace > 0, trace / n, 1.0)[..., None, None]
    eye = torch.eye(n, dtype=moment.dtype, device=moment.device)
    return (1 - DAMPING) * moment + DAMPING * mean * eye


def _root(moment: Tensor) -> Tensor:
    """Symmetric square root; rounding below zero counts as zero."""
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT


def _check(view: Unfolding, kernel: Tensor, moments: Moments) -> None:
    n, m = view.patch_size, view.out_channels // view.groups
    if _isotropic(view, moments) and moments.inputs.shape[-1] == 1:
        n = 1
    for what, moment, size in (("inputs", moments.inputs, n), ("outputs", moments.outputs, m)):
        if moment is None:
            continue
        if moment.shape != (view.groups, size, size):
            raise LorankError(
                f"moments of {what} must be of shape {(view.groups, size, size)} for this kernel, "
                f"found {tuple(moment.shape)}: calibrate the network that is cut"
            )
        if not torch.isfinite(moment).all():
            raise LorankError(f"moments of {what} must be finite, found NaN or Inf")
    if not torch.isfinite(kernel).all():
        raise LorankError("a decomposition needs finite values, found NaN or Inf in the weight")

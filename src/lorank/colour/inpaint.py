"""Fill the holes of a colour image with what makes it a matrix of low rank."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorank.colour.forms import Form, check_rank, make_form
from lorank.colour.picture import like, picture
from lorank.errors import LorankError
from lorank.linalg import SVD

STEPS = 12
"""Thresholds on the way from the largest singular value to the last threshold."""

MARGIN = 5
"""Singular values looked at beyond those that the step before has kept."""


def inpaint(
    image: Any,
    known: Any,
    *,
    form: str = "quaternion",
    threshold: float = 0.01,
    rank: int | None = None,
    n_iter: int = 20,
    tol: float = 1e-3,
    seed: int = 0,
) -> Any:
    """Fill unknown pixels by singular value thresholding, again and again.

    ``X ← shrink(known ∘ A + (1 − known) ∘ X, λ)`` minimises
    ``½‖known ∘ (A − X)‖_F² + λ‖X‖_*``; λ goes down in steps, and each begins where the one before
    has ended. Known pixels come back as they are.

    Args:
        image: colours ``(height, width, 3)`` or quaternions ``(height, width, 4)``; what stands
            in unknown pixels is not looked at, and may be NaN.
        known: ``(height, width)``, true where the pixel is known.
        form: ``"quaternion"``, ``"channels"`` or ``"unfolded"``.
        threshold: last λ as a share of the largest singular value of the known part.
        rank: at most so many singular values, by default as many as stay above λ.
        n_iter: at most so many iterations a step.
        tol: a step ends where an iteration changes X by less than this, relatively.
        seed: of the random range finder that low ranks use.

    Returns:
        An array of the kind that came in, with floats.

    Raises:
        LorankError: if the image or mask cannot be used, no pixel is known, the form is unknown,
            or an option is out of range.

    Cost: at most ``12·n_iter`` decompositions of the rank at hand. Source: Mazumder, Hastie and
    Tibshirani, Spectral regularization algorithms for learning large incomplete matrices, 2010,
    over the quaternions.

    Example:
        >>> row, column = torch.linspace(0.2, 1, 30), torch.linspace(0.5, 1, 40)
        >>> truth = (row[:, None] * column)[..., None] * torch.tensor([1.0, 0.7, 0.3])
        >>> known = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) < 0.6
        >>> filled = inpaint(truth, known)
        >>> bool((filled - truth).norm() < 0.05 * truth.norm())
        True
    """
    mask = _mask(known)
    x = picture(_without_holes(image, mask))
    made = make_form(form, x)
    if not 0 < threshold < 1:
        raise LorankError(f"threshold is a share in (0, 1), found {threshold!r}")
    if isinstance(n_iter, bool) or not isinstance(n_iter, int) or n_iter < 1 or not tol >= 0:
        raise LorankError(f"n_iter is at least 1 and tol at least 0, found {n_iter!r} and {tol!r}")
    most = min(made.shape) if rank is None else check_rank(rank, min(made.shape))
    if not mask.any():
        raise LorankError("an image to fill needs a known pixel, found none")
    A, fixed = made.matrix(x), made.matrix(mask[..., None].expand_as(x).double())
    if made.parts == 3 and form == "quaternion":
        fixed = torch.cat([torch.ones_like(fixed[..., :1]), fixed[..., 1:]], -1)  # real part: 0
    filled = _filled(made, A, fixed, threshold, most, n_iter, tol, seed)
    return like(image, torch.where(mask[..., None], x, made.image(filled)))


def _filled(
    form: Form,
    A: Tensor,
    fixed: Tensor,
    threshold: float,
    most: int,
    n_iter: int,
    tol: float,
    seed: int,
) -> Tensor:
    start = float(form.svd(A, 1, seed=seed).S.max())
    X, wanted = torch.zeros_like(A), 1
    for step in range(1, STEPS + 1):
        level = start * threshold ** (step / STEPS)
        for _ in range(n_iter):
            Y = fixed * A + (1 - fixed) * X
            factors, wanted = _above(form, Y, level, wanted, most, seed)
            U, s, Vh = factors
            before, X = X, form.product(U, (s - level).clamp_min(0), Vh)
            if float((X - before).norm()) <= tol * max(float(X.norm()), 1e-300):
                break
    return X


def _above(
    form: Form, Y: Tensor, level: float, wanted: int, most: int, seed: int
) -> tuple[SVD, int]:
    """Triplets above a level: as many as before and a few are looked at, more if all are above."""
    while True:
        factors = form.svd(Y, min(wanted + MARGIN, most), n_iter=1, seed=seed)
        s = factors.S
        count = int((s > level).sum(-1).max())
        if count < s.shape[-1] or s.shape[-1] == most:
            return factors, count
        wanted = 2 * wanted + MARGIN


def _mask(known: Any) -> Tensor:
    mask = torch.as_tensor(np.asarray(known) if not isinstance(known, Tensor) else known)
    if mask.dtype != torch.bool or mask.ndim != 2:
        raise LorankError(
            "known is a mask (height, width) of true and false, "
            f"found shape {tuple(mask.shape)} of {str(mask.dtype).split('.')[-1]}"
        )
    return mask.detach().cpu()


def _without_holes(image: Any, mask: Tensor) -> Any:
    """Zero in unknown pixels, so that nothing in them is looked at."""
    tensor = torch.as_tensor(image if isinstance(image, Tensor) else np.asarray(image)).cpu()
    if tuple(tensor.shape[:2]) != tuple(mask.shape):
        raise LorankError(
            "an image and its mask have one height and width, found "
            f"{tuple(tensor.shape)} and {tuple(mask.shape)}"
        )
    return tensor.masked_fill(~mask.unsqueeze(-1), 0) if tensor.ndim == 3 else tensor

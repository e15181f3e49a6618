"""Remove noise from a colour image: singular values are shrunk as far as noise explains them."""

import math
from typing import Any

import torch
from torch import Tensor

from lorank.colour.forms import Form, make_form
from lorank.colour.picture import like, picture
from lorank.errors import LorankError
from lorank.linalg.shrinkage import median_noise, shrink


def denoise(image: Any, noise: float | None = None, *, form: str = "quaternion") -> Any:
    """Shrink the singular values of a noisy image so that its expected error is least.

    White noise of variance σ² in each number gives the matrix singular values that follow the law
    of Marchenko and Pastur. For quaternions the law is that of a real matrix with the sum of the
    parts' variances in each entry: the unknown of its equation is a multiple of the identity,
    ``Σ σ_e²·e·t·ē = t·Σ σ_e²`` over the units e, so it knows no more of the parts than their sum,
    3σ² for colours. The best shrinkage for the squared error then follows as for real matrices.

    The three forms are close to each other on photographs, the unfolded one as a rule ahead. All
    see the image as one matrix; denoisers that first group similar patches do better on textures.

    Args:
        image: colours ``(height, width, 3)`` or quaternions ``(height, width, 4)``.
        noise: standard deviation of the noise in one number, in units of white; by default it
            is read off the middle singular value, which overestimates it where the image has
            full rank.
        form: ``"quaternion"``, ``"channels"`` or ``"unfolded"``.

    Returns:
        An array of the kind that came in, with floats.

    Raises:
        LorankError: if the image, noise or form cannot be used.

    Cost: one full decomposition. Source: Gavish and Donoho, Optimal shrinkage of singular values,
    2017; for quaternions the law is derived above.

    Example:
        >>> truth = torch.linspace(0, 1, 40)[:, None, None].expand(40, 60, 3)
        >>> noisy = truth + 0.1 * torch.randn(40, 60, 3)
        >>> bool((denoise(noisy, 0.1) - truth).norm() < 0.5 * (noisy - truth).norm())
        True
    """
    x = picture(image)
    made = make_form(form, x)
    if noise is not None and not _level(noise):
        raise LorankError(f"noise is a standard deviation of at least 0, found {noise!r}")
    U, s, Vh = made.svd(made.matrix(x))
    shrunk = [_shrunk(made, values, noise) for values in s.reshape(-1, s.shape[-1])]
    return like(image, made.image(made.product(U, torch.stack(shrunk).reshape(s.shape), Vh)))


def _shrunk(form: Form, s: Tensor, noise: float | None) -> Tensor:
    level = median_noise(s, form.shape) if noise is None else form.entry_noise(float(noise))
    return shrink(s, form.shape, level)


def _level(noise: object) -> bool:
    if isinstance(noise, bool) or not isinstance(noise, (int, float)):
        return False
    return 0 <= noise < math.inf

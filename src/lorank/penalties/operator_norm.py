"""How much can a layer stretch its input?"""

from collections.abc import Iterable

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.penalties.precision import at_least_float32


def operator_norm(bounds: Iterable[Tensor]) -> Tensor:
    """Sum of the squared bounds of the layers' norms, ``Σ_l b_l²``.

    Args:
        bounds: one number a layer, as :func:`lorank.linalg.operator_norm_bound` gives it.

    Returns:
        A scalar to add to the loss, in float32 or, for float64 bounds, float64.

    Raises:
        LorankError: if there are no bounds, or one is not a single number.

    Source: Yoshida and Miyato, Spectral Norm Regularization for Improving the Generalizability of
    Deep Learning, 2017, for matrices; here with a bound of the convolution itself.

    Example:
        >>> from lorank.linalg import operator_norm_bound
        >>> kernels = torch.eye(4), torch.ones(1, 1, 3)
        >>> round(float(operator_norm(operator_norm_bound(k, "refined") for k in kernels)), 1)
        10.0
    """
    numbers = list(bounds)
    if not numbers:
        raise LorankError("there is nothing to penalise: no bounds were given")
    for bound in numbers:
        if bound.numel() != 1:
            raise LorankError(
                f"operator_norm needs one number a layer, found shape {tuple(bound.shape)}"
            )
    with exact(numbers[0].device):
        device = numbers[0].device
        squares = [at_least_float32(b).reshape(()).square().to(device) for b in numbers]
        return torch.stack(squares).sum()

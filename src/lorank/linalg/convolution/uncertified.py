"""Numbers that stand near the norm of a convolution and bound it from no known side.

They are here to be compared with, and are no members of :data:`lorank.linalg.BOUNDS`.
"""

import math

import torch
from torch import Tensor

from lorank.linalg.convolution.blocks import kernel_blocks
from lorank.linalg.precision import exact


def reshaped_norm(weight: Tensor) -> Tensor:
    """Norm of the ``out × (in·taps)`` matrix: what ``spectral_norm`` of torch divides by.

    A block row of the operator: below its norm, by up to ``√taps``.

    Source: Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018.

    Example:
        >>> reshaped_norm(torch.ones(1, 1, 3, 3)).item().__round__(4)  # the operator has 9
        3.0
    """
    matrix = kernel_blocks(weight)[0].flatten(1)
    with exact(matrix.device):
        return torch.linalg.matrix_norm(matrix, 2)


def alternating_norm(weight: Tensor, rounds: int = 100, seed: int = 0) -> Tensor:
    """``√T`` times the norm of the kernel as a tensor, by alternating power iteration.

    The tensor's norm times √T is an upper bound; the iteration finds it from below and may stop at
    a lesser stationary point, so that what comes out can lie below the operator's norm.

    Args:
        weight: ``(out, in, *kernel)``.
        rounds: sweeps over the modes.
        seed: of the start.

    Source: Grishina, Gorbunov and Rakhuba, Tight and Efficient Upper Bound on Spectral Norm of
    Convolutional Layers, 2024.

    Example:
        >>> alternating_norm(torch.ones(1, 1, 3, 3)).item().__round__(4)
        9.0
    """
    K = kernel_blocks(weight)[0].detach()
    K = K.to(torch.promote_types(K.dtype, torch.complex64))
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(n, dtype=K.dtype, generator=generator) for n in K.shape]
    vectors = [_unit(vector.to(K.device)) for vector in drawn]
    value = K.new_zeros(()).real
    for _ in range(rounds):
        for mode in range(K.ndim):
            rest = K.movedim(mode, 0)
            for other in reversed([v for m, v in enumerate(vectors) if m != mode]):
                rest = rest @ other
            value = torch.linalg.vector_norm(rest)
            vectors[mode] = _unit(rest.conj())
    return math.sqrt(math.prod(K.shape[2:])) * value


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector).clamp_min(1e-30)

"""How far are the singular values from few large ones?"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.linalg.precision import exact
from lorank.penalties.precision import at_least_float32


def l1(values: Tensor) -> Tensor:
    """Sum of absolute values, ``‖s‖₁``.

    Shrinks all values alike. Behind it a normalisation layer lets it fall by mere rescaling.

    Args:
        values: ``(r,)``, or ``(groups, r)``: summed over groups. The sign means nothing.

    Returns:
        A scalar in float32, or in float64 for float64 values; its gradient is 0 where a value is.

    Example:
        >>> float(l1(torch.tensor([3.0, -4.0])))
        7.0
    """
    with exact(values.device):
        return at_least_float32(values).abs().sum()


def hoyer(values: Tensor) -> Tensor:
    """Hoyer measure, ``‖s‖₁/‖s‖₂ − 1``: 0 for one value, ``√r − 1`` for r equal ones.

    Does not depend on the scale of s. Values below ``‖s‖₂²/‖s‖₁`` shrink, larger ones grow.

    Args:
        values: ``(r,)``, or ``(groups, r)``: summed over groups. The sign means nothing.

    Returns:
        A scalar in float32, or in float64 for float64 values; 0 with gradient 0 for all zeros.

    Source: Hoyer, Non-negative matrix factorization with sparseness constraints, JMLR 5, 2004.

    Example:
        >>> round(float(hoyer(torch.tensor([3.0, -4.0]))), 6)
        0.4
    """
    return (_ratio(values) - 1).sum()


def hoyer_square(values: Tensor) -> Tensor:
    """Square Hoyer measure, ``‖s‖₁²/‖s‖₂² − 1``: 0 for one value, ``r − 1`` for r equal ones.

    Args:
        values: ``(r,)``, or ``(groups, r)``: summed over groups. The sign means nothing.

    Returns:
        A scalar in float32, or in float64 for float64 values; 0 with gradient 0 for all zeros.

    Source: Yang, Wen and Li, DeepHoyer: learning sparser neural network with differentiable
    scale-invariant sparsity measures, ICLR 2020.

    Example:
        >>> round(float(hoyer_square(torch.tensor([3.0, -4.0]))), 6)
        0.96
    """
    return (_ratio(values).square() - 1).sum()


def _ratio(values: Tensor) -> Tensor:
    with exact(values.device):
        s = at_least_float32(values)
        n1 = torch.linalg.vector_norm(s, 1, dim=-1)
        n2 = torch.linalg.vector_norm(s, 2, dim=-1)
        # 0/0 counts as 1/1, on both sides: a NaN in the branch not taken would reach the gradient.
        zero = n2 == 0
        return n1.masked_fill(zero, 1.0) / n2.masked_fill(zero, 1.0)


SPARSITY: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": l1,
    "hoyer": hoyer,
    "hoyer_square": hoyer_square,
}
"""Name → penalty of one layer's singular values. Zeros appended to them must change nothing."""


def sparsity(values: Iterable[Tensor], kind: str = "hoyer") -> Tensor:
    """Sum of one penalty over the singular values of all layers, ``Σ_l f(s_l)``.

    Neither divided by the rank nor by the number of layers. The layers run together, whatever
    their lengths: padded with zeros to one matrix, which no penalty of the table notices.

    Args:
        values: one tensor ``(r,)`` or ``(groups, r)`` per layer.
        kind: a key of :data:`SPARSITY`.

    Returns:
        A scalar to add to the loss, in float32 or, for float64 values, float64.

    Raises:
        LorankError: if the kind is unknown, there are no values, or a tensor has another shape.

    Cost: about a dozen small kernels, however many layers. Source: Yang et al., Learning Low-Rank
    Deep Neural Networks via Singular Vector Orthogonality Regularization and Singular Value
    Sparsification, 2020, section 3.3.

    Example:
        >>> float(sparsity([torch.tensor([3.0, 4.0]), torch.tensor([1.0])], "l1"))
        8.0
    """
    if kind not in SPARSITY:
        raise unknown("sparsity penalty", kind, SPARSITY)
    terms = [SPARSITY[kind](rows) for rows in _together(values)]
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


def _together(values: Iterable[Tensor]) -> list[Tensor]:
    """Vectors as the rows of one matrix per device and dtype; groups are matrices already."""
    vectors, matrices = defaultdict(list), []
    for s in values:
        if s.ndim not in (1, 2) or s.numel() == 0:
            raise LorankError(
                "sparsity needs singular values (r,) or (groups, r) with entries, "
                f"found shape {tuple(s.shape)}"
            )
        if s.ndim == 1:
            vectors[s.dtype, s.device].append(s)
        else:
            matrices.append(s)
    if not vectors and not matrices:
        raise LorankError("there is nothing to penalise: no singular values were given")
    return [_rows(batch) for batch in vectors.values()] + matrices


def _rows(batch: list[Tensor]) -> Tensor:
    # One concatenation of values and zeros: a padding routine would launch a copy per layer.
    longest = max(len(s) for s in batch)
    zeros = batch[0].new_zeros(longest)
    pieces = [piece for s in batch for piece in (s, zeros[len(s) :])]
    return torch.cat(pieces).view(len(batch), longest)

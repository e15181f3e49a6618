"""Centre and scale an output layer by the statistics of the labels, before any training."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.errors import LorankError, unknown
from lorank.nn import Factored, SVDLinear
from lorank.structured.missing import labelled

DIRECTIONS = ("random", "pca", "keep", "zero")


class Labels(NamedTuple):
    """What labels look like: their mean, and their principal directions with deviations."""

    mean: Tensor
    directions: Tensor
    """``(outputs, k)``, orthonormal, the largest first."""
    deviations: Tensor
    """``(k,)``: standard deviation of the labels along each."""


@torch.no_grad()
def label_statistics(Y: Tensor, rank: int | None = None) -> Labels:
    """Mean, principal directions and standard deviations of labels; incomplete ones are left out.

    Args:
        Y: labels ``(n, outputs)``, with inputs or without; NaN is missing.
        rank: how many directions; by default all, ``min(n − 1, outputs)``.

    Raises:
        LorankError: if labels are no numbers, or all missing, infinite, or the same.

    Example:
        >>> found = label_statistics(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        >>> found.mean, found.deviations
        (tensor([1., 1.]), tensor([1.4142]))
    """
    _check_labels(Y)
    whole = Y[labelled(Y, whole=True)] if len(Y) else Y
    if len(whole) < 2:
        raise LorankError(
            f"statistics of labels need at least two without a missing entry, found {len(whole)} "
            f"of {len(Y)}"
        )
    wide = whole.double()
    mean = wide.mean(0)
    _, s, Vh = torch.linalg.svd(wide - mean, full_matrices=False)
    deviations = s / math.sqrt(len(whole) - 1)
    count = int((deviations > _rounding(whole)).sum())
    if count == 0:
        raise LorankError(
            "labels that are all the same, up to rounding, have no scale to set an output layer by"
        )
    count = count if rank is None else min(_rank(rank, min(whole.shape)), count)
    like = whole.dtype
    return Labels(mean.to(like), Vh[:count].mT.to(like), deviations[:count].to(like))


def _check_labels(Y: Any) -> None:
    if not isinstance(Y, Tensor):
        raise LorankError(f"labels are a tensor (n, outputs), found {type(Y).__name__}")
    if Y.ndim != 2 or not Y.is_floating_point():
        raise LorankError(
            f"labels are numbers (n, outputs), found {Y.dtype} of shape {tuple(Y.shape)}"
        )


def _rounding(Y: Tensor) -> float:
    """The deviation that rounding of the labels may have: that of an error of eps in each entry.

    A constant output has no error in its deviation, however large it is.
    """
    largest = torch.where((Y[0] == Y).all(0), 0.0, Y.double().abs().amax(0))
    return torch.finfo(Y.dtype).eps * math.hypot(*largest.tolist())  # squares could overflow


@torch.no_grad()
def label_scale_(
    layer: nn.Module,
    Y: Tensor,
    directions: str = "random",
    rank: int | None = None,
    generator: torch.Generator | None = None,
) -> Labels:
    """Set an output layer, in place, so that its outputs start with the labels' mean and scale.

    The bias becomes the mean label. For a code of unit variance the outputs get the labels'
    deviations ``d₁ ≥ d₂ ≥ …``: with ``"pca"`` unit j of the code moves the labels along their j-th
    principal direction by ``d_j``; with ``"random"`` along random orthonormal directions by the
    same lengths; with ``"keep"`` the weight stays but for one factor, ``‖W‖_F² = Σ d_j²``. Units
    beyond the labels' rank start at 0 but for ``"keep"``. ``"zero"`` is the control: weights of 0,
    so that the outputs start at the mean label. **Centre and scale matter, not the directions**
    (see the results): what has to be avoided are outputs that start far from the mean label. In SVD
    form weights of 0 are negligible ones, for ``|S|`` has no slope at 0.

    Args:
        layer: the linear output layer, plain or in SVD form.
        Y: labels ``(n, outputs)``, also such without inputs; incomplete ones are left out.
        directions: ``"random"``, ``"pca"``, ``"keep"`` or ``"zero"``.
        rank: how many components; by default as many as labels and layer have. A layer in SVD
            form has room for its own rank: its ``U`` becomes the directions, its ``S`` their
            deviations.
        generator: source of random directions, on the CPU.

    Returns:
        The statistics that were used.

    Raises:
        LorankError: if the layer is not linear or has no bias, the labels have another size, are
            all missing, all the same or beyond the layer's range, or the rank or the name of the
            directions is wrong.

    Cost: one SVD of the labels. Source: the optimum of a linear tied auto-encoder of the labels is
    this principal subspace (Baldi and Hornik, 1989).

    Example:
        >>> layer = nn.Linear(8, 3)
        >>> labels = 5 + torch.randn(50, 3) * torch.tensor([3.0, 1.0, 0.1])
        >>> found = label_scale_(layer, labels, "pca", rank=2)
        >>> bool(torch.equal(layer.bias, found.mean)), layer.weight.norm(dim=0).count_nonzero()
        (True, tensor(2))
    """
    if directions not in DIRECTIONS:
        raise unknown("directions", directions, DIRECTIONS)
    outputs, inputs = _ends(layer)
    _check_labels(Y)
    if Y.ndim != 2 or Y.shape[1] != outputs:
        raise LorankError(
            f"the layer gives {outputs} outputs, and labels have shape {tuple(Y.shape)}"
        )
    room = layer.rank if isinstance(layer, Factored) else inputs
    asked = None if rank is None else _rank(rank, min(outputs, room))
    found = label_statistics(Y, asked)
    room = min(room, len(found.deviations))
    found = Labels(found.mean, found.directions[:, :room], found.deviations[:room])
    _check_fits(layer.get_parameter("bias"), found)
    if directions == "keep":
        _rescale(layer, float(found.deviations.double().square().sum().sqrt()))
    elif directions == "zero":
        _rescale(layer, 0.0)
    elif directions == "pca":
        _write(layer, found.directions, found.deviations)
    else:
        drawn = torch.randn(
            outputs, len(found.deviations), generator=generator, dtype=torch.float64
        )
        _write(layer, torch.linalg.qr(drawn).Q.to(found.directions), found.deviations)
    # Last, so that a weight that cannot be set leaves the layer as it was.
    layer.get_parameter("bias").copy_(found.mean)
    return found


def _check_fits(bias: Tensor, labels: Labels) -> None:
    """Refuse labels beyond the range of half precision, before anything is written."""
    largest = max(float(labels.mean.abs().max()), float(labels.deviations[0]))
    if largest > torch.finfo(bias.dtype).max:
        raise LorankError(
            f"labels of size {largest:.1e} are beyond the range of a layer in {bias.dtype}: "
            "scale the labels down"
        )


def _ends(layer: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer with a bias."""
    kept = type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")
    if not isinstance(layer, (nn.Linear, SVDLinear)) and not kept:
        last = f" that ends in {type(list(layer)[-1]).__name__}" if _sequence(layer) else ""
        raise LorankError(
            "the scale of labels is given to a linear output layer, plain or in SVD form, for what "
            f"is not linear would bend it again: found {type(layer).__name__}{last}"
        )
    if layer.bias is None:
        raise LorankError("an output layer is centred by its bias, and this one has none")
    if kept:
        inputs, outputs = layer.get_parameter("weight").shape
        return outputs, inputs
    return layer.out_features, layer.in_features  # pyright: ignore[reportReturnType]


def _sequence(layer: Any) -> bool:
    return isinstance(layer, nn.Sequential) and len(layer) > 0


def _rank(rank: object, most: int) -> int:
    whole = isinstance(rank, int) and not isinstance(rank, bool)
    if not whole or not 1 <= rank <= most:  # pyright: ignore[reportOperatorIssue]
        raise LorankError(f"rank is a whole number from 1 to {most}, found {rank!r}")
    return rank  # pyright: ignore[reportReturnType]


def _rescale(layer: Any, norm: float) -> None:
    """Multiply the weight by one factor, so that it has a Frobenius norm."""
    if isinstance(layer, Factored):
        now = float(layer.spectrum().S.double().square().sum().sqrt())
        target = layer.S
    else:
        now, target = float(layer.weight.double().norm()), layer.weight
    if norm == 0 and not isinstance(layer, Factored):
        target.zero_()
        return
    if now == 0:
        raise LorankError("a weight of zeros keeps no directions: use 'random' or 'pca'")
    tiny = torch.finfo(target.dtype).eps ** 0.5  # |S| has no slope at 0, and would stay there
    target.mul_(max(norm / now, tiny))


def _write(layer: Any, axes: Tensor, deviations: Tensor) -> None:
    """``W = axes·diag(deviations)·[I 0]``, as it is or by factors."""
    if isinstance(layer, Factored):
        _write_factors(layer, axes, deviations)
        return
    scaled = (axes * deviations).to(layer.weight)
    weight = layer.weight.mT if type(layer).__name__ == "Conv1D" else layer.weight
    weight.zero_()
    weight[:, : scaled.shape[1]] = scaled


def _write_factors(layer: Factored, axes: Tensor, deviations: Tensor) -> None:
    """Orthonormal factors of the same weight.

    Components beyond the labels' rank get a negligible S instead of 0, where ``|S|`` has no slope:
    they would never be trained.
    """
    rows, rank = layer.U.shape
    extra = torch.eye(rows, dtype=torch.float64, device=axes.device)
    full = torch.linalg.qr(torch.cat([axes.double(), extra], 1)).Q[:, :rank]
    signs = torch.ones(rank, dtype=torch.float64, device=axes.device)
    signs[: axes.shape[1]] = (full[:, : axes.shape[1]] * axes.double()).sum(0).sign()
    layer.U.copy_(full * signs)
    layer.S.fill_(float(deviations[0]) * torch.finfo(layer.S.dtype).eps ** 0.5)
    layer.S[: len(deviations)] = deviations.to(layer.S)
    layer.Vh.copy_(torch.eye(*layer.Vh.shape, dtype=layer.Vh.dtype, device=layer.Vh.device))

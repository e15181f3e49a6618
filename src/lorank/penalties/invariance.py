"""How much do activations differ within a class? Closed forms, and controls that see no class."""

from collections.abc import Callable
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.linalg.precision import exact
from lorank.penalties.classes import Classes, activations, check_finite, classes, deviations
from lorank.penalties.precision import at_least_float32


def _pairs(h: Tensor, of: Classes) -> Tensor:
    """Mean over pairs of one class of ``‖h_i − h_j‖²``.

    ``Σ_{i<j} ‖h_i − h_j‖² = n_c·Σ ‖h_i − μ_c‖²``, which is ``n_c·Σ ‖h_i‖² − ‖Σ h_i‖²`` without its
    cancellation: a difference of large numbers would be rounding noise once a class is tight.
    """
    sums = deviations(h, of).square().sum(1) * of.size
    pairs = (of.paired * (of.size - 1)).sum() / 2
    return sums.sum() / pairs.clamp(min=1)


def _centre(h: Tensor, of: Classes) -> Tensor:
    """``½·mean ‖h_i − μ_c‖²`` over the samples that have another of their class in the batch."""
    return deviations(h, of).square().sum() / (2 * of.paired.sum().clamp(min=1))


def _covariance(h: Tensor, of: Classes) -> Tensor:
    """``‖S_w‖_F²`` of the pooled covariance ``S_w = Σ (h_i − μ_c)(h_i − μ_c)ᵀ / (n − C)``."""
    Z = deviations(h, of)
    # n − C: a class of n_c samples has n_c − 1 differences of its own.
    freedom = (of.paired * (1 - 1 / of.size.clamp(min=1).to(h.dtype))).sum()
    small = Z @ Z.mT if Z.shape[0] <= Z.shape[1] else Z.mT @ Z
    return small.square().sum() / freedom.clamp(min=1).square()


def _contrastive(h: Tensor, of: Classes, temperature: float) -> Tensor:
    """``mean_i −1/|P_i|·Σ_{p ∈ P_i} log( e^{z_i·z_p/τ} / Σ_{a ≠ i} e^{z_i·z_a/τ} )``, z = h/‖h‖."""
    z = _unit(h.masked_fill(~of.labelled.unsqueeze(1), 0.0))
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    others = of.labelled.unsqueeze(0) & ~itself
    same = (of.row.unsqueeze(0) == of.row.unsqueeze(1)) & others & of.paired.unsqueeze(1)
    logits = z @ z.mT / temperature
    # Anchors without a partner get a row that is finite, so that no NaN is multiplied by 0.
    seen = logits.masked_fill(~others & of.paired.unsqueeze(1), -torch.inf)
    log_odds = logits - seen.logsumexp(1, keepdim=True)
    by_anchor = log_odds.masked_fill(~same, 0.0).sum(1) / same.sum(1).clamp(min=1)
    return -by_anchor.sum() / of.paired.sum().clamp(min=1)


def _norm(h: Tensor) -> Tensor:
    """``mean ‖h_i‖²``: shrinks activations, and knows of no class."""
    return h.square().sum() / len(h)


def _all_pairs(h: Tensor) -> Tensor:
    """Mean over all pairs of the batch of ``‖h_i − h_j‖² = 2·Σ ‖h_i − μ‖² / (B − 1)``."""
    return 2 * (h - h.mean(0)).square().sum() / max(len(h) - 1, 1)


BY_CLASS: dict[str, Callable[[Tensor, Classes], Tensor]] = {
    "pairs": _pairs,
    "centre": _centre,
    "covariance": _covariance,
}
CLASS_FREE: dict[str, Callable[[Tensor], Tensor]] = {"norm": _norm, "all_pairs": _all_pairs}
CONTRASTIVE = "contrastive"

SHARPEST = 1e-6
"""The lowest temperature: far lower, cosines over it leave float32."""

INVARIANCE = (*BY_CLASS, CONTRASTIVE, *CLASS_FREE)
"""Kinds of penalty; the last two are controls, which read no label."""


def _unit(h: Tensor, counted: Tensor | None = None) -> Tensor:
    """Every sample on the unit sphere; a sample of zeros stays, with gradient 0."""
    zero = (h == 0).all(1, keepdim=True)
    return F.normalize(h.masked_fill(zero, 1.0), dim=1).masked_fill(zero, 0.0)


def _batch(h: Tensor, counted: Tensor) -> Tensor:
    """Every unit with mean 0 and variance 1 over the samples; a unit that is constant is 0."""
    Z, share = _centred(h, counted)
    variance = (Z.square() * share).sum(0)
    return Z * _safe(variance).rsqrt()


def _spread(h: Tensor, counted: Tensor) -> Tensor:
    """All samples by one number, so that two of them differ by ``‖h_i − h_j‖² = 1`` on average."""
    Z, share = _centred(h, counted)
    samples = counted.sum()
    mean_pair = 2 * (Z.square() * share).sum() * samples / (samples - 1).clamp(min=1)
    return h * _safe(mean_pair).rsqrt()


def _centred(h: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations from the mean of the samples that count, and each sample's share in a mean."""
    share = counted.unsqueeze(1).to(h.dtype) / counted.sum().clamp(min=1)
    first = h.index_select(0, counted.int().argmax(keepdim=True))
    varies = ((h != first) & counted.unsqueeze(1)).any(0)
    # What the mean of equal numbers differs from them is rounding, and would be blown up.
    return (h - (h * share).sum(0)).masked_fill(~varies, 0.0), share


def _moderate(h: Tensor) -> Tensor:
    """``h`` times the power of two that brings its largest entry near 1: squares stay in range.

    No bit of the mantissa changes, and what is normalised afterwards has forgotten the factor.
    """
    numbers = torch.finfo(h.dtype)
    largest = h.detach().abs().amax().clamp(numbers.tiny, numbers.max / 8)
    return h * torch.exp2(-torch.frexp(largest).exponent.to(h.dtype))


def _safe(square: Tensor) -> Tensor:
    """1 in place of 0: what does not vary is left as it is, with gradient 0."""
    return square.masked_fill(square == 0, 1.0)


NORMALISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": _unit,
    "batch": _batch,
    "spread": _spread,
}
"""Name → how activations are normalised before they are compared."""


def class_invariance(
    h: Tensor,
    y: Tensor | None = None,
    kind: str = "pairs",
    *,
    reduce: str = "sum",
    normalise: str | None = None,
    temperature: float = 0.1,
) -> Tensor:
    """How far apart one layer's answers to samples of one class are.

    With ``μ_c`` the mean of class c in the batch and ``n_c`` its samples there:

    - ``pairs``: the mean over all unordered pairs of one class of ``‖h_i − h_j‖²``, in closed form
      ``Σ_c n_c·Σ_{i∈c} ‖h_i − μ_c‖² / Σ_c n_c(n_c − 1)/2``;
    - ``centre``: ``½·mean_i ‖h_i − μ_c‖²``, where large classes weigh less than in ``pairs``;
      centres that outlive the batch are in :class:`CentreLoss`;
    - ``covariance``: ``‖S_w‖_F²``, with ``S_w`` the pooled within-class covariance. With σ the
      singular values of the deviations from the class means it is ``Σσ⁴/(n − C)²`` where
      ``centre`` is ``Σσ²/2n``: it presses on the leading directions;
    - ``contrastive``: supervised contrastive loss of the angles, one view, no projection head;
    - ``norm`` and ``all_pairs``: ``mean ‖h_i‖²`` and ``pairs`` with the whole batch as one class.
      They read no label; what they gain is not a gain of the classes.

    A class with one sample in the batch contributes 0, and so does a sample with label −100; where
    nothing is left the value is exactly 0 with gradient 0. The controls count every sample.

    Plain activations can be made small by scale alone, which the next layer undoes. ``normalise``
    closes that way out: ``l2`` puts samples on the unit sphere, ``batch`` gives each unit mean 0
    and variance 1 over the batch, ``spread`` divides all by the root of the mean squared distance
    of all pairs, so that ``pairs`` is the share of it that lies within classes: about 1 where the
    classes mean nothing, 0 where each is a point.

    Computed in float32 (float64 input: in float64), also under autocast.

    Args:
        h: activations ``(B, …)``, flattened to ``(B, d)``.
        y: labels ``(B,)``, any whole numbers; −100 is no label. Not needed by the controls.
        kind: one of :data:`INVARIANCE`.
        reduce: ``"sum"`` over the units, or their ``"mean"`` (of ``covariance``: over its d²
            entries). ``contrastive`` has no units, and is the same for both.
        normalise: ``None``, or a key of :data:`NORMALISE`. ``contrastive`` takes angles anyway.
        temperature: τ of ``contrastive``.

    Returns:
        A scalar to add to the loss.

    Raises:
        LorankError: if a name is unknown, the temperature is below 1e-6 or not finite, h has no
            entries or is not floating-point, there is not one whole number a sample as its label,
            or a sample that counts holds NaN or Inf (in float16 and compiled code these pass on).

    Cost: O(B·d) and a sort of the labels; ``covariance`` and ``contrastive`` O(B·d·min(B, d)) and
    O(B²·d). Source: Belharbi et al., Learning Class-Specific Invariant Representations, 2017,
    for the pairs; Choi and Rhee, Utilizing Class Information for Deep Network Representation
    Shaping, 2019, for within-class variance; Khosla et al., Supervised Contrastive Learning, 2020,
    equation 2. The closed form and the controls are ours.

    Example:
        >>> h = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [9.0, 9.0]])
        >>> y = torch.tensor([0, 0, 1, -100])
        >>> float(class_invariance(h, y)), float(class_invariance(h, y, "centre"))
        (25.0, 3.125)
    """
    _check_names(kind, reduce, normalise)
    if not isinstance(temperature, (Real, Tensor)) or not SHARPEST <= temperature < torch.inf:
        raise LorankError(
            f"temperature must be finite and at least {SHARPEST:g}, found {temperature!r}"
        )
    flat = activations(h)
    of = None if kind in CLASS_FREE else classes(y, flat)
    check_finite(flat, None if of is None else of.labelled)
    with exact(h.device):
        return _value(at_least_float32(flat), of, kind, reduce, normalise, temperature)


def _check_names(kind: str, reduce: str, normalise: str | None) -> None:
    if kind not in INVARIANCE:
        raise unknown("kind of class invariance", kind, INVARIANCE)
    if reduce not in ("sum", "mean"):
        raise unknown("reduce", reduce, ("sum", "mean"))
    if normalise is not None and normalise not in tuple(NORMALISE):
        raise unknown("normalise", normalise, NORMALISE)


def _value(
    h: Tensor, of: Classes | None, kind: str, reduce: str, normalise: str | None, tau: float
) -> Tensor:
    counted = h.new_ones(len(h), dtype=torch.bool) if of is None else of.labelled
    # What a sample without a label holds must not enter a mean, were it NaN.
    h = h.masked_fill(~counted.unsqueeze(1), 0.0)
    if normalise is not None or kind == CONTRASTIVE:
        h = _moderate(h)
    if normalise is not None:
        h = NORMALISE[normalise](h, counted)
    if of is None:
        value = CLASS_FREE[kind](h)
    elif kind == CONTRASTIVE:
        return _contrastive(h, of, tau)
    else:
        value = BY_CLASS[kind](h, of)
    units = h.shape[1] ** (2 if kind == "covariance" else 1)
    return value / units if reduce == "mean" else value

"""Class-wise penalties as modules, for any loop: activations and labels in, a scalar out."""

import math
from numbers import Real

import torch
from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.penalties.classes import activations, check_finite, classes
from lorank.penalties.invariance import class_invariance
from lorank.penalties.precision import at_least_float32


def _check_weight(weight: float) -> None:
    """Insist on a number that can weigh a term."""
    if not isinstance(weight, Real) or not 0 <= weight < math.inf:
        raise LorankError(f"weight must be finite and not negative, found {weight!r}")


class ClassInvariance(nn.Module):
    """``weight·class_invariance(h, y)``: a term of the loss, with no parameters and no state.

    Tap the layer, and add the term to the loss::

        invariance = ClassInvariance(0.01)
        with lorank.nn.Tap(model, "features.6", flatten=True) as tap:
            for x, y in batches:
                loss = cross_entropy(model(x), y) + invariance(tap.value, y)

    Good starting points: the last hidden layer alone, sum over units, one joint loss, a weight
    chosen from 0.003, 0.01, 0.03 and 0.1 on held-out data. A penalty per process is fine.

    Args:
        weight: of the term; it may be changed between epochs.
        kind: as in :func:`class_invariance`.
        reduce: the same.
        normalise: the same.
        temperature: the same.

    Raises:
        LorankError: if the weight is negative, NaN or Inf; the rest when it runs.

    Example:
        >>> h = torch.tensor([[0.0], [2.0]])
        >>> float(ClassInvariance(0.5)(h, torch.tensor([1, 1])))
        2.0
    """

    def __init__(
        self,
        weight: float = 0.01,
        kind: str = "pairs",
        *,
        reduce: str = "sum",
        normalise: str | None = None,
        temperature: float = 0.1,
    ):
        super().__init__()
        _check_weight(weight)
        self.weight = weight
        self.kind = kind
        self.reduce = reduce
        self.normalise = normalise
        self.temperature = temperature

    def forward(self, h: Tensor, y: Tensor | None = None) -> Tensor:
        """Penalise activations ``(B, …)`` with labels ``(B,)``."""
        value = class_invariance(
            h,
            y,
            self.kind,
            reduce=self.reduce,
            normalise=self.normalise,
            temperature=self.temperature,
        )
        return self.weight * value

    def extra_repr(self) -> str:
        """Show what is penalised, and how much."""
        how = f", normalise={self.normalise!r}" if self.normalise else ""
        return f"{self.weight:g}, {self.kind!r}, reduce={self.reduce!r}{how}"


class CentreLoss(nn.Module):
    """``weight·½·mean ‖h_i − c_y‖²`` with centres that are kept from batch to batch.

    The centres are a buffer, not parameters: no gradient reaches them, and they go into the state
    dict. In training mode each call moves them after the loss is formed, ``c ← c + α·Σ(h_i − c) /
    (1 + n_c)`` over the n_c samples of the class, so that a class with one sample counts too. A
    class that was never seen takes the mean of its first samples as its centre, beforehand. Where a
    step overflows, as in float16, the centre stays.

    Args:
        classes: how many; labels are 0, …, classes − 1, and −100 is no label.
        features: units of the layer, after flattening.
        weight: of the term.
        rate: α, between 0 and 1.

    Raises:
        LorankError: if a setting is out of its range.

    Source: Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, 2016,
    equations 2 to 4; the first centres are ours (there they are random).

    Example:
        >>> loss = CentreLoss(2, 1, weight=1.0, rate=0.5)
        >>> float(loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0])))
        0.5
        >>> loss.centres.flatten().tolist()
        [2.0, 0.0]
    """

    centres: Tensor
    seen: Tensor

    def __init__(self, classes: int, features: int, weight: float = 0.01, rate: float = 0.5):
        super().__init__()
        sizes = (classes, features)
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
            raise LorankError(
                "classes and features must be positive whole numbers, "
                f"found {classes!r}, {features!r}"
            )
        _check_weight(weight)
        if not isinstance(rate, Real) or not 0 <= rate <= 1:
            raise LorankError(f"rate must lie between 0 and 1, found {rate!r}")
        self.weight = weight
        self.rate = rate
        self.register_buffer("centres", torch.zeros(classes, features))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """Penalise activations ``(B, …)`` with labels ``(B,)``, and move the centres.

        Raises:
            LorankError: if shapes, labels or devices do not fit, or a labelled sample holds NaN or
                Inf.
        """
        flat = activations(h)
        labelled = classes(y, flat).labelled
        self._check(flat, y, labelled)
        check_finite(flat, labelled)
        with exact(h.device):
            kept = at_least_float32(flat).masked_fill(~labelled.unsqueeze(1), 0.0)
            label = y.long().masked_fill(~labelled, 0)
            known = at_least_float32(self.centres)  # bfloat16 cannot count beyond 256
            kept = kept.to(torch.promote_types(kept.dtype, known.dtype))
            count = torch.zeros_like(known[:, :1]).index_add(
                0, label, labelled.to(known.dtype).unsqueeze(1)
            )
            total = torch.zeros_like(known).index_add(0, label, kept.detach().to(known.dtype))
            centres = torch.where(self.seen.unsqueeze(1), known, total / count.clamp(min=1))
            away = (kept - centres[label]).masked_fill(~labelled.unsqueeze(1), 0.0)
            if self.training:
                self._move(centres, total, count)
            return self.weight * away.square().sum() / (2 * labelled.sum().clamp(min=1))

    def _move(self, centres: Tensor, total: Tensor, count: Tensor) -> None:
        """Take a step, but for classes whose step overflows: their centres would never recover."""
        step = (total - count * centres) / (1 + count)
        moved = (centres + self.rate * step).to(self.centres.dtype)
        fine = torch.isfinite(moved).all(1)
        self.centres.copy_(torch.where(fine.unsqueeze(1), moved, self.centres))
        self.seen.logical_or_((count.squeeze(1) > 0) & fine)

    def _check(self, h: Tensor, y: Tensor, labelled: Tensor) -> None:
        known, features = self.centres.shape
        if h.shape[1] != features:
            raise LorankError(f"the centres have {features} units, found {h.shape[1]}")
        if h.device != self.centres.device:
            raise LorankError(
                f"centres must be where activations are, {h.device}, found {self.centres.device}: "
                "move the loss there"
            )
        if torch.compiler.is_compiling():
            return
        label = y.long()
        outside = labelled & ((label < 0) | (label >= known))
        if bool(outside.any()):
            raise LorankError(
                f"labels must lie in 0..{known - 1} or be -100, found {int(label[outside][0])}"
            )

    def extra_repr(self) -> str:
        """Show the sizes and the settings."""
        known, features = self.centres.shape
        return f"{known}, {features}, weight={self.weight:g}, rate={self.rate:g}"

"""A short training loop on tensors in memory, with mixed batches and a choice by held-out pairs."""

import copy
import math
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.errors import LorankError, unknown
from lorank.structured.alternate import alternate, optimizers_of, trained
from lorank.structured.chain import evaluated
from lorank.structured.missing import labelled, masked_mse, mixed_batches
from lorank.structured.regularizers import SUPERVISED, Regularizers

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")
FORMS = ("joint", "alternate")


@dataclass(frozen=True)
class Plan:
    """How a network is trained.

    Args:
        epochs: passes over the pairs.
        batch_size: pairs of a batch.
        optimizer: ``"adamw"`` or ``"sgd"`` (momentum 0.9).
        learning_rate: at first.
        weight_decay: of the optimizer.
        schedule: ``"cosine"`` down to 0, or ``"constant"``.
        form: ``"joint"``, one update of the whole loss, or ``"alternate"``, one for each task.
        matched: extra data do not change the number of updates (:func:`mixed_batches`).

    Raises:
        LorankError: if a name is unknown or a number is out of its range.

    Example:
        >>> Plan(epochs=10).learning_rate
        0.001
    """

    epochs: int = 100
    batch_size: int = 16
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    form: str = "joint"
    matched: bool = True

    def __post_init__(self):
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("form", FORMS),
        ):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise LorankError(f"{name} is a whole number of at least 1, found {value!r}")
        if not (_finite(self.learning_rate) and self.learning_rate > 0):
            raise LorankError(f"learning_rate is above 0, found {self.learning_rate!r}")
        if not (_finite(self.weight_decay) and self.weight_decay >= 0):
            raise LorankError(f"weight_decay is at least 0, found {self.weight_decay!r}")

    def with_rate(self, learning_rate: float) -> "Plan":
        """The same at another learning rate."""
        return replace(self, learning_rate=learning_rate)


def _finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


class Fitted(NamedTuple):
    """What a training run leaves beside the network."""

    losses: list[float]
    """Supervised loss of each epoch, a mean over its batches."""
    valid: list[float]
    """Mean squared error of the held-out pairs after each epoch."""
    best: int
    """The epoch whose weights are kept: of the least held-out error, or the last."""
    updates: int
    """Steps that were taken."""


def fit(
    regularizers: Regularizers,
    x: Tensor,
    y: Tensor,
    plan: Plan | None = None,
    *,
    x_only: Tensor | None = None,
    y_only: Tensor | None = None,
    valid: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Fitted:
    """Train a network with its tasks, in place.

    Args:
        regularizers: the network and its terms.
        x: inputs of pairs.
        y: their labels; NaN is missing.
        plan: how; by default :class:`Plan`.
        x_only: inputs without labels.
        y_only: labels without inputs.
        valid: held-out pairs; the weights of the epoch with their least squared error are kept.
        seed: of the order of the batches.

    Raises:
        LorankError: if all labels are missing, of pairs or of those held out, all parameters are
            frozen, the loss is not finite, or the data do not fit together.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> x = torch.randn(64, 4)
        >>> done = fit(Regularizers(model), x, x[:, :1], Plan(epochs=5))
        >>> len(done.losses), done.losses[-1] < done.losses[0]
        (5, True)
    """
    plan = plan or Plan()
    _check_labelled("the pairs", y)
    if valid is not None:
        _check_labelled("the held-out pairs", valid[1])
    generator = torch.Generator().manual_seed(seed)
    optimizers = _optimizers(regularizers, plan)
    steps = math.ceil(len(x) / plan.batch_size) if plan.matched else None
    losses: list[float] = []
    errors: list[float] = []
    best: tuple[float, int, Any] = (math.inf, plan.epochs - 1, None)
    updates = 0
    for epoch in range(plan.epochs):
        regularizers.train()
        batches = mixed_batches(
            x,
            y,
            plan.batch_size,
            x_only=x_only,
            y_only=y_only,
            matched=plan.matched,
            generator=generator,
        )
        seen = []
        for number, batch in enumerate(batches):
            progress = (epoch + number / steps if steps else epoch) / plan.epochs
            _set_rate(optimizers, plan, progress)
            parts = _step(regularizers, batch, epoch, optimizers, plan)
            updates += 1
            if "supervised" in parts:
                seen.append(parts["supervised"])
        losses.append(float(torch.stack(seen).mean()) if seen else 0.0)
        if not math.isfinite(losses[-1]):
            raise LorankError(
                f"the loss is not finite in epoch {epoch + 1}: a smaller learning rate than "
                f"{plan.learning_rate:g} may help"
            )
        if valid is not None:
            error = held_out(regularizers.model, *valid)
            errors.append(error)
            if error < best[0]:
                best = error, epoch, copy.deepcopy(regularizers.state_dict())
    if best[2] is not None:
        regularizers.load_state_dict(best[2])
    regularizers.eval()
    return Fitted(losses, errors, best[1], updates)


def _check_labelled(kind: str, y: Tensor) -> None:
    """Refuse what would be a loss of 0: no label at all."""
    if not bool(labelled(y).any()):
        raise LorankError(f"{kind} need a label, found none in {len(y)} rows")


@torch.no_grad()
def held_out(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean squared error over the entries of ``y`` that are there, in evaluation mode.

    Example:
        >>> held_out(nn.Identity(), torch.zeros(2, 1), torch.full((2, 1), 3.0))
        9.0
    """
    return float(masked_mse(evaluated(model, lambda: model(x)), y))


def _optimizers(regularizers: Regularizers, plan: Plan) -> dict[str, torch.optim.Optimizer]:
    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        about: Any = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
        if plan.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=0.9, **about)
        return torch.optim.AdamW(parameters, fused=True, **about)  # one pass over the weights

    if plan.form == "alternate":
        return optimizers_of(regularizers, make)
    return {"": make(trained(SUPERVISED, regularizers.parameters()))}


def _set_rate(optimizers: dict[str, torch.optim.Optimizer], plan: Plan, progress: float) -> None:
    if plan.schedule == "constant":
        return
    rate = plan.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate


def _step(
    regularizers: Regularizers, batch: Any, epoch: int, optimizers: dict[str, Any], plan: Plan
) -> dict[str, Tensor]:
    if plan.form == "alternate":
        return alternate(regularizers, batch, epoch, optimizers)
    total, parts = regularizers(batch[0], batch[1], epoch)
    optimizers[""].zero_grad()
    total.backward()
    optimizers[""].step()
    return parts

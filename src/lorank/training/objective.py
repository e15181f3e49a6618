"""The loss of a stage, term by term."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.nn import Factored
from lorank.training.penalty import penalty_terms
from lorank.training.recipe import Distillation, Stage


def ramped(stage: Stage, progress: float) -> float:
    """λ_s at a share of the stage: it rises from zero over the stage's ramp.

    Example:
        >>> ramped(Stage(name="a", epochs=1, sparsity=2.0, ramp=0.5), 0.25)
        1.0
    """
    return stage.sparsity * (1.0 if progress >= stage.ramp else progress / stage.ramp)


def distillation_loss(
    outputs: Tensor, taught: Tensor, temperature: float, *, others: float | None = None
) -> Tensor:
    """``T²·KL(softmax(teacher / T) ‖ softmax(student / T))``, a mean over the batch.

    With ``p`` the teacher's largest probability, at this temperature, it is the sum of two: the
    divergence of that class against all others together, and ``1 − p`` times that of the two
    distributions over the others. A sure teacher leaves next to nothing of the second; ``others``
    is a constant in place of ``1 − p``: decoupled distillation.

    Args:
        outputs: scores of the student (N, …, classes).
        taught: scores of the teacher, likewise.
        temperature: T, of both softmaxes.
        others: weight of the distribution over the other classes, or none for ``1 − p``.

    Raises:
        LorankError: if other classes are to be weighed and there are fewer than two classes, the
            shapes differ, or the weight is negative or no finite number.

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015; Zhao, Cui,
    Song, Qiu and Liang, Decoupled Knowledge Distillation, 2022, where the class is the label.

    Example:
        >>> distillation_loss(torch.zeros(1, 3), torch.zeros(1, 3), 4.0).item()
        0.0
        >>> sure = torch.tensor([[20.0, 0.0, 4.0]])
        >>> doubt = torch.tensor([[20.0, 4.0, 0.0]])
        >>> [round(distillation_loss(sure, doubt, 4.0, others=w).item(), 3) for w in (None, 2.0)]
        [0.181, 14.788]
    """
    student, teacher = outputs.float() / temperature, taught.float() / temperature
    if others is None:
        return temperature**2 * _divergence(student, teacher)
    if not 0 <= others < math.inf:
        raise LorankError(
            f"the weight of other classes is a finite number from 0 on, found {others}"
        )
    if outputs.shape != taught.shape or outputs.shape[-1] < 2:
        raise LorankError(
            "distillation that weighs other classes takes two answers of one shape, with at least "
            f"two classes, found {tuple(outputs.shape)} and {tuple(taught.shape)}"
        )
    first = teacher.argmax(-1, keepdim=True)
    student, teacher = (_rolled(scores, first) for scores in (student, teacher))
    two = _divergence(_first_or_not(student), _first_or_not(teacher))
    rest = _divergence(student[..., 1:], teacher[..., 1:])
    return temperature**2 * (two + others * rest)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """``KL(softmax(teacher) ‖ softmax(student))`` of scores."""
    student, teacher = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _rolled(scores: Tensor, first: Tensor) -> Tensor:
    """The scores from a class on, round to the one before it.

    Not by a mask: how many it leaves would have to be asked of a GPU in every step.
    """
    classes = scores.shape[-1]
    return scores.gather(-1, (first + torch.arange(classes, device=scores.device)) % classes)


def _first_or_not(scores: Tensor) -> Tensor:
    """Scores of two outcomes, the first class and any other; the softmax adds the others up."""
    return torch.stack((scores[..., 0], scores[..., 1:].logsumexp(-1)), -1)


class Task(NamedTuple):
    """What a network is trained for.

    Attributes:
        loss: ``(stage, outputs, labels) -> scalar``.
        taught: ``(how, outputs, teacher's outputs) -> scalar``, the loss of distillation.
        right: ``(outputs, labels) -> bool (N,)``, which answers count as right.
    """

    loss: Callable[[Stage, Tensor, Tensor], Tensor]
    taught: Callable[[Distillation, Tensor, Tensor], Tensor]
    right: Callable[[Tensor, Tensor], Tensor]


CLASSES = Task(
    lambda stage, out, labels: F.cross_entropy(out, labels, label_smoothing=stage.label_smoothing),
    lambda how, outputs, taught: distillation_loss(
        outputs, taught, how.temperature, others=how.others
    ),
    lambda outputs, labels: outputs.argmax(-1) == labels,
)
"""Classification: cross-entropy, and the class of the largest output."""


def check_task(stages: Iterable[Stage], task: Task) -> None:
    """Refuse settings that are for classes where something else is trained for.

    Raises:
        LorankError: if a stage has ``mixup`` or ``distillation.others`` and the task is another one
            than :data:`CLASSES`.
    """
    for stage in stages:
        weighed = stage.distillation is not None and stage.distillation.others is not None
        if task is not CLASSES and (stage.mixup or weighed):
            setting = "mixup" if stage.mixup else "distillation.others"
            raise LorankError(f"stage {stage.name!r} has {setting}, which is for classes alone")


def task_terms(
    stage: Stage, outputs: Tensor, labels: Tensor, taught: Tensor | None, task: Task = CLASSES
) -> dict[str, tuple[float, Tensor]]:
    """Supervised loss and distillation, each as (weight, value)."""
    found = task.loss(stage, outputs, labels)
    if taught is None or stage.distillation is None:
        return {"task": (1.0, found)}
    share = stage.distillation.weight
    learnt = task.taught(stage.distillation, outputs, taught)
    return {"task": (1 - share, found), "distillation": (share, learnt)}


def penalty_of(stage: Stage, model: nn.Module, progress: float) -> dict[str, tuple[float, Tensor]]:
    """Orthogonality, sparsity and norms, each as (weight, value); in a dense stage norms alone."""
    dense = stage.form == "dense" or not any(isinstance(m, Factored) for m in model.modules())
    wanted = stage.orthogonality > 0 and not dense, stage.sparsity > 0 and not dense
    bound = stage.bound if stage.operator_norm > 0 else None
    if not any(wanted) and bound is None:
        return {}
    want = wanted if any(wanted) else None
    values = penalty_terms(model, kind=stage.kind, want=want, bound=bound)
    weights = {
        "orthogonality": stage.orthogonality,
        "sparsity": ramped(stage, progress),
        "operator_norm": stage.operator_norm,
    }
    kept = zip(("orthogonality", "sparsity", "operator_norm"), (*wanted, bound), strict=True)
    return {name: (weights[name], values[name]) for name, want in kept if want}


@torch.no_grad()
def teach(teacher: nn.Module | None, images: Tensor, wanted: Distillation | None) -> Tensor | None:
    """Outputs of the teacher, or ``None`` when nobody asks for them."""
    return None if teacher is None or wanted is None else teacher(images)

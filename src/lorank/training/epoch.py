"""One pass over the data: training, or testing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lorank.errors import LorankError
from lorank.nn import Tap
from lorank.training.invariance import invariance_of, tapped
from lorank.training.mixup import Mixture, draw_mixture, mixed_inputs, mixed_labels
from lorank.training.objective import CLASSES, Task, penalty_of, task_terms, teach
from lorank.training.optimizers import rate, set_rate
from lorank.training.recipe import Stage

CHECK_EVERY = 20
"""Steps between two looks at whether the loss is still a number: each waits for the device."""

Augment = Callable[[Tensor, torch.Generator], Tensor] | None


class Actors(NamedTuple):
    """Who takes part in an epoch: engine, model as prepared and plain, its teacher, the task."""

    accelerator: Any
    prepared: nn.Module
    model: nn.Module
    optimizer: Any
    teacher: nn.Module | None
    channels_last: bool
    task: Task = CLASSES


def laid_out(value: Any, channels_last: bool) -> Any:
    """Give images, or a model of images, the memory layout that a run asks for.

    The layout decides which kernels run, and so the last bits of a result: it must not depend on
    where a tensor came from.
    """
    if isinstance(value, nn.Module):
        if all(p.ndim < 5 for p in value.parameters()):
            value = value.to(memory_format=_format(channels_last))  # type: ignore[call-overload]
        return value
    return value.contiguous(memory_format=_format(channels_last)) if value.ndim == 4 else value


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def train_epoch(
    stage: Stage,
    epoch: int,
    actors: Actors,
    batches: DataLoader,
    augment: Augment,
    generator: torch.Generator,
    tick: Callable[[int, float], None],
) -> dict[str, float]:
    """Train for one epoch and return the mean of each term of the loss.

    Args:
        stage: its optimizer, penalties and teacher's share.
        epoch: epochs of the stage that are done.
        actors: see :class:`Actors`.
        batches: the prepared loader.
        augment: changes a batch at random, or ``None``.
        generator: where augmentation and mixtures draw from.
        tick: called now and then with the steps done and the loss.

    Raises:
        LorankError: if the loss is not finite, or nothing in the model can be trained.
    """
    actors.prepared.train()
    steps = len(batches)
    sums: dict[str, Tensor] = {}
    with tapped(stage, actors.model) as tap:
        for step, (images, labels) in enumerate(batches):
            progress = (epoch + step / steps) / stage.epochs
            set_rate(actors.optimizer, rate(stage.optimizer, progress))
            if augment is not None:
                images = augment(images, generator)
            mixture = draw_mixture(images, stage.mixup, generator)
            if mixture is not None:
                images = mixed_inputs(images, mixture)
            images = laid_out(images, actors.channels_last)
            terms = _step(stage, progress, actors, images, labels, mixture, tap)
            for name, value in terms.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value
            if step % CHECK_EVERY == 0 or step == steps - 1:
                check_finite(terms, sums["loss"], stage, epoch, step)
                tick(step + 1, float(terms["loss"]))
    return {name: float(value) / steps for name, value in sums.items()}


def _step(
    stage: Stage,
    progress: float,
    actors: Actors,
    images: Tensor,
    labels: Tensor,
    mixture: Mixture | None,
    tap: Tap | None,
) -> dict[str, Tensor]:
    """One step of the optimizer; returns each term, and their weighted sum as ``loss``."""
    with actors.accelerator.autocast():
        outputs = actors.prepared(images)
        taught = teach(actors.teacher, images, stage.distillation)
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if mixture is not None:
        labels = mixed_labels(labels, outputs, mixture)
    terms = task_terms(stage, outputs, labels, taught, actors.task)
    terms |= penalty_of(stage, actors.model, progress) | invariance_of(stage, tap, labels)
    loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
    if not loss.requires_grad:
        raise LorankError(
            f"stage {stage.name!r} has nothing to train: every parameter is frozen, "
            "or the loop runs under torch.no_grad"
        )
    actors.optimizer.zero_grad()
    actors.accelerator.backward(loss)
    if stage.optimizer.clip is not None:
        actors.accelerator.clip_grad_norm_(actors.prepared.parameters(), stage.optimizer.clip)
    actors.optimizer.step()
    return {"loss": loss.detach()} | {name: value.detach() for name, (_, value) in terms.items()}


def check_finite(
    terms: dict[str, Tensor], total: Tensor, stage: Stage, epoch: int, step: int
) -> None:
    """Stop on a loss that is not a number.

    Raises:
        LorankError: it says where, and which term it was.
    """
    if bool(torch.isfinite(total)):
        return
    found = ", ".join(f"{name} {float(value):.3g}" for name, value in terms.items())
    raise LorankError(
        f"the loss must be finite, and in stage {stage.name!r}, epoch {epoch + 1}, step {step + 1} "
        f"it was not ({found}): lower the learning rate or the sparsity; "
        "the last good state is kept"
    )


def check_weights(model: nn.Module, stage: Stage, epoch: int) -> None:
    """Refuse to keep a state with weights that are not finite.

    Raises:
        LorankError: it names the first such weight.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise LorankError(
                f"weights must stay finite, and after stage {stage.name!r}, epoch {epoch + 1} "
                f"{name!r} holds NaN or Inf: lower the learning rate; "
                "the last good state is kept"
            )


@torch.no_grad()
def test_epoch(
    accelerator: Any,
    model: nn.Module,
    batches: DataLoader,
    channels_last: bool,
    task: Task,
) -> float:
    """Share of test samples that are answered right: in classes, by the largest output."""
    model.eval()
    right = total = 0
    for images, labels in batches:
        with accelerator.autocast():
            outputs = model(laid_out(images, channels_last))
        found = accelerator.gather_for_metrics(task.right(outputs, labels))
        right += int(found.sum())
        total += found.numel()
    return right / total

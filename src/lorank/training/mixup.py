"""Mixed samples: each input has a share of another one, and its label likewise."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.training.recipe import Stage


class Mixture(NamedTuple):
    """Which other sample of the batch each one is mixed with, and that one's share of it."""

    partner: Tensor
    share: Tensor


def check_mixing(stages: Iterable[Stage], batch_size: int, samples: Any) -> None:
    """Refuse to mix what cannot be mixed, before the stages ahead of it are trained.

    Args:
        stages: those that are left.
        batch_size: of each process.
        samples: the training data; the first one is looked at.

    Raises:
        LorankError: if a stage mixes, and batches are of one sample, inputs are not floating-point
            numbers, or a label is not one whole number.

    Example:
        >>> stages = [Stage(name="a", epochs=1, mixup=0.5)]
        >>> check_mixing(stages, 1, [(torch.zeros(3), 1)])
        Traceback (most recent call last):
            ...
        lorank.errors.LorankError: mixup mixes samples of one batch, which takes a batch_size of ...
    """
    if not any(stage.mixup for stage in stages):
        return
    if batch_size < 2:
        raise LorankError(
            "mixup mixes samples of one batch, which takes a batch_size of at least 2, found "
            f"{batch_size}"
        )
    inputs, label = samples[0]
    _check_inputs(inputs)
    _check_labels(torch.as_tensor(label)[None])


def _check_inputs(inputs: Any) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        found = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise LorankError(
            f"mixup averages inputs, which takes floating-point numbers, found {found}"
        )


def _check_labels(labels: Tensor) -> None:
    if labels.is_floating_point() or labels.ndim != 1:
        raise LorankError(
            "mixup takes labels that are whole numbers of classes, one a sample, found "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )


def draw_mixture(inputs: Tensor, most: float, generator: torch.Generator) -> Mixture | None:
    """Draw partners by a permutation of the batch, and shares uniform in ``[0, most]``.

    Args:
        inputs: the batch ``(N, …)``; the mixture lies where it does.
        most: largest share; 0 gives ``None``. At ½ the pairs are those of the published method with
            its Beta(1, 1), since either of the two may be called the other one.
        generator: where both are drawn.

    Source: Zhang, Cissé, Dauphin and Lopez-Paz, mixup: Beyond Empirical Risk Minimization, 2018.

    Example:
        >>> drawn = draw_mixture(torch.zeros(4), 0.5, torch.Generator().manual_seed(0))
        >>> sorted(drawn.partner.tolist()), bool((drawn.share <= 0.5).all())
        ([0, 1, 2, 3], True)
    """
    if not most:
        return None
    count, device = len(inputs), generator.device
    partner = torch.randperm(count, generator=generator, device=device)
    share = most * torch.rand(count, generator=generator, device=device)
    return Mixture(partner.to(inputs.device), share.to(inputs.device))


def mixed_inputs(inputs: Tensor, mixture: Mixture) -> Tensor:
    """``(1 − share)·x + share·x[partner]``, sample by sample.

    Raises:
        LorankError: if the inputs are not floating-point numbers.

    Example:
        >>> mixture = Mixture(torch.tensor([1, 0]), torch.full((2,), 0.25))
        >>> mixed_inputs(torch.tensor([0.0, 4.0]), mixture)
        tensor([1., 3.])
    """
    _check_inputs(inputs)
    share = mixture.share.to(inputs.dtype).view(-1, *[1] * (inputs.ndim - 1))
    return torch.lerp(inputs, inputs[mixture.partner], share)


def mixed_labels(labels: Tensor, outputs: Tensor, mixture: Mixture) -> Tensor:
    """Probabilities: the sample's own class has ``1 − share``, its partner's has ``share``.

    The cross-entropy is linear in them: it is that with both labels, averaged by the share.

    Args:
        labels: classes, whole numbers (N,).
        outputs: the network's answers (N, classes), whose dtype the result has.
        mixture: of the inputs.

    Raises:
        LorankError: if labels or outputs are anything else. A class that is not among the outputs
            is refused so on the CPU; on a GPU it ends the process later, as in a cross-entropy.

    Example:
        >>> mixture = Mixture(torch.tensor([1, 0]), torch.full((2,), 0.25))
        >>> mixed_labels(torch.tensor([0, 2]), torch.zeros(2, 3), mixture)
        tensor([[0.7500, 0.0000, 0.2500],
                [0.2500, 0.0000, 0.7500]])
    """
    _check_labels(labels)
    if outputs.ndim != 2 or len(outputs) != len(labels):
        raise LorankError(
            "mixup takes answers (samples, classes), one row a label, found shape "
            f"{tuple(outputs.shape)} and {len(labels)} labels"
        )
    partner, share = mixture.partner, mixture.share.to(outputs.dtype)[:, None]
    own = labels.long()[:, None]
    found = torch.zeros_like(outputs)
    try:
        return found.scatter(1, own, 1 - share).scatter_add(1, own[partner], share)
    except RuntimeError:
        raise LorankError(
            f"mixup takes classes from 0 to {outputs.shape[-1] - 1}, which the network answers, "
            f"found {int(labels.min())} to {int(labels.max())}"
        ) from None

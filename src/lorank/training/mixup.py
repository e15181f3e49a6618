"""Mixed samples: each input has a share of another one, and its label likewise."""

from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError


class Mixture(NamedTuple):
    """Which other sample of the batch each one is mixed with, and that one's share of it."""

    partner: Tensor
    share: Tensor


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
    if not inputs.is_floating_point():
        raise LorankError(
            f"mixup averages inputs, which takes floating-point numbers, found {inputs.dtype}"
        )
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
        LorankError: if labels are anything else.

    Example:
        >>> mixture = Mixture(torch.tensor([1, 0]), torch.full((2,), 0.25))
        >>> mixed_labels(torch.tensor([0, 2]), torch.zeros(2, 3), mixture)
        tensor([[0.7500, 0.0000, 0.2500],
                [0.2500, 0.0000, 0.7500]])
    """
    if labels.is_floating_point() or labels.ndim != 1:
        raise LorankError(
            "mixup takes labels that are whole numbers of classes, one a sample, found "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
    partner, share = mixture.partner, mixture.share.to(outputs.dtype)[:, None]
    own = labels.long()[:, None]
    found = torch.zeros_like(outputs)
    try:
        return found.scatter(1, own, 1 - share).scatter_add(1, own[partner], share)
    except RuntimeError:  # on a GPU it comes later, as that of a cross-entropy does
        raise LorankError(
            f"mixup takes classes from 0 to {outputs.shape[-1] - 1}, which the network answers, "
            f"found {int(labels.min())} to {int(labels.max())}"
        ) from None

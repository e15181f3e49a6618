"""Estimate BatchNorm statistics anew, after a cut has moved what the layers before them give."""

import itertools
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim.swa_utils import update_bn

from lorank.compression.trace import modes_kept
from lorank.errors import LorankError


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Average BatchNorm means and variances over batches, in place, without gradients.

    Args:
        model: the network; its modes are restored.
        batches: input tensors, or ``(inputs, …)`` tuples of which the first entry is used; every
            batch counts the same.

    Returns:
        The same model.

    Raises:
        LorankError: if there is no batch: the statistics would be lost.

    Cost: one forward pass a batch. Source: ``torch.optim.swa_utils.update_bn``.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> recalibrate(norm, [torch.ones(4, 2)]).running_mean
        tensor([1., 1.])
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise LorankError("recalibrate needs at least one batch, found none")
    parameter = next(model.parameters(), None)
    device = None if parameter is None else parameter.device
    with modes_kept(model):
        update_bn(itertools.chain([first], batches), model, device)
    return model

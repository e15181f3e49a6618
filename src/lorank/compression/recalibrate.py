"""Estimate BatchNorm statistics anew, after a cut has moved what the layers before them give."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from lorank.compression.trace import describe, modes_kept
from lorank.errors import LorankError


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Average BatchNorm means and variances over batches, in place, without gradients.

    Args:
        model: the network; its modes are restored, and its statistics too where a batch fails.
        batches: input tensors, or ``(inputs, …)`` tuples of which the first entry is used; every
            batch counts the same. Inputs augmented as in training are worth a trial: weights fit
            the statistics of those.

    Returns:
        The same model.

    Raises:
        LorankError: if there is no batch, or the model does not run on one.

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
    with modes_kept(model), _statistics_kept(model, first):
        update_bn(itertools.chain([first], batches), model, device)
    return model


@contextmanager
def _statistics_kept(model: nn.Module, batch: Any) -> Iterator[None]:
    """Put statistics and momenta back if the body fails: half an average is no average."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    kept = [(n, n.momentum, [(b, b.clone()) for b in n.buffers(recurse=False)]) for n in norms]
    try:
        yield
    except Exception as error:
        for norm, momentum, buffers in kept:
            norm.momentum = momentum
            for buffer, value in buffers:
                buffer.copy_(value)
        raise LorankError(
            f"the model must run on every batch (the first is {describe(batch)}): {error}"
        ) from error

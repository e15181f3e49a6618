"""Share of right answers on test data."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from lorank.cli.network import fitting
from lorank.compression.trace import describe, evaluating
from lorank.errors import LorankError
from lorank.training.batches import length
from lorank.zoo import Data, as_is

BATCH = 256
SEED = 0


def accuracy(model: nn.Module, data: Data, *, limit: int | None = None) -> float:
    """Judge a model on test data, in evaluation mode, on the device where it is.

    Args:
        model: it gives one score a class.
        data: what to judge on.
        limit: judge on so many samples only, drawn at random but always the same.

    Raises:
        LorankError: if there are no samples, the model does not run on them, or gives fewer
            scores than there are classes.
    """
    loader = DataLoader(_part(data.test, limit), batch_size=BATCH, collate_fn=as_is)
    parameter = next(model.parameters(), None)  # another engine's network shows none
    device = torch.device("cpu") if parameter is None else parameter.device
    right = total = 0
    with evaluating(model), torch.inference_mode():
        for images, labels in loader:
            scores = _scores(model, fitting(images.to(device), model), data)
            right += int((scores.argmax(-1).cpu() == labels).sum())
            total += len(labels)
    return right / total


def _part(dataset: Dataset, limit: int | None) -> Dataset:
    size = length(dataset)
    if size == 0:
        raise LorankError("testing needs at least 1 sample, found 0")
    if limit is None or limit >= size:
        return dataset
    order = torch.randperm(size, generator=torch.Generator().manual_seed(SEED))
    return Subset(dataset, order[:limit].tolist())


def _scores(model: nn.Module, images: Tensor, data: Data) -> Tensor:
    try:
        scores = model(images)
    except (RuntimeError, ValueError, TypeError) as error:
        raise LorankError(
            f"the model does not run on {data.name}, {describe(images)}: {error}"
        ) from error
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] < data.classes:
        found = describe(scores)
        raise LorankError(
            f"accuracy on {data.name} needs a model that gives one score for each of "
            f"{data.classes} classes, found {found}"
        )
    return scores

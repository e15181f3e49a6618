"""Batches in an order that depends on the seed and the epoch alone, so that a run can resume."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lorank.errors import LorankError
from lorank.zoo.images import as_is


class TrainingData(Protocol):
    """What a run needs of a data set: :func:`lorank.zoo.load_data` gives it."""

    @property
    def train(self) -> Dataset:
        """Samples ``(input, label)`` to train on."""
        ...

    @property
    def test(self) -> Dataset:
        """Samples to report on, never to choose by."""
        ...

    @property
    def augment(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        """Change a batch of inputs at random, with this generator alone."""
        ...


class EpochOrder(Sampler[int]):
    """A random order of the samples, a function of seed and epoch.

    Example:
        >>> order = EpochOrder(4, seed=0)
        >>> list(order) == list(order)
        True
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        return iter(torch.randperm(self.size, generator=generator).tolist())


def mixed(*numbers: int) -> int:
    """Make one seed of several numbers, different for each combination.

    Example:
        >>> mixed(0, 1) != mixed(1, 0)
        True
    """
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
    return seed


def training_batches(data: TrainingData, batch_size: int, seed: int, workers: int) -> DataLoader:
    """Make the loader of training batches; a last small batch is left out.

    Raises:
        LorankError: if there are fewer samples than one batch needs.
    """
    size = length(data.train)
    if size < 2:
        raise LorankError(f"training needs at least 2 samples, found {size}")
    return DataLoader(
        data.train,
        batch_size=min(batch_size, size),
        sampler=EpochOrder(size, seed),
        collate_fn=as_is,
        drop_last=True,
        num_workers=workers,
    )


def as_trained(
    batches: Iterable[Tensor],
    augment: Callable[[Tensor, torch.Generator], Tensor] | None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Change batches of inputs as training does, to estimate BatchNorm statistics on.

    A trained network's statistics are those of augmented inputs, and its weights fit them.

    Example:
        >>> [b.item() for b in as_trained([torch.ones(1)], lambda batch, generator: 2 * batch)]
        [2.0]
    """
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        yield batch if augment is None else augment(batch, generator)


def test_batches(data: TrainingData, batch_size: int, workers: int) -> DataLoader:
    """Make the loader of test batches, in order.

    Raises:
        LorankError: if there is no sample.
    """
    if length(data.test) == 0:
        raise LorankError("testing needs at least 1 sample, found 0")
    return DataLoader(data.test, batch_size=2 * batch_size, collate_fn=as_is, num_workers=workers)


def length(dataset: Dataset) -> int:
    """Number of samples."""
    return len(dataset)  # type: ignore[arg-type]

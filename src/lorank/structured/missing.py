"""What a missing part of a batch means, and batches that mix pairs, inputs alone and labels alone.

NaN means missing. An **input** is missing as a whole row: a row of NaN stands for a label without
its input. A **label** may be missing in part: the supervised loss counts the entries that are
there, and the output task the labels that are whole. Integer labels (classes) are missing where
they are −100, torch's own mark.
"""

from collections.abc import Iterator
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.penalties.precision import at_least_float32

IGNORED = -100
"""The class that stands for none, as in ``torch.nn.functional.cross_entropy``."""


class Batch(NamedTuple):
    """Inputs and labels row by row, either of them absent (``None``) or missing in places (NaN)."""

    x: Tensor | None = None
    y: Tensor | None = None


def present(x: Tensor) -> Tensor:
    """Which rows of inputs are there, ``(rows,)``.

    Raises:
        LorankError: if a row is missing in part, or holds Inf.

    Example:
        >>> present(torch.tensor([[1.0, 2.0], [float("nan")] * 2]))
        tensor([ True, False])
    """
    if not x.is_floating_point():
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    _check_no_inf("an input", x)
    lacking = _by_row(x.isnan())
    whole = lacking.all(1)
    if bool((lacking.any(1) & ~whole).any()):
        count = int((lacking.any(1) & ~whole).sum())
        raise LorankError(
            "an input is missing as a whole row of NaN or not at all, "
            f"found {count} of {len(x)} rows with some entries NaN"
        )
    return ~whole


def labelled(y: Tensor, *, whole: bool = False) -> Tensor:
    """Which rows of labels are there, ``(rows,)``: in part at least, or as a whole.

    Args:
        y: labels; numbers with NaN, or classes with −100, where they are missing.
        whole: count rows without any missing entry only.

    Raises:
        LorankError: if a row holds Inf.

    Example:
        >>> y = torch.tensor([[1.0, float("nan")], [float("nan")] * 2, [1.0, 2.0]])
        >>> labelled(y), labelled(y, whole=True)
        (tensor([ True, False,  True]), tensor([False, False,  True]))
    """
    _check_no_inf("a label", y)
    known = ~y.isnan() if y.is_floating_point() else y != IGNORED
    known = _by_row(known)
    return known.all(1) if whole else known.any(1)


def _by_row(entries: Tensor) -> Tensor:
    """Rows of entries, ``(rows, entries)``, for one entry a row and for no rows, too."""
    return entries.flatten(1) if entries.ndim > 1 else entries.unsqueeze(1)


def _check_no_inf(kind: str, rows: Tensor) -> None:
    """Refuse what would make a loss Inf or NaN, and all weights after it."""
    if rows.is_floating_point() and bool(rows.isinf().any()):
        count = int(_by_row(rows.isinf()).any(1).sum())
        raise LorankError(
            f"{kind} is finite, or NaN where it is missing, "
            f"found Inf in {count} of {len(rows)} rows"
        )


def masked_mse(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error over the entries of ``y`` that are not NaN; 0 where there are none.

    Computed in float32 at least, also under autocast.

    Args:
        outputs: what a network gave.
        y: labels of the same shape.

    Raises:
        LorankError: if the shapes differ, which would broadcast without a word, or the outputs
            are no tensor.

    Example:
        >>> float(masked_mse(torch.zeros(1, 2), torch.tensor([[2.0, float("nan")]])))
        4.0
    """
    if not isinstance(outputs, Tensor):
        raise LorankError(f"a network gives one tensor here, found a {type(outputs).__name__}")
    if outputs.shape != y.shape:
        raise LorankError(
            f"outputs and labels have one shape, found {tuple(outputs.shape)} and {tuple(y.shape)}"
        )
    with exact(outputs.device):
        z, known = at_least_float32(outputs), ~y.isnan()
        gap = torch.where(known, z - torch.nan_to_num(y).to(z.dtype), 0.0)
        return gap.square().sum() / known.sum().clamp(min=1)


def mixed_batches(
    x: Tensor | None,
    y: Tensor | None,
    size: int,
    *,
    x_only: Tensor | None = None,
    y_only: Tensor | None = None,
    matched: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Batch]:
    """One epoch of batches with pairs, inputs without labels and labels without inputs.

    ``matched`` gives every batch ``size`` pairs and its share of the rest, so that extra data do
    not change the number of supervised updates of an epoch. Otherwise all rows are shuffled
    together and cut into ``size``: with many extra rows a batch then holds few pairs, and an epoch
    has more supervised updates, which confounds a comparison.

    Args:
        x: inputs of pairs ``(n, …)``.
        y: their labels ``(n, …)``; NaN is missing.
        size: pairs of a batch, or rows where not matched.
        x_only: inputs without labels.
        y_only: labels without inputs.
        matched: see above.
        generator: source of the shuffling.

    Yields:
        Batches; pairs first, then inputs alone, then labels alone.

    Raises:
        LorankError: if a part is no tensor, pairs do not match, extra rows are of another shape or
            dtype, inputs that have to be missing are whole numbers, or there is nothing at all.

    Example:
        >>> x, y, more = torch.ones(6, 3), torch.ones(6, 1), torch.ones(4, 3)
        >>> [len(batch.x) for batch in mixed_batches(x, y, 3, x_only=more)]
        [5, 5]
    """
    table = _table(x, y, x_only, y_only)
    if not isinstance(size, Integral) or size < 1:
        raise LorankError(f"a batch has a whole number of rows, at least one, found size {size!r}")
    size, total = int(size), len(table[0])
    if not matched or x is None or len(x) == 0:
        order = _shuffled(total, generator)
        for rows in order.split(size):
            yield _batch(table, rows)
        return
    pairs = len(x)
    steps = -(-pairs // size)
    orders = [
        first + _shuffled(count, generator)
        for first, count in ((0, pairs), *_extras(pairs, x_only, y_only))
    ]
    shares = [_shared(order, steps, size if i == 0 else None) for i, order in enumerate(orders)]
    for parts in zip(*shares, strict=True):
        yield _batch(table, torch.cat(parts))


def _shuffled(count: int, generator: torch.Generator | None) -> Tensor:
    """An order of rows, on the CPU wherever the generator draws."""
    device = None if generator is None else generator.device
    return torch.randperm(count, generator=generator, device=device).cpu()


def _extras(pairs: int, *parts: Tensor | None) -> list[tuple[int, int]]:
    found, first = [], pairs
    for part in parts:
        if part is not None:
            found.append((first, len(part)))
            first += len(part)
    return found


def _shared(order: Tensor, steps: int, size: int | None) -> list[Tensor]:
    """Cut rows into steps: by a size, or evenly."""
    return list(order.split(size)) if size else list(order.tensor_split(steps))


def _table(
    x: Tensor | None, y: Tensor | None, x_only: Tensor | None, y_only: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All rows below each other, NaN where a part is missing."""
    for part in (x, y, x_only, y_only):
        if part is not None and not isinstance(part, Tensor):
            raise LorankError(f"batches are cut from tensors, found a {type(part).__name__}")
    if (x is None) != (y is None) or (x is not None and y is not None and len(x) != len(y)):
        sizes = [None if part is None else len(part) for part in (x, y)]
        raise LorankError(f"pairs have as many inputs as labels, found {sizes[0]} and {sizes[1]}")
    inputs = [part for part in (x, x_only) if part is not None]
    labels = [part for part in (y, y_only) if part is not None]
    if not inputs or not labels or sum(map(len, inputs)) + sum(map(len, labels)) == 0:
        raise LorankError("batches need inputs and labels, paired or alone, found one kind or none")
    for kind, parts in (("inputs", inputs), ("labels", labels)):
        _check_alike(kind, parts)
    alone, spare = (0 if part is None else len(part) for part in (x_only, y_only))
    if spare and not inputs[0].is_floating_point():
        raise LorankError(
            f"an input is missing where it is NaN, which {inputs[0].dtype} has not: "
            "leave y_only out, or give floating-point inputs"
        )
    inputs.append(inputs[0].new_full((spare, *inputs[0].shape[1:]), torch.nan))
    labels.insert(1 if y is not None else 0, _none_like(labels[0], alone))
    return torch.cat(inputs), torch.cat(labels)


def _check_alike(kind: str, parts: list[Tensor]) -> None:
    """Insist on one shape of a row and one dtype."""
    if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
        found = " and ".join(f"{part.dtype} of shape {tuple(part.shape)}" for part in parts)
        raise LorankError(f"{kind} of pairs and alone have rows of one kind, found {found}")


def _none_like(y: Tensor, count: int) -> Tensor:
    """Labels that are all missing."""
    return y.new_full((count, *y.shape[1:]), torch.nan if y.is_floating_point() else IGNORED)


def _batch(table: tuple[Tensor, Tensor], rows: Tensor) -> Batch:
    rows = rows.to(table[0].device)
    return Batch(table[0][rows], table[1][rows])

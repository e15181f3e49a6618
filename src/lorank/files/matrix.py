"""A matrix of numbers in a file: ``.npy`` or ``.csv``."""

import csv
import itertools
import tokenize
from pathlib import Path
from typing import NamedTuple
from zipfile import is_zipfile

import numpy as np

from lorank.atomic import replacing
from lorank.errors import LorankError, unknown

ENDINGS = (".csv", ".npy")
ABSENT = {"", "na", "nan", "n/a", "null"}
"""What stands in a cell of a CSV where a number is missing."""


COUNTED = 4
"""Numbers that must rise by equal steps before a line of them is taken for names."""


class Table(NamedTuple):
    """What a file held: ``(rows, columns)``, and whether names of columns or rows were left out."""

    values: np.ndarray
    header: bool
    names: bool


def checked_ending(path: Path) -> str:
    """Refuse an ending that is no matrix.

    Raises:
        LorankError: if it is neither .csv nor .npy.

    Example:
        >>> checked_ending(Path("panel.csv"))
        '.csv'
    """
    if path.suffix.lower() not in ENDINGS:
        raise unknown("ending of a matrix", path.suffix, ENDINGS)
    return path.suffix.lower()


def read_matrix(path: str | Path, header: bool | None = None) -> np.ndarray:
    r"""Read a real matrix: the values of :func:`read_table`.

    Args:
        path: the file, ``.csv`` or ``.npy``.
        header: whether the first line of a CSV is names of columns; found out if ``None``.

    Returns:
        ``(rows, columns)`` in float64; missing entries are NaN.

    Raises:
        LorankError: as :func:`read_table`.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "small.csv"
        >>> _ = place.write_text("month,a,b\n1984-01,1,2\n1984-02,NA,4\n")
        >>> read_matrix(place).tolist()
        [[1.0, 2.0], [nan, 4.0]]
    """
    return read_table(path, header).values


def read_table(path: str | Path, header: bool | None = None) -> Table:
    r"""Read a real matrix, and tell what was taken for names.

    A CSV may have one line of names, which is left out, and its first column may be names (or
    dates, or numbers of rows under no name), which is left out too; cells that are empty
    or say NA are NaN. The first line is names where a cell after its first is no number, or
    where it is four or more whole numbers that rise by equal steps, such as years, and no other
    line is. An ``.npy`` file is read without unpickling.

    Args:
        path: the file, ``.csv`` or ``.npy``.
        header: whether the first line of a CSV is names of columns; found out if ``None``.

    Returns:
        The values in float64, and what was left out; missing entries are NaN.

    Raises:
        LorankError: if the file does not exist, has another ending, is damaged, is no matrix of
            real numbers, has lines of different lengths, or is ``.npy`` and ``header`` is asked.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "years.csv"
        >>> _ = place.write_text("1984,1985,1986,1987\n3,1,2,5\n4,0,2,1\n")
        >>> read_table(place).header, read_table(place, header=False).values.shape
        (True, (3, 4))
    """
    place = Path(path)
    ending = checked_ending(place)
    if not place.is_file():
        raise LorankError(f"there is no file {place}")
    if ending == ".csv":
        return _csv(place, header)
    if header:
        raise LorankError(f"{place}: only a CSV has a line of names")
    return Table(_npy(place), False, False)


def write_matrix(path: str | Path, matrix: np.ndarray) -> None:
    """Write a matrix; the ending says how. The file appears when it is complete.

    Args:
        path: ``.csv`` (17 digits, no header) or ``.npy``.
        matrix: ``(rows, columns)``.

    Raises:
        LorankError: if the ending is another, or the place cannot be written to.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "small.npy"
        >>> write_matrix(place, np.eye(2))
        >>> read_matrix(place).trace()
        np.float64(2.0)
    """
    ending = checked_ending(Path(path))
    with replacing(path) as draft, draft.open("wb") as file:
        if ending == ".npy":
            np.save(file, matrix, allow_pickle=False)
        else:
            np.savetxt(file, matrix, delimiter=",", fmt="%.17g")


def _npy(place: Path) -> np.ndarray:
    if is_zipfile(place):
        raise LorankError(f"{place} must hold one matrix of real numbers, found an archive")
    try:
        with place.open("rb") as file:  # np.load would advise to unpickle what is no array
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, tokenize.TokenError) as error:
        raise LorankError(f"{place} is no array of numbers in NumPy's format: {error}") from None
    if found.ndim != 2 or found.dtype.kind not in "fiub":
        raise LorankError(
            f"{place} must hold one matrix of real numbers, found {found.dtype} of shape "
            f"{found.shape}"
        )
    with np.errstate(over="ignore"):  # of a longer type: what is too large is infinite
        return found.astype(np.float64)


def _csv(place: Path, header: bool | None) -> Table:
    try:
        with place.open(newline="", encoding="utf-8-sig") as file:
            lines = [(n, line) for n, line in enumerate(csv.reader(file), 1) if any(line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LorankError(f"{place} is no text with commas: {error}") from None
    headed = _headed([line for _, line in lines]) if header is None else header
    unnamed = False
    if lines and headed:
        # Names of columns leave out the name of the column of names, or leave it empty.
        head, lines = lines[0][1], lines[1:]
        unnamed = not head[0].strip() or all(len(line) == len(head) + 1 for _, line in lines)
    if not lines:
        raise LorankError(f"{place} has no line of numbers")
    named = unnamed or any(_number(line[0]) is None for _, line in lines)
    rows = [[_cell(place, n, cell) for cell in line[named:]] for n, line in lines]
    for (n, _), row in zip(lines, rows, strict=True):
        if not row:
            raise LorankError(f"{place}: line {n} has no numbers; commas go between the cells")
        if len(row) != len(rows[0]):
            raise LorankError(
                f"{place}: lines of a matrix are equally long, found {len(rows[0])} numbers "
                f"first and {len(row)} in line {n}"
            )
    return Table(np.array(rows, dtype=np.float64), headed, named)


def _headed(lines: list[list[str]]) -> bool:
    """Whether the first line is names of columns."""
    if not lines:
        return False
    if any(_number(cell) is None for cell in lines[0][1:] or lines[0]):
        return True
    return len(lines) > 1 and _counts(lines[0]) and not any(map(_counts, lines[1:]))


def _counts(line: list[str]) -> bool:
    """Whether a line is whole numbers that rise by equal steps, after a cell that is no number."""
    named = not line[0].strip().isdecimal()
    cells = [cell.strip() for cell in line[named:]]
    if len(cells) < COUNTED or not all(cell.isdecimal() for cell in cells):
        return False
    numbers = [int(cell) for cell in cells]
    return {b - a for a, b in itertools.pairwise(numbers)} == {max(1, numbers[1] - numbers[0])}


def _number(cell: str) -> float | None:
    if cell.strip().lower() in ABSENT:
        return float("nan")
    try:
        return None if "_" in cell else float(cell)  # to Python 1_1 is a number, here a name
    except ValueError:
        return None


def _cell(place: Path, line: int, cell: str) -> float:
    number = _number(cell)
    if number is None:
        raise LorankError(f"{place}: line {line} has {cell.strip()[:40]!r}, which is no number")
    return number

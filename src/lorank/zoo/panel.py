"""Economic panels from files: FRED-MD's CSV, and data frames that R has saved."""

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorank.errors import LorankError, extra, unknown

FRAMES = (".rda", ".rdata", ".rds")
ENDINGS = (".csv", *FRAMES)
CODES = range(1, 8)
DATE = re.compile(r"(\d{4})-(\d{1,2})(?!\d)|(\d{1,2})/\d{1,2}/(\d{4})(?!\d)", re.ASCII)
MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])", re.ASCII)


@dataclass(frozen=True)
class Panel:
    """Series by month or quarter.

    Attributes:
        dates: ``YYYY-MM`` of each row, ascending.
        names: of the series, one a column.
        values: ``(dates, series)``, NaN where nothing was reported.
        codes: FRED-MD's transformation code of each series (1 to 7), where the file has them.
    """

    dates: tuple[str, ...]
    names: tuple[str, ...]
    values: np.ndarray
    codes: tuple[int, ...] | None = None

    def take(self, names: Sequence[str]) -> "Panel":
        """Choose series by name, in the order given.

        Raises:
            LorankError: if there is none, or one is not in the panel.

        Example:
            >>> panel = Panel(("1984-01",), ("a", "b"), np.array([[1.0, 2.0]]))
            >>> panel.take(["b"]).values.tolist()
            [[2.0]]
        """
        if len(names) == 0:
            raise LorankError("a panel has at least one series, found none to take")
        for name in names:
            if name not in self.names:
                raise unknown("series", name, self.names)
        at = [self.names.index(name) for name in names]
        codes = None if self.codes is None else tuple(self.codes[i] for i in at)
        return Panel(self.dates, tuple(names), self.values[:, at], codes)

    def between(self, start: str, end: str) -> "Panel":
        """Choose rows with ``start ≤ date ≤ end``, both ``YYYY-MM``.

        Raises:
            LorankError: if there is none, or a month is not written ``YYYY-MM``.

        Example:
            >>> panel = Panel(("1983-12", "1984-01"), ("a",), np.array([[1.0], [2.0]]))
            >>> panel.between("1984-01", "2007-12").values.tolist()
            [[2.0]]
        """
        for month in (start, end):
            _check_month(month)
        kept = [i for i, date in enumerate(self.dates) if start <= date <= end]
        if not kept:
            raise LorankError(
                f"no date of the panel, {self.dates[0]} to {self.dates[-1]}, lies in "
                f"{start} to {end}"
            )
        dates = tuple(self.dates[i] for i in kept)
        return Panel(dates, self.names, self.values[kept], self.codes)

    def growth(self) -> "Panel":
        """Log growth in percent, ``100·log(x_t/x_{t−1})``; one row less.

        Raises:
            LorankError: if a series is not positive, or there are fewer than two dates.

        Example:
            >>> panel = Panel(("1984-01", "1984-02"), ("a",), np.array([[100.0], [110.0]]))
            >>> round(panel.growth().values.item(), 2)
            9.53
        """
        if len(self.dates) < 2:
            raise LorankError(f"growth is between two dates, found {len(self.dates)}")
        return Panel(self.dates[1:], self.names, 100 * np.diff(self._log(), axis=0))

    def transformed(self) -> "Panel":
        """Series made stationary by FRED-MD's codes; NaN where the differences begin.

        1 as it is, 2 difference, 3 second difference, 4 to 6 the same of the logarithm, 7 the
        difference of the relative change.

        Raises:
            LorankError: if the file had no codes, a logarithm is taken of what is not positive,
                or a relative change of 0.

        Source: McCracken and Ng, FRED-MD: a monthly database for macroeconomic research, 2016.

        Example:
            >>> panel = Panel(("1984-01", "1984-02"), ("a",), np.array([[1.0], [4.0]]), (2,))
            >>> panel.transformed().values.tolist()
            [[nan], [3.0]]
        """
        if self.codes is None:
            raise LorankError("a panel is transformed by its codes, and this file had none")
        parts = [
            self.take([name])._by_code(code)
            for name, code in zip(self.names, self.codes, strict=True)
        ]
        return Panel(self.dates, self.names, np.concatenate(parts, 1), self.codes)

    def _by_code(self, code: int) -> np.ndarray:
        x = self._log() if code in (4, 5, 6) else self.values
        if code == 7:
            if (x[:-1] == 0).any():
                raise LorankError(
                    f"a relative change needs numbers other than 0: {self.names[0]!r}"
                )
            x = _difference(x) / np.concatenate([np.full((1, x.shape[1]), np.nan), x[:-1]])
        times = {1: 0, 4: 0, 2: 1, 5: 1, 7: 1, 3: 2, 6: 2}[code]
        for _ in range(times):
            x = _difference(x)
        return x

    def _log(self) -> np.ndarray:
        low = np.nanmin(np.where(np.isnan(self.values), np.inf, self.values), axis=0)
        if (low <= 0).any():
            name = self.names[int(np.argmin(low))]
            raise LorankError(
                f"a logarithm needs positive numbers, found {low.min():g} in {name!r}"
            )
        return np.log(self.values)


def _difference(x: np.ndarray) -> np.ndarray:
    return np.diff(x, axis=0, prepend=np.full((1, x.shape[1]), np.nan))


def read_panel(path: str | Path, start: str | None = None) -> Panel:
    r"""Read a panel of time series.

    A CSV has dates in the first column (``1/1/1959`` or ``1959-01-01``) and names in the first
    line; a second line that begins with ``Transform`` holds FRED-MD's codes. An R file
    (``.rda``, ``.rds``) holds one data frame, with dates as names of its rows or in its first
    column, or without dates; it is read by pyreadr, which runs no code.

    Args:
        path: the file.
        start: month of the first row, ``YYYY-MM``, of a data frame without dates, whose rows are
            months in a row; ``"1959-01"`` for BVAR's ``fred_md.rda``, which has lost them.

    Returns:
        The panel; empty cells are NaN.

    Raises:
        LorankError: if the file does not exist, has another ending, is no such table, or has no
            dates and ``start`` is not given, or has them and it is.
        MissingExtraError: if pyreadr is not installed and the file is R's.

    Source: FRED-MD is published by the Federal Reserve Bank of St. Louis; as R data by the
    packages BVAR (``fred_md.rda``, and ``fred_qd.rda`` by quarters) and HDTSA
    (``IPindices.rda``).

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "small.csv"
        >>> _ = place.write_text("sasdate,RPI\nTransform:,5\n1/1/1959,100\n2/1/1959,101\n")
        >>> panel = read_panel(place)
        >>> panel.dates, panel.codes
        (('1959-01', '1959-02'), (5,))
    """
    place = Path(path)
    if place.suffix.lower() not in ENDINGS:
        raise unknown("ending of a panel", place.suffix, ENDINGS)
    if not place.is_file():
        raise LorankError(f"there is no file {place}")
    is_frame = place.suffix.lower() in FRAMES
    if start is not None and not is_frame:
        raise LorankError(f"{place}: start is for a data frame of R without dates, not for a CSV")
    lines = _frame(place, start) if is_frame else _csv(place)
    names, codes, rows = lines[0][1:], None, [line for line in lines[1:] if any(line)]
    if rows and rows[0][0].strip().lower().startswith("transform"):
        codes, rows = _codes(place, rows[0][1:]), rows[1:]
    if not names or not rows or any(len(row) != len(names) + 1 for row in rows):
        raise LorankError(f"{place}: a panel has one date and one cell for each name in each line")
    names = [name.strip() for name in names]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if codes is not None and len(codes) != len(names):
        raise LorankError(
            f"{place}: there is one code for each series, found {len(codes)} for {len(names)}"
        )
    if twice:
        raise LorankError(f"{place}: every series has a name of its own, found {twice[0]!r} twice")
    dates = tuple(_date(place, row[0]) for row in rows)
    if any(b <= a for a, b in itertools.pairwise(dates)):
        raise LorankError(f"{place}: the dates of a panel ascend, and these do not")
    values = np.array([[_number(place, cell) for cell in row[1:]] for row in rows])
    return Panel(dates, tuple(names), values, codes)


def _csv(place: Path) -> list[list[str]]:
    try:
        with place.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if any(line)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise LorankError(f"{place} is no text with commas: {error}") from None
    return lines or [[""]]


def _frame(place: Path, start: str | None) -> list[list[str]]:
    pyreadr = extra("pyreadr", "panel")
    try:
        found = [*pyreadr.read_r(str(place)).values()]
    except Exception as error:  # pyreadr raises its own kinds, and some of its C library's
        raise LorankError(f"{place} is no data of R that can be read: {error}") from None
    if len(found) != 1:
        raise LorankError(f"{place} must hold one data frame, found {len(found)}")
    frame = found[0]
    names = [str(name) for name in frame.columns]
    index = [str(label) for label in frame.index]
    rows = [["" if _absent(cell) else str(cell) for cell in row] for row in frame.to_numpy()]
    if not names or not rows:
        return [names]
    dated = DATE.match(index[0]) or DATE.match(rows[0][0])
    if start is None and not dated:
        raise LorankError(
            f"{place}: a data frame has dates as names of its rows or in its first column, found "
            f"row {index[0]} and {names[0]} {rows[0][0]}; give start='1959-01' if rows are months"
        )
    if start is not None and dated:
        raise LorankError(f"{place}: start is for rows without dates, found {dated[0]}")
    if start is None and not DATE.match(index[0]):
        return [names, *rows]
    days = index if start is None else _months(start, len(rows))
    return [["date", *names]] + [[day, *row] for day, row in zip(days, rows, strict=True)]


def _months(start: str, count: int) -> list[str]:
    _check_month(start)
    first = 12 * int(start[:4]) + int(start[5:]) - 1
    return [f"{i // 12:04d}-{i % 12 + 1:02d}" for i in range(first, first + count)]


def _check_month(month: object) -> None:
    if not (isinstance(month, str) and MONTH.fullmatch(month)):
        raise LorankError(f"a month is written like 1984-01, found {month!r}")


def _absent(cell: object) -> bool:
    return cell is None or cell != cell


def _codes(place: Path, cells: list[str]) -> tuple[int, ...]:
    try:
        codes = [float(cell) for cell in cells]
    except ValueError:
        codes = [0.0]
    if not set(codes) <= set(CODES):
        raise LorankError(f"{place}: codes of transformation are whole numbers from 1 to 7")
    return tuple(int(code) for code in codes)


def _date(place: Path, cell: str) -> str:
    found = DATE.match(cell.strip())
    if not found:
        raise LorankError(f"{place}: a date is like 1984-01 or 1/1/1984, found {cell.strip()!r}")
    year, month = (found[1], found[2]) if found[1] else (found[4], found[3])
    if not 1 <= int(month) <= 12:
        raise LorankError(f"{place}: a date has a month from 1 to 12, found {cell.strip()!r}")
    return f"{year}-{int(month):02d}"


def _number(place: Path, cell: str) -> float:
    text = cell.strip()
    if text in ("", "NA", "NaN", "nan", "."):
        return float("nan")
    try:
        number = math.inf if "_" in text else float(text)  # to Python 1_000 is a number
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise LorankError(f"{place}: a cell of a panel is a number, found {text[:40]!r}")
    return number

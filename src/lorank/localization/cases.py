"""Scans with a known slice: a table of files, or columns that are made."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lorank.atomic import replacing
from lorank.errors import LorankError
from lorank.localization.projection import Projection, View, project
from lorank.localization.reading import read_volume
from lorank.localization.synthetic import synthetic_column, synthetic_projection

SPLITS = ("train", "valid", "test")
COLUMNS = ("scan", "slice", "split", "spacing", "axes", "series")
APART = 1_000_000
"""Between the seeds of two splits of synthetic columns, and between those of two seeds."""


class Case(NamedTuple):
    """One scan, projected.

    Attributes:
        projection: its image.
        target: row of the target in it.
        split: ``train``, ``valid`` or ``test``.
    """

    projection: Projection
    target: float
    split: str


class Row(NamedTuple):
    """One line of a table: a scan on disk and what is known about it."""

    scan: Path
    slice: float
    split: str = ""
    spacing: tuple[float, ...] | None = None
    axes: str | None = None
    series: str | None = None
    name: str = ""
    """As the table writes it."""


def read_cases(
    spec: str | Path,
    view: View,
    *,
    holdout: float = 0.2,
    seed: int = 0,
    cache: str | Path | None = None,
) -> list[Case]:
    """Read scans with known slices.

    Args:
        spec: a CSV table, or ``synthetic:N`` or ``synthetic:N:SEED``: N columns to train on, and
            half as many again for each of the other two splits. The table's first line names its
            columns: ``scan`` (a file or a folder, from the table's own folder) and ``slice`` (from
            0, along the scan's own axis), and, where wanted, ``split``, ``spacing`` (such as
            ``1x1x2.5``), ``axes`` and ``series``.
        view: how to project.
        holdout: share of the scans for validation, about, drawn by their names in the table
            where it names no split; a scan stays on its side when the table grows.
        seed: of the draw.
        cache: a file to keep the projections in, so that volumes are read once. It holds images of
            the patients.

    Raises:
        LorankError: if the table or a scan cannot be used, or a slice is not in its scan.

    Example:
        >>> cases = read_cases("synthetic:4", View())
        >>> [sum(case.split == name for case in cases) for name in SPLITS]
        [4, 2, 2]
    """
    if str(spec).startswith("synthetic:"):
        return _synthetic(str(spec), view)
    rows = _with_splits(read_table(spec), holdout, seed)
    images = _cached(rows, view, None if cache is None else Path(cache))
    return [
        Case(image, image.row_of(row.slice), row.split)
        for row, image in zip(rows, images, strict=True)
    ]


def taken(cases: Sequence[Case], split: str) -> list[Case]:
    """Take the cases of one split.

    Example:
        >>> len(taken(read_cases("synthetic:2", View()), "valid"))
        1
    """
    return [case for case in cases if case.split == split]


def _synthetic(spec: str, view: View) -> list[Case]:
    words = spec.split(":")[1:]
    if not 1 <= len(words) <= 2 or not all(word.isdecimal() for word in words) or words[0] == "0":
        raise LorankError(f"made columns are synthetic:N or synthetic:N:SEED, found {spec!r}")
    count, seed = int(words[0]), int(words[1]) if len(words) == 2 else 0
    sizes = {"train": count, "valid": max(1, count // 2), "test": max(1, count // 2)}
    cases = []
    for number, (split, size) in enumerate(sizes.items()):
        for i in range(size):
            own = (3 * seed + number) * APART + i
            column = synthetic_column(own, view)
            name = f"synthetic {split} {i}"
            cases.append(Case(synthetic_projection(column, view, name), column.target, split))
    return cases


def read_table(path: str | Path) -> list[Row]:
    r"""Read a table of scans, without the scans.

    Raises:
        LorankError: if it is missing, no CSV, lacks a column, or a line cannot be used.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "cases.csv"
        >>> _ = place.write_text("scan,slice\na.nii.gz,41\n")
        >>> read_table(place)[0].slice
        41.0
    """
    place = Path(path)
    if not place.is_file():
        raise LorankError(f"scans are named in a table, and there is no file {place}")
    try:
        with place.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names, lines = [name or "" for name in reader.fieldnames or []], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise LorankError(f"{place} is no text with commas: {error}") from None
    wrong = [name for name in names if name not in COLUMNS]
    if "scan" not in names or "slice" not in names or wrong:
        raise LorankError(
            f"{place}: the first line names the columns scan and slice, and may name split, "
            f"spacing, axes and series, found {', '.join(names) or 'nothing'}"
        )
    if not lines:
        raise LorankError(f"{place} has no line beyond its names")
    rows = [_row(place, number, line) for number, line in enumerate(lines, 2)]
    seen = Counter((row.scan, row.series) for row in rows)
    (scan, _), often = seen.most_common(1)[0]
    if often > 1:
        raise LorankError(f"{place}: each scan has one line, found {scan.name} {often} times")
    return rows


def _row(place: Path, number: int, line: dict[str, str | None]) -> Row:
    where = f"{place}, line {number}"
    if None in line:
        raise LorankError(f"{where}: there are more cells than names of columns")
    cells = {key: (value or "").strip() for key, value in line.items()}
    try:
        target = float(cells["slice"])
        spacing = cells.get("spacing") or None
        lengths = None if spacing is None else tuple(map(float, spacing.split("x")))
    except ValueError:
        raise LorankError(
            f"{where}: a slice is a number and a spacing is such as 1x1x2.5, found "
            f"{cells['slice']!r} and {cells.get('spacing', '')!r}"
        ) from None
    split = cells.get("split", "")
    if not cells["scan"] or not np.isfinite(target):
        raise LorankError(f"{where}: a scan and its slice are needed, found {cells['scan']!r}")
    if split not in ("", *SPLITS):
        raise LorankError(f"{where}: a split is train, valid or test, found {split!r}")
    scan = place.parent / cells["scan"]
    axes, series = cells.get("axes") or None, cells.get("series") or None
    return Row(scan, target, split, lengths, axes, series, cells["scan"])


def _with_splits(rows: list[Row], holdout: float, seed: int) -> list[Row]:
    named = sum(bool(row.split) for row in rows)
    if named == len(rows):
        return rows
    if named:
        raise LorankError(f"a table names the split of every scan or of none, found {named} named")
    if not 0 < holdout < 1:
        raise LorankError(f"the share held out lies between 0 and 1, found {holdout}")
    shares = [_drawn(row, seed) for row in rows]
    limit = max(holdout, min(shares))  # a small table has one at least
    return [
        row._replace(split="valid" if share <= limit else "train")
        for row, share in zip(rows, shares, strict=True)
    ]


def _drawn(row: Row, seed: int) -> float:
    """Draw a number in [0, 1) by a scan's name alone, whatever else is in the table."""
    text = f"{seed} {row.name} {row.series or ''}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _cached(rows: list[Row], view: View, cache: Path | None) -> list[Projection]:
    """Project all scans, or read the projections of an earlier call of the same."""
    if cache is None:
        return [_projected(row, view) for row in rows]
    about = json.dumps({"view": view.as_dict(), "scans": [_stamp(row) for row in rows]})
    held = _held(cache, about)
    if held is not None:
        return held
    found = [_projected(row, view) for row in rows]
    facts = json.dumps([[p.count, p.height, p.from_head, p.name, list(p.slices)] for p in found])
    tensors = {str(i): torch.from_numpy(p.image) for i, p in enumerate(found)}
    with replacing(cache) as draft:
        save_file(tensors, draft, metadata={"about": about, "facts": facts})
    return found


def _projected(row: Row, view: View) -> Projection:
    volume = read_volume(row.scan, spacing=row.spacing, axes=row.axes, series=row.series)
    return project(volume, view)


def _stamp(row: Row) -> list[str]:
    """What tells that a scan has changed, without reading it."""
    if not row.scan.exists():
        raise LorankError(f"there is no scan {row.scan}")
    parts = sorted(row.scan.iterdir()) if row.scan.is_dir() else [row.scan]
    stats = [(part.name, part.stat()) for part in parts]
    files = [(name, about.st_size, about.st_mtime_ns) for name, about in stats]
    return [str(row.scan), hashlib.sha256(str(files).encode()).hexdigest(), str(row[3:])]


def _held(cache: Path, about: str) -> list[Projection] | None:
    """Read cached projections; ``None`` where there are none, or others."""
    if not cache.is_file():
        return None
    try:
        with safe_open(cache, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("about") != about:
                return None
            facts = json.loads(metadata["facts"])
            images = [file.get_tensor(str(i)).numpy() for i in range(len(facts))]
    except (SafetensorError, OSError, ValueError, KeyError):
        return None  # damaged: made anew
    row_mm = json.loads(about)["view"]["row_mm"]
    return [
        Projection(image, row_mm, count, height, head, name, tuple(slices))
        for image, (count, height, head, name, slices) in zip(images, facts, strict=True)
    ]

"""The spectra of a run on disk: what its ranks were chosen from, for whoever reports on it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from lorank.atomic import replacing
from lorank.errors import LorankError
from lorank.nn.surgery import opened, sites
from lorank.ranks import Price, Spectra, Spectrum
from lorank.ranks.per_layer import check
from lorank.report.record import Skipped, groups, pooled
from lorank.report.tables import kind, skipped_rows
from lorank.training.reading import read_format

NAME = "spectra.json"
FORMAT, VERSION = "lorank spectra", 1


@dataclass(frozen=True)
class Row:
    """One layer: its singular values (groups pooled), and what a rank costs.

    Attributes:
        layer: its name.
        kind: its type and kernel.
        layout: how the kernel is a matrix.
        matrix: rows and columns of it (of one group's).
        groups: groups of a convolution.
        break_even: largest rank that pays.
        params: weights of the dense layer, and of each rank.
        macs: multiply-accumulates of the dense layer, and of each rank.
        before: of the dense weight.
        after: of the low-rank weight, when the run has ended.
    """

    layer: str
    kind: str
    layout: str
    matrix: tuple[int, int]
    groups: int
    break_even: int
    params: tuple[int, int]
    macs: tuple[int, int] | None
    before: list[float]
    after: list[float]


@dataclass(frozen=True)
class Kept:
    """What the file holds.

    Attributes:
        layers: every layer that was measured.
        skipped: those that were left alone.
        params: parameters of the dense network.
        macs: its multiply-accumulates.
    """

    layers: list[Row]
    skipped: list[Skipped]
    params: int | None = None
    macs: int | None = None

    def spectra(self) -> Spectra:
        """Give the dense spectra back, groups pooled."""
        table = {
            row.layer: Spectrum(
                torch.tensor(row.before, dtype=torch.float64),
                row.matrix,
                row.layout,
                Price(*row.params),
                None if row.macs is None else Price(*row.macs),
                row.break_even,
            )
            for row in self.layers
        }
        return Spectra(table, params=self.params, macs=self.macs)


def write_spectra(
    folder: Path, dense: nn.Module, before: Spectra, after: Mapping[str, Spectrum] | None = None
) -> None:
    """Write the spectra of a run atomically.

    Args:
        folder: of the run.
        dense: the network that ``before`` was measured on.
        before: of the dense weights.
        after: of the low-rank ones, at the end.

    Raises:
        LorankError: if the file cannot be written.
    """
    kinds = {site.name: kind(site) for site in sites(opened(dense))}
    rows = [
        Row(
            layer=name,
            kind=kinds[name],
            layout=found.layout,
            matrix=found.shape,
            groups=groups(found),
            break_even=found.break_even,
            params=found.params,
            macs=found.macs,
            before=pooled(found),
            after=pooled(after[name]) if after and name in after else [],
        )
        for name, found in before.items()
    ]
    skipped = [Skipped(**row) for row in skipped_rows(dense, before)]
    kept = Kept(rows, skipped, before.params, before.macs)
    content = {"format": FORMAT, "version": VERSION, **asdict(kept)}
    with replacing(folder / NAME) as draft:
        draft.write_text(json.dumps(content) + "\n")


def read_spectra(folder: Path) -> Kept | None:
    """Read the spectra of a run; ``None`` where it kept none.

    Raises:
        LorankError: if the file is damaged or of a newer version.
    """
    path = folder / NAME
    if not path.exists():
        return None
    kept = read_format(path, Kept, FORMAT, VERSION)
    try:
        check(kept.spectra())
    except LorankError as error:
        raise LorankError(f"{path} is damaged: {error}") from None
    return kept

"""The record of a compression: one plain value, ready for JSON, that a report is made from.

What a compression did not have stays ``None`` or empty, and its report leaves it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lorank.ranks import Spectrum
from lorank.report.tables import Row

FORMAT, VERSION = "lorank record", 1


@dataclass(frozen=True)
class Figures:
    """What a network costs, and how good it is.

    Attributes:
        accuracy: share of right answers on the test data.
        macs: multiply-accumulates of one input.
        params: parameters.
        bytes: of parameters and buffers in memory.
        file_bytes: of the file that holds it.
        latency: median time of one call, in seconds.
    """

    accuracy: float | None = None
    macs: int | None = None
    params: int | None = None
    bytes: int | None = None
    file_bytes: int | None = None
    latency: float | None = None


@dataclass(frozen=True)
class Layer:
    """One layer, and what became of it.

    Attributes:
        layer: its name.
        full_rank: the largest rank that it can have.
        rank: the rank that it has now, or ``None`` where nothing was chosen yet.
        kind: its type, such as ``"Conv2d 3×3"``.
        layout: how its kernel is a matrix.
        matrix: rows and columns of that matrix (of one group's).
        groups: groups of a convolution, cut alike.
        energy: share of ‖W‖² that its cuts kept.
        plain_energy: share that the same rank keeps of the dense weight before training, where
            training came between.
        params: parameters before, ``params_kept`` after; bias excluded.
        params_kept: see ``params``.
        macs: multiply-accumulates before, ``macs_kept`` after.
        macs_kept: see ``macs``.
        stays_dense: the reason, where it was not split in two.
        before: singular values of the dense weight, largest first; groups pooled.
        after: those of the low-rank weight, where it was trained since.
    """

    layer: str
    full_rank: int
    rank: int | None = None
    kind: str | None = None
    layout: str | None = None
    matrix: tuple[int, int] | None = None
    groups: int = 1
    energy: float | None = None
    plain_energy: float | None = None
    params: int | None = None
    params_kept: int | None = None
    macs: int | None = None
    macs_kept: int | None = None
    stays_dense: str | None = None
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Skipped:
    """A layer that was left alone, and why."""

    layer: str
    reason: str
    kind: str | None = None
    params: int | None = None


@dataclass(frozen=True)
class Epoch:
    """One epoch of training.

    Attributes:
        stage: its name.
        terms: name → mean over the epoch: ``loss``, its parts, penalties; what is not a number
            is ``None``.
        accuracy: share of right answers on the test data after it.
        seconds: how long it took.
        ranks: sum of all ranks, where there are any.
        macs: what the network would cost at these ranks.
    """

    stage: str
    terms: dict[str, float | None] = field(default_factory=dict)
    accuracy: float | None = None
    seconds: float | None = None
    ranks: int | None = None
    macs: int | None = None


@dataclass(frozen=True)
class Cut:
    """Ranks were lowered after a number of epochs: at the end of a stage, or on the way."""

    epochs: int
    stage: str | None = None
    macs: int | None = None
    params: int | None = None


@dataclass(frozen=True)
class Timing:
    """Measured times of one network; conditions are the same for all of a record.

    Attributes:
        model: what was timed.
        median: seconds of one call.
        p95: 95th percentile.
        file_bytes: of its file.
        accuracy: share of right answers.
        engine: what ran it.
        relative_error: of its outputs against those of the first.
    """

    model: str
    median: float
    p95: float | None = None
    file_bytes: int | None = None
    accuracy: float | None = None
    engine: str | None = None
    relative_error: float | None = None


@dataclass(frozen=True)
class Record:
    """A compression, as far as it went.

    Attributes:
        title: a short name.
        kind: ``"train"`` or ``"compress"``.
        ended: whether it came to its end.
        names: how the networks before and after are called.
        facts: what was compressed: model, its options, data, weights.
        asked: the target in words.
        before: figures of the dense network.
        after: figures of what came out.
        layers: every measured layer.
        skipped: layers that were left alone.
        epochs: of training, in order.
        cuts: when ranks were lowered.
        timings: measured times, the reference first.
        timed_on: device, threads, batch and so on of these times.
        command: what was typed.
        versions: of the programs that made it.
        seed: of all random numbers.
        recipe: how it was trained.
        notes: sentences that a reader should know first.
    """

    title: str
    kind: str
    ended: bool = True
    names: tuple[str, str] = ("before", "after")
    facts: dict[str, str] = field(default_factory=dict)
    asked: str | None = None
    before: Figures | None = None
    after: Figures | None = None
    layers: list[Layer] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    timed_on: dict[str, str] = field(default_factory=dict)
    command: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    recipe: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Give the record as a dict for JSON.

        Example:
            >>> Record("digits", "train").plain()["format"]
            'lorank record'
        """
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


_OWN = {part.name for part in fields(Layer)}


def layers(
    spectra: Mapping[str, Spectrum], rows: Sequence[Row], kinds: Mapping[str, str]
) -> list[Layer]:
    """Describe what became of every measured layer.

    Args:
        spectra: what the ranks were chosen from.
        rows: what :func:`lorank.report.cut_rows` says of them.
        kinds: layer name → type.

    Example:
        >>> import lorank
        >>> from lorank.report import cut_rows
        >>> spectra = lorank.measure(torch.nn.Sequential(torch.nn.Linear(8, 8)))
        >>> found = layers(spectra, cut_rows(spectra, {"0": 2}), {"0": "Linear"})[0]
        >>> found.rank, found.full_rank, found.kind, len(found.before)
        (2, 8, 'Linear', 8)
    """
    return [
        Layer(
            **{key: value for key, value in row.items() if key in _OWN},
            kind=kinds.get(row["layer"]),
            matrix=spectra[row["layer"]].shape,
            groups=groups(spectra[row["layer"]]),
            before=pooled(spectra[row["layer"]]),
        )
        for row in rows
    ]


def pooled(found: Spectrum) -> list[float]:
    """Singular values, the groups' as one, to six digits.

    Example:
        >>> from lorank.ranks import Price
        >>> pooled(Spectrum(torch.tensor([[3.0], [4.0]]), (1, 1), "channel", Price(2, 2)))
        [5.0]
    """
    return [float(f"{value:.6g}") for value in found.energy.sqrt().tolist()]


def groups(found: Spectrum) -> int:
    """How many groups a layer has.

    Example:
        >>> from lorank.ranks import Price
        >>> groups(Spectrum(torch.ones(4, 2), (2, 2), "channel", Price(16, 16)))
        4
    """
    return found.values.shape[0] if found.values.ndim == 2 else 1

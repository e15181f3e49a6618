"""A trained finder: scan in, slice out; and its file."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.files import load, save
from lorank.files.checkpoint import read_manifest
from lorank.localization.backbone import OWN, Regressor, make_regressor
from lorank.localization.confidence import Confidence
from lorank.localization.decide import decide, line_scores
from lorank.localization.projection import Projection, View, project
from lorank.localization.volume import Volume
from lorank.localization.windows import MARGIN, blank, centres, windows
from lorank.zoo import MODELS

KIND = "slice finder"
BATCH = 128


class Found(NamedTuple):
    """Where a finder puts the target.

    Attributes:
        slice: number of the scan's slice, from 0, along its own head–foot axis as it was read.
        mm: distance below the centre of the uppermost slice.
        row: in rows of the projection, fractional.
        score: of the match, at most 1.
        confidence: chance that the error is within the tolerance of :class:`Confidence`; ``None``
            where the finder was not calibrated, or another rule than ``line`` decided.
        file: name of the slice's file, for DICOM.
        name: of the scan.
    """

    slice: int
    mm: float
    row: float
    score: float
    confidence: float | None
    file: str | None
    name: str


@dataclass
class Finder:
    """A network of offsets, the view it was trained in, and what its scores are worth.

    Attributes:
        network: from windows (N, 1, rows, columns) to offsets (N, 1) in mm.
        view: of projections and windows.
        backbone: how the network is made again: ``spec``, ``options``, ``channels``, ``trained``,
            ``scale``.
        confidence: or none.
        facts: anything else to keep that JSON holds.

    Example:
        >>> finder = new_finder("offset_net", View(rows=32, columns=8), width=4)
        >>> scan = Volume(1000 * torch.eye(4)[..., None].repeat(1, 1, 60).numpy(), (1, 1, 1), "RAS")
        >>> offsets, first = finder.curve(project(scan, finder.view), step=4)
        >>> len(offsets), first
        (8, 16)
    """

    network: torch.nn.Module
    view: View
    backbone: dict[str, Any]
    confidence: Confidence | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def half(self) -> int:
        """Half of the matched line: the largest offset that training windows had."""
        return reach(self.view)

    @torch.inference_mode()
    def curve(self, projection: Projection, step: int = 1) -> tuple[Tensor, int]:
        """Predict the offset in every window.

        Args:
            projection: of this finder's view.
            step: rows between windows.

        Returns:
            Offsets (n,) in rows, and the row of the first window's centre.

        Raises:
            LorankError: if the projection does not suit the view or the step, is shorter than a
                window or empty.
        """
        at = centres(projection, self.view, step)
        _check_shows(projection)
        network = self.network.eval()
        device = next(network.parameters()).device
        cut = windows(torch.from_numpy(projection.image), at, self.view.rows)
        found = [network(part.to(device)).flatten() for part in cut.split(BATCH)]
        return torch.cat(found).float().cpu() / self.view.row_mm, int(at[0])

    def locate(self, scan: Volume | Projection, *, step: int = 1, rule: str = "line") -> Found:
        """Find the slice of a scan.

        Args:
            scan: a volume, or its projection in this finder's view.
            step: rows between windows; larger ones are faster.
            rule: of :data:`lorank.localization.RULES`.

        Returns:
            The slice, its score and the confidence.

        Raises:
            LorankError: if the scan is no volume, cannot be projected, is shorter than a window or
                shows nothing, or the rule is unknown.

        Cost: one projection, and one pass of the network for each window.
        """
        projection = project(scan, self.view) if isinstance(scan, Volume) else scan
        if not isinstance(projection, Projection):
            raise LorankError(
                "a scan is a Volume, which knows its spacing and axes, or its projection, found "
                f"{type(scan).__name__}"
            )
        offsets, first = self.curve(projection, step)
        rows = len(projection.image)
        decision = decide(offsets, first, step, rows, self.half, rule)
        number = projection.slice_at(decision.row)
        calibrated = self.confidence if rule == "line" else None
        return Found(
            number,
            decision.row * projection.row_mm,
            decision.row,
            decision.score,
            None if calibrated is None else calibrated.of(decision.score),
            projection.slices[number] if projection.slices else None,
            projection.name,
        )

    def scores(self, projection: Projection, step: int = 1) -> Tensor:
        """Give the match score of every row, as :func:`line_scores` defines it."""
        offsets, first = self.curve(projection, step)
        return line_scores(offsets, first, step, len(projection.image), self.half)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whose header has the view, the backbone and the confidence.

        Raises:
            LorankError: as :func:`lorank.save`.
        """
        held = None if self.confidence is None else list(self.confidence)
        info = {
            "kind": KIND,
            "view": self.view.as_dict(),
            "backbone": self.backbone,
            "confidence": held,
            "facts": self.facts,
        }
        save(self.network, path, info=info)


def _check_shows(projection: Projection) -> None:
    if blank(projection.image):
        raise LorankError(
            f"{projection.name}: the projection is empty, all of its pixels are alike: is the "
            "scan in Hounsfield units, and its spacing in mm?"
        )


def reach(view: View) -> int:
    """Rows that a target lies from the centre of a training window, at most.

    Example:
        >>> reach(View(rows=128))
        56
    """
    return view.rows // 2 - min(MARGIN, view.rows // 4)


def load_finder(path: str | Path, *, backbone: str | None = None) -> Finder:
    """Read a finder that was saved; nothing is unpickled.

    Args:
        path: the file, or the folder of a run that has ended.
        backbone: its backbone, for one that is a function of yours, ``package.module:function``,
            or has options in words: a file alone has neither called.

    Raises:
        LorankError: if the file is missing, damaged, or no finder, or its backbone must be named.
        MissingExtraError: if the backbone's library is not installed.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "finder.safetensors"
        >>> made = new_finder("offset_net", View(rows=32, columns=8), width=4)
        >>> made.save(place)
        >>> load_finder(place).view == made.view
        True
    """
    place = Path(path)
    place = place / FILE if place.is_dir() else place
    info = read_manifest(place).get("info") or {}
    if info.get("kind") != KIND:
        raise LorankError(f"{place} holds a network, and no slice finder")
    try:
        view, kept = View(**info["view"]), dict(info["backbone"])
        spec, options = str(kept["spec"]), dict(kept["options"])
        channels, trained = int(kept["channels"]), bool(kept["trained"])
        scale = float(kept["scale"])
        facts = dict(info.get("facts") or {})
        confidence = _confidence(info["confidence"])
    except (KeyError, TypeError, ValueError) as error:
        raise LorankError(f"{place} has a damaged description of its finder: {error}") from None
    _trusted(place, spec, options, backbone)
    sized: dict[str, Any] = options | {"in_channels": channels}
    dense = make_regressor(spec, view, scale=scale, **sized)
    dense = Regressor(dense.backbone, scale, channels, trained)
    network = load(place, dense).eval()
    return Finder(network, view, kept, confidence, facts)


def _confidence(held: Any) -> Confidence | None:
    if held is None:
        return None
    slope, bias, tolerance, scans = map(float, held)
    if not all(map(math.isfinite, (slope, bias, tolerance, scans))):
        raise ValueError(f"the confidence is of finite numbers, found {held}")
    return Confidence(slope, bias, tolerance, int(scans))


FILE = "finder.safetensors"
"""The finder in the folder of a run."""


def _trusted(place: Path, spec: str, options: dict[str, Any], backbone: str | None) -> None:
    """Refuse to call a function, or to open a place, that only a file has named."""
    if backbone is not None and backbone != spec:
        raise LorankError(f"{place} has the backbone {spec!r}, found {backbone!r} named")
    library, _, name = spec.partition(":")
    known = spec in OWN or spec in MODELS
    known |= library in ("timm", "torchvision") and ":" not in name
    if not known and backbone is None:
        raise LorankError(
            f"{place} has a backbone that is a function, {spec!r}: name it to have it called"
        )
    # Words can be paths and addresses: timm reads weights from a checkpoint_path.
    words = [key for key, v in options.items() if key == "pretrained" or not _number(v)]
    if words and backbone is None:
        raise LorankError(
            f"{place} has a backbone with options that are no numbers, {', '.join(words)}: name "
            f"the backbone, {spec!r}, to have it made with them"
        )


def _number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def new_finder(
    spec: str, view: View, *, weights: str | Path | None = None, **options: Any
) -> Finder:
    """Make a finder with a network that is still to be trained.

    Args:
        spec: the backbone, as in :func:`make_regressor`.
        view: of projections and windows.
        weights: trained weights of the backbone.
        **options: to the backbone.

    Raises:
        LorankError: as :func:`make_regressor`, or if JSON cannot hold an option.

    Example:
        >>> new_finder("offset_net", View(rows=32, columns=8)).half
        8
    """
    try:
        json.dumps(options)
    except (TypeError, ValueError) as error:
        raise LorankError(f"options of a backbone are values that JSON holds: {error}") from None
    scale = reach(view) * view.row_mm
    network = make_regressor(spec, view, weights=weights, scale=scale, **options)
    trained = bool(options.get("pretrained"))
    kept = {
        "spec": spec,
        "options": {k: v for k, v in options.items() if k != "pretrained"},
        "channels": network.channels,
        "trained": trained,
        "scale": scale,
    }
    return Finder(network, view, kept)

"""Train a finder: windows of labelled scans, a recipe of the training room, a calibrated score."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorank.errors import LorankError
from lorank.localization.cases import Case, taken
from lorank.localization.confidence import fit_confidence
from lorank.localization.finder import FILE, Finder, Found
from lorank.localization.projection import View
from lorank.localization.windows import Windows
from lorank.training.log import NAME as LOG
from lorank.training.objective import Task
from lorank.training.recipe import LAST, Recipe
from lorank.training.recipe_text import make_recipe
from lorank.training.run import Result
from lorank.training.run import train as carry_out
from lorank.training.state import NAME as STATE

RIGHT = 5.0
"""Millimetres: what a run's log calls accuracy is the share of windows with a smaller error."""

BEND = 5.0
"""Millimetres at which the loss goes over from a square to an absolute value."""

TEST_WINDOWS = 12
"""Windows of each validation scan that judge an epoch."""


class WindowData(NamedTuple):
    """What a run of the training room needs."""

    train: Windows
    test: Windows
    augment: Callable[[Tensor, torch.Generator], Tensor] | None


def recipe(
    *,
    epochs: int = 12,
    tune: int = 6,
    macs: float | int | None = 0.5,
    lr: float = 2e-3,
    batch_size: int = 32,
    seed: int = 0,
    layout: str = "auto",
) -> Recipe:
    """Dense training, a cut to a budget, and tuning in SVD form with the dense network as teacher.

    Args:
        epochs: of dense training; 0 for a backbone that is trained already.
        tune: after the cut.
        macs: MACs to keep, a share or a count; ``None`` for no cut.
        lr: peak learning rate of AdamW.
        batch_size: windows of one step.
        seed: of order and augmentation.
        layout: of the decomposition.

    Raises:
        LorankError: if a value is out of its range.

    Example:
        >>> [stage.name for stage in recipe().stages], [s.name for s in recipe(macs=None).stages]
        (['dense', 'cut', 'tune'], ['dense'])
    """
    share = isinstance(macs, float) and 0 < macs <= 1
    count = isinstance(macs, int) and not isinstance(macs, bool) and macs >= 1
    if macs is not None and not share and not count:
        raise LorankError(
            f"MACs to keep are a share, a float in (0, 1], a count of at least 1 or none: found "
            f"{macs!r}"
        )
    adam = {"name": "adamw", "lr": lr, "weight_decay": 0.05, "warmup": 0.1, "clip": 5.0}
    stages = [{"name": "dense", "form": "dense", "epochs": epochs, "optimizer": adam}]
    if macs is not None:
        slow = adam | {"lr": lr / 4}
        teacher = {"weight": 0.5}
        stages += [
            {"name": "cut", "epochs": 0, "cut": {"macs": macs}},
            {"name": "tune", "epochs": tune, "optimizer": slow, "distillation": teacher},
        ]
    plan = {"stages": stages, "batch_size": batch_size, "seed": seed, "layout": layout}
    return make_recipe(plan | {"skip": [LAST]}, "a slice finder's recipe")


def offsets_task() -> Task:
    """``smooth L1(network's offset − offset)`` in units of 5 mm; right is an error below 5 mm.

    Distillation is the same loss against the teacher's offset.

    Example:
        >>> task = offsets_task()
        >>> float(task.loss(None, torch.tensor([[10.0]]), torch.tensor([0.0])))
        1.5
    """
    return Task(
        lambda _, outputs, offsets: _loss(outputs, offsets),
        lambda _, outputs, taught: _loss(outputs, taught.flatten()),
        lambda outputs, offsets: (outputs.flatten() - offsets).abs() < RIGHT,
    )


def _loss(outputs: Tensor, offsets: Tensor) -> Tensor:
    return F.smooth_l1_loss(outputs.flatten() / BEND, offsets / BEND)


class Jitter:
    """Change the brightness and the contrast of windows, add noise, and mirror frontal ones.

    Args:
        view: of the windows.

    Example:
        >>> windows = torch.rand(4, 1, 16, 8)
        >>> Jitter(View())(windows, torch.Generator().manual_seed(0)).shape
        torch.Size([4, 1, 16, 8])
    """

    def __init__(self, view: View) -> None:
        self.mirrors = view.plane == "frontal"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Give changed copies; the generator alone decides."""

        def draw(low: float, high: float) -> Tensor:
            share = torch.rand(len(images), 1, 1, 1, generator=generator)
            return (low + (high - low) * share).to(images)

        noise = torch.randn(images.shape, generator=generator).to(images)
        changed = images * draw(0.85, 1.15) + draw(-0.05, 0.05) + noise * draw(0.0, 0.05)
        if self.mirrors:
            turned = draw(0.0, 1.0) < 0.5
            changed = torch.where(turned, changed.flip(-1), changed)
        return changed


def train_finder(
    finder: Finder,
    cases: Sequence[Case],
    folder: str | Path,
    plan: Recipe | None = None,
    *,
    per_scan: int = 64,
    step: int = 1,
    fresh: bool = False,
    quiet: bool = False,
    origin: dict[str, Any] | None = None,
) -> tuple[Finder, Result]:
    """Train a finder's network, cut it to a budget, and calibrate its score on validation scans.

    The run is one of :func:`lorank.training.run.train`: its folder holds the state after every
    epoch, and a killed run goes on from there, with the same scans, view and backbone.
    ``finder.safetensors`` is written at the end.

    Args:
        finder: with a dense network; it is not changed.
        cases: scans with known slices; those of the split ``valid`` judge the epochs and calibrate
            the score, those of ``test`` are left alone.
        folder: of the run.
        plan: stages; by default :func:`recipe`.
        per_scan: windows of each training scan, at most.
        step: rows between windows when the score is calibrated.
        fresh: forget a run that the folder holds.
        quiet: show nothing.
        origin: kept in the log.

    Returns:
        The trained finder in plain layers, and the figures of the run.

    Raises:
        LorankError: if there are no scans to train on or to validate with, the folder holds a
            run of other scans, another view or backbone, or as
            :func:`lorank.training.run.train`.
        MissingExtraError: if Accelerate is not installed.

    Example: ``train_finder(new_finder("offset_net", view), read_cases("cases.csv", view), "run")``
    """
    view = finder.view
    parts = {split: taken(cases, split) for split in ("train", "valid")}
    for split, found in parts.items():
        if not found:
            raise LorankError(f"training needs scans of the split {split!r}, found none")
    data = WindowData(
        _windows(parts["train"], view, per_scan),
        _windows(parts["valid"], view, TEST_WINDOWS),
        Jitter(view),
    )
    about = {"view": view.as_dict(), "backbone": finder.backbone, "windows": _digest(data)}
    _same(Path(folder), about, fresh)
    result = carry_out(
        finder.network,
        data,
        plan or recipe(),
        folder,
        fresh=fresh,
        quiet=quiet,
        info=about,
        origin=origin,
        task=offsets_task(),
    )
    trained = Finder(result.model.eval(), view, finder.backbone)
    trained = calibrated(trained, parts["valid"], step=step)
    trained.save(Path(folder) / FILE)
    return trained, result


def _digest(data: WindowData) -> str:
    """Name the windows and offsets of a run, so that another run's are told from them."""
    found = hashlib.sha256()
    for part in (data.train, data.test):
        for tensor in (*part.images, part.scan, part.row, part.labels):
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def _same(folder: Path, about: dict[str, Any], fresh: bool) -> None:
    """Refuse to go on with a run of something else; a run that is forgotten loses its finder."""
    if fresh or not (folder / STATE).is_file():
        (folder / FILE).unlink(missing_ok=True)
        return
    try:
        with (folder / LOG).open(encoding="utf-8") as log:
            held = json.loads(log.readline())["info"]
        own = json.loads(json.dumps(about))
        other = [name for name in own if name in held and held[name] != own[name]]
    except (OSError, ValueError, KeyError, TypeError):
        raise LorankError(
            f"{folder / LOG} does not say what its run is of: start afresh (--fresh)"
        ) from None
    if other:
        raise LorankError(
            f"{folder} holds a run of another {' and '.join(other)}: take another folder, or start "
            "afresh (--fresh)"
        )


def _windows(cases: Sequence[Case], view: View, per_scan: int) -> Windows:
    return Windows([c.projection for c in cases], [c.target for c in cases], view, per_scan)


def located(
    finder: Finder, cases: Sequence[Case], *, step: int = 1, rule: str = "line"
) -> list[tuple[Found, float]]:
    """Find the slice of each case; with it comes the signed error in mm."""
    pairs = []
    for case in cases:
        found = finder.locate(case.projection, step=step, rule=rule)
        pairs.append((found, (found.row - case.target) * finder.view.row_mm))
    return pairs


def calibrated(
    finder: Finder, cases: Sequence[Case], *, step: int = 1, tolerance: float = 10.0
) -> Finder:
    """Copy a finder with a confidence fitted on validation scans.

    Args:
        finder: trained.
        cases: scans that it was not trained on; fewer than 10 give no confidence.
        step: rows between windows.
        tolerance: errors up to here are right, in mm.
    """
    pairs = located(finder, cases, step=step)
    errors = [error for _, error in pairs]
    confidence = fit_confidence([found.score for found, _ in pairs], errors, tolerance)
    facts = finder.facts | {"valid": error_figures(errors)}
    return Finder(finder.network, finder.view, finder.backbone, confidence, facts)


def error_figures(errors: Sequence[float]) -> dict[str, float]:
    """Sum up errors in mm: mean, deviation, median, the largest, and how many exceed 10 mm.

    Raises:
        LorankError: if there is none.

    Example:
        >>> error_figures([1.0, -3.0])["mean"], error_figures([1.0, -3.0])["beyond_10_mm"]
        (2.0, 0.0)
    """
    if not len(errors):
        raise LorankError("errors are summed up over at least 1 scan, found 0")
    sizes = torch.tensor(list(errors), dtype=torch.float64).abs()
    return {
        "scans": float(len(sizes)),
        "mean": float(sizes.mean()),
        "sd": float(sizes.std(correction=0)),
        "median": float(sizes.median()),
        "largest": float(sizes.max()),
        "beyond_10_mm": float((sizes > 10).double().mean()),
    }

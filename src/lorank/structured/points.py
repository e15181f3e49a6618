"""Judging predicted landmarks: error over the distance of the eyes, its distribution, its area."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from lorank.errors import LorankError

EYES = 36, 45
"""The outer corners of the eyes among 68 points, counted from 0."""

REACH, STEP = 0.5, 1e-3


class Landed(NamedTuple):
    """What predictions of landmarks are worth."""

    nrmse: float
    """Mean over images of the mean point error over the eyes' distance."""
    cdf: float
    """Share of images with an error of at most 0.1."""
    auc: float
    """Area under the errors' distribution function up to 0.5, as a share of the whole."""


def point_errors(
    predicted: Tensor, true: Tensor, sides: Tensor, eyes: tuple[int, int] = EYES
) -> Tensor:
    """Mean distance of an image's points over the distance of its eyes, ``(images,)``.

    Args:
        predicted: relative to the box, ``(images, 2·points)``: all x, then all y.
        true: the same.
        sides: width and height of each box, ``(images, 2)``: distances are in the picture.
        eyes: the two points whose distance is the unit.

    Raises:
        LorankError: if shapes do not fit, or two eyes lie on one point.

    Example:
        >>> true = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
        >>> float(point_errors(true + 0.1, true, torch.tensor([[1.0, 1.0]]), eyes=(0, 1)))
        0.14...
    """
    if predicted.shape != true.shape or true.ndim != 2 or true.shape[1] % 2:
        raise LorankError(
            "landmarks are (images, 2·points) on both sides, "
            f"found {tuple(predicted.shape)} and {tuple(true.shape)}"
        )
    if sides.shape != (len(true), 2):
        raise LorankError(f"boxes have width and height, found shape {tuple(sides.shape)}")
    found, wanted = (
        z.double().unflatten(1, (2, -1)) * sides.double().unsqueeze(-1) for z in (predicted, true)
    )
    distance = (wanted[..., eyes[0]] - wanted[..., eyes[1]]).norm(dim=1)
    if bool((distance == 0).any()):
        raise LorankError("errors are measured by the distance of the eyes, and one is zero")
    return (found - wanted).norm(dim=1).mean(1) / distance


def landed(errors: Tensor) -> Landed:
    """Sum up errors: their mean, CDF at 0.1, and the area under the CDF on [0, 0.5).

    The area is the mean of Simpson's rule and the trapezoid rule at the 500 points 0, 0.001, …,
    0.499, over 0.5: it lacks the last step, as the published figures do, so that 0.998 is the most.

    Args:
        errors: one for each image.

    Example:
        >>> import torch
        >>> landed(torch.tensor([0.0, 0.6]))
        Landed(nrmse=0.3, cdf=0.5, auc=0.499)
    """
    ordered = np.sort(errors.double().cpu().numpy())
    grid = np.arange(round(REACH / STEP)) * STEP
    # A grid point in floating point may lie just below an error that it equals on paper.
    cdf = np.searchsorted(ordered, grid + 1e-12, side="right") / len(ordered)
    trapezoid = STEP * (cdf.sum() - (cdf[0] + cdf[-1]) / 2)
    even = cdf[:-1]  # an even number of steps for Simpson, and the last one as a trapezoid
    simpson = STEP / 3 * (even[0] + even[-1] + 4 * even[1:-1:2].sum() + 2 * even[2:-1:2].sum())
    simpson += STEP / 2 * (cdf[-2] + cdf[-1])
    area = (trapezoid + simpson) / 2 / REACH
    below = float((ordered <= 0.1).mean())
    return Landed(round(float(ordered.mean()), 6), below, round(float(area), 6))

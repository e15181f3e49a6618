"""Images as tensors of numbers between 0 and 1, and back to pixels."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorank.errors import LorankError

WHITE = {torch.uint8: 255, torch.uint16: 65535}
"""What a whole number counts as 1."""


def picture(image: Any) -> Tensor:
    """Read an image as a float64 tensor ``(height, width, 3 or 4)``.

    Args:
        image: a NumPy array or tensor: colours ``(height, width, 3)``, or quaternions
            ``(height, width, 4)`` in the order w, x, y, z. uint8 is divided by 255 and uint16 by
            65535; floats are taken as they are.

    Raises:
        LorankError: if it has another shape or type, no entries, or holds NaN or Inf.

    Example:
        >>> picture(np.full((2, 2, 3), 255, np.uint8)).max()
        tensor(1., dtype=torch.float64)
    """
    found = image if isinstance(image, Tensor) else _tensor(image)
    if found.ndim != 3 or found.shape[-1] not in (3, 4) or found.numel() == 0:
        raise LorankError(
            "an image is (height, width, 3) of colours or (height, width, 4) of quaternions, "
            f"found shape {tuple(found.shape)}"
        )
    if found.dtype not in WHITE and found.dtype not in (torch.float32, torch.float64):
        kinds = "uint8, uint16, float32 or float64"
        raise LorankError(f"an image holds {kinds}, found {str(found.dtype).split('.')[-1]}")
    x = found.detach().cpu().double() / WHITE.get(found.dtype, 1)
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise LorankError(f"an image holds finite values, found {bad} NaN or Inf")
    return x


def _tensor(image: Any) -> Tensor:
    array = np.asarray(image)
    try:
        return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
    except TypeError:
        raise LorankError(
            f"an image is an array of numbers, found {array.dtype} ({type(image).__name__})"
        ) from None


def like(image: Any, x: Tensor) -> Any:
    """Give a picture as the kind of array that came in: tensor or NumPy, floats in its precision.

    Whole numbers come back as float64 between 0 and 1.
    """
    if isinstance(image, Tensor):
        floats = image.dtype if image.dtype.is_floating_point else torch.float64
        return x.to(device=image.device, dtype=floats)
    dtype = np.asarray(image).dtype
    return x.numpy().astype(dtype if dtype.kind == "f" else np.float64, copy=False)


def pixels(x: Any) -> np.ndarray:
    """Round a picture to bytes, black at 0 and white at 1; what is beyond is clipped.

    Args:
        x: ``(height, width, 3)``; of quaternions ``(height, width, 4)`` the real part is left out.

    Raises:
        LorankError: as :func:`picture`.

    Example:
        >>> pixels(torch.tensor([[[0.0, 0.5, 2.0]]])).tolist()
        [[[0, 128, 255]]]
    """
    colours = picture(x)[..., -3:]
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def psnr(x: Any, truth: Any) -> float:
    """Peak signal-to-noise ratio in decibels, ``−10·log₁₀ mean (x − truth)²``, with white at 1.

    Raises:
        LorankError: as :func:`picture`, or if the shapes differ.

    Example:
        >>> round(psnr(torch.full((2, 2, 3), 0.1), torch.zeros(2, 2, 3)), 2)
        20.0
    """
    a, b = picture(x), picture(truth)
    if a.shape != b.shape:
        raise LorankError(f"two images are compared at one size, found {a.shape} and {b.shape}")
    square = float((a - b).square().mean())
    return math.inf if square == 0 else -10 * math.log10(square)

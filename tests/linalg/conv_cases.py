"""Convolutions that every way to a spectrum is tried on."""

import torch
from torch import Tensor

GEOMETRIES = {
    "square": ((4, 3, 3, 3), 6, {}),
    "more in than out": ((2, 5, 3, 3), 5, {}),
    "not square": ((3, 2, 3, 5), (5, 7), {}),
    "even kernel": ((3, 3, 2, 4), (5, 6), {}),
    "kernel larger than the image": ((3, 2, 5, 5), (3, 2), {}),
    "one pixel": ((3, 2, 3, 3), 1, {}),
    "1x1": ((4, 3, 1, 1), 4, {}),
    "stride": ((4, 3, 3, 3), 8, {"stride": 2}),
    "strides": ((4, 2, 3, 3), (6, 8), {"stride": (3, 2)}),
    "stride beyond the kernel": ((3, 2, 2, 2), 6, {"stride": 3}),
    "dilation": ((3, 2, 3, 3), 6, {"dilation": 2}),
    "dilations": ((3, 2, 3, 2), (6, 7), {"dilation": (2, 3)}),
    "stride and dilation": ((3, 2, 3, 3), 8, {"stride": 2, "dilation": 3}),
    "groups": ((6, 2, 3, 3), 4, {"groups": 3}),
    "depthwise": ((4, 1, 3, 3), 5, {"groups": 4}),
    "1-d": ((3, 4, 3), 9, {}),
    "3-d": ((2, 2, 2, 3, 2), 4, {}),
    "transposed": ((3, 2, 3, 3), 4, {"transposed": True}),
    "transposed, stride": ((4, 1, 3, 3), 4, {"transposed": True, "stride": 2, "groups": 2}),
}
"""Name → shape of the weight, image, settings; the borders are chosen by the test."""


def kernel(shape: tuple[int, ...], seed: int = 0, dtype=torch.float64) -> Tensor:
    """Gaussian, of about unit norm."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.Size(shape[1:]).numel() ** -0.5
    return (torch.randn(shape, generator=g, dtype=torch.float64) * scale).to(dtype)


def smooth(channels: int, seed: int = 0) -> Tensor:
    """A 3×3 kernel with a peak at frequency 0, as trained ones have."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=g, dtype=torch.float64)
    bump = torch.tensor([1.0, 2, 1], dtype=torch.float64) / 4
    peak = mix[:, :, None, None] * torch.outer(bump, bump)
    return 0.3 * kernel((channels, channels, 3, 3), seed) + peak


def descending(values: Tensor) -> Tensor:
    return values.flatten().sort(descending=True).values

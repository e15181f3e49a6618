"""Networks that say how far the target lies below a window's centre: any backbone, one output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.localization.projection import View
from lorank.zoo import load_model
from lorank.zoo.reason import reason

GREY = {1: ((0.449,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
"""Mean and standard deviation of ImageNet by channels, as trained backbones expect their input; of
one channel the means over three."""


def offset_net(*, in_channels: int = 1, classes: int = 1, width: int = 16) -> nn.Sequential:
    """Make a small network that keeps the rows apart until its head.

    A network that averages over the whole map before its head loses what is asked for here: where.
    This one averages over columns, and over rows to 16 bands only.

    Args:
        in_channels: channels of a window.
        classes: number of outputs.
        width: channels of the first convolution; there are four, 5×5 and 3×3.

    Returns:
        A module from (N, in_channels, H, W) to (N, classes).

    Example:
        >>> offset_net(width=4)(torch.zeros(2, 1, 64, 32)).shape
        torch.Size([2, 1])
    """
    return nn.Sequential(
        *_convolution(in_channels, width, 5, 2),
        *_convolution(width, 2 * width, 3, 2),
        *_convolution(2 * width, 4 * width, 3, 2),
        *_convolution(4 * width, 4 * width, 3, 1),
        nn.AdaptiveAvgPool2d((16, 1)),
        nn.Flatten(),
        nn.Linear(16 * 4 * width, 4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, classes),
    )


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()


OWN: dict[str, Callable[..., nn.Module]] = {"offset_net": offset_net}
"""Backbones of this room; every other name goes to :func:`lorank.zoo.load_model`."""

FROM_WINDOWS = ("in_channels", "classes")


class Regressor(nn.Module):
    """``scale · backbone(x)``, one number a window, in millimetres.

    Args:
        backbone: a network with one output.
        scale: what an output of 1 means, so that outputs of size 1 span the labels.
        channels: of the backbone's input; one channel is repeated.
        trained: whether the backbone was trained on ImageNet, whose mean and standard deviation
            its input then gets.

    Example:
        >>> Regressor(offset_net(width=4), 40.0)(torch.zeros(3, 1, 64, 32)).shape
        torch.Size([3, 1])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, scale: float, channels: int = 1, trained: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.scale = float(scale)
        self.channels = channels
        mean, std = GREY[channels] if trained else ((0.0,) * channels, (1.0,) * channels)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) between 0 and 1 → (N, 1) in mm."""
        return self.scale * self.backbone((x - self.mean) / self.std)  # broadcasts to 3 channels


def make_regressor(
    spec: str,
    view: View,
    *,
    weights: str | Path | None = None,
    scale: float | None = None,
    **options: Any,
) -> Regressor:
    """Make a network by name and give it one output.

    The model is offered one channel and one output. One that takes three channels gets the window
    three times; one with another number of outputs gets a new last linear layer.

    Args:
        spec: ``offset_net``, or a name of :func:`lorank.zoo.load_model`: of the zoo,
            ``timm:NAME``, ``torchvision:NAME`` or ``package.module:function``.
        view: of the windows.
        weights: trained weights of the backbone, with the head they were trained with.
        scale: millimetres of an output of 1; by default half a window.
        **options: to the model, such as ``pretrained=True`` or ``width=32``.

    Raises:
        LorankError: if there is no such model, it does not run on windows of this size, or its
            output cannot be made one number.
        MissingExtraError: if its library is not installed.

    Example:
        >>> make_regressor("resnet8", View(rows=32, columns=16), width=4).channels
        1
    """
    trained = bool(options.get("pretrained"))
    whole = weights is not None or (trained and spec.startswith("torchvision:"))
    offered: dict[str, Any] = {} if whole else {"in_channels": 1, "classes": 1}
    backbone = _backbone(spec, weights, offered | options)
    channels, outputs = _probe(backbone, view, spec)
    if outputs != 1:
        _new_head(backbone, spec)
        channels, outputs = _probe(backbone, view, spec)
        if outputs != 1:
            raise LorankError(f"{spec!r} cannot be given one output: it has {outputs}")
    reach = view.rows * view.row_mm / 2 if scale is None else scale
    return Regressor(backbone, reach, channels, trained)


def _backbone(spec: str, weights: str | Path | None, options: dict[str, Any]) -> nn.Module:
    if spec not in OWN:
        return load_model(spec, weights=weights, **options)
    if weights is not None:
        raise LorankError(f"{spec!r} has no weights of its own to load: continue from a finder")
    try:
        return OWN[spec](**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LorankError(f"{spec!r} cannot be made: {reason(error)}") from None


@torch.no_grad()
def _probe(backbone: nn.Module, view: View, spec: str) -> tuple[int, int]:
    """Find the channels that a backbone takes, and its number of outputs."""
    modes = {module: module.training for module in backbone.modules()}
    faults = []
    backbone.eval()
    try:
        for channels in (1, 3):
            try:
                found = backbone(torch.zeros(2, channels, *view.size))
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                faults.append(f"with {channels} channel(s) {reason(error)}")
                continue
            if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
                raise LorankError(
                    f"{spec!r} must turn a batch of windows into a tensor (N, outputs)"
                )
            return channels, found.shape[1]
    finally:
        for module, mode in modes.items():
            module.training = mode
    rows, columns = view.size
    told = "; ".join(faults)
    raise LorankError(f"{spec!r} does not run on windows of {rows} × {columns}: {told}")


def _new_head(backbone: nn.Module, spec: str) -> None:
    """Replace the last linear layer by one with one output, in place."""
    linear = [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Linear)]
    if not linear or not linear[-1][0]:
        raise LorankError(f"{spec!r} ends in no linear layer that could be given one output")
    name, last = linear[-1]
    above, _, own = name.rpartition(".")
    setattr(backbone.get_submodule(above), own, nn.Linear(last.in_features, 1))

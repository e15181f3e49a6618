"""Residual networks for CIFAR-size images: basic blocks, depth 6n + 2."""

import torch.nn.functional as F
from torch import Tensor, nn

from lorank.errors import LorankError, unknown


class PadShortcut(nn.Module):
    """Option A: every second pixel, new channels filled with zeros; it has no parameters.

    ``y[:, before:before + in_channels] = x[:, :, ::stride, ::stride]``, all else 0.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, at least ``in_channels``.
        stride: step in both directions of the image.

    Example:
        >>> import torch
        >>> PadShortcut(2, 4, stride=2)(torch.ones(1, 2, 8, 8)).shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad ``x`` (N, C, H, W)."""
        small = x[:, :, :: self.stride, :: self.stride]
        return F.pad(small, (0, 0, 0, 0, self.before, self.after))


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


SHORTCUTS = {"A": PadShortcut, "B": _projection}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: ``relu(bn2(conv2(relu(bn1(conv1 x)))) + short x)``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        shortcut: key of ``SHORTCUTS``; used only where the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        make = SHORTCUTS[shortcut]
        self.shortcut = nn.Identity() if same else make(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Residual network of ``depth = 6n + 2`` layers: three stages of n basic blocks.

    The stages have ``width``, ``2 width`` and ``4 width`` channels; the second and third halve
    the image. A global average makes any image size work. The names of the weights are those of
    the widely used checkpoints of akamaster/pytorch_resnet_cifar10, which load as they are.

    Args:
        depth: 8, 14, 20, 32, 44, 56, 110, or another 6n + 2.
        in_channels: channels of the images.
        classes: number of outputs.
        width: channels of the first stage.
        shortcut: ``"A"`` (subsample and pad with zeros, no parameters) or ``"B"`` (1×1
            convolution and batch normalisation) where a stage begins.

    Raises:
        LorankError: if the depth is not 6n + 2, a size is not positive, or the shortcut is
            unknown.

    Source:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015, section 4.2.

    Example:
        >>> import torch
        >>> model = CifarResNet(20)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> sum(p.numel() for p in model.parameters())
        269722
    """

    def __init__(
        self,
        depth: int,
        *,
        in_channels: int = 3,
        classes: int = 10,
        width: int = 16,
        shortcut: str = "A",
    ) -> None:
        super().__init__()
        _check(depth, shortcut, in_channels=in_channels, classes=classes, width=width)
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, width, width, 1, shortcut)
        self.layer2 = _stage(blocks, width, 2 * width, 2, shortcut)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2, shortcut)
        self.linear = nn.Linear(4 * width, classes)
        self.apply(kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``x`` (N, in_channels, H, W) to scores (N, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def kaiming(layer: nn.Module) -> None:
    """Draw the weight of a convolution or linear layer from N(0, 2 / fan-in), in place.

    Args:
        layer: any module; other kinds are left alone, so it suits ``model.apply``.

    Example:
        >>> kaiming(nn.Linear(3, 2))
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight)


def _stage(blocks: int, in_channels: int, channels: int, stride: int, short: str) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, short)
    rest = (BasicBlock(channels, channels, 1, short) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def _check(depth: int, shortcut: str, **sizes: int) -> None:
    if depth < 8 or depth % 6 != 2:
        raise LorankError(f"depth must be 6n + 2 with n at least 1 (8, 14, 20, …), but got {depth}")
    if shortcut not in SHORTCUTS:
        raise unknown("shortcut", shortcut, SHORTCUTS)
    for name, size in sizes.items():
        if size < 1:
            raise LorankError(f"{name} must be at least 1, but got {size}")

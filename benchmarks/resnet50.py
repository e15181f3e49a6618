"""A network of ResNet-50's shapes (25.6 million parameters), for timing and memory only."""

from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        out_channels = 4 * width
        self.body = nn.Sequential(
            *conv(in_channels, width, 1),
            nn.ReLU(),
            *conv(width, width, 3, stride),
            nn.ReLU(),
            *conv(width, out_channels, 1),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*conv(in_channels, out_channels, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> tuple[nn.Module, ...]:
    """Convolution and normalisation."""
    layer = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)
    return layer, nn.BatchNorm2d(out_channels)


def resnet50(classes: int = 1000) -> nn.Sequential:
    """Make the network."""
    layers: list[nn.Module] = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )

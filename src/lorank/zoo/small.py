"""Small networks for first runs: a perceptron, LeNet-5 and a plain convolutional stack."""

from torch import nn

from lorank.errors import LorankError


def mlp(
    *, in_channels: int = 1, classes: int = 10, width: int = 256, size: int = 28
) -> nn.Sequential:
    """Make a perceptron with two hidden layers of ``width`` for square images.

    Args:
        in_channels: channels of the images.
        classes: number of outputs.
        width: units of each hidden layer.
        size: height and width of the images, in pixels.

    Returns:
        A module from (N, in_channels, size, size) to (N, classes).

    Example:
        >>> import torch
        >>> mlp(size=8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_channels * size * size, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def lenet(*, in_channels: int = 1, classes: int = 10, size: int = 28) -> nn.Sequential:
    """Make LeNet-5 with ReLU and max pooling; the first convolution is padded by 2.

    Args:
        in_channels: channels of the images.
        classes: number of outputs.
        size: height and width of the images, at least 12 pixels.

    Returns:
        A module from (N, in_channels, size, size) to (N, classes).

    Raises:
        LorankError: if the image is too small for two 5×5 convolutions with pooling.

    Source:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
        recognition", 1998.

    Example:
        >>> import torch
        >>> lenet()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    if size < 12:
        raise LorankError(f"lenet needs images of at least 12 × 12 pixels, but got {size} × {size}")
    side = (size // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def vgg(*, in_channels: int = 3, classes: int = 10, width: int = 32) -> nn.Sequential:
    """Make a plain stack of six 3×3 convolutions, two for each of three image sizes.

    Args:
        in_channels: channels of the images.
        classes: number of outputs.
        width: channels of the first pair; doubled after each of the two poolings.

    Returns:
        A module from (N, in_channels, H, W), H and W at least 4, to (N, classes).

    Source:
        The pattern of Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale
        Image Recognition", 2014, with batch normalisation, cut to CIFAR size.

    Example:
        >>> import torch
        >>> vgg(width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return nn.Sequential(
        *_convolution(in_channels, width),
        *_convolution(width, width),
        nn.MaxPool2d(2),
        *_convolution(width, 2 * width),
        *_convolution(2 * width, 2 * width),
        nn.MaxPool2d(2),
        *_convolution(2 * width, 4 * width),
        *_convolution(4 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def _convolution(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU()

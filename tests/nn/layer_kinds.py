"""One list of layer kinds: whatever is on it passes every test of the contract."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorank.linalg import Unfolding
from lorank.linalg.quaternion.unfold import QuaternionUnfolding
from lorank.nn import QuaternionConv2d, QuaternionLinear


class Conv1D(nn.Module):
    """The layer of transformers: its formula, under its full name, where it is not installed."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, self.nx), self.weight).view(
            *x.shape[:-1], self.nf
        )


Conv1D.__module__ = "transformers.pytorch_utils"


def unchanged(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Kind:
    """A dense layer to be made in float64, and an input it takes."""

    make: Callable[[], nn.Module]
    size: tuple[int, ...]
    change: Callable[[Tensor], Tensor] = unchanged

    def layer(self) -> nn.Module:
        """The layer, with values in its bias too."""
        return self.make().double()

    def x(self, batch: int = 2) -> Tensor:
        """An input; the batch is a size of its first axis where the kind is batched."""
        size = (batch, *self.size[1:]) if self.size[0] == 2 else self.size
        return self.change(torch.randn(size, dtype=torch.float64))

    def view(self, layout: str) -> Unfolding:
        layer = self.make()
        if self.quaternion:
            _, rows, columns, *taps = layer.weight.shape
            return QuaternionUnfolding(rows, columns, tuple(taps), layout=layout)
        if isinstance(layer, nn.Linear):
            return Unfolding(layer.out_features, layer.in_features, layout=layout)
        if isinstance(layer, Conv1D):
            return Unfolding(layer.nf, layer.nx, transposed=True, layout=layout)
        if isinstance(layer, nn.Embedding):
            return Unfolding(layer.num_embeddings, layer.embedding_dim, layout=layout)
        return Unfolding(
            layer.out_channels,
            layer.in_channels,
            tuple(layer.kernel_size),
            layer.groups,
            layer.transposed,
            layout,
        )

    @property
    def layouts(self) -> list[str]:
        return self.view("channel").possible()

    @property
    def quaternion(self) -> bool:
        return isinstance(self.make(), (QuaternionLinear, QuaternionConv2d))

    @property
    def table(self) -> bool:
        return isinstance(self.make(), nn.Embedding)


def entries(count: int) -> Callable[[Tensor], Tensor]:
    """Turn an input into indices of a table, the first and the last among them."""

    def change(x: Tensor) -> Tensor:
        indices = torch.randint(count, x.shape)
        indices.view(-1)[0], indices.view(-1)[-1] = 0, count - 1
        return indices

    return change


def skewed_weight(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Give a layer a weight whose memory is not in order."""

    def changed() -> nn.Module:
        layer = make()
        weight = layer.weight.detach().transpose(0, 1).contiguous().transpose(0, 1)
        layer.weight = nn.Parameter(weight)
        assert not layer.weight.is_contiguous()
        return layer

    return changed


def same(mode: str, kernel: int | tuple[int, ...] = 3, **more) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(4, 6, kernel, padding="same", padding_mode=mode, **more)


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


KINDS: dict[str, Kind] = {
    "linear": Kind(lambda: nn.Linear(7, 5), (2, 7)),
    "linear wide": Kind(lambda: nn.Linear(5, 9, bias=False), (2, 5)),
    "linear 1-D": Kind(lambda: nn.Linear(7, 5), (7,)),
    "linear 3-D": Kind(lambda: nn.Linear(7, 5), (2, 3, 7)),
    "linear one output": Kind(lambda: nn.Linear(7, 1), (2, 7)),
    "linear strided input": Kind(lambda: nn.Linear(7, 5), (2, 7, 3), lambda x: x.mT),
    "linear strided weight": Kind(skewed_weight(lambda: nn.Linear(7, 5)), (2, 7)),
    "transformers Conv1D": Kind(lambda: Conv1D(5, 7), (2, 7)),
    "transformers Conv1D 3-D": Kind(lambda: Conv1D(9, 4), (2, 3, 4)),
    "conv1d": Kind(lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "conv1d strided": Kind(lambda: nn.Conv1d(4, 6, 5, stride=2, dilation=2), (2, 4, 15)),
    "conv1d groups": Kind(lambda: nn.Conv1d(4, 6, 3, groups=2, bias=False), (2, 4, 9)),
    "conv1d circular": Kind(
        lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), (2, 4, 9)
    ),
    "conv2d": Kind(lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 6, 7)),
    "conv2d narrow": Kind(lambda: nn.Conv2d(6, 4, 3, padding=1, bias=False), (2, 6, 6, 7)),
    "conv2d stride": Kind(lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 8)),
    "conv2d strides": Kind(lambda: nn.Conv2d(4, 6, 3, stride=(1, 3), padding=(2, 0)), (2, 4, 6, 7)),
    "conv2d dilation": Kind(lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=1), (2, 4, 7, 7)),
    "conv2d groups": Kind(lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 6, 7)),
    "conv2d depthwise": Kind(lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), (2, 4, 6, 7)),
    "conv2d multiplier": Kind(lambda: nn.Conv2d(3, 9, 3, groups=3, stride=2), (2, 3, 7, 7)),
    "conv2d reflect": Kind(
        lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"), (2, 4, 6, 7)
    ),
    "conv2d replicate": Kind(
        lambda: nn.Conv2d(4, 6, 3, padding=2, stride=2, padding_mode="replicate"), (2, 4, 6, 7)
    ),
    "conv2d circular": Kind(
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 7)
    ),
    "conv2d same": Kind(same("zeros"), (2, 4, 6, 7)),
    "conv2d same even": Kind(same("zeros", (4, 2)), (2, 4, 6, 7)),
    "conv2d same even dilated": Kind(same("zeros", (2, 4), dilation=(1, 3)), (2, 4, 6, 9)),
    "conv2d same even reflect": Kind(same("reflect", (4, 2)), (2, 4, 6, 7)),
    "conv2d same circular groups": Kind(same("circular", (2, 3), groups=2), (2, 4, 6, 7)),
    "conv2d valid": Kind(lambda: nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 6, 7)),
    "conv2d 5x3": Kind(lambda: nn.Conv2d(4, 6, (5, 3), padding=(2, 1)), (2, 4, 6, 7)),
    "conv2d 1x3": Kind(lambda: nn.Conv2d(4, 6, (1, 3), padding=(0, 1)), (2, 4, 6, 7)),
    "conv2d 1x1": Kind(lambda: nn.Conv2d(4, 6, 1), (2, 4, 6, 7)),
    "conv2d 1x1 strided": Kind(lambda: nn.Conv2d(4, 6, 1, stride=2, bias=False), (2, 4, 6, 7)),
    "conv2d unbatched": Kind(lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 6, 7)),
    "conv2d unbatched reflect": Kind(same("reflect"), (4, 6, 7)),
    "conv2d channels last": Kind(
        lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 6, 7), channels_last
    ),
    "conv2d channels last weight": Kind(
        lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last),
        (2, 4, 6, 7),
        channels_last,
    ),
    "conv2d strided weight": Kind(skewed_weight(lambda: nn.Conv2d(4, 6, 3)), (2, 4, 6, 7)),
    "conv2d strided input": Kind(lambda: nn.Conv2d(4, 6, 3), (2, 4, 7, 6), lambda x: x.mT),
    "conv3d": Kind(lambda: nn.Conv3d(2, 4, 3, stride=(1, 2, 1), padding=1), (2, 2, 4, 5, 4)),
    "conv3d factored": Kind(lambda: nn.Conv3d(2, 4, (3, 1, 2), groups=2), (2, 2, 4, 3, 4)),
    "conv3d replicate": Kind(
        lambda: nn.Conv3d(2, 3, 2, padding=1, padding_mode="replicate"), (2, 2, 3, 3, 3)
    ),
    "transposed1d": Kind(lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1), (2, 4, 5)),
    "transposed2d": Kind(lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 4, 5)),
    "transposed2d stride": Kind(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 4, 5)
    ),
    "transposed2d groups": Kind(
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), groups=2, dilation=(1, 2)),
        (2, 4, 4, 3),
    ),
    "transposed2d depthwise": Kind(
        lambda: nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, groups=4, bias=False), (2, 4, 4, 3)
    ),
    "transposed2d 1x1": Kind(lambda: nn.ConvTranspose2d(4, 6, 1, stride=2), (2, 4, 4, 5)),
    "transposed2d unbatched": Kind(lambda: nn.ConvTranspose2d(4, 6, 3), (4, 4, 5)),
    "transposed3d": Kind(
        lambda: nn.ConvTranspose3d(2, 4, (2, 3, 2), stride=2, output_padding=1), (2, 2, 3, 2, 3)
    ),
    "embedding": Kind(lambda: nn.Embedding(11, 5), (2, 3), entries(11)),
    "embedding padding": Kind(lambda: nn.Embedding(11, 5, padding_idx=0), (2, 3), entries(11)),
    "quaternion linear": Kind(lambda: QuaternionLinear(20, 12), (2, 20)),
    "quaternion linear wide": Kind(lambda: QuaternionLinear(8, 20, bias=False), (2, 3, 8)),
    "quaternion linear one": Kind(lambda: QuaternionLinear(12, 4), (12,)),
    "quaternion conv": Kind(lambda: QuaternionConv2d(8, 12, 3, padding=1), (2, 8, 5, 6)),
    "quaternion conv stride": Kind(
        lambda: QuaternionConv2d(12, 8, (3, 2), (2, 1), (1, 0), (1, 2), bias=False), (2, 12, 6, 7)
    ),
    "quaternion conv 1x1": Kind(lambda: QuaternionConv2d(8, 12, 1, stride=2), (2, 8, 4, 5)),
    "quaternion conv reflect": Kind(
        lambda: QuaternionConv2d(4, 8, 3, padding="same", padding_mode="reflect"), (2, 4, 5, 6)
    ),
    "quaternion conv unbatched": Kind(lambda: QuaternionConv2d(8, 8, 3), (8, 4, 5)),
    "embedding last padding": Kind(lambda: nn.Embedding(5, 8, padding_idx=-1), (2, 9), entries(5)),
}

CASES = [(name, layout) for name, kind in KINDS.items() for layout in kind.layouts]
"""Every kind in every layout that it admits."""

"""Training on the CPU with every layout asked for as spatial.

A 1×1 convolution with its stride torn into (2, 1) and (1, 2) corrupts the heap in some CPU builds
of torch, inside a network and not alone: such a layer must never come out of a decomposition.
"""

import torch
from torch import nn

import lorank
from lorank.nn import SVDConv


class Block(nn.Module):
    def __init__(self, into, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.short = nn.Sequential()
        if stride != 1 or into != out:
            self.short = nn.Sequential(
                nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.short(x))


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        *(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def train(model, steps=4):
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x, y = torch.randn(16, 3, 16, 16), torch.randint(10, (16,))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_spatial_layers_train_on_the_cpu_in_both_orders():
    dense = network()
    for contraction in ("auto", "thin"):
        low = lorank.decompose(dense, layout="spatial").train()
        for layer in low.modules():
            if isinstance(layer, SVDConv):
                layer.contraction = contraction
                pointwise = layer.kernel_size == (1, 1)
                assert layer.view.layout == ("channel" if pointwise else "spatial")
        losses = train(low)
        assert losses[-1] < losses[0]
        assert all(torch.isfinite(p).all() for p in low.parameters())


def test_folded_spatial_pairs_train_on_the_cpu():
    ranks = dict.fromkeys(lorank.measure(network(), layout="spatial"), 2)
    folded = lorank.fold(lorank.decompose(network(), ranks, layout="spatial")).train()
    pairs = [
        m for m in folded.modules() if isinstance(m, nn.Sequential) and hasattr(m, "svd_layout")
    ]
    assert len(pairs) == len(ranks)
    losses = train(folded)
    assert losses[-1] < losses[0]


def test_svd_training_follows_dense_training():
    """The first loss is that of the dense network, and both fall."""
    dense = network()
    low = lorank.decompose(dense)
    torch.manual_seed(1)
    a = train(dense)
    torch.manual_seed(1)
    b = train(low)
    assert abs(a[0] - b[0]) < 1e-4 and b[-1] < b[0] and a[-1] < a[0]

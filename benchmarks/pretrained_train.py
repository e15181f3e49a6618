"""Pretrained CIFAR ResNets cut to a share of their MACs, after a short training on a CPU.

The practical recipe: one epoch in SVD form with Hoyer sparsity, one global budget, the rest
fine-tuning with the dense network as a teacher. Runs resume: the folder keeps their state.
Accuracy is that of the last epoch, on all 10,000 test images; nothing is chosen by it.
"""

import argparse
import json
from pathlib import Path

import torch

from lorank.training.log import read_log
from lorank.training.presets import practical
from lorank.training.recipe_text import change
from lorank.training.run import train
from lorank.zoo import load_data, load_model
from record import RESULTS, data_folder, record


def short(epochs: int, share: float, seed: int, settings: list[str]):
    """The practical recipe with one epoch of sparsifying."""
    recipe = practical(epochs=epochs, macs=share)
    changes = ["stages.0.epochs=1", f"stages.1.epochs={epochs - 1}", f"seed={seed}"]
    return change(recipe, [*changes, *settings])


def seconds(run: Path) -> float:
    """Seconds of all epochs, training and testing, however often the run was taken up again."""
    return sum(event["seconds"] for event in read_log(run) if event["event"] == "epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs/pretrained")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    folder = data_folder()
    data = load_data(f"cifar10:{folder / 'cifar10'}")
    path = RESULTS / "pretrained_train.json"
    old = json.loads(path.read_text())["figures"] if path.exists() else []
    for share in args.macs:
        dense = load_model(args.model, weights=folder / f"resnet_cifar10/{args.model}.safetensors")
        out = Path(args.runs) / f"{args.model}-{share}-{args.epochs}-{args.seed}"
        torch.manual_seed(args.seed)
        result = train(dense, data, short(args.epochs, share, args.seed, args.set), out)
        row = {
            "model": args.model,
            "asked": share,
            "epochs": args.epochs,
            "seed": args.seed,
            "settings": args.set,
            "dense_accuracy": result.dense_accuracy,
            "accuracy": result.accuracy,
            "macs": round(result.cost.macs / result.dense_cost.macs, 4),
            "params": round(result.cost.params / result.dense_cost.params, 4),
            "minutes": round(seconds(out) / 60, 1),
        }
        same = ("model", "asked", "epochs", "seed", "settings")
        old = [r for r in old if any(r[k] != row[k] for k in same)] + [row]
        print(row, flush=True)
        record("pretrained_train", old)


if __name__ == "__main__":
    main()

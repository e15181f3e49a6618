"""Pretrained CIFAR ResNets cut to a share of their MACs, after a short training on a CPU.

The practical recipe: some epochs in SVD form with Hoyer sparsity, or none; a cut to one global
budget; fine-tuning with the dense network as a teacher. Runs resume: the folder keeps their state.
Accuracy is that of the last epoch, on all 10,000 test images; nothing is chosen by it.
"""

import argparse
import json
from pathlib import Path

import torch

from lorank.training.log import read_log
from lorank.training.presets import practical
from lorank.training.recipe import Recipe
from lorank.training.recipe_text import change
from lorank.training.run import train
from lorank.zoo import load_data, load_model
from record import RESULTS, data_folder, record

BATCHES = 16  # of a calibration
COMMAND = (
    "python benchmarks/pretrained_train.py --model MODEL --macs SHARE --sparsify BEFORE "
    "--finetune AFTER --cut-by weights|ranks|data"
)


def short(sparsify: int, finetune: int, share: float, seed: int, cut_by: str) -> Recipe:
    """The practical recipe with its two stages as long as asked, its cut by what is asked."""
    recipe = practical(epochs=max(2, sparsify + finetune), macs=share)
    settings = [f"stages.0.epochs={sparsify}", f"stages.1.epochs={finetune}", f"seed={seed}"]
    if cut_by != "weights":
        factors = "data" if cut_by == "data" else "weights"
        settings += [f"stages.0.cut.calibration={BATCHES}", f"stages.0.cut.factors={factors}"]
    return change(recipe, settings)


def seconds(run: Path) -> float:
    """Seconds of all epochs, training and testing, however often the run was taken up again."""
    return sum(event["seconds"] for event in read_log(run) if event["event"] == "epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5])
    parser.add_argument("--sparsify", type=int, default=0, help="epochs before the cut")
    parser.add_argument("--finetune", type=int, default=1, help="epochs after it")
    parser.add_argument(
        "--cut-by",
        choices=["weights", "ranks", "data"],
        default="weights",
        help="the weights alone, ranks by calibration, or ranks and factors by it",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs/pretrained")
    args = parser.parse_args()
    folder = data_folder()
    data = load_data(f"cifar10:{folder / 'cifar10'}")
    path = RESULTS / "pretrained_train.json"
    old = json.loads(path.read_text())["figures"] if path.exists() else []
    for share in args.macs:
        dense = load_model(args.model, weights=folder / f"resnet_cifar10/{args.model}.safetensors")
        settings = (args.model, share, args.sparsify, args.finetune, args.cut_by, args.seed)
        out = Path(args.runs) / "-".join(map(str, settings))
        torch.manual_seed(args.seed)
        recipe = short(args.sparsify, args.finetune, share, args.seed, args.cut_by)
        result = train(dense, data, recipe, out)
        row = {
            "model": args.model,
            "asked": share,
            "sparsify": args.sparsify,
            "finetune": args.finetune,
            "cut_by": args.cut_by,
            "seed": args.seed,
            "dense_accuracy": result.dense_accuracy,
            "accuracy": result.accuracy,
            "macs": round(result.cost.macs / result.dense_cost.macs, 4),
            "params": round(result.cost.params / result.dense_cost.params, 4),
            "minutes": round(seconds(out) / 60, 1),
        }
        same = ("model", "asked", "sparsify", "finetune", "cut_by", "seed")
        old = [r for r in old if any(r[k] != row[k] for k in same)] + [row]
        print(row, flush=True)
        record("pretrained_train", old, command=COMMAND)


if __name__ == "__main__":
    main()

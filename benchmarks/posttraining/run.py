"""Compress pretrained networks without training: one experiment, one command, one row.

An experiment is NETWORK/METHOD/BUDGET, with a seed for the calibration data:

    python benchmarks/posttraining/run.py resnet20/aimet-spatial/macs0.5 --seed 0
    python benchmarks/posttraining/run.py 'minilm/*/*' --models FOLDER

Rows go to docs/results/posttraining.json, and those that are there already are not run again.
Where a network has BatchNorm, every method is judged twice: as cut, and with the statistics
estimated anew on the calibration batches.
"""

import argparse
import copy
import fnmatch
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import lorank
from posttraining.methods import AIMET, IMAGES, METHODS, WORDS
from posttraining.network import Budget, Network, sizes
from posttraining.networks import NETWORKS
from record import RESULTS, record

NAME = "posttraining"
COMMAND = "python benchmarks/posttraining/run.py '*' --models FOLDER"
GRID: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "resnet20": (("macs0.5",), (*IMAGES, *AIMET, "lorank-cut", "lorank")),
    "resnet56": (("macs0.5",), (*IMAGES, *AIMET, "lorank-cut", "lorank")),
    "mobilenetv2": (
        ("macs0.9", "macs0.8", "macs0.7"),
        ("energy-channel", "budget-auto", "lorank-cut", "lorank"),
    ),
    "crepe": (("macs0.5", "macs0.3"), ("energy-channel", "budget-auto", "lorank-cut", "lorank")),
    "minilm": (("params0.7", "params0.5"), (*WORDS, "lorank-cut", "lorank")),
    "minilm-wikitext": (("params0.7", "params0.5"), (*WORDS, "lorank-cut", "lorank")),
}
"""Network → its budgets and methods; the dense network is judged as well."""

MATCHED = ("resnet20/lorank/macs0.468", "resnet56/lorank/macs0.2305")
"""At the MACs that AIMET reached where it was asked for 0.5."""


def experiments() -> list[str]:
    names = []
    for network, (budgets, methods) in GRID.items():
        unit = Budget.read(budgets[0]).unit
        names.append(f"{network}/dense/{unit}1.0")
        names += [f"{network}/{m}/{b}" for b in budgets for m in methods]
    return [*names, *MATCHED]


def figures() -> list[dict[str, Any]]:
    """Rows that are there already, read anew each time: another process may have added some."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text())["figures"] if path.exists() else []


def judge(network: Network, name: str, seed: int) -> dict[str, Any]:
    """Run one experiment: compress, count, score."""
    _, method, text = name.split("/")
    torch.manual_seed(seed)
    start = time.perf_counter()
    model, info = METHODS[method](network, Budget.read(text))
    seconds = time.perf_counter() - start
    row = {
        "experiment": name,
        "seed": seed,
        **sizes(network, model),
        "scores": rounded(network.score(model)),
        "seconds": round(seconds, 1),
        **info,
    }
    if network.normalised and method != "dense":
        renewed = lorank.recalibrate(copy.deepcopy(model), network.calibration)
        row["scores_recalibrated"] = rounded(network.score(renewed))
    return row


def rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in scores.items()}


def keep(row: dict[str, Any]) -> None:
    """Add a row to the record, in place of an older one of the same experiment and seed."""
    old = [r for r in figures() if key(r) != key(row)]
    order = {name: i for i, name in enumerate(experiments())}
    rows = sorted([*old, row], key=lambda r: (order.get(r["experiment"], len(order)), r["seed"]))
    record(NAME, rows, command=COMMAND, recalibration="the calibration batches")


def key(row: dict[str, Any]) -> tuple[str, int]:
    return row["experiment"], row["seed"]


def wanted(patterns: list[str]) -> list[str]:
    chosen = [n for n in experiments() if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    if not chosen:
        sys.exit("no experiment of that name; there are\n  " + "\n  ".join(experiments()))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="+", help="names or shell patterns; 'list' lists them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(os.environ.get("LORANK_MODELS", "models")),
        help="folder of the unpacked packages (see networks.py); else LORANK_MODELS",
    )
    parser.add_argument("--again", action="store_true", help="also what is in the record already")
    args = parser.parse_args()
    loaded: tuple[str, Network] | None = None
    for name in wanted(args.experiments):
        if not args.again and (name, args.seed) in {key(r) for r in figures()}:
            print(f"{name} seed {args.seed}: in the record")
            continue
        kind = name.split("/")[0]
        if loaded is None or loaded[0] != kind:
            loaded = kind, NETWORKS[kind](args.models, args.seed)
        try:
            row = judge(loaded[1], name, args.seed)
        except ModuleNotFoundError as error:
            print(f"{name}: left out, it needs {error.name}")
            continue
        print(json.dumps(row), flush=True)
        keep(row)


if __name__ == "__main__":
    main()

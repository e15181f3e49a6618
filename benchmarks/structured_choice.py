"""Whether faces are mirrored and pixels dropped in the tuned arms of structured.py: by validation.

    python benchmarks/structured_choice.py

100 labels, plain training and the scaled output layer, with and without the mirror and the dropout;
each by the mean area under the curve on the 135 validation images of three seeds, at the learning
rate of the best mean. No test image is read. Runs resume, in structured.py's folder.
"""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

import torch

from record import data_folder, record
from structured import DROPPED, Run, Sets, finished, load, mean_and_deviation

LABELS, EPOCHS, SEEDS = 100, 60, 3
RATES = {"sup": (3e-4, 1e-3, 3e-3, 1e-2), "scaled sup": (3e-4, 1e-3, 3e-3)}


def areas(arm: str, mirror: bool, dropped: float, sets: Sets, folder: Path) -> dict[str, Any]:
    """Areas on the validation images of all seeds, at the rate of the best mean."""
    found = {
        rate: [
            finished(Run("modern", arm, LABELS, seed, rate, EPOCHS, mirror, dropped), sets, folder)
            for seed in range(SEEDS)
        ]
        for rate in RATES[arm]
    }
    by_rate = {rate: [row["valid_auc"] for row in rows] for rate, rows in found.items()}
    best = max(by_rate, key=lambda rate: statistics.fmean(by_rate[rate]))
    return {
        "arm": arm,
        "mirror": mirror,
        "dropped": dropped,
        "rate": best,
        "areas": by_rate[best],
        "area": mean_and_deviation(by_rate[best]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", default="runs/structured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(args.runs)
    folder.mkdir(parents=True, exist_ok=True)
    sets = load(data_folder() / "landmarks")
    ways = itertools.product((False, True), (0.0, DROPPED), RATES)
    figures = [areas(arm, mirror, dropped, sets, folder) for mirror, dropped, arm in ways]
    record("structured_choice", figures, labels=LABELS, epochs=EPOCHS, seeds=SEEDS)


if __name__ == "__main__":
    main()

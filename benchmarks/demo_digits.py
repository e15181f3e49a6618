"""The README's demo over several seeds: accuracy before and after, cost, and seconds of it all.

Each seed is one run of the command line as a user types it, in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from record import record


def demo(seed: int, folder: Path) -> dict[str, float]:
    """Run the demo's command once and read what it wrote."""
    out = folder / f"seed{seed}"
    command = [sys.executable, "-m", "lorank", "train", "resnet8", "--data", "digits"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--out", str(out), "--seed", str(seed)],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    seconds = time.perf_counter() - began
    result = json.loads((out / "result.json").read_text())
    return {
        "seed": seed,
        "dense_accuracy": result["dense_accuracy"],
        "accuracy": result["accuracy"],
        "macs": result["cost"]["macs"] / result["dense_cost"]["macs"],
        "params": result["cost"]["params"] / result["dense_cost"]["params"],
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in the runs, for the record
    with tempfile.TemporaryDirectory() as folder:
        figures = []
        for seed in range(args.seeds):
            figures.append(demo(seed, Path(folder)))
            print(figures[-1], flush=True)
    record("demo_digits", figures, seeds=args.seeds, test_images=797)


if __name__ == "__main__":
    main()

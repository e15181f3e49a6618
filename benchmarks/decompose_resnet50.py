"""Time and peak memory of measuring and decomposing a network of ResNet-50's size.

Peak memory is the process's largest resident set above what it held before the network was
made, over the size of the network's weights: the network itself and the copy are in it.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

import lorank
from record import record
from resnet50 import resnet50


def resident() -> int:
    """Largest resident set so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def one(task: str, layout: str, threads: int) -> dict[str, float | str]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    lorank.decompose(torch.nn.Linear(64, 64))  # load the libraries before the baseline is read
    before = resident()
    model = resnet50()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    began = time.perf_counter()
    if task == "decompose":
        kept = lorank.decompose(model, layout=layout)
    else:
        kept = lorank.measure(model, layout=layout)
    seconds = time.perf_counter() - began
    del kept
    peak = (resident() - before) / size
    return {
        "task": task,
        "layout": layout,
        "threads": threads,
        "seconds": round(seconds, 2),
        "weights_mib": round(size / 2**20, 1),
        "peak_over_weights": round(peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], args.one[1], int(args.one[2]))))
        return
    torch.set_num_threads(args.threads)
    figures = []
    for task in ("decompose", "measure"):
        for layout in ("channel", "spatial", "auto"):
            command = [sys.executable, __file__, "--one", task, layout, str(args.threads)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(out.strip())
            figures.append(json.loads(out))
    record("decompose_resnet50", figures)


if __name__ == "__main__":
    main()

"""Train CIFAR-10 networks at a budget of MACs: one experiment, one row.

An experiment is SUITE/NETWORK/METHOD/BUDGET/SEED of experiments.toml; patterns choose several:

    python benchmarks/cifar10/run.py --list
    python benchmarks/cifar10/run.py 'rivals/resnet20/svd/0.28/0'
    python benchmarks/cifar10/run.py 'rivals/*/0.28/*' --runs FOLDER

Each ends as one line of docs/results/cifar10.jsonl, and what is there already is not run again
(``--again`` does, from the start). A run that was stopped goes on after its last whole epoch. It
runs on a GPU where there is one; ``--jobs`` runs several experiments side by side on it.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn

import lorank
from cifar10.data import Part, load
from cifar10.job import Job
from cifar10.loop import STATE, fit, judge
from cifar10.methods import METHODS
from cifar10.plan import FILE, Experiment, experiments
from cifar10.published import PUBLISHED, pretrained
from cifar10.rows import ROWS, add, command, rows
from lorank.errors import unknown
from lorank.zoo import load_model

SEEN = 10000


def wanted(patterns: list[str], plan: list[Experiment], file: Path) -> list[Experiment]:
    """The experiments that a pattern matches."""
    found = [e for e in plan if any(fnmatch.fnmatch(e.name, p) for p in patterns)]
    if not found:
        sys.exit(f"no experiment of {file.name} matches {' '.join(patterns)}: look at --list")
    return found


def prepared(experiment: Experiment, runs: Path, device: torch.device, bfloat16: bool) -> Job:
    """Load what an experiment needs."""
    schedule = experiment.schedule
    cifar = load(device, holdout=schedule.holdout, images=schedule.images, seed=experiment.seed)
    torch.manual_seed(experiment.seed)
    dense = started(experiment, runs)
    dense = dense.to(device, memory_format=torch.channels_last).eval()
    return Job(experiment, dense, cifar, torch.zeros(1, 3, 32, 32, device=device), bfloat16)


def started(experiment: Experiment, runs: Path) -> nn.Module:
    """The network that an experiment starts from: of its base, published, or as it is drawn."""
    if experiment.base is not None:
        path = runs / experiment.base / "model.safetensors"
        if not path.exists():
            sys.exit(f"{experiment.name} starts from {experiment.base}: run that first, --again")
        return load_model(experiment.network, weights=path)
    known = experiment.network in PUBLISHED
    return pretrained(experiment.network) if known else load_model(experiment.network)


def carried_out(experiment: Experiment, args: argparse.Namespace, *, kept: bool) -> dict[str, Any]:
    """Train, judge once, and say everything that a reader of the row needs."""
    if experiment.use not in METHODS:
        raise unknown("method", experiment.use, METHODS)
    device = torch.device(args.device)
    job = prepared(experiment, args.runs, device, args.bfloat16)
    start = digest(job.dense)
    method = METHODS[experiment.use](**experiment.options)
    folder = args.runs / experiment.name
    if args.again:
        (folder / STATE).unlink(missing_ok=True)
    model, progress = fit(job, method, folder, args.runs / "teachers", args.compile)
    if kept:
        lorank.save(model, folder / "model.safetensors")
    dense, found = (lorank.cost(m.eval(), job.example) for m in (job.dense, model))
    assert dense.macs is not None
    assert found.macs is not None
    row = {
        "experiment": experiment.name,
        "accuracy": judge(model, job.cifar.judge),
        "accuracy_seen": judge(model, seen(job)),
        "judged_on": "held-out training images" if experiment.schedule.holdout else "test images",
        "macs": found.macs,
        "macs_share": round(found.macs / dense.macs, 4),
        "params": found.params,
        "params_share": round(found.params / dense.params, 4),
        "epochs": progress.epoch,
        "minutes": round(progress.seconds / 60, 2),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if args.bfloat16 else "float32",
        "torch": torch.__version__,
        "compiled": args.compile,
        "date": time.strftime("%Y-%m-%d"),
        "start": start,
        **experiment.asked(),
    }
    return {**row, "command": command(experiment.name, row)}


def seen(job: Job) -> Part:
    """Up to 10,000 of the images that it was trained on, as they are."""
    return Part(*(values[:SEEN] for values in job.cifar.train))


def digest(network: nn.Module) -> str:
    """Name a network's weights and statistics."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def side_by_side(names: list[str], args: argparse.Namespace) -> None:
    """Run each experiment in a process of its own, so many at a time."""
    own = ["--file", args.file, "--rows", args.rows, "--runs", args.runs, "--device", args.device]
    own += ["--bfloat16" if args.bfloat16 else "--no-bfloat16"]
    own += [f"--{flag}" for flag in ("compile", "save", "again") if getattr(args, flag)]
    with ThreadPool(args.jobs) as pool:
        ended = pool.map(lambda n: subprocess.call([sys.executable, __file__, n, *own]), names)
    failed = [name for name, code in zip(names, ended, strict=True) if code]
    if failed:
        sys.exit(f"these failed: {', '.join(failed)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="experiments, or patterns of their names")
    parser.add_argument("--list", action="store_true", help="show all names")
    parser.add_argument("--file", type=Path, default=FILE, help="the declarative file")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of results")
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=1, help="experiments side by side")
    parser.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="forward passes of the training by autocast; default: on a GPU",
    )
    parser.add_argument("--compile", action="store_true", help="train by torch.compile")
    parser.add_argument("--save", action="store_true", help="keep the folded network")
    parser.add_argument("--again", action="store_true", help="run what has a row already")
    args = parser.parse_args()
    plan = experiments(args.file)  # once: it may be edited while this process carries it out
    if args.list:
        print("\n".join(e.name for e in plan))
        return
    if args.bfloat16 is None:
        args.bfloat16 = torch.device(args.device).type == "cuda"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    done = set() if args.again else {row["experiment"] for row in rows(args.rows)}
    asked = wanted(args.names, plan, args.file)
    todo = [e for e in asked if e.name not in done]
    if len(todo) < len(asked):
        print(f"{len(asked) - len(todo)} of {len(asked)} have a row: --again runs them again")
    if args.jobs > 1:
        side_by_side([e.name for e in todo], args)
        return
    bases = {e.base for e in plan}
    for experiment in todo:
        row = carried_out(experiment, args, kept=args.save or experiment.name in bases)
        add(row, args.rows)
        print(json.dumps({k: row[k] for k in ("experiment", "accuracy", "macs_share", "minutes")}))


if __name__ == "__main__":
    main()

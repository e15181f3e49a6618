"""Finding a slice on spines that were made: decisions, half the MACs, time; no patient's data.

Each seed draws its own training, validation and test columns, trains a network of offsets, cuts it
to half of its MACs and finds L3 in the test columns, by every decision, with the curves as they are
and with a share of the windows moved to a neighbouring vertebra (the same windows for all). The
decoder is also tried alone, on simulated curves that are arbitrary far from the target. Times are
from a volume in memory to the slice's number. Each finished part is kept in --runs.
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import lorank
import lorank.atomic
from lorank.localization import RULES, Finder, Volume, decide, load_finder, new_finder, recipe
from lorank.localization.cases import Case
from lorank.localization.finder import reach
from lorank.localization.projection import Projection, View
from lorank.localization.synthetic import (
    Column,
    synthetic_column,
    synthetic_projection,
    synthetic_volume,
)
from lorank.localization.train import error_figures, train_finder
from record import record

VIEW = View(rows=192, columns=32, column_mm=6.0)
"""Windows that hold the last rib together with the target: a lumbar vertebra too few is seen."""
CONFUSED = 0.25
VALID = 60
"""Columns that judge epochs and calibrate the confidence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps what is done")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scans", type=int, default=1600)
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--tune", type=int, default=5)
    parser.add_argument("--tests", type=int, default=120)
    parser.add_argument("--curves", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="a trial; writes no result")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.scans, args.epochs, args.tune = 1, 24, 1, 1
        args.tests, args.curves = 6, 20
    torch.set_num_threads(1)
    args.runs.mkdir(parents=True, exist_ok=True)
    figures = {
        "networks": [
            kept(args.runs, f"seed{s}", lambda s=s: one(args, s)) for s in range(args.seeds)
        ],
        "decoder": kept(args.runs, "decoder", lambda: simulated(args.curves)),
        "time": kept(args.runs, "time", lambda: times(args.runs / "run0")),
    }
    figures["goals"] = goals(figures)
    print(json.dumps(figures["goals"], indent=2))
    if not args.quick:
        settings = {k: v for k, v in vars(args).items() if k not in ("runs", "quick")}
        record("localization", figures, view=VIEW.as_dict(), confused=CONFUSED, **settings)


def kept(folder: Path, name: str, make) -> dict:
    """Make a part, or read it where an earlier call has made it."""
    place = folder / f"{name}.json"
    if not place.exists():
        found = make()
        with lorank.atomic.replacing(place) as draft:
            draft.write_text(json.dumps(found))
    return json.loads(place.read_text())


def one(args: argparse.Namespace, seed: int) -> dict:
    """Train with one seed; errors of the dense network and of the one at half the MACs."""
    torch.manual_seed(seed)
    finder = new_finder("offset_net", VIEW, width=12)
    cases = [
        Case(image(column), column.target, split)
        for split, count in (("train", args.scans), ("valid", VALID))
        for column in drawn(seed, split, count)
    ]
    began, folder = time.process_time(), args.runs / f"run{seed}"
    plan = recipe(epochs=args.epochs, tune=args.tune, macs=0.5, seed=seed)
    half, result = train_finder(finder, cases, folder, plan, per_scan=args.windows, quiet=True)
    seconds = time.process_time() - began
    network = lorank.load(folder / "dense.safetensors", finder.network).eval()
    dense = Finder(network, VIEW, finder.backbone)
    tests = drawn(seed, "test", args.tests)
    found = {}
    for name, model in (("dense", dense), ("half", half)):
        curves = [model.curve(image(c))[0] for c in tests]
        found[name] = judged(curves, tests, seed)
    assert half.confidence is not None
    row = {
        "seed": seed,
        "macs": result.cost.macs / result.dense_cost.macs,
        "params": result.cost.params / result.dense_cost.params,
        "train_cpu_seconds": round(seconds, 1),
        "kinds": [c.kind for c in tests],
        **found,
        "confidence": trusted(half, tests),
    }
    print(seed, row["macs"], {k: row[k]["plain"]["line"]["figures"] for k in ("dense", "half")})
    return row


def drawn(seed: int, split: str, count: int) -> list[Column]:
    """Columns of one seed and split as high as a window; no two of these share one."""
    first = (3 * seed + ("train", "valid", "test").index(split)) * 1_000_000
    made = (synthetic_column(first + i, VIEW) for i in itertools.count())
    return list(itertools.islice((c for c in made if len(c.image) >= VIEW.rows), count))


def image(column: Column) -> Projection:
    return synthetic_projection(column, VIEW)


def judged(curves: list[Tensor], tests: list[Column], seed: int) -> dict:
    """Errors of every decision, on curves as they are and confused; also of every sixth window."""
    g = np.random.default_rng([seed, 11])
    confused = [moved(f, c, g) for f, c in zip(curves, tests, strict=True)]
    found = {}
    for name, these, step in (
        ("plain", curves, 1),
        ("plain, every 6th", curves, 6),
        ("confused", confused, 1),
    ):
        found[name] = {}
        for rule in RULES:
            errors = [
                decide(f[::step], VIEW.rows // 2, step, len(c.image), reach(VIEW), rule).row
                - c.target
                for f, c in zip(these, tests, strict=True)
            ]
            found[name][rule] = {"figures": error_figures(errors), "errors": rounded(errors)}
    return found


def rounded(errors: list[float]) -> list[float]:
    return [round(e, 3) for e in errors]


def moved(curve: Tensor, column: Column, g: np.random.Generator) -> Tensor:
    """Move a share of the windows to the vertebra above or below the target."""
    gaps = np.array(column.others) - column.target
    up, down = gaps[gaps < -5], gaps[gaps > 5]
    # A neighbour beyond the scan is 35 mm away.
    nearest = up.max() if len(up) else -35.0, down.min() if len(down) else 35.0
    hit = g.random(len(curve)) < CONFUSED
    jumps = np.where(g.random(len(curve)) < 0.5, *nearest)
    return curve + torch.from_numpy(np.where(hit, jumps, 0.0)).to(curve)


def trusted(finder: Finder, tests: list[Column]) -> dict:
    """What confidences are worth: share right among scans with a high and with a lower one."""
    pairs = []
    for column in tests:
        found = finder.locate(image(column))
        pairs.append((found.confidence, abs(found.row - column.target) <= 10))
    middle = statistics.median(p for p, _ in pairs)
    high = [right for p, right in pairs if p >= middle]
    low = [right for p, right in pairs if p < middle]
    return {
        "mean": statistics.fmean(p for p, _ in pairs),
        "right": statistics.fmean(right for _, right in pairs),
        "brier": statistics.fmean((p - right) ** 2 for p, right in pairs),
        "right_upper_half": statistics.fmean(high),
        "right_lower_half": statistics.fmean(low) if low else None,
    }


HALF, APART, NOISE = 60, 35.0, 8.0


def simulated(count: int) -> dict:
    """The decoder alone: offsets with noise of 8 rows, arbitrary beyond 60 rows of the target."""
    found = {}
    for step in (1, 6):
        errors: dict[str, list[float]] = {rule: [] for rule in RULES}
        for i in range(count):
            g = np.random.default_rng([i, 17])
            rows = int(g.integers(400, 700))
            target = int(g.integers(120, rows - 120))
            curve = torch.from_numpy(simulated_curve(rows, target, g))[::step]
            for rule in RULES:
                row = decide(curve, 0, step, rows, HALF, rule).row
                errors[rule].append(row - target)
        found[f"every {step}"] = {rule: error_figures(e) for rule, e in errors.items()}
    return found


def simulated_curve(rows: int, target: int, g: np.random.Generator) -> np.ndarray:
    true = (target - np.arange(rows)).astype(float)
    jumps = np.where(g.random(rows) < CONFUSED, g.choice([-APART, APART], rows), 0.0)
    near = true + jumps + g.normal(0, NOISE, rows)
    return np.where(np.abs(true) <= HALF, near, g.uniform(-HALF, HALF, rows))


def times(run: Path) -> dict:
    """Seconds from a volume of 600 × 512 × 512 in memory to the number of its slice."""
    finder = load_finder(run)
    small, _ = synthetic_volume(5, height=1.0, view=VIEW)
    values = np.full((600, 512, 512), -1000, np.int16)
    rows = np.linspace(0, small.count - 1, 600).astype(int)
    columns = np.linspace(0, VIEW.columns - 1, 512).astype(int)
    values[:, 256] = small.values[rows][:, 2][:, columns]
    scan = Volume(values, (1.0, 0.8, 0.28), "SPL")
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for step in (1, 6):
            wall, cpu = [], []
            for turn in range(6):
                a, b = time.perf_counter(), time.process_time()
                finder.locate(scan, step=step)
                if turn:
                    wall.append(time.perf_counter() - a)
                    cpu.append(time.process_time() - b)
            name = f"{threads} threads, every {step}"
            found[name] = {"wall": statistics.median(wall), "cpu": statistics.median(cpu)}
    torch.set_num_threads(1)
    return found


def goals(figures: dict) -> dict:
    """The figures that were to be reached, over all seeds."""
    rows = figures["networks"]

    def mean(model: str, kind: str, rule: str) -> float:
        return statistics.fmean(r[model][kind][rule]["figures"]["mean"] for r in rows)

    decoder = figures["decoder"]["every 1"]
    losses = [
        r["half"]["plain"]["line"]["figures"]["mean"]
        - r["dense"]["plain"]["line"]["figures"]["mean"]
        for r in rows
    ]
    votes = ("vote_mode", "vote_smooth", "vote_median")
    return {
        "error_confused": mean("half", "confused", "line"),
        "error_plain": mean("half", "plain", "line"),
        "votes_over_line_on_networks": {
            v: mean("half", "confused", v) / mean("half", "confused", "line") for v in votes
        },
        "votes_over_line_simulated": {
            v: decoder[v]["mean"] / decoder["line"]["mean"] for v in votes
        },
        "votes_over_raw_line_simulated": {
            v: decoder[v]["mean"] / decoder["line_raw"]["mean"] for v in votes
        },
        "loss_at_half_the_macs": statistics.fmean(losses),
        "losses": losses,
        "macs": [r["macs"] for r in rows],
        "seconds_2_threads": figures["time"]["2 threads, every 1"],
    }


if __name__ == "__main__":
    main()

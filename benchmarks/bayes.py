"""Low-rank matrices in white noise: the collapsed Bayesian posterior against its peers.

Each case is a shape and singular values; seeds draw directions and noise of variance 1. All
estimators see the same matrices: the singular value decomposition cut at the energy rule and at
Gavish and Donoho's hard threshold (ours, and PyPI's optht where it is installed), their optimal
shrinkage, variational Bayes (EVBMF), soft thresholding by Stein's unbiased risk, softImpute with
five-fold cross-validation over entries, and CSP. Error is ‖M̂ − M‖² over ‖M‖², over ‖Y‖² where M is
0. The noise is unknown to all, then known to all. ``--part size`` times CSP beside the SVD of
512×4608. Lines that are in the folder of runs are not computed again.
"""

import argparse
import functools
import importlib.util
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorank.bayes import Prior, collapsed
from lorank.linalg import detection_edge, median_noise, shrink
from lorank.ranks.noise import hard_threshold
from lorank.ranks.variational import detection_threshold, noise_variance
from record import record

SQRT, EDGE = "√max(m, n)", "detection edge"
CASES: dict[str, tuple[int, int, list[float], str]] = {
    "A": (30, 20, [3, 2.2, 1.6], SQRT),
    "B": (100, 50, [3, 2.5, 2, 1.6, 1.3], SQRT),
    "C2": (50, 50, [3, 2], SQRT),
    "C5": (50, 50, [3, 2.6, 2.2, 1.8, 1.4], SQRT),
    "A0": (30, 20, [], SQRT),
    "C0": (50, 50, [], SQRT),
    "W3": (20, 400, [4, 2.5, 1.8], EDGE),
    "W0": (20, 400, [], EDGE),
    "D1": (100, 100, [1.6], EDGE),
    "D8": (150, 100, [4, 3.5, 3, 2.6, 2.3, 2, 1.8, 1.6], EDGE),
    "D10": (256, 256, [4, 3.6, 3.2, 2.8, 2.5, 2.2, 2, 1.8, 1.6, 1.4], EDGE),
    "D0": (100, 100, [], EDGE),
}
"""Shape, singular values and their unit; the first six are the cases of earlier work on the model,
the others add a wide shape, one weak component, and more components in larger matrices."""

FOLDS, LAMBDAS, SWEEPS = 5, 12, 40
ENTRIES = 20_000
"""Largest matrix that softImpute is run on: its cross-validation takes hundreds of SVDs."""


class Sample(NamedTuple):
    """A matrix, what is behind it, and its SVD."""

    Y: Tensor
    M: Tensor
    U: Tensor
    s: Tensor
    Vh: Tensor


class Answer(NamedTuple):
    """Shrunk values, their rank, and the noise that was assumed."""

    shrunk: Tensor
    rank: int
    noise: float | None


def sample(case: str, seed: int) -> Sample:
    m, n, values, unit = CASES[case]
    g = torch.Generator().manual_seed(1000 + seed)
    scale = math.sqrt(max(m, n)) if unit == SQRT else detection_edge((m, n))
    d = scale * torch.tensor(values, dtype=torch.float64)
    U, V = (
        torch.linalg.qr(torch.randn(k, max(1, len(d)), generator=g, dtype=torch.float64)).Q
        for k in (m, n)
    )
    M = (U[:, : len(d)] * d) @ V[:, : len(d)].T
    Y = M + torch.randn(m, n, generator=g, dtype=torch.float64)
    return Sample(Y, M, *torch.linalg.svd(Y, full_matrices=False))


def cut(x: Sample, rank: int, noise: float | None = None) -> Answer:
    return Answer(torch.where(torch.arange(len(x.s)) < rank, x.s, 0.0), rank, noise)


def truth(x: Sample, noise: float | None, rank: int) -> Answer:
    return cut(x, rank)


def energy(x: Sample, noise: float | None) -> Answer:
    share = x.s.square().cumsum(0) / x.s.square().sum()
    return cut(x, int((share < 0.9).sum()) + 1)


def hard(x: Sample, noise: float | None) -> Answer:
    m, n = sorted(x.Y.shape)
    sigma = noise or median_noise(x.s, (m, n))
    return cut(x, int((x.s > hard_threshold(m / n) * math.sqrt(n) * sigma).sum()), sigma)


def optht_hard(x: Sample, noise: float | None) -> Answer:
    from optht import optht

    m, n = sorted(x.Y.shape)
    try:
        return cut(x, int(optht(m / n, sv=x.s.numpy(), sigma=noise)))
    except ValueError:  # it takes the largest of no indices where the rank is 0
        return cut(x, 0)


def optimal(x: Sample, noise: float | None) -> Answer:
    sigma = noise or median_noise(x.s, tuple(x.Y.shape))
    shrunk = shrink(x.s, tuple(x.Y.shape), sigma)
    return Answer(shrunk, int((shrunk > 0).sum()), sigma)


def evbmf(x: Sample, noise: float | None) -> Answer:
    """Nakajima's closed form: the values that the variational posterior mean has."""
    L, M = sorted(x.Y.shape)
    v = noise**2 if noise else noise_variance(x.s / x.s[0], L, M) * float(x.s[0]) ** 2
    part = 1 - (L + M) * v / x.s.square()
    root = (part.square() - 4 * L * M * v * v / x.s**4).clamp_min(0).sqrt()
    kept = x.s.square() > M * v * detection_threshold(L / M)[1]
    shrunk = torch.where(kept, x.s / 2 * (part + root), 0.0)
    return Answer(shrunk, int(kept.sum()), math.sqrt(v))


def stein(x: Sample, noise: float | None) -> Answer:
    """Soft threshold of least unbiased risk (Candès, Sing-Long and Trzasko, 2013, equation 9)."""
    m, n = x.Y.shape
    v = (noise or median_noise(x.s, (m, n))) ** 2
    s, grid = x.s, torch.cat([torch.zeros(1, dtype=x.s.dtype), x.s])
    soft = (s - grid[:, None]).clamp_min(0)
    gap = s[:, None].square() - s.square()
    pairs = torch.where(gap == 0, 0.0, s[:, None] / gap.where(gap != 0, torch.ones_like(gap))).sum(
        1
    )
    divergence = ((soft > 0) + abs(m - n) * soft / s + 2 * soft * pairs).sum(1)
    risk = -m * n * v + s.minimum(grid[:, None]).square().sum(1) + 2 * v * divergence
    shrunk = soft[int(risk.argmin())]
    return Answer(shrunk, int((shrunk > 0).sum()), math.sqrt(v))


def soft_impute(x: Sample, noise: float | None) -> Answer:
    """Nuclear norm with λ by cross-validation over entries (Mazumder, Hastie, Tibshirani, 2010)."""
    g = torch.Generator().manual_seed(0)
    fold = torch.randperm(x.Y.numel(), generator=g).view(x.Y.shape) % FOLDS
    held = torch.stack([fold == k for k in range(FOLDS)])
    Z, loss = torch.zeros_like(held, dtype=x.Y.dtype), {}
    lambdas = torch.logspace(0, -1.6, LAMBDAS, dtype=x.Y.dtype) * x.s[0]
    for lam in lambdas.tolist():
        for _ in range(SWEEPS):
            U, s, Vh = torch.linalg.svd(torch.where(held, Z, x.Y), full_matrices=False)
            new = (U * (s - lam).clamp_min(0)[:, None]) @ Vh
            moved = float((new - Z).square().sum() / Z.square().sum().clamp_min(1e-300))
            Z = new
            if moved < 1e-6:
                break
        loss[lam] = float(((Z - x.Y) * held).square().sum())
    shrunk = (x.s - min(loss, key=loss.__getitem__)).clamp_min(0)
    return Answer(shrunk, int((shrunk > 0).sum()), None)


def csp(x: Sample, noise: float | None, prior: Prior | None = None) -> Answer:
    found = collapsed(x.s, tuple(x.Y.shape), noise=noise, prior=prior)
    return Answer(found.shrunk, found.rank(), found.noise)


METHODS: dict[str, Callable[[Sample, float | None], Answer]] = {
    "energy 90 %": energy,
    "Gavish-Donoho hard": hard,
    "optimal shrinkage": optimal,
    "EVBMF": evbmf,
    "soft, SURE": stein,
    "softImpute, CV": soft_impute,
    "CSP, slab from 0": functools.partial(csp, prior=Prior(shifted=False, nothing=0.0)),
    "CSP": csp,
}


def lines(book: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []


def measured(book: Path, seeds: int) -> list[dict[str, Any]]:
    """One line a case, seed, method and knowledge of the noise."""
    methods = dict(METHODS)
    if importlib.util.find_spec("optht"):
        methods["optht"] = optht_hard
    done = {(r["case"], r["seed"], r["method"], r["known"]): r for r in lines(book)}
    for case, (_, _, values, _) in CASES.items():
        every = {"SVD, true rank": functools.partial(truth, rank=len(values)), **methods}
        for seed in range(seeds):
            x = sample(case, seed)
            whole = float((x.M if values else x.Y).square().sum())
            for known in (False, True):
                for name, method in every.items():
                    key = (case, seed, name, known)
                    if key in done or left_out(name, known, x):
                        continue
                    start = time.process_time()
                    found = method(x, 1.0 if known else None)
                    spent = time.process_time() - start
                    error = float(((x.U * found.shrunk) @ x.Vh - x.M).square().sum()) / whole
                    row = dict(zip(("case", "seed", "method", "known"), key, strict=True))
                    row |= {"error": error, "rank": found.rank, "noise": found.noise}
                    done[key] = row | {"seconds": spent}
                    with book.open("a") as pen:
                        pen.write(json.dumps(done[key]) + "\n")
        print(case, flush=True)
    return list(done.values())


def left_out(name: str, known: bool, x: Sample) -> bool:
    """Cross-validation needs no noise, and is slow; optht's form for known noise is for squares.

    It multiplies by the root of the number of values, where the larger side belongs.
    """
    slow = name == "softImpute, CV" and x.Y.numel() > ENTRIES
    return slow or (known and name in ("softImpute, CV", "optht"))


def summary(rows: list[dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    found = []
    for known in (False, True):
        for case, (m, n, values, unit) in CASES.items():
            here = [r for r in rows if (r["case"], r["known"]) == (case, known)]
            for method in dict.fromkeys(r["method"] for r in here):
                own = [r for r in here if r["method"] == method and r["seed"] < seeds]
                ranks = Counter(r["rank"] for r in own)
                noises = [r["noise"] for r in own if r["noise"] is not None]
                found.append(
                    {
                        "case": case,
                        "shape": [m, n],
                        "true_rank": len(values),
                        "weakest_in_edges": _weakest(m, n, values, unit),
                        "noise_known": known,
                        "method": method,
                        "runs": len(own),
                        "error": statistics.mean(r["error"] for r in own),
                        "ranks": {str(k): ranks[k] for k in sorted(ranks)},
                        "right": ranks[len(values)] / len(own),
                        "noise": statistics.mean(noises) if noises else None,
                        "seconds": statistics.median(r["seconds"] for r in own),
                    }
                )
    return found


def _weakest(m: int, n: int, values: list[float], unit: str) -> float | None:
    if not values:
        return None
    scale = math.sqrt(max(m, n)) if unit == SQRT else detection_edge((m, n))
    return round(min(values) * scale / detection_edge((m, n)), 3)


def targets(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that were asked for, over the cases with unknown noise."""
    unknown = [f for f in figures if not f["noise_known"]]
    errors = {(f["case"], f["method"]): f["error"] for f in unknown}
    signal = [case for case, (_, _, values, _) in CASES.items() if values]
    against = {
        method: {
            case: errors[case, "CSP"] / errors[case, method] - 1
            for case in signal
            if (case, method) in errors
        }
        for method in ("Gavish-Donoho hard", "optimal shrinkage", "EVBMF", "softImpute, CV")
    }
    own = {f["case"]: f for f in unknown if f["method"] == "CSP"}
    seen = [f for f in own.values() if (f["weakest_in_edges"] or 0) > 1.3]
    means = {
        method: statistics.mean(errors[c, "CSP"] for c in found)
        / statistics.mean(errors[c, method] for c in found)
        - 1
        for method, found in against.items()
    }
    return {
        "change_of_mean_error": means,
        "change_of_error": against,
        "right_above_1.3_edges": {f["case"]: f["right"] for f in seen},
        "right_above_1.3_edges_all": sum(f["right"] for f in seen) / len(seen),
        "rank_0_on_noise": {c: f["right"] for c, f in own.items() if f["true_rank"] == 0},
    }


def size(rounds: int) -> list[dict[str, Any]]:
    """CSP beside the singular values and the SVD of 512×4608, in turns."""
    found = []
    for name, rank in (("rank 40", 40), ("noise", 0)):
        g = torch.Generator().manual_seed(0)
        m, n = 512, 4608
        U, V = (
            torch.linalg.qr(torch.randn(k, 40, generator=g, dtype=torch.float64)).Q for k in (m, n)
        )
        d = detection_edge((m, n)) * torch.linspace(4, 1.2, 40, dtype=torch.float64) * (rank > 0)
        Y = (U * d) @ V.T + torch.randn(m, n, generator=g, dtype=torch.float64)
        times: dict[str, list[float]] = {"svd": [], "values": [], "csp": []}
        answer = None
        for _ in range(rounds):
            for what in times:
                start = time.process_time()
                if what == "svd":
                    torch.linalg.svd(Y, full_matrices=False)
                elif what == "values":
                    s = torch.linalg.svdvals(Y)
                else:
                    answer = collapsed(s, (m, n))
                times[what].append(time.process_time() - start)
        middle = {what: statistics.median(t) for what, t in times.items()}
        found.append(
            {
                "matrix": f"512×4608, {name}",
                "rank": answer.rank(),
                "noise": answer.noise,
                **{f"{what}_seconds": t for what, t in middle.items()},
                "csp_over_svd": middle["csp"] / middle["svd"],
            }
        )
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=["matrices", "size", "all"], default="all")
    parser.add_argument("--runs", default="runs/bayes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(args.runs)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "size.json"
    if args.part != "matrices" and not place.exists():
        place.write_text(json.dumps(size(args.rounds)))
    if args.part == "size":
        return
    figures = summary(measured(folder / "matrices.jsonl", args.seeds), args.seeds)
    times = json.loads(place.read_text()) if place.exists() else []
    found = {"matrices": figures, "targets": targets(figures), "size": times}
    record("bayes", found, seeds=args.seeds, cases=CASES)


if __name__ == "__main__":
    main()

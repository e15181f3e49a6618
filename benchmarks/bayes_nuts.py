"""Samplers of the Bayesian low-rank model: agreement, effective draws per gradient, calibration.

One matrix a case, drawn with noise of standard deviation 1: A is 30×20 with singular values
{3, 2.2, 1.6}·√30, A0 is 30×20 noise, B is 100×50 with {3, 2.5, 2, 1.6, 1.3}·√100. Every run is
kept in FOLDER as it ends, and a repeated call goes on from there.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorank.bayes.collapsed import collapsed
from lorank.bayes.diagnostics import diagnose
from lorank.bayes.gibbs import gibbs
from lorank.bayes.nuts import PRIOR_NAMES, sample
from lorank.bayes.posterior import Posterior
from lorank.bayes.prior import Prior
from lorank.bayes.simulate import gibbs_ranks, quantities, simulate
from record import record

CASES = {
    "A": ((30, 20), (3.0, 2.2, 1.6), 8),
    "A0": ((30, 20), (), 5),
    "B": ((100, 50), (3.0, 2.5, 2.0, 1.6, 1.3), 10),
}
"""Name → shape, singular values over the root of the longer side, H."""

PLAIN = Prior(shifted=False, nothing=0.0)
NOISE = (5.0, 4.0)
"""Proper prior of σ², as calibration needs one."""


def matrices(case: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrix and its noisy copy."""
    shape, values, _ = CASES[case]
    generator = np.random.default_rng(seed)
    U, V = (np.linalg.qr(generator.normal(size=(k, len(values))))[0] for k in shape)
    M = (U * np.array(values) * math.sqrt(max(shape))) @ V.T
    return M, M + generator.normal(size=shape)


def error(found: np.ndarray, M: np.ndarray, Y: np.ndarray) -> float:
    """``‖M̂ − M‖²/‖M‖²``, over ‖Y‖² where there is no signal."""
    return float(((found - M) ** 2).sum() / ((M**2).sum() or (Y**2).sum()))


def judged(posterior: Posterior, M: np.ndarray, Y: np.ndarray, seconds: float) -> dict[str, Any]:
    found = diagnose(posterior)
    gradients = found.gradients
    row = {
        "error": round(error(posterior.mean, M, Y), 4),
        "sigma": round(posterior.noise, 4),
        "rank": {rule: posterior.rank(rule) for rule in ("edge", "mode")},
        "rhat": round(found.rhat, 4),
        "ess": round(found.ess),
        "ess_median": round(found.ess_median),
        "worst": found.worst,
        "divergences": found.divergences,
        "draws": found.draws,
        "gradients_per_draw": round(gradients / found.draws, 1),
        "cpu_seconds": round(seconds, 1),
    }
    if gradients:
        row["ess_per_kilogradient"] = round(1000 * found.ess / gradients, 3)
        row["ess_median_per_kilogradient"] = round(1000 * found.ess_median / gradients, 3)
    return row


def sampled(case: str, seed: int, **settings: Any) -> dict[str, Any]:
    """One run of one sampler; ``sampler="gibbs"`` or NUTS."""
    M, Y = matrices(case, seed)
    began = time.process_time()
    if settings.pop("sampler", "nuts") == "gibbs":
        posterior = gibbs(Y, seed=seed, **settings)
    else:
        posterior = sample(Y, seed=seed, progress=False, **settings)
    return judged(posterior, M, Y, time.process_time() - began)


def without_sampling(case: str, seed: int) -> dict[str, Any]:
    M, Y = matrices(case, seed)
    U, y, Vh = torch.linalg.svd(torch.from_numpy(Y), full_matrices=False)
    found = collapsed(y, Y.shape, prior=PLAIN)
    mean = ((U * found.shrunk) @ Vh).numpy()
    return {
        "error": round(error(mean, M, Y), 4),
        "sigma": round(found.noise, 4),
        "rank": {rule: found.rank(rule) for rule in ("edge", "mode")},
    }


def uniformity(ranks: np.ndarray, draws: int, bins: int) -> float:
    """p-value of the χ² test of uniform ranks."""
    from scipy.stats import chisquare

    counts = np.bincount(np.asarray(ranks) * bins // (draws + 1), minlength=bins)
    return round(float(chisquare(counts).pvalue), 4)


def calibration_gibbs(fits: int, draws: int = 99) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    truth = simulate(fits, (8, 12), 4, PLAIN, 0.05, NOISE, generator)
    ranks = gibbs_ranks(truth, PLAIN, 0.05, NOISE, generator, warmup=300, draws=draws, thin=20)
    return {"fits": fits, "p_values": {k: uniformity(v, draws, 10) for k, v in ranks.items()}}


def calibration_nuts(fit: int, draws: int = 99) -> dict[str, int]:
    """Ranks of one truth among thinned draws of its NUTS posterior."""
    truth = simulate(1, (8, 12), 4, PLAIN, 0.05, NOISE, np.random.default_rng([1, fit]))
    found = sample(
        truth.Y[0],
        truncation=4,
        noise=NOISE,
        chains=1,
        warmup=400,
        draws=10 * draws,
        seed=fit,
        progress=False,
    )
    true = quantities(truth)
    series = {
        "sigma": found.sigma[0],
        "largest": found.d[0, :, 0],
        "energy": (found.d[0] ** 2).sum(-1),
    }
    return {name: int((values[::10] < true[name][0]).sum()) for name, values in series.items()}


def studies(quick: bool) -> dict[str, Any]:
    """Name of a run → call without arguments that makes it."""
    less = {"chains": 2, "warmup": 500, "draws": 500 if quick else 2000}
    plans: dict[str, dict[str, Any]] = {"A/default": {"case": "A"}}
    for form in ("polar", "qr", "relaxed"):
        plans[f"A/{form}"] = {"case": "A", "parametrisation": form, **less}
    plans["A/gibbs"] = {"case": "A", "sampler": "gibbs", "chains": 4, "draws": 3000}
    for form in ("polar", "qr", "relaxed"):
        plans[f"B/{form}"] = {"case": "B", "parametrisation": form, **less}
    plans["B/gibbs"] = {"case": "B", "sampler": "gibbs", "draws": 2000}
    plans["A0/polar"] = {"case": "A0", **less}
    for prior in PRIOR_NAMES[1:]:
        plans[f"A/polar/{prior}"] = {"case": "A", "prior": prior, **less}
    for plan in plans.values():
        plan["truncation"] = CASES[plan["case"]][2]
    del plans["A/default"]["truncation"]  # all that a user need not choose
    return {name: (lambda plan=plan: sampled(seed=0, **plan)) for name, plan in plans.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of finished runs")
    parser.add_argument("--quick", action="store_true", help="fewer draws")
    parser.add_argument("--fits", type=int, default=200, help="of Gibbs, for calibration")
    parser.add_argument("--nuts-fits", type=int, default=50, help="of NUTS, for calibration")
    parser.add_argument("--only", default="", help="runs whose names start so")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.runs.mkdir(parents=True, exist_ok=True)
    work = studies(args.quick)
    for case in CASES:
        work[f"{case}/collapsed"] = lambda case=case: without_sampling(case, 0)
    work["calibration/gibbs"] = lambda: calibration_gibbs(args.fits)
    for fit in range(args.nuts_fits):
        work[f"calibration/nuts/{fit}"] = lambda fit=fit: calibration_nuts(fit)
    figures = [done(args.runs, *each) for each in work.items() if each[0].startswith(args.only)]
    record("bayes_nuts", gathered([f for f in figures if f is not None]), quick=args.quick)


def done(folder: Path, name: str, make: Any) -> dict[str, Any]:
    """The figures of a run, made now or read."""
    path = folder / f"{name.replace('/', '-')}.json"
    if not path.exists():
        path.write_text(json.dumps(make()))
        print(name, path.read_text(), flush=True)
    return {"run": name, **json.loads(path.read_text())}


def gathered(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ranks of all NUTS fits become one row of p-values."""
    single = [f for f in figures if f["run"].startswith("calibration/nuts/")]
    rest = [f for f in figures if f not in single]
    if single:
        bins = max(2, min(10, len(single) // 5))
        names = ("sigma", "largest", "energy")
        p = {n: uniformity(np.array([f[n] for f in single]), 99, bins) for n in names}
        rest.append({"run": "calibration/nuts", "fits": len(single), "p_values": p})
    return rest


if __name__ == "__main__":
    main()

"""From runs to figures: paired differences with their intervals, spectra, ranks kept."""

import math
import statistics
from typing import Any

from invariance.arms import CLASS_FREE, NORMED, PLAIN

T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Quantiles of Student's t, two-sided 95 %, by degrees of freedom."""

WITHIN = 0.003

Runs = dict[str, dict[int, dict[str, Any]]]
"""Arm → seed → record."""


def paired(differences: list[float]) -> dict[str, Any]:
    """Mean of paired differences with its 95 % interval, and how many are below 0."""
    mean = statistics.fmean(differences)
    interval = None
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        half = T95[len(differences) - 1] * error
        interval = [round(mean - half, 5), round(mean + half, 5)]
    return {
        "mean": round(mean, 5),
        "interval": interval,
        "below_0": sum(d < 0 for d in differences),
        "pairs": len(differences),
    }


def compared(runs: Runs, arm: str, base: str, value: Any) -> dict[str, Any]:
    """Paired differences ``value(arm) − value(base)`` over the seeds that both have."""
    seeds = sorted(runs[arm].keys() & runs[base].keys())
    return paired([value(runs[arm][s]) - value(runs[base][s]) for s in seeds])


def base_of(arm: str) -> str:
    """The tuned baseline with the same normalisation."""
    if arm.startswith("published"):
        return "published: batch norm" if "batch norm" in arm else "published: none"
    return NORMED if "batch norm" in arm else PLAIN


def arm_row(net: str, arm: str, runs: Runs, setting: Any) -> dict[str, Any]:
    """An arm's test error, and how it stands to its baseline and to the controls."""
    errors = [r["test"] for r in runs[arm].values()]
    row = {
        "net": net,
        "arm": arm,
        "setting": setting,
        "errors": errors,
        "mean": round(statistics.fmean(errors), 5),
        "std": round(statistics.stdev(errors), 5) if len(errors) > 1 else None,
        "against_base": compared(runs, arm, base_of(arm), lambda r: r["test"]),
    }
    for control in CLASS_FREE:
        if control in runs and "batch norm" not in arm and "published" not in arm:
            row[f"against {control}"] = compared(runs, arm, control, lambda r: r["test"])
    if arm == "batch norm, pairs" and "batch norm, activation norm" in runs:
        other = "batch norm, activation norm"
        row[f"against {other}"] = compared(runs, arm, other, lambda r: r["test"])
    return row


def rank_kept(run: dict[str, Any], curve: str, least: float) -> int:
    """Smallest rank from which on every rank that was tried holds an accuracy."""
    ranks = sorted(map(int, run[curve]), reverse=True)
    kept = ranks[0]
    for rank in ranks:
        if run[curve][str(rank)] < least - 1e-12:
            break
        kept = rank
    return kept


SPECTRAL = {
    "activations_stable_rank": lambda r: r["activations"]["stable_rank"],
    "activations_effective_rank": lambda r: r["activations"]["effective_rank"],
    "activations_rank_99": lambda r: r["activations"]["rank_99"],
    "share_within": lambda r: r["share_within"],
    "norm": lambda r: r["norm"],
    "weight_largest": lambda r: r["weight"]["largest"],
    "weight_stable_rank": lambda r: r["weight"]["stable_rank"],
    "weight_effective_rank": lambda r: r["weight"]["effective_rank"],
    "weight_rank_99": lambda r: r["weight"]["rank_99"],
}


def spectral_row(net: str, arm: str, runs: Runs) -> dict[str, Any]:
    """What the penalised layer looks like, against the same seed's baseline."""
    base = base_of(arm)
    row: dict[str, Any] = {"net": net, "arm": arm}
    values = SPECTRAL | {
        f"{curve}_kept_own": lambda r, c=curve: rank_kept(r, c, r["dense_accuracy"] - WITHIN)
        for curve in ("cut", "calibrated_cut")
    }
    for name, value in values.items():
        row[name] = statistics.fmean(value(r) for r in runs[arm].values())
        row[f"{name}_against_base"] = compared(runs, arm, base, value)
    for curve in ("cut", "calibrated_cut"):
        row[f"{curve}_kept_base"] = _kept_at_base(runs, arm, base, curve)
    for what in ("activations", "weight"):
        shapes = [r[what]["relative"] for r in runs[arm].values()]
        row[f"{what}_relative"] = [round(statistics.fmean(v), 5) for v in zip(*shapes, strict=True)]
    row["cut_accuracy"] = _mean_curve(runs[arm], "cut")
    row["calibrated_cut_accuracy"] = _mean_curve(runs[arm], "calibrated_cut")
    return row


def _kept_at_base(runs: Runs, arm: str, base: str, curve: str) -> dict[str, Any]:
    """Ranks that hold the accuracy of the baseline, less 0.3 points: equal accuracy for both.

    A run that does not hold it at any rank has none, and its seed is counted apart.
    """
    ranks, differences, short = [], [], 0
    for seed in sorted(runs[arm].keys() & runs[base].keys()):
        least = runs[base][seed]["dense_accuracy"] - WITHIN
        if runs[arm][seed]["dense_accuracy"] < least:
            short += 1
            continue
        ranks.append(rank_kept(runs[arm][seed], curve, least))
        differences.append(ranks[-1] - rank_kept(runs[base][seed], curve, least))
    if not ranks:
        return {"short": short}
    return {
        "mean": statistics.fmean(ranks),
        "against_base": paired([float(d) for d in differences]),
        "short": short,
    }


def _mean_curve(runs: dict[int, dict[str, Any]], curve: str) -> dict[str, float]:
    every = list(runs.values())
    return {r: round(statistics.fmean(run[curve][r] for run in every), 5) for r in every[0][curve]}

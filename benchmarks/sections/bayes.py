"""Bayesian models of a matrix."""

from typing import Any

from sections import collapsed
from sections.markdown import Rows, Section, table


def nuts(figures: Rows) -> str:
    runs = [f for f in figures if not f["run"].startswith("calibration")]
    rows = [
        [
            f["run"],
            f"{f['error']:.4f}",
            f"{f['sigma']:.3f}",
            f"{f['rank']['edge']} / {f['rank']['mode']}",
            *(_drawn(f) if "ess" in f else [""] * 6),
        ]
        for f in runs
    ]
    header = ["case / sampler", "error", "σ", "rank by edge / mode", "R-hat", "ESS least / median"]
    more = ["ESS per 1000 gradients", "divergences", "gradients a draw", "CPU"]
    made = [NUTS, table([*header, *more], rows)]
    judged = [f for f in figures if f["run"].startswith("calibration")]
    if judged:
        names = list(judged[0]["p_values"])
        tested = [
            [f["run"].split("/")[1], str(f["fits"])]
            + [f"{f['p_values'][n]:.3f}" if n in f["p_values"] else "" for n in names]
            for f in judged
        ]
        made += [CALIBRATED, table(["sampler", "fits", *names], tested)]
    return "\n\n".join(made)


NUTS = """Case A is 30×20 of rank 3, A0 30×20 noise, B 100×50 of rank 5, all with σ = 1, one
matrix each. Error is ‖M̂ − M‖²/‖M‖² (A0: over ‖Y‖²). Effective draws (ESS) and R-hat are over
sorted d, σ and 12 entries of the matrix; the least belongs to the first absent component, which is
switched on and off. `default` is `sample(data)`: four chains of 4,000 draws, two at a time. The
relaxed form is the paper's, ε = 1e-3, with the same coordinate of d, start and dense block as the
exact ones."""

CALIBRATED = """Simulation-based calibration, 12×8, H = 4, a proper prior of σ: p-values of the χ²
test that the truth's rank among draws of its posterior is uniform."""


def _drawn(f: dict[str, Any]) -> list[str]:
    gradients = f.get("ess_per_kilogradient") is not None
    each = (
        f"{f[k]:.2f}" for k in ("ess_per_kilogradient", "ess_median_per_kilogradient") if gradients
    )
    return [
        f"{f['rhat']:.3f}",
        f"{f['ess']} / {f['ess_median']}",
        " / ".join(each),
        str(f["divergences"]),
        f"{f['gradients_per_draw']:.0f}" if gradients else "",
        f"{f['cpu_seconds']:.0f} s",
    ]


SECTIONS: list[Section] = [
    *collapsed.SECTIONS,
    ("bayes_nuts", "Sampling the Bayesian low-rank model", nuts),
]

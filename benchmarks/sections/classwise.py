"""Class-wise invariance: errors, what the classes bring, singular values and ranks."""

from typing import Any

from sections.markdown import Rows, Section, percent, table

ERRORS = """MNIST, 1,000 training images drawn anew by each seed, 10 seeds, test error in % of the
10,000 test images, mean ± standard deviation. *mlp* is 784-256-256-64-10, *cnn* has 20 and 50
convolutions and 500 units, both with ReLU, AdamW, one joint loss; penalties see the last hidden
layer. Each arm's strength and learning rate were chosen together, from grids of 3 × 3 that grow
where the best lies at an end, on 2,000 held-out images of another seed; penalties and dropout have
the weight decay of the tuned baseline with the same normalisation. Differences are paired by seed,
in points, with their 95 % interval; in brackets the seeds in which the arm is better. *activation
norm* and *all pairs* are controls that see no class. *published* is the original setting: sigmoid,
two AdaDelta in turn, weight 1, 120 epochs, nothing tuned."""

SPECTRA = """The same runs, means over the seeds, on the test images. *h* is the penalised layer's
answer, centred; *W* its weight. Stable rank is energy over the largest squared singular value,
effective rank the exponential of the entropy of the energies, rank 99 % the number of singular
values with that share of the energy. *within* is the share of the variance of h inside classes."""

KEPT = """The rank that the penalised layer needs: the smallest from which on all larger ranks tried
lose at most 0.3 points, against the network's own accuracy, and against that of the seed's baseline
(equal accuracy for both). *cut* is the best cut of the weight, *calibrated* that for what the layer
reads in the training images. Differences from the baseline are paired, with 95 % intervals."""


def whole(figures: dict[str, Any]) -> str:
    made = [ERRORS, _errors(figures["arms"]), SPECTRA, _spectra(figures["spectra"])]
    return "\n\n".join([*made, KEPT, _kept(figures["spectra"])])


def points(found: dict[str, Any], digits: int = 2, scale: float = 100) -> str:
    """A paired difference with its interval."""
    if found["interval"] is None:
        return f"{scale * found['mean']:+.{digits}f}"
    low, high = (scale * value for value in found["interval"])
    return f"{scale * found['mean']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def seeds(found: dict[str, Any]) -> str:
    return f" ({found['below_0']} of {found['pairs']})"


BASELINES = ("weight decay", "batch norm", "published: none", "published: batch norm")
CONTROL = "against activation norm"


def _errors(rows: Rows) -> str:
    cells = []
    for f in rows:
        setting = f["setting"]
        base = f["against_base"]
        control = f.get(CONTROL, f.get("against batch norm, activation norm"))
        itself = f["arm"].endswith("activation norm")
        cells.append(
            [
                f["net"],
                f["arm"],
                f"{setting['strength']:g}",
                f"{setting['lr']:g}" if "lr" in setting else "",
                f"{100 * f['mean']:.2f} ± {100 * (f['std'] or 0):.2f}",
                "" if f["arm"] in BASELINES else points(base) + seeds(base),
                "" if itself or not control else points(control) + seeds(control),
            ]
        )
    header = ["net", "arm", "strength", "rate", "error", "against the baseline", CONTROL]
    return table(header, cells)


def _spectra(rows: Rows) -> str:
    cells = [
        [
            f["net"],
            f["arm"],
            f"{f['activations_stable_rank']:.2f}",
            f"{f['activations_effective_rank']:.1f}",
            f"{f['activations_rank_99']:.1f}",
            percent(f["share_within"], 1),
            f"{f['weight_largest']:.2f}",
            f"{f['weight_stable_rank']:.2f}",
            f"{f['weight_effective_rank']:.1f}",
            f"{f['weight_rank_99']:.1f}",
        ]
        for f in rows
    ]
    header = ["net", "arm", "h: stable rank", "effective", "99 %", "within"]
    return table([*header, "W: σ₁", "stable rank", "effective", "99 %"], cells)


def _kept(rows: Rows) -> str:
    cells = []
    for f in rows:
        row = [f["net"], f["arm"]]
        for curve in ("cut", "calibrated_cut"):
            own = f[f"{curve}_kept_own"]
            against = f[f"{curve}_kept_own_against_base"]
            row.append(_rank(own, None if f["arm"] in BASELINES else against))
            equal = f[f"{curve}_kept_base"]
            row.append(_equal(equal, f["arm"] in BASELINES))
        cells.append(row)
    header = ["net", "arm", "cut, own accuracy", "cut, the baseline's"]
    return table([*header, "calibrated, own", "calibrated, the baseline's"], cells)


def _rank(mean: float, against: dict[str, Any] | None) -> str:
    return f"{mean:.1f}" + (f", {points(against, 1, 1)}" if against else "")


def _equal(found: dict[str, Any], is_base: bool) -> str:
    if "mean" not in found:
        return "not reached"
    short = f" ({found['short']} seeds short)" if found["short"] else ""
    return _rank(found["mean"], None if is_base else found["against_base"]) + short


SECTIONS: list[Section] = [("classwise", "Class-wise invariance", whole)]

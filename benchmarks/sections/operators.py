"""Convolutions as operators: spectra, bounds, penalties."""

import statistics
from typing import Any

from sections.markdown import Section, percent, table

TRAINING = """ResNet-8 on 5,000 training images of CIFAR-10, averaged over 2×2 pixels, with shifts
and mirror images. A penalty is λ times the sum of the squared norms of all 3×3 convolutions; λ was
chosen by one seed's accuracy on 5,000 held-out training images, and each chosen run saw the 10,000
test images once. Mean ± standard deviation over seeds. Noise has the standard deviation given, on
pixels between 0 and 1. The product of norms and the certificate (of the whole network) have
BatchNorm folded into the kernels, and are geometric means. A step's CPU time is the median of
ratios of paired steps to that without a penalty."""


def training(figures: dict[str, Any]) -> str:
    ratio = {f["arm"]: f["ratio"] for f in figures["steps"]}
    noisy = sorted(k for k in figures["runs"][0] if k.startswith("accuracy_noise_"))
    arms = list(dict.fromkeys(f["arm"] for f in figures["runs"]))
    rows = []
    for arm in arms:
        runs = [f for f in figures["runs"] if f["arm"] == arm]
        rows.append(
            [
                arm,
                f"{runs[0]['weight']:g}" if arm != "none" else "",
                spread([f["held_out"] for f in runs]),
                *(spread([f[k] for f in runs]) for k in ("accuracy", *noisy)),
                f"{statistics.geometric_mean(f['product_of_norms'] for f in runs):.3g}",
                f"{statistics.geometric_mean(f['certificate'] for f in runs):.3g}",
                f"{ratio[arm]:.2f} ×",
            ]
        )
    levels = [k.removeprefix("accuracy_noise_") for k in noisy]
    header = ["arm", "λ", "held out", "test", *(f"noise {level}" for level in levels)]
    shown = table([*header, "product of norms", "certificate", "a step"], rows)
    return f"{TRAINING}\n\n{shown}"


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{percent(statistics.mean(values))} ± {100 * deviation:.2f}"


SPECTRA = """Mean over kernels of the mean and of the largest relative error over all values
above a tenth of the largest, of the sum of errors over the sum of values, and of the largest
value's error, against the operator written out as a matrix; the energy is Σσ² against the exact
one. *quantile* is a reconstruction from the abstract of Yi (2020), *energy* and *extrapolated* are
ours. Kernels: Gaussian and smooth ones, ResNet-20 for CIFAR-10, and the networks of
facenet-pytorch, wherever the matrix has at most 2,304 rows or columns."""

SPECTRA_TIME = """Time for all singular values under circular padding, float32 kernels, one thread:
medians of CPU time, and of its ratio to that of lorank's circular method in the same round. The
error is the largest of all values against float64, relative to the largest value. A layer in
SVD form has the rank of a fourth of its channels."""

SPECTRA_ZEROS = """Time for all singular values under zero padding (*leading*: the six largest),
against those of the matrix."""


def spectra(figures: dict[str, Any]) -> str:
    columns = ("mean", "max", "l1", "top", "energy")
    rows, groups = [], {}
    for f in figures["accuracy"]:
        groups.setdefault((f["n"], f["method"]), []).append(f)
    for (n, method), found in sorted(groups.items(), key=lambda item: item[0][0]):
        means = [statistics.mean(abs(f[c]) for f in found) for c in columns]
        rows.append([f"{n}×{n} ({len(found)})", method, *(percent(m, 1) for m in means)])
    errors = table(["image (kernels)", "method", *columns], rows)
    wide = [f["mean"] for f in figures["coarse"] if min(f["shape"][:2]) >= 28]
    coarse = (
        f"The coarse grid is off by {percent(statistics.mean(wide))} on average, and by "
        f"{percent(max(wide))} at worst, from all circular values of 32×32 pixels, over the "
        f"{len(wide)} layers of at least 28 channels."
    )
    times = [
        [
            f"{f['kernel']}, {f['n']}×{f['n']}",
            f["method"],
            f"{1e3 * f['seconds']:.1f} ms",
            f"{f['ratio']:.2f} ×",
            f"{f['error']:.0e}" if "error" in f else "",
        ]
        for f in figures["time"]
    ]
    time = table(["layer", "method", "time", "against circular", "error"], times)
    zeros = [
        [
            f"{f['kernel']}, {f['n']}×{f['n']}",
            f["method"],
            f"{1e3 * f['seconds']:.1f} ms",
            f"{f['ratio']:.4f} ×",
        ]
        for f in figures["zeros"]
    ]
    padded = table(["layer", "method", "time", "against the matrix"], zeros)
    return "\n\n".join([SPECTRA, errors, coarse, SPECTRA_TIME, time, SPECTRA_ZEROS, padded])


SECTIONS: list[Section] = [
    ("conv_spectra", "All singular values of a convolution as an operator", spectra),
    ("operator_training", "Norm penalties in training, ResNet-8 on CIFAR-10", training),
]

"""Convolutions as operators: spectra, bounds, penalties."""

import statistics
from typing import Any

from sections.markdown import Rows, Section, percent, table

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


BOUNDS_TIGHT = """Upper bounds of the norm over the norm itself (a bracket of 1e-5 in float64),
on trained convolutions of ResNet-20 and ResNet-56 for CIFAR-10 and of the networks of
facenet-pytorch. The last rows are no bounds: they may fall below 1."""

BOUNDS_TIME = """The bracket of 1e-3 against the published way, NumPy's FFT and all singular values
of the full grid in complex128, on images of 32×32 pixels and of the layer's own size. CPU time in
turns, one thread. The bracket holds for every size of the image, the published value for one size
and circular padding."""

BOUNDS_PEERS = """Published code on two layers, as it stands; times over that of the bracket."""

BOUNDS_CLIP = """ResNet-20 with the norm of every layer capped, on the first 2,000 test images,
without training; in the last column BatchNorm is re-estimated, on images as they are."""


def bounds(figures: dict[str, Any]) -> str:
    parts = [
        (BOUNDS_TIME, bounds_time, "time"),
        (BOUNDS_TIGHT, bounds_tight, "tight"),
        (BOUNDS_PEERS, bounds_peers, "peers"),
        (BOUNDS_CLIP, bounds_clip, "clip"),
    ]
    made = [f"{text}\n\n{make(figures[name])}" for text, make, name in parts if figures.get(name)]
    return "\n\n".join(made)


def bounds_time(rows: Rows) -> str:
    header = ["layer", "shape", "gap", "bracket", "FFT + SVD, 32×32", "times faster", "own size"]
    shown = [
        [
            f["layer"],
            "×".join(map(str, f["shape"])),
            f"{f['gap']:.1e}",
            f"{f['ms']['bracket 1e-3']:.0f} ms",
            f"{f['ms']['FFT + SVD, 32']:.0f} ms",
            f"{f['times_faster']:.1f} ×",
            f"{f['times_faster_own_size']:.1f} ×",
        ]
        for f in rows
    ]
    return table(header, shown)


def bounds_tight(rows: Rows) -> str:
    shown = [
        [
            f["bound"],
            "yes" if f["certified"] else "no",
            str(f["layers"]),
            *(f"{f[name]:.4f}" for name in ("least", "mean", "largest")),
            str(f["below_the_norm"]),
        ]
        for f in rows
    ]
    header = ["bound", "certified", "layers", "least", "mean", "largest", "below the norm"]
    return table(header, shown)


def bounds_peers(rows: Rows) -> str:
    shown = [
        [f["layer"], f["code"], f"{f['over_the_norm']:.4f}", f"{f['times_the_bracket']:.2f} ×"]
        for f in rows
    ]
    return table(["layer", "code", "over the norm", "time"], shown)


def bounds_clip(rows: Rows) -> str:
    shown = [
        [
            f"{f['cap']:g}",
            f"{f['layers_capped']} of {f['of']}",
            f"{f['largest_norm_before']:.1f} → {f['largest_norm_after']:.1f}",
            percent(f["mean_change"], 1),
            percent(f["accuracy_before"]),
            percent(f["accuracy_after"]),
            percent(f["accuracy_recalibrated"]),
        ]
        for f in rows
    ]
    header = ["cap", "layers", "largest norm", "change of a weight", "accuracy", "capped"]
    return table([*header, "re-estimated"], shown)


SECTIONS: list[Section] = [
    ("conv_spectra", "All singular values of a convolution as an operator", spectra),
    ("conv_bounds", "Bounds of a convolution's norm", bounds),
    ("operator_training", "Norm penalties in training, ResNet-8 on CIFAR-10", training),
]

"""Quaternion matrices and what they are used for."""

from sections.markdown import Rows, Section, table


def quaternion(figures: Rows) -> str:
    shown = []
    for task, text, make in PARTS:
        of_task = [f for f in figures if f["task"] == task]
        if of_task:
            shown.append(f"{text}\n\n{make(of_task)}")
    return "\n\n".join(shown)


TIMES = """CPU seconds on one thread, everything in turns in one process; the speed-up is that over
the faster of NumPy's and torch's full SVD of the complex adjoint. The error is that of the cut to k
over the best one, the value the worst relative error among σ₁…σ_k, the defect `‖U*U − I‖_F` of the
quaternion vectors. Of an adjoint's vectors every second one is taken, as public code does."""

REPEATS = """Full decompositions where values repeat: everybody's values are right, vectors are not.
The residual is relative."""

BOUNDS = "Errors of seeded sketches over the published bound of the mean, without power iterations."

PRODUCTS = "A quaternion product, against the product of the complex adjoints."

MEMORY = "Peak memory over the input, which is counted in where it is held; the factors are not."


def times(figures: Rows) -> str:
    rows = [
        [
            f"{f['n']}, {f['k']}",
            f["family"],
            f["method"],
            f"{f['seconds']:.3f}",
            f"{f['speedup']:.1f} ×",
            *(
                [f"{f['error_over_best']:.4f}", f"{f['worst_value']:.0e}", f"{f['defect']:.0e}"]
                if "defect" in f
                else ["", "", ""]
            ),
        ]
        for f in figures
    ]
    header = ["n, k", "spectrum", "method", "s", "speed-up", "error / best", "value", "defect"]
    return table(header, rows)


def repeats(figures: Rows) -> str:
    rows = [
        [f["family"], f["method"], f"{f['defect']:.0e}", f"{f['relative_residual']:.0e}"]
        for f in figures
    ]
    return table(["values (40 × 40)", "method", "defect", "residual"], rows)


def bounds(figures: Rows) -> str:
    rows = [
        [
            f["family"],
            f"{f['n']}, {f['k']}, {f['p']}",
            str(f["draws"]),
            f"{f['mean_over_bound']:.3f}",
            f"{f['worst_over_bound']:.3f}",
        ]
        for f in figures
    ]
    return table(["spectrum", "n, k, p", "draws", "mean", "worst"], rows)


def products(figures: Rows) -> str:
    rows = [
        ["×".join(map(str, f["shape"])), f["method"], f"{f['seconds']:.2f} s", f"{f['ratio']:.2f}"]
        for f in figures
    ]
    return table(["shape", "method", "time", "ratio"], rows)


def memory(figures: Rows) -> str:
    rows = [
        [str(f["n"]), str(f["k"]), f["method"], f"{f['peak_over_input']:.2f} ×"] for f in figures
    ]
    return table(["n", "k", "method", "peak"], rows)


PARTS = [
    ("time", TIMES, times),
    ("repeats", REPEATS, repeats),
    ("bound", BOUNDS, bounds),
    ("product", PRODUCTS, products),
    ("memory", MEMORY, memory),
]

SECTIONS: list[Section] = [
    ("quaternion_svd", "Quaternion SVD against the complex adjoint and others", quaternion),
]

"""Quaternion SVD against the complex adjoint and the Python peers: time, error and vectors.

Everything runs in one process on one thread, in turns, and is timed in CPU seconds; figures are
medians over rounds of ratios to the full SVD of the complex adjoint in the same round. Vectors are
judged as quaternion vectors. Peers (QuatIca, quat-numpy, SciPy) are left out where not installed.
Each case is written when it is done, and a case that is in the JSON already is not run again
without ``--again``.

The product, repeated values, memory and the bounds have cases of their own.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402 (threads are fixed first)
import torch  # noqa: E402

from lorank import linalg as L  # noqa: E402
from lorank.linalg.quaternion.algebra import from_rows, rows  # noqa: E402
from lorank.linalg.quaternion.qr import orth  # noqa: E402
from record import RESULTS, record  # noqa: E402

K, P = 50, 10

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # U, s, V


def unitary(m: int, n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return from_rows(orth(rows(torch.randn(m, n, 4, generator=generator, dtype=torch.float64))))


def matrix(values: torch.Tensor, n: int) -> torch.Tensor:
    left, right = unitary(n, len(values), 1), unitary(n, len(values), 2)
    return L.qmatmul(left * values[:, None], L.qct(right))


def spectrum(name: str, n: int) -> torch.Tensor:
    i = torch.arange(1, n + 1).double()
    return {
        "fast": (0.85 ** (i - 1)).clamp_min(1e-14),
        "slow": i**-0.8,
        "S-shaped": 1e-3 + (1 - 1e-3) / (1 + torch.exp((i - 40) / 4)),
        "flat": torch.where(i <= 100, torch.ones_like(i), (i - 99).clamp_min(1) ** -2),
        "all one": torch.ones_like(i),
    }[name]


def defect(U: torch.Tensor) -> float:
    gap = L.qmatmul(L.qct(U), U)
    gap[..., 0].diagonal().sub_(1)
    return float(gap.norm())


# --------------------------------------------------------------------------- who takes part


def every_second(U: torch.Tensor, s: torch.Tensor, V: torch.Tensor, k: int) -> Factors:
    """Pairs: what is done with vectors of the adjoint where nobody looks at multiplicities."""

    def vectors(X: torch.Tensor) -> torch.Tensor:
        half = X.shape[0] // 2
        return L.from_complex_pair(X[:half, : 2 * k : 2], -X[half:, : 2 * k : 2].conj())

    return vectors(U), s[: 2 * k : 2], vectors(V)


def ours(k: int, **options: Any) -> Callable:
    def run(A: torch.Tensor, _: torch.Tensor) -> Factors:
        U, s, Vh = L.randomized_qsvd(A, k, **options)
        return U, s, L.qct(Vh)

    return run


def single(k: int) -> Callable:
    def run(A: torch.Tensor, _: torch.Tensor) -> Factors:
        U, s, Vh = L.randomized_qsvd(A.float(), k, n_iter=1)
        return U.double(), s.double(), L.qct(Vh).double()

    return run


def krylov(k: int) -> Callable:
    def run(A: torch.Tensor, _: torch.Tensor) -> Factors:
        U, s, Vh = L.qsvd_krylov(A, k, n_iter=1)
        return U, s, L.qct(Vh)

    return run


def full(A: torch.Tensor, _: torch.Tensor) -> Factors:
    U, s, Vh = L.qsvd(A)
    return U, s, L.qct(Vh)


def torch_full(A: torch.Tensor, X: torch.Tensor) -> Factors:
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    return every_second(U, s, Vh.mH, len(s) // 2)


def numpy_full(A: torch.Tensor, X: torch.Tensor) -> Factors:
    U, s, Vh = (torch.from_numpy(x) for x in np.linalg.svd(X.numpy(), full_matrices=False))
    return every_second(U, s, Vh.mH, len(s) // 2)


def torch_lowrank(k: int) -> Callable:
    def run(A: torch.Tensor, X: torch.Tensor) -> Factors:
        U, s, V = torch.svd_lowrank(X, 2 * (k + P), niter=1)
        return every_second(U, s, V, k)

    return run


def scipy_svds(k: int) -> Callable:
    from scipy.sparse.linalg import svds

    def run(A: torch.Tensor, X: torch.Tensor) -> Factors:
        U, s, Vh = (torch.from_numpy(np.ascontiguousarray(x)) for x in svds(X.numpy(), 2 * k))
        order = s.argsort(descending=True)
        return every_second(U[:, order], s[order], Vh[order].mH, k)

    return run


def quatica(k: int, q: int) -> Callable:
    def run(A: torch.Tensor, _: torch.Tensor) -> Factors:
        import quaternion
        from quatica.decomp.qsvd import rand_qsvd

        U, s, V = rand_qsvd(quaternion.as_quat_array(A.numpy()), k, oversample=P, n_iter=q)
        parts = (torch.from_numpy(quaternion.as_float_array(x).copy()) for x in (U, V))
        left, right = parts
        return left, torch.from_numpy(np.asarray(s).real.copy()), right

    return run


def quatica_full(A: torch.Tensor, _: torch.Tensor) -> Factors:
    import quaternion
    from quatica.decomp.qsvd import classical_qsvd

    U, s, V = classical_qsvd(quaternion.as_quat_array(A.numpy()), len(A))
    parts = (torch.from_numpy(quaternion.as_float_array(x).copy()) for x in (U, V))
    left, right = parts
    return left, torch.from_numpy(np.asarray(s).real.copy()), right


def quat_numpy(A: torch.Tensor, _: torch.Tensor) -> Factors:
    from quat import QuatMatrix
    from quat.linalg import svd

    U, s, Vh = svd(QuatMatrix(A.numpy()))
    left, right = (torch.from_numpy(np.ascontiguousarray(X._data)) for X in (U, Vh))
    return left, torch.from_numpy(s.copy()), L.qct(right)


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


def contestants(n: int, k: int, family: str) -> dict[str, Callable]:
    """Who runs at a size: the first is what the others are measured against.

    ARPACK is left out where values repeat: it does not converge there.
    """
    found: dict[str, Callable] = {"full SVD of the adjoint, NumPy": numpy_full}
    if n < 2000:
        found["full SVD of the adjoint, torch"] = torch_full
    for q in (0, 1, 2):
        found[f"lorank, q = {q}"] = ours(k, n_iter=q)
    found["lorank, q = 1, real test matrix"] = ours(k, n_iter=1, test_matrix="real")
    found["lorank, q = 1, float32"] = single(k)
    found["lorank, block Krylov, 1 step"] = krylov(k)
    if n < 2000:
        found["lorank, full"] = full
    found["torch.svd_lowrank on the adjoint, niter = 1"] = torch_lowrank(k)
    if installed("scipy") and n < 2000 and family != "flat":
        found["scipy svds on the adjoint"] = scipy_svds(k)
    if n <= 300 and installed("quatica", "quaternion"):
        found["QuatIca rand_qsvd, q = 1"] = quatica(k, 1)
        found["QuatIca classical_qsvd"] = quatica_full
    if n <= 300 and installed("quat"):
        found["quat-numpy svd"] = quat_numpy
    return found


# --------------------------------------------------------------------------- cases


def judged(A: torch.Tensor, values: torch.Tensor, k: int, found: Factors) -> dict[str, Any]:
    """Error over the best, worst relative error of σ₁…σ_k, and defects of k vectors."""
    U, s, V = found[0][:, :k].contiguous(), found[1][:k], found[2][:, :k].contiguous()
    gap = L.qsvd_error(A, (U, s, L.qct(V))).frobenius
    best = float(values[k:].square().sum().sqrt())
    return {
        "error_over_best": gap / best if best > 0 else None,
        "relative_residual": gap / float(A.norm()),
        "worst_value": float(((s - values[:k]) / values[:k]).abs().max()),
        "defect": max(defect(U), defect(V)),
    }


def times_of(n: int, family: str, k: int, rounds: int) -> list[dict[str, Any]]:
    values = spectrum(family, n)
    A = matrix(values, n)
    X = L.adjoint(A)
    runs = contestants(n, k, family)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    quality = {}
    for name, run in runs.items():  # once for the result, and to warm up
        if not name.startswith("full SVD") or n < 2000:
            quality[name] = judged(A, values, k, run(A, X))
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(1 if name.startswith(("full", "lorank, full", "QuatIca cl")) else 3):
                began = time.process_time()
                run(A, X)
                seconds[name].append(time.process_time() - began)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    reference = min(t for name, t in median.items() if name.startswith("full SVD"))
    return [
        {
            "task": "time",
            "n": n,
            "k": k,
            "family": family,
            "method": name,
            "seconds": round(median[name], 4),
            "speedup": round(reference / median[name], 2),
            **quality.get(name, {}),
        }
        for name in runs
    ]


def repeats(n: int = 40) -> list[dict[str, Any]]:
    """Full decompositions of matrices whose values repeat."""
    figures = []
    runs: dict[str, Callable] = {
        "lorank, full": full,
        "every second vector of the adjoint": numpy_full,
    }
    if installed("quatica", "quaternion"):
        runs["QuatIca classical_qsvd"] = quatica_full
    if installed("quat"):
        runs["quat-numpy svd"] = quat_numpy
    spectra = {
        "all one": torch.ones(n).double(),
        "triples": torch.linspace(1, 0.1, n // 4).double().repeat_interleave(4),
        "pairs split by 1e-9": torch.linspace(1, 0.1, n // 2).double().repeat_interleave(2)
        - torch.tensor([0, 1e-9]).double().repeat(n // 2),
        "distinct": torch.linspace(1, 0.1, n).double(),
    }
    for family, values in spectra.items():
        A = matrix(values, n)
        for name, run in runs.items():
            figures.append(
                {"task": "repeats", "n": n, "family": family, "method": name}
                | judged(A, values, n, run(A, L.adjoint(A)))
            )
    return figures


def products(m: int = 2000, n: int = 2000, l: int = 200, rounds: int = 5) -> list[dict[str, Any]]:  # noqa: E741
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(m, n, 4, generator=generator, dtype=torch.float64)
    B = torch.randn(n, l, 4, generator=generator, dtype=torch.float64)
    left, right = L.adjoint(A), L.adjoint(B)
    runs = {
        "adjoint times adjoint": lambda: left @ right,
        "one complex product, row form": lambda: L.qmatmul(A, B, method="complex"),
        "eight real products": lambda: L.qmatmul(A, B, method="8"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    base = statistics.median(seconds["adjoint times adjoint"])
    return [
        {
            "task": "product",
            "shape": [m, n, l],
            "method": name,
            "seconds": round(statistics.median(times), 4),
            "ratio": round(statistics.median(times) / base, 3),
        }
        for name, times in seconds.items()
    ]


PEAK = """
import torch
torch.set_num_threads(1)
import lorank.linalg as L
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
n = {n}
L.randomized_qsvd(torch.randn(200, 200, 4).double(), 50)  # libraries take their buffers
if {one_pass}:
    before = peak()
    sketch = L.QuaternionSketch((n, n), {k})
    for start in range(0, n, 100):
        sketch.update(torch.randn(100, n, 4).double())
    U, S, Vh = sketch.finalize()
    held = 0
else:
    A = torch.zeros(n, n, 4, dtype=torch.float64)
    for row in A:
        row.normal_()
    before, held = peak(), A.numel() * 8
    U, S, Vh = L.randomized_qsvd(A, {k})
size = n * n * 32
print((peak() - before + held - (U.numel() + Vh.numel()) * 8) / size)
"""


def memory() -> list[dict[str, Any]]:
    figures = []
    for n, k, one_pass in ((1000, K, False), (2000, K, False), (4000, 20, True)):
        code = PEAK.format(n=n, k=k, one_pass=one_pass)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        name = "one pass, matrix in pieces" if one_pass else "randomized, q = 2"
        figures.append(
            {"task": "memory", "n": n, "k": k, "method": name}
            | {"peak_over_input": round(float(done.stdout), 3)}
        )
    return figures


def bounds(n: int = 200, k: int = 20, draws: int = 50) -> list[dict[str, Any]]:
    """Worst and mean error of seeded draws over the published bound of the mean."""
    figures = []
    for family in ("slow", "fast", "flat"):
        values = spectrum(family, n)
        A = matrix(values, n)
        for p in (0, 1, 2, 5, 10):
            errors = []
            for seed in range(draws):
                found = L.randomized_qsvd(A, k + p, n_oversamples=0, n_iter=0, random_state=seed)
                errors.append(L.qsvd_error(A, found, probes=1).frobenius)
            bound = L.expected_qsvd_error(values, k, p)
            figures.append(
                {"task": "bound", "n": n, "k": k, "p": p, "family": family, "draws": draws}
                | {"mean_over_bound": statistics.mean(errors) / bound}
                | {"worst_over_bound": max(errors) / bound}
            )
    return figures


CASES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "repeats": repeats,
    "product": products,
    "memory": memory,
    "bound": bounds,
    **{
        f"time/300/{f}": lambda f=f: times_of(300, f, 20, 5)
        for f in ("fast", "slow", "S-shaped", "flat")
    },
    **{
        f"time/1000/{f}": lambda f=f: times_of(1000, f, K, 2)
        for f in ("fast", "slow", "S-shaped", "flat")
    },
    **{f"time/2000/{f}": lambda f=f: times_of(2000, f, K, 1) for f in ("fast", "slow")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases that begin so")
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "quaternion_svd.json"
    done = json.loads(path.read_text())["figures"] if path.exists() else []
    for case, make in CASES.items():
        known = any(f["case"] == case for f in done)
        if not case.startswith(args.only) or (known and not args.again):
            continue
        made = [{"case": case, **figure} for figure in make()]
        for figure in made:
            print(figure, flush=True)
        done = [f for f in done if f["case"] != case] + made
        record("quaternion_svd", done, command="python benchmarks/quaternion_svd.py", blas=blas())


def blas() -> str:
    config = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"NumPy {np.__version__} with {config['name']} {config['version']}"


if __name__ == "__main__":
    main()

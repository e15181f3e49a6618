"""Singular values of convolutions as operators: how exact each method is, how fast next to others.

Parts, each of which is kept as soon as it is done and not run again unless asked for:

* ``accuracy``: estimates under zero padding against the operator written out as a matrix, on
  Gaussian and smooth kernels, the trained layers of ResNet-20 for CIFAR-10 and, with ``--facenet``,
  of the three networks inside the wheel of facenet-pytorch 2.6.0 (unpacked; ``pip download
  --no-deps``), wherever the matrix has at most 2,304 rows or columns.
* ``coarse``: circular values from a grid of fixed size against those of all frequencies.
* ``time``: all circular values in float32, against NumPy's FFT and SVD as Sedghi, Gupta and Long
  publish them and the code found under ``--peers`` (git checkouts, as ``OWNER+NAME``), and layers
  in SVD form at a quarter of the channels; CPU seconds on one thread, in turns, medians of ratios.
* ``zeros``: the same for values under zero padding, against the matrix.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor

from lorank.linalg import (
    SVD,
    OperatorSpectrum,
    Unfolding,
    factored_singular_values,
    operator_energy,
    operator_singular_values,
)
from lorank.linalg import svd as decomposed
from lorank.zoo import load_model
from record import RESULTS, data_folder, record

NAME = "conv_spectra"
COMMAND = "python benchmarks/conv_spectra.py --peers FOLDER --facenet FOLDER"
SIZES = (8, 12, 16)
SIDE = 2304
ESTIMATES = ("circular", "quantile", "energy", "extrapolated")

Run = Callable[[], Any]


def gaussian(out: int, into: int, taps: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(out, into, taps, taps, generator=g) / (into * taps * taps) ** 0.5


def smooth(channels: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    bump = torch.tensor([1.0, 2, 1]) / 4
    mix = torch.randn(channels, channels, generator=g)[..., None, None] * torch.outer(bump, bump)
    return 0.3 * gaussian(channels, channels, 3, seed) + mix


def kernels(facenet: Path | None) -> dict[str, Tensor]:
    found = {
        "Gaussian 3×3×3×3": gaussian(3, 3, 3),
        "Gaussian 8×8×3×3": gaussian(8, 8, 3),
        "Gaussian 8×4×3×3": gaussian(8, 4, 3),
        "Gaussian 8×8×2×2": gaussian(8, 8, 2),
        "Gaussian 3×3×5×5": gaussian(3, 3, 5),
        "Gaussian 8×8×5×5": gaussian(8, 8, 5),
        "smooth 8×8×3×3": smooth(8),
    }
    model = load_model("resnet20", weights=data_folder() / "resnet_cifar10/resnet20.safetensors")
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1):
            found[f"ResNet-20 {path}"] = module.weight.detach()
    for file in sorted(facenet.rglob("[por]net.pt")) if facenet else []:
        for path, value in torch.load(file, weights_only=True).items():
            if value.ndim == 4 and value.shape[-1] > 1:
                found[f"{file.stem} {path.removesuffix('.weight')}"] = value.float()
    return found


def accuracy(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name, K in kernels(args.facenet).items():
        for n in SIZES:
            if min(K.shape[:2]) * n * n > SIDE:
                continue
            truth = operator_singular_values(K, n, method="exact").values.double()
            energy = operator_energy(K, n)
            for method in ESTIMATES:
                found = operator_singular_values(K, n, method=method)
                rows.append({"kernel": name, "shape": list(K.shape), "n": n, "method": method})
                rows[-1] |= errors(found.values.double(), truth, energy) | {"stated": found.error}
            print(name, n, [round(100 * r["mean"], 2) for r in rows[-len(ESTIMATES) :]], flush=True)
    return rows


def errors(found: Tensor, truth: Tensor, energy: float) -> dict[str, float]:
    counted = truth > 0.1 * truth[0]
    relative = ((found - truth).abs() / truth)[counted]
    return {
        "mean": float(relative.mean()),
        "max": float(relative.max()),
        "l1": float((found - truth).abs().sum() / truth.sum()),
        "top": float(found[0] / truth[0] - 1),
        "energy": float(found.square().sum() / energy - 1),
    }


def coarse(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name, K in kernels(args.facenet).items():
        if min(K.shape[:2]) < 8:
            continue
        every = operator_singular_values(K, 32, padding="circular", method="circular")
        found = operator_singular_values(K, 32, padding="circular", method="coarse")
        truth = every.values.double()
        rows.append({"kernel": name, "shape": list(K.shape), "n": 32, "stated": found.error})
        rows[-1] |= errors(found.values.double(), truth, float(truth.square().sum()))
    return rows


def time_circular(args: argparse.Namespace) -> list[dict[str, Any]]:
    trained = kernels(args.facenet)
    cases = {
        "ResNet-20 layer1.0.conv1": (trained["ResNet-20 layer1.0.conv1"], 32),
        "ResNet-20 layer3.1.conv1": (trained["ResNet-20 layer3.1.conv1"], 32),
        "Gaussian 128×128×3×3": (gaussian(128, 128, 3), 16),
    }
    rows = []
    for name, (K, n) in cases.items():
        truth = operator_singular_values(K.double(), n, padding="circular", method="circular")
        runs = contestants(K, n) | peers(args.peers, K, n)
        seconds, values = in_turns(runs, args.rounds)
        ours = seconds["circular (ours)"]
        for method, times in seconds.items():
            row = {"kernel": name, "shape": list(K.shape), "n": n, "method": method}
            row |= {"seconds": statistics.median(times), "ratio": ratio(times, ours)}
            if "rank" not in method:
                row |= {"error": distance(values[method], truth.values)}
            rows.append(row)
            print(row, flush=True)
    return rows


def contestants(K: Tensor, n: int) -> dict[str, Run]:
    filters = K.permute(2, 3, 0, 1).contiguous().numpy()
    single, double = filters.astype(np.float32), filters.astype(np.float64)

    def published(kernel: np.ndarray) -> np.ndarray:
        """All singular values at every frequency of the full grid, by Sedghi's formula."""
        return np.linalg.svd(np.fft.fft2(kernel, (n, n), axes=[0, 1]), compute_uv=False)

    circular: Any = {"padding": "circular"}
    runs: dict[str, Run] = {
        "circular (ours)": lambda: operator_singular_values(K, n, method="circular", **circular),
        "coarse (ours)": lambda: operator_singular_values(K, n, method="coarse", **circular),
        "FFT + SVD, NumPy, float32": lambda: published(single),
        "FFT + SVD, NumPy, float64": lambda: published(double),
    }
    for layout in ("channel", "spatial"):
        view, factors = cut(K, layout)
        runs[f"rank c/4 in SVD form, {layout} (ours)"] = lambda view=view, factors=factors: (
            factored_singular_values(view, factors, n, method="circular", **circular)
        )
    return runs


def cut(K: Tensor, layout: str) -> tuple[Unfolding, SVD]:
    """The layer in SVD form at a fourth of the channels."""
    view = Unfolding(K.shape[0], K.shape[1], tuple(K.shape[2:]), layout=layout)
    U, S, Vh = decomposed(view.matrix(K))
    rank = K.shape[0] // 4
    return view, SVD(U[:, :rank], S[:rank], Vh[:rank])


def peers(folder: Path | None, K: Tensor, n: int) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    if not folder:
        return runs
    lfa = folder / "vanbetteray+conv_svd_by_lfa"
    if lfa.is_dir():
        sys.path.insert(0, str(lfa))
        run = loaded("lfa_main", lfa / "main.py").svd_lfa
        runs["LFA, published code"] = lambda: run(K.numpy(), n)
    senderovich = folder / "WhiteTeaDragon+practical_svd_conv"
    if senderovich.is_dir():
        sys.path.insert(0, str(senderovich))
        for name in ("wandb", "torchsummary", "einops", "torchvision"):
            if name not in sys.modules and importlib.util.find_spec(name) is None:
                sys.modules[name] = MagicMock()  # imported there, not used here
        ready = importlib.import_module("src.utils").get_ready_for_svd
        kernel = K.permute(2, 3, 0, 1)
        runs["Senderovich et al., published code"] = lambda: torch.linalg.svdvals(
            ready(kernel, (n, n), 1)[-1]
        )
    return runs


def loaded(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_turns(runs: dict[str, Run], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """CPU seconds of each, in turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    values: dict[str, Any] = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            values[name] = run()
            if turn:
                seconds[name].append(time.process_time() - began)
    return seconds, values


def ratio(times: list[float], ours: list[float]) -> float:
    return statistics.median(t / o for t, o in zip(times, ours, strict=True))


def distance(found: Any, truth: Tensor) -> float:
    """Largest error of all values in order, relative to the largest value."""
    values = found.values if isinstance(found, OperatorSpectrum) else found
    flat = torch.as_tensor(values).double().flatten()
    ordered = flat.sort(descending=True).values
    return float((ordered - truth.double()).abs().max() / truth[0])


def time_zeros(args: argparse.Namespace) -> list[dict[str, Any]]:
    trained = kernels(args.facenet)
    rows = []
    for name, n in (("ResNet-20 layer1.0.conv1", 12), ("ResNet-20 layer2.1.conv1", 8)):
        K = trained[name]
        runs: dict[str, Run] = {
            m: lambda m=m, K=K, n=n: operator_singular_values(K, n, method=m)
            for m in (*ESTIMATES, "leading", "exact")
        }
        seconds, _ = in_turns(runs, max(1, args.rounds // 2))
        for method, times in seconds.items():
            row = {"kernel": name, "shape": list(K.shape), "n": n, "method": method}
            row |= {"seconds": statistics.median(times), "ratio": ratio(times, seconds["exact"])}
            rows.append(row)
            print(row, flush=True)
    return rows


PARTS = {"accuracy": accuracy, "coarse": coarse, "time": time_circular, "zeros": time_zeros}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder with checkouts of published code")
    parser.add_argument("--facenet", type=Path, help="the unpacked wheel of facenet-pytorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--again", nargs="*", choices=PARTS, default=[], help="parts to run anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"{NAME}.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    for part, run in PARTS.items():
        if part not in figures or part in args.again:
            figures[part] = run(args)
            record(NAME, figures, command=COMMAND, rounds=args.rounds, numpy=np.__version__)


if __name__ == "__main__":
    main()

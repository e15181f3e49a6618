"""Bounds of a convolution's norm: how tight, how fast, next to published code; what a cap costs.

Parts, each of which is kept as soon as it is done and not run again unless asked for:

* ``tight``: every bound over the norm (a bracket of 1e-5 in float64), on every trained 3×3, 2×2 and
  4×4 convolution of ResNet-20 and ResNet-56 for CIFAR-10 and, with ``--facenet``, of the three
  networks inside the wheel of facenet-pytorch 2.6.0 (unpacked; ``pip download --no-deps``).
* ``time``: the bracket of 1e-3 against NumPy's FFT and all singular values of the full grid in
  complex128, as published by Sedghi, Gupta and Long, on images of 32×32 pixels and of the layer's
  own size; CPU seconds, in turns, medians.
* ``peers``: published code found under ``--peers``, on the same kernels.
* ``clip``: accuracy of ResNet-20 with every layer capped, on the first 2,000 test images.
"""

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lorank
from lorank.linalg import BOUNDS, norm_bracket, operator_norm_bound
from lorank.linalg.convolution.uncertified import alternating_norm, reshaped_norm
from lorank.zoo import load_data, load_model
from record import RESULTS, data_folder, record

NAME = "conv_bounds"
COMMAND = "python benchmarks/conv_bounds.py --peers FOLDER --facenet FOLDER"
CAPS = (6.0, 4.0, 3.0, 2.0)
TEST_IMAGES = 2000

Layers = dict[str, tuple[Tensor, int, int]]
"""Name → kernel, stride, size of the image that the layer reads."""


def resnet(name: str) -> Layers:
    model = load_model(name, weights=data_folder() / f"resnet_cifar10/{name}.safetensors")
    found: Layers = {}
    size = 32
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            found[f"{name} {path}"] = module.weight.detach(), module.stride[0], size
            size //= module.stride[0]
    return found


def facenet(folder: Path) -> Layers:
    found: Layers = {}
    for file in sorted(folder.rglob("[por]net.pt")):
        for path, value in torch.load(file, weights_only=True).items():
            if value.ndim == 4 and value.shape[-1] > 1:
                found[f"{file.stem} {path.removesuffix('.weight')}"] = value.detach(), 1, 32
    return found


def tight(layers: Layers) -> list[dict[str, Any]]:
    ratios: dict[str, list[float]] = {}
    for name, (weight, stride, _) in layers.items():
        norm = norm_bracket(weight.double(), stride=stride, tol=1e-5).lower
        for method in BOUNDS:
            bound = float(operator_norm_bound(weight, method, stride=stride))
            ratios.setdefault(method, []).append(bound / norm)
        if stride == 1:
            for method, estimate in ESTIMATES.items():
                ratios.setdefault(method, []).append(float(estimate(weight)) / norm)
        print(name, tuple(weight.shape), round(norm, 4), flush=True)
    return [
        {
            "bound": method,
            "certified": method in BOUNDS,
            "layers": len(found),
            "least": round(min(found), 4),
            "mean": round(statistics.mean(found), 4),
            "largest": round(max(found), 4),
            "below_the_norm": sum(r < 1 - 1e-5 for r in found),
        }
        for method, found in ratios.items()
    ]


ESTIMATES: dict[str, Callable[[Tensor], Tensor]] = {
    "reshaped norm": reshaped_norm,
    "tensor norm, alternating, one start": lambda w: alternating_norm(w, 20),
}


def full_grid(weight: Tensor, size: int) -> float:
    """FFT and every singular value at every frequency: the published two lines."""
    transform = np.fft.fft2(weight.double().numpy(), (size, size), axes=(2, 3))
    return float(np.linalg.svd(transform.transpose(2, 3, 0, 1), compute_uv=False).max())


def seconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, in turns; the first round is dropped."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            times[name].append(time.process_time() - began)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def timed(layers: Layers, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for name, (weight, stride, size) in layers.items():
        if stride > 1 or min(weight.shape[:2]) < 16 or "resnet56" in name:
            continue
        found = norm_bracket(weight)
        calls: dict[str, Callable[[], Any]] = {
            "bracket 1e-3": lambda w=weight: norm_bracket(w),
            "grid": lambda w=weight: operator_norm_bound(w, "grid"),
            "FFT + SVD, 32": lambda w=weight: full_grid(w, 32),
        }
        if size != 32:
            calls[f"FFT + SVD, {size}"] = lambda w=weight, n=size: full_grid(w, n)
        times = seconds(calls, rounds)
        row = {
            "layer": name,
            "shape": list(weight.shape),
            "gap": round(found.upper / found.lower - 1, 6),
            "ms": {call: round(1e3 * t, 2) for call, t in times.items()},
            "times_faster": round(times["FFT + SVD, 32"] / times["bracket 1e-3"], 2),
            "times_faster_own_size": round(
                times.get(f"FFT + SVD, {size}", times["FFT + SVD, 32"]) / times["bracket 1e-3"], 2
            ),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


PEERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Sedghi 2019": ("GrishKate*/bounds.py", "compute_sedghi_2019", {"pad_to": (32, 32)}),
    "Senderovich 2022": ("GrishKate*/bounds.py", "compute_senderovich_2022", {"pad_to": (32, 32)}),
    "Singla, Feizi 2021": ("GrishKate*/bounds.py", "compute_singla_2021", {}),
    "Grishina 2024": ("GrishKate*/bounds.py", "compute_tensor_norm_einsum", {}),
    "Ryu 2019": ("GrishKate*/bounds.py", "compute_ryu_2019", {"pad_to": (32, 32)}),
    "Araujo 2021": (
        "GrishKate*/bounds.py",
        "compute_araujo2021",
        {"device": "cpu", "return_time": False},
    ),
    "Delattre 2023": (
        "*lip4conv/bounds.py",
        "compute_delattre2023_backward",
        {"n": 32, "n_iter": 5, "return_time": False},
    ),
    "Delattre 2024": ("*lip4conv/bounds.py", "compute_delattre2024", {"return_time": False}),
}
"""Name → file under the folder of peers, function, arguments: the authors' defaults otherwise."""


def peer(folder: Path, pattern: str, function: str) -> Callable[..., Any] | None:
    for file in sorted(folder.glob(pattern)):
        sys.path.insert(0, str(file.parent))
        spec = importlib.util.spec_from_file_location(f"peer_{file.parent.name}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.path.pop(0)
        return getattr(module, function)
    return None


def peers(layers: Layers, folder: Path, rounds: int) -> list[dict[str, Any]]:
    wide = [n for n, (w, stride, _) in layers.items() if w.shape == (64, 64, 3, 3) and stride == 1]
    rows = []
    for name in [n for n in wide if "onet" in n or n == "resnet20 layer3.1.conv1"]:
        weight = layers[name][0]
        norm = norm_bracket(weight.double(), tol=1e-6).lower
        calls: dict[str, Callable[[], Any]] = {
            "lorank bracket 1e-3": lambda w=weight: norm_bracket(w).upper,
            "lorank gram": lambda w=weight: operator_norm_bound(w, "gram"),
            "lorank grid": lambda w=weight: operator_norm_bound(w, "grid"),
            "lorank unfoldings": lambda w=weight: operator_norm_bound(w, "unfoldings"),
        }
        for title, (pattern, function, options) in PEERS.items():
            found = peer(folder, pattern, function)
            if found is None:
                print(f"{title}: not found")
                continue
            call = lambda f=found, w=weight, o=options: f(w.clone(), **o)  # noqa: E731
            try:
                call()
            except Exception as error:
                print(f"{title}: left out, it fails here: {error}")
                continue
            calls[title] = call
        values = {title: float(torch.as_tensor(call())) / norm for title, call in calls.items()}
        times = seconds(calls, rounds)
        for title in calls:
            row = {
                "layer": name,
                "code": title,
                "over_the_norm": round(values[title], 4),
                "ms": round(1e3 * times[title], 2),
                "times_the_bracket": round(times[title] / times["lorank bracket 1e-3"], 2),
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


@torch.inference_mode()
def accuracy(model: nn.Module, dataset: Any) -> float:
    model.eval()
    right = 0
    for part in torch.arange(TEST_IMAGES).split(500):
        images, labels = dataset.__getitems__(part.tolist())
        right += int((model(images).argmax(1) == labels).sum())
    return right / TEST_IMAGES


def clipped(old: list[dict[str, Any]], keep: Callable[[list], None]) -> None:
    data = load_data(f"cifar10:{data_folder() / 'cifar10'}")
    model = load_model("resnet20", weights=data_folder() / "resnet_cifar10/resnet20.safetensors")
    for cap in CAPS:
        if any(row["cap"] == cap for row in old):
            continue
        began = time.process_time()
        found = lorank.clip(model, cap, skip=["linear"], evaluate=lambda m: accuracy(m, data.test))
        took = time.process_time() - began
        changed = [layer for layer in found.layers.values() if layer.rounds]
        renewed = lorank.recalibrate(found.model, recalibration(data.train))
        row = {
            "cap": cap,
            "layers_capped": len(changed),
            "of": len(found.layers),
            "largest_norm_before": round(max(c.before for c in found.layers.values()), 3),
            "largest_norm_after": round(max(c.after for c in found.layers.values()), 4),
            "mean_change": round(statistics.mean([c.change for c in changed]), 4) if changed else 0,
            "log10_product_before": round(product(c.before for c in found.layers.values()), 2),
            "log10_product_after": round(product(c.after for c in found.layers.values()), 2),
            "accuracy_before": found.before,
            "accuracy_after": found.after,
            "accuracy_recalibrated": accuracy(renewed, data.test),
            "seconds": round(took, 1),
        }
        print(json.dumps(row), flush=True)
        old.append(row)
        keep(old)


def product(norms: Any) -> float:
    return sum(math.log10(n) for n in norms)


def recalibration(dataset: Any) -> list[Tensor]:
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:2000]
    return [dataset.__getitems__(part.tolist())[0] for part in order.split(250)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["tight", "time", "peers", "clip"])
    parser.add_argument("--peers", type=Path, default=Path("peers"))
    parser.add_argument("--facenet", type=Path, default=Path("facenet"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="also what is in the record already")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", category=UserWarning)
    path = RESULTS / f"{NAME}.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"] if path.exists() else {}

    def keep(part: str, rows: Any) -> None:
        figures[part] = rows
        settings = {"rounds": args.rounds, "test_images": TEST_IMAGES}
        record(NAME, figures, command=COMMAND, **settings)

    layers = resnet("resnet20") | resnet("resnet56") | facenet(args.facenet)
    makers: dict[str, Callable[[], Any]] = {
        "tight": lambda: tight(layers),
        "time": lambda: timed(layers, args.rounds),
        "peers": lambda: peers(layers, args.peers, args.rounds),
    }
    for part in args.parts:
        if part == "clip":
            old = [] if args.again else figures.get("clip", [])
            clipped(old, lambda rows: keep("clip", rows))
        elif args.again or part not in figures:
            keep(part, makers[part]())


if __name__ == "__main__":
    main()

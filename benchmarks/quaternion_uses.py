"""What quaternion decompositions are good for: layers, images, noise, holes, recognition, qtls.

Six studies of accuracy, each with its real rivals at equal storage. A study that is in the file of
results already, under the same settings, is not run again; ``--again`` runs all. Images are those
that scikit-learn packs, and scikit-image's where it is installed.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

import lorank
from lorank.colour import QuaternionPCA, denoise, inpaint, picture, psnr, rivals
from lorank.linalg import qct, qlstsq, qmatmul, qqr, qtls
from lorank.nn import QuaternionLinear
from lorank.zoo import load_data
from record import RESULTS, record

FORMS = ("quaternion", "channels", "unfolded")
WIDTH, SEEDS = 256, 5
THRESHOLDS = (0.0003, 0.001, 0.003, 0.01)
Rows = list[dict[str, Any]]


def images() -> Iterator[tuple[str, np.ndarray]]:
    """Photographs by name, those of scikit-image where it is there."""
    for name in ("china", "flower"):
        yield name, load_sample_image(f"{name}.jpg")
    if importlib.util.find_spec("skimage"):
        from skimage import data

        for name in ("astronaut", "coffee", "chelsea"):
            yield name, getattr(data, name)()


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


# Layers.


def digits() -> list[Tensor]:
    data = load_data("digits")
    parts = []
    for part in (data.train, data.test):
        x, y = part.__getitems__(range(len(part)))
        parts += [x.flatten(1), y]
    return parts


def quaternion_net() -> nn.Sequential:
    return nn.Sequential(
        *(QuaternionLinear(64, WIDTH), nn.ReLU(), QuaternionLinear(WIDTH, WIDTH), nn.ReLU()),
        nn.Linear(WIDTH, 10),
    )


def real_net(width: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, 10),
    )


def train(net: nn.Module, x: Tensor, y: Tensor, seed: int, epochs: int = 40) -> nn.Module:
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            loss = F.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return net.eval()


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def as_real(net: nn.Sequential) -> nn.Sequential:
    """The same network with real layers in place of quaternion ones."""
    made = []
    for layer in net:
        if isinstance(layer, QuaternionLinear):
            real = nn.Linear(layer.in_features, layer.out_features)
            real.weight = nn.Parameter(layer.real_weight().detach())
            real.bias = layer.bias
            made.append(real)
        else:
            made.append(layer)
    return nn.Sequential(*made)


def layers() -> Rows:
    """Cut the hidden layer: as quaternions, as its real counterpart, and in a real network."""
    x, y, tx, ty = digits()
    rows = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        quaternion = train(quaternion_net(), x, y, seed)
        twin = as_real(quaternion)
        torch.manual_seed(seed)
        real = train(real_net(WIDTH // 2), x, y, seed)  # as many hidden weights
        for k in (None, 4, 8, 16, 32):
            row = {"seed": seed, "rank": k, "numbers": 4 * (k or 32) * (WIDTH // 4) * 2}
            cuts = {
                "quaternion": (quaternion, k),
                "real counterpart, equal numbers": (twin, k),
                "real counterpart, equal rank": (twin, k and 4 * k),
                "real network, equal numbers": (real, k and 2 * k),
            }
            for name, (net, rank) in cuts.items():
                low = net if rank is None else lorank.decompose(net, {"2": rank})
                row[name] = accuracy(low, tx, ty)
            rows.append(rounded(row))
            print(rows[-1])
    return rows


# Images.


def compression() -> Rows:
    rows = []
    for name, image in images():
        for rank in (10, 20, 50):
            rows += [rounded({"image": name, **r._asdict()}) for r in rivals(image, rank)]
    return rows


def crops() -> Iterator[tuple[str, Tensor]]:
    for name, image in images():
        x = picture(image)
        top, left = (x.shape[0] - 192) // 2, (x.shape[1] - 192) // 2
        yield name, x[top : top + 192, left : left + 192].contiguous()


def denoising() -> Rows:
    rows = []
    for name, truth in crops():
        for noise in (0.05, 0.1, 0.2):
            draw = torch.randn(truth.shape, generator=generator(), dtype=truth.dtype)
            noisy = truth + noise * draw
            row = {"image": name, "noise": noise, "before": psnr(noisy, truth)}
            row.update({f: psnr(denoise(noisy, noise, form=f), truth) for f in FORMS})
            rows.append(rounded(row))
            print(rows[-1])
    return rows


def inpainting() -> Rows:
    rows = []
    for name, truth in crops():
        x = truth[32:160, 32:160].contiguous()
        for share in (0.3, 0.5):
            known = torch.rand(x.shape[:2], generator=generator()) >= share
            row = {"image": name, "missing": share}
            for form in FORMS:  # the best last threshold of each, as the truth tells
                tries = [inpaint(x, known, form=form, threshold=t) for t in THRESHOLDS]
                row[form] = max(psnr(one, x) for one in tries)
            rows.append(rounded(row))
            print(rows[-1])
    return rows


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# Recognition.

PLACES, SIDE, SAMPLES = 40, 32, 12


def places(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of places in the images, as a camera would find them again.

    Each place is seen with a shift, a gain, a tint, a blur and noise.
    """
    rng = np.random.default_rng(seed)
    photos = [picture(image).numpy() for _, image in images()]
    x, y = [], []
    for place in range(PLACES):
        photo = photos[place % len(photos)]
        corner = [rng.integers(8, size - SIDE - 8) for size in photo.shape[:2]]
        for _ in range(SAMPLES):
            top, left = (c + rng.integers(-3, 4) for c in corner)
            patch = photo[top : top + SIDE, left : left + SIDE].copy()
            patch = blurred(patch, rng.uniform(0, 0.5))
            patch *= rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3)
            x.append(patch + rng.normal(0, 0.05, patch.shape))
            y.append(place)
    return np.array(x), np.array(y)


def blurred(patch: np.ndarray, share: float) -> np.ndarray:
    """A share of the mean of four neighbours."""
    around = sum(np.roll(patch, step, axis) for axis in (0, 1) for step in (-1, 1)) / 4
    return (1 - share) * patch + share * around


def recognition() -> Rows:
    """Nearest neighbour on few components: half of each place's samples are learned."""
    rows = []
    for seed in range(SEEDS):
        x, y = places(seed)
        learned = np.tile(np.arange(SAMPLES) < SAMPLES // 2, PLACES)
        flat = x.reshape(len(x), -1)
        for k in (3, 5, 10, 20):
            row = {"seed": seed, "components": k}
            found = {
                "quaternion, exact": (x, QuaternionPCA(k, svd_solver="full")),
                "quaternion, randomized": (
                    x,
                    QuaternionPCA(k, svd_solver="randomized", random_state=seed),
                ),
                "each channel": (x, None),
                "all colours": (flat, PCA(k, random_state=seed)),
                "all colours, 4 × as many": (flat, PCA(4 * k, random_state=seed)),
                "grey": (x.mean(-1).reshape(len(x), -1), PCA(k, random_state=seed)),
            }
            for name, (data, method) in found.items():
                make = method.fit(data[learned]).transform if method else per_channel(x[learned], k)
                nearest = KNeighborsClassifier(1).fit(make(data[learned]), y[learned])
                row[name] = float(nearest.score(make(data[~learned]), y[~learned]))
            rows.append(rounded(row))
            print(rows[-1])
    return rows


def per_channel(x: np.ndarray, k: int) -> Callable[[np.ndarray], np.ndarray]:
    each = [PCA(k, random_state=0).fit(x[..., c].reshape(len(x), -1)) for c in range(3)]
    return lambda z: np.hstack(
        [p.transform(z[..., c].reshape(len(z), -1)) for c, p in enumerate(each)]
    )


# Equations.


def equations() -> Rows:
    """Ill-posed equations with noise on both sides: the error of x, over its size."""
    rows = []
    m, n, k = 200, 60, 15
    for noise in (1e-3, 1e-6):
        for seed in range(SEEDS):
            draw = torch.Generator().manual_seed(seed)
            U, _ = qqr(torch.randn(m, n, 4, generator=draw, dtype=torch.float64))
            V, _ = qqr(torch.randn(n, n, 4, generator=draw, dtype=torch.float64))
            s = torch.where(torch.arange(n) < k, 1.0, 1e-9).double()  # a gap, far below the noise
            A = qmatmul(U * s[:, None], qct(V))
            x = qmatmul(V[:, :k], torch.randn(k, 1, 4, generator=draw, dtype=torch.float64))
            b = qmatmul(A, x)
            A, b = (M + noise * torch.randn(M.shape, generator=draw).double() for M in (A, b))
            solved = {
                "truncated, full": qtls(A, b, k, method="full"),
                "truncated, sketch, q = 0": qtls(A, b, k, method="randomized", n_iter=0),
                "truncated, sketch, q = 1": qtls(A, b, k, method="randomized", n_iter=1),
                "untruncated": qtls(A, b, n, method="full"),
                "least squares": qlstsq(A, b),
            }
            errors = {name: float((y - x).norm() / x.norm()) for name, y in solved.items()}
            rows.append(rounded({"noise": noise, "seed": seed, **errors}))
            print(rows[-1])
    return rows


STUDIES: dict[str, Callable[[], Rows]] = {
    "layers": layers,
    "compression": compression,
    "denoising": denoising,
    "inpainting": inpainting,
    "recognition": recognition,
    "equations": equations,
}


def means(rows: Rows, key: str) -> Rows:
    """Means over seeds or images, by a key."""
    found = []
    for value in dict.fromkeys(row[key] for row in rows):
        group = [row for row in rows if row[key] == value]
        names = [k for k, v in group[0].items() if isinstance(v, float) and k != key]
        row = {key: value, **{n: statistics.mean(r[n] for r in group) for n in names}}
        found.append(rounded(row))
    return found


KEYS = {
    "layers": "rank",
    "denoising": "noise",
    "inpainting": "missing",
    "recognition": "components",
    "equations": "noise",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="run every study anew")
    parser.add_argument("studies", nargs="*", help=f"of {', '.join(STUDIES)}; by default all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"seeds": SEEDS, "images": [name for name, _ in images()]}
    path = RESULTS / "quaternion_uses.json"
    figures: dict[str, Any] = {}
    if path.exists():
        before = json.loads(path.read_text())
        if before["settings"] == settings:
            figures = before["figures"]
    for name in args.studies or STUDIES:
        if name in figures and not args.again:
            continue
        rows = STUDIES[name]()
        figures[name] = {"rows": rows}
        if name in KEYS:
            figures[name]["means"] = means(rows, KEYS[name])
            print(*figures[name]["means"], sep="\n")
        record(
            "quaternion_uses", figures, command="python benchmarks/quaternion_uses.py", **settings
        )


if __name__ == "__main__":
    main()

# %% [markdown]
# # Colour images and layers as quaternion matrices
#
# A quaternion has four numbers, `w + x·i + y·j + z·k`, and a product that does not commute. A
# colour image is a matrix of them: red, green and blue are the three imaginary parts. This page
# runs what people use the decomposition for, each beside its real rivals at equal storage, so
# that it can be seen where it helps and where it does not.

# %%
import importlib.util
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

import lorank
from lorank.colour import QuaternionPCA, compress, denoise, inpaint, picture, pixels, psnr, rivals
from lorank.linalg import qct, qlstsq, qmatmul, qqr, qsvd, qtls
from lorank.nn import QuaternionLinear
from lorank.zoo import load_data

_ = torch.manual_seed(0)


def photographs() -> dict[str, np.ndarray]:
    """scikit-image's photographs where it is installed, and else the two of scikit-learn."""
    if importlib.util.find_spec("skimage"):
        from skimage import data

        return {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea")}
    return {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}


photos = photographs()
name, photo = next(iter(photos.items()))
print({n: p.shape for n, p in photos.items()})


def show(**images: object) -> None:
    """Images side by side."""
    figure, places = plt.subplots(1, len(images), figsize=(3.2 * len(images), 3.2))
    for place, (title, image) in zip(places, images.items(), strict=True):
        place.imshow(pixels(image))
        place.set_title(title.replace("_", " "), fontsize=9)
        place.axis("off")
    figure.tight_layout()
    plt.show()


# %% [markdown]
# ## Repeated singular values
#
# The usual recipe takes every second singular vector of the complex adjoint. Where singular
# values repeat these are not singular vectors of the quaternion matrix. On a matrix whose values
# are all one, the recipe (`driver="pairs"`) fails, and the default does not.

# %%
Q, _ = qqr(torch.randn(40, 40, 4, dtype=torch.float64))
for driver in ("pairs", "auto"):
    U, s, Vh = qsvd(Q, driver=driver)
    gram = qmatmul(qct(U), U)
    gram[..., 0] -= torch.eye(40)
    residual = (qmatmul(U * s[:, None], Vh) - Q).norm() / Q.norm()
    print(f"{driver:5}: ‖U*U − I‖ = {gram.norm():.1e}, residual = {residual:.1e}")

# %% [markdown]
# ## Compression: it does not win
#
# The rank-k image is the best of its rank among quaternion matrices. But a quaternion rank stores
# `4·(m + n)` numbers, a rank of each channel `3·(m + n)`, and one of the unfolded image (channels
# side by side) `m + 3n`.

# %%
small = compress(photo, 30)
print(f"rank {small.rank}: {small.numbers} of {photo.size} numbers, error {small.error():.4f}")
rows = rivals(photo, 30)
for row in rows:
    print(
        f"{row.form:10} at equal {row.at:7} rank {row.rank:3}, "
        f"{row.numbers:6} numbers: {row.psnr:.2f} dB"
    )

# %%
best = {
    row.form: compress(photo, row.rank, form=row.form).image()
    for row in rows
    if row.at == "storage"
}
show(original=photo, **best)

# %%
figure, axes = plt.subplots(figsize=(5, 3.2))
for row in rows[:3]:
    cut = compress(photo, row.rank, form=row.form)
    errors = cut.errors()
    axes.semilogy([r * cut.form.numbers(1) for r in range(len(errors))], errors, label=row.form)
axes.set(xlabel="numbers stored", ylabel="relative error")
axes.legend()
plt.show()

# %% [markdown]
# ## Noise
#
# White noise gives a quaternion matrix singular values that follow the law of Marchenko and
# Pastur with the sum of the parts' variances. `denoise` shrinks each value as is best under that
# law. The quaternion form is level with one matrix for each channel, and the unfolded form is
# ahead of both.

# %%
x = picture(photo)
top, left = ((size - 160) // 2 for size in x.shape[:2])
crop = x[top : top + 160, left : left + 160].contiguous()
noisy = crop + 0.1 * torch.randn_like(crop)
cleaned = {form: denoise(noisy, 0.1, form=form) for form in ("quaternion", "channels", "unfolded")}
print(f"noisy: {psnr(noisy, crop):.2f} dB")
print({form: round(psnr(image, crop), 2) for form, image in cleaned.items()})
show(noisy=noisy, quaternion=cleaned["quaternion"], unfolded=cleaned["unfolded"])

# %% [markdown]
# ## Holes
#
# Unknown pixels are filled by thresholding singular values, putting the known pixels back, and
# again.

# %%
part = crop[:96, :96].contiguous()
known = torch.rand(part.shape[:2]) > 0.4
holes = torch.where(known[..., None], part, torch.zeros(()))
filled = {form: inpaint(part, known, form=form) for form in ("quaternion", "channels", "unfolded")}
print({form: round(psnr(image, part), 2) for form, image in filled.items()})
show(known=holes, quaternion=filled["quaternion"], unfolded=filled["unfolded"])

# %% [markdown]
# ## Where the data are quaternions
#
# The same two tasks on a matrix of rank 2 over the quaternions. Each of its four parts has real
# rank 8, so the real forms need more numbers for it, and more known entries.

# %%
L = torch.randn(48, 2, 4, dtype=torch.float64)
R = torch.randn(2, 48, 4, dtype=torch.float64)
field = qmatmul(L, R)
seen = torch.rand(48, 48) > 0.4
for form in ("quaternion", "channels", "unfolded"):
    found = inpaint(field, seen, form=form, threshold=1e-3)
    cut = compress(field, 2 if form == "quaternion" else 3, form=form)
    print(
        f"{form:10}: 40 % missing, error {float((found - field).norm() / field.norm()):.3f}; "
        f"{cut.numbers} numbers, error {cut.error():.1e}"
    )

# %% [markdown]
# ## Principal components: places as identities
#
# Places in the photographs stand for people: each is seen twelve times, with a shift, a gain, a
# tint and noise. Half of the samples are learned; the nearest neighbour in few components names
# the others.

# %%
rng = np.random.default_rng(0)
samples, labels = [], []
for place in range(30):
    image = picture(list(photos.values())[place % len(photos)]).numpy()
    row, column = (rng.integers(8, size - 40) for size in image.shape[:2])
    for _ in range(12):
        i, j = row + rng.integers(-3, 4), column + rng.integers(-3, 4)
        patch = image[i : i + 32, j : j + 32] * rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3)
        samples.append(patch + rng.normal(0, 0.05, patch.shape))
        labels.append(place)
X, y = np.array(samples), np.array(labels)
learned = np.tile(np.arange(12) < 6, 30)
flat = X.reshape(len(X), -1)

methods = {
    "quaternion, 5": (X, QuaternionPCA(5, svd_solver="full")),
    "quaternion, 5, randomized": (X, QuaternionPCA(5, svd_solver="randomized", random_state=0)),
    "all colours, 5": (flat, PCA(5, random_state=0)),
    "all colours, 20": (flat, PCA(20, random_state=0)),
}
for title, (data, method) in methods.items():
    train, test = method.fit_transform(data[learned]), method.transform(data[~learned])
    score = KNeighborsClassifier(1).fit(train, y[learned]).score(test, y[~learned])
    print(f"{title:26} {train.shape[1]:3} numbers a sample: {100 * score:.1f} %")

# %% [markdown]
# Randomized and exact agree. Five quaternion components beat five real ones, and it is the four
# numbers in each that do it: with twenty real components the difference is gone.
#
# ## Total least squares
#
# `A·x ≈ b` with noise in A and b, where most singular values of A lie below the noise. Keeping k
# triplets of `[A b]` leaves the noise out.

# %%
m, n, k = 120, 40, 10
U, _ = qqr(torch.randn(m, n, 4, dtype=torch.float64))
V, _ = qqr(torch.randn(n, n, 4, dtype=torch.float64))
s = torch.where(torch.arange(n) < k, 1.0, 1e-9).double()
A = qmatmul(U * s[:, None], qct(V))
truth = qmatmul(V[:, :k], torch.randn(k, 1, 4, dtype=torch.float64))
b = qmatmul(A, truth)
A, b = A + 1e-3 * torch.randn_like(A), b + 1e-3 * torch.randn_like(b)
solved = {
    "truncated": qtls(A, b, k),
    "truncated, by a sketch": qtls(A, b, k, method="randomized", n_iter=1),
    "not truncated": qtls(A, b, n),
    "least squares": qlstsq(A, b),
}
for title, found in solved.items():
    print(f"{title:24} relative error {float((found - truth).norm() / truth.norm()):.2e}")

# %% [markdown]
# ## Quaternion layers: the strongest case
#
# A quaternion layer has a quarter of the weights of a real one. Its real counterpart has each
# singular value four times, so a real SVD must spend four ranks, with four times the numbers, on
# what a quaternion rank does with one.

# %%
parts = load_data("digits")
(tx, ty), (vx, vy) = (part.__getitems__(range(len(part))) for part in (parts.train, parts.test))
tx, vx = tx.flatten(1), vx.flatten(1)
net = torch.nn.Sequential(
    *(QuaternionLinear(64, 256), torch.nn.ReLU(), QuaternionLinear(256, 256), torch.nn.ReLU()),
    torch.nn.Linear(256, 10),
)
optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
for _ in range(20):
    for batch in torch.randperm(len(tx)).split(64):
        loss = F.cross_entropy(net(tx[batch]), ty[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def accuracy(model: torch.nn.Module) -> float:
    """Share of the test digits that are named right."""
    with torch.no_grad():
        return float((model(vx).argmax(1) == vy).float().mean())


real = torch.nn.Sequential(*net)
real[2] = torch.nn.Linear(256, 256)
real[2].weight = torch.nn.Parameter(net[2].real_weight().detach())
real[2].bias = net[2].bias
print(f"not cut: {100 * accuracy(net):.1f} %")
for k in (4, 8, 16):
    cuts = [100 * accuracy(lorank.decompose(model, {"2": k})) for model in (net, real)]
    print(
        f"{4 * k * 128:5} numbers: quaternion rank {k:2} {cuts[0]:.1f} %, "
        f"real rank {k:2} {cuts[1]:.1f} %"
    )

# %% [markdown]
# The folded network has two plain quaternion layers in the place of one.

# %%
print(lorank.fold(lorank.decompose(net, {"2": 8})))

# %% [markdown]
# With five seeds, and beside a real network of as many hidden weights, which starts lower and
# bears hard cuts better:

# %%
found = Path("docs/results/quaternion_uses.json")
if found.exists():
    for row in json.loads(found.read_text())["figures"]["layers"]["means"]:
        print({k: f"{100 * v:.1f} %" if isinstance(v, float) else v for k, v in row.items()})

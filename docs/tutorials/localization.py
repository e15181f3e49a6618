# %% [markdown]
# # Find a vertebra in a scan
#
# Muscle and fat are often measured in one slice of a CT scan, the one through the third lumbar
# vertebra, L3. This page goes from a volume to the number of that slice: projection, windows, a
# network of offsets, a matched line. The spines are made by a program, with ribs, pelvis, curves
# and vertebrae too many or too few. They show how the parts work, and nothing about patients.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import lorank
from lorank.localization import (
    RULES,
    View,
    decide,
    line_scores,
    load_finder,
    new_finder,
    project,
    read_cases,
    recipe,
    synthetic_column,
    synthetic_volume,
    train_finder,
)
from lorank.localization.cases import taken

torch.set_num_threads(1)
torch.manual_seed(0)
view = View(rows=128, columns=24, column_mm=6.0)

# %% [markdown]
# ## Eight spines
#
# Red is the middle of L3. In the first, a lumbar vertebra is missing; in some, two are fused.

# %%
figure, axes = plt.subplots(1, 8, figsize=(10, 4), layout="constrained")
for seed, ax in zip((0, 1, 3, 4, 7, 8, 91, 97), axes, strict=True):
    column = synthetic_column(seed)
    ax.imshow(column.image.clip(100, 1500), cmap="gray", aspect=0.5)
    ax.axhline(column.target, color="#d1495b", lw=1)
    ax.set_title(column.kind, fontsize=9)
    ax.axis("off")
plt.show()

# %% [markdown]
# ## From a volume to an image and back
#
# A volume knows its spacing and where its axes grow to. The same spine in two orders, with slices
# of 2.5 mm, gives one image; its rows are 1 mm, and each leads back to the slice of its own file.

# %%
for order in ("SPL", "LAI"):
    scan, target = synthetic_volume(1, height=2.5, axes=order)
    image = project(scan, view)
    row = image.row_of(target)
    print(
        f"{order}: array {scan.values.shape}, image {image.image.shape}, "
        f"slice {target} is row {row:.0f}, and row {row:.0f} is slice {image.slice_at(row)}"
    )

# %% [markdown]
# ## Train for a minute, and cut to half of the MACs
#
# The network sees windows of 128 rows and says how many millimetres L3 lies below their centre. The
# run trains it dense, chooses ranks for half of the MACs, tunes it with the dense network as a
# teacher, and folds it into plain layers. The folder resumes when the program is stopped.

# %%
cases = read_cases("synthetic:120", view)
folder = Path(tempfile.mkdtemp()) / "run"
finder, result = train_finder(
    new_finder("offset_net", view, width=8),
    cases,
    folder,
    recipe(epochs=10, tune=4, macs=0.5),
    per_scan=16,
    step=4,
    quiet=True,
)
share = result.cost.macs / result.dense_cost.macs
print(f"{share:.0%} of the MACs, ranks {result.ranks}")

# %%
tests = taken(cases, "test")
dense = new_finder("offset_net", view, width=8)
dense.network = lorank.load(folder / "dense.safetensors", dense.network)
for name, model in (("dense", dense), ("half the MACs", load_finder(folder))):
    found = [model.locate(case.projection, step=2) for case in tests]
    errors = [abs(f.row - case.target) for f, case in zip(found, tests, strict=True)]
    print(
        f"{name:14s} mean error {np.mean(errors):5.2f} mm, median {np.median(errors):.2f} mm, "
        f"{np.mean(np.array(errors) > 10):.0%} off by more than 10 mm"
    )

# %% [markdown]
# ## The curve of one scan, and its line
#
# About the target the curve falls by one row a row. Far from it the network was never trained, and
# the curve means nothing: its other zeros are no answers. The score, below, is the cosine between
# the curve about a row and a line of slope −1 that is zero there.

# %%
case = tests[0]
offsets, first = finder.curve(case.projection)
rows = len(case.projection.image)
scores = line_scores(offsets, first, 1, rows, finder.half)
at = first + np.arange(len(offsets))
figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
top.plot(at, offsets, color="#1f6feb", label="offset said by the network")
near = np.abs(at - case.target) <= finder.half
top.plot(at[near], case.target - at[near], color="#9aa5b1", ls="--", label="true offset")
top.set_ylabel("rows to the target")
bottom.plot(scores, color="#2a9d8f")
bottom.set_ylabel("match with a line")
bottom.set_xlabel("row")
for ax in (top, bottom):
    ax.axvline(case.target, color="#d1495b", lw=1)
    ax.axhline(0, color="#9aa5b1", lw=0.5)
top.legend(frameon=False)
plt.show()

# %% [markdown]
# ## A quarter of the windows confused
#
# The commonest fault of such networks is the neighbouring vertebra. Here a quarter of the windows
# of each test scan is moved by 35 rows, up or down.

# %%
g = np.random.default_rng(0)
errors = {rule: [] for rule in RULES}
for case in tests:
    offsets, first = finder.curve(case.projection, step=2)
    jumps = g.choice([-35.0, 35.0], len(offsets)) * (g.random(len(offsets)) < 0.25)
    confused = offsets + torch.from_numpy(jumps).float()
    for rule in RULES:
        row = decide(confused, first, 2, len(case.projection.image), finder.half, rule).row
        errors[rule].append(abs(row - case.target))
for rule, found in errors.items():
    print(f"{rule:14s} mean error {np.mean(found):6.2f} rows, median {np.median(found):6.2f}")

# %% [markdown]
# ## The longer study
#
# Three seeds with a larger network, windows of 192 rows and more columns
# (`benchmarks/localization.py`), read from its results. Error in slices of 1 mm, with a quarter of
# the windows confused.

# %%
here = Path(__file__).resolve() if "__file__" in globals() else Path.cwd() / "localization.py"
place = next(
    p / "docs" / "results" / "localization.json"
    for p in (here.parent, *here.parents)
    if (p / "docs" / "results").is_dir()
)
if place.exists():
    study = json.loads(place.read_text())["figures"]
    for rule in RULES:
        found = [
            np.mean([run[m]["confused"][rule]["figures"]["mean"] for run in study["networks"]])
            for m in ("dense", "half")
        ]
        print(f"{rule:14s} dense {found[0]:6.2f}   half the MACs {found[1]:6.2f}")
else:
    print("no results yet: python benchmarks/localization.py --runs FOLDER makes them")

# %% [markdown]
# ## What the confidence says
#
# The score becomes a chance of being right within 10 mm, learnt on the validation columns. It holds
# for scans like those. Where a network miscounts the vertebrae, the line is clean and one vertebra
# off.

# %%
found = [finder.locate(case.projection, step=2) for case in tests]
right = np.array([abs(f.row - c.target) <= 10 for f, c in zip(found, tests, strict=True)])
chance = np.array([f.confidence for f in found])
print(f"mean confidence {chance.mean():.0%}, right within 10 mm {right.mean():.0%}")

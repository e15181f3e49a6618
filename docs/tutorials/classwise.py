# %% [markdown]
# # Class-wise invariance and singular values
#
# A term of the loss that makes a hidden layer answer alike within a class: what does it do to the
# layer's singular values, to the rank that the layer needs, and how much of it is owed to the
# classes? First a small network on handwritten digits, trained here; then the long study on MNIST
# (`benchmarks/classwise.py`), whose figures are read from its JSON.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import lorank
from lorank.nn import Tap
from lorank.penalties import ClassInvariance, class_invariance
from lorank.zoo import load_data

torch.set_num_threads(1)
data = load_data("digits")
train = data.train.__getitems__(range(300))
test = data.test.__getitems__(range(len(data.test)))

# %% [markdown]
# ## One network, three losses
#
# The same network, the same initial weights and order of the data: the task alone, with the
# class-wise term on the last hidden layer, and with a control that only asks for small activations
# and sees no class.


# %%
def network(seed):
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(48, 10))


HIDDEN, TAPPED = "3", "4"


def trained(term, seed, epochs=60):
    model, (x, y) = network(seed), train
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    order = torch.Generator().manual_seed(seed)
    with Tap(model, TAPPED) as tap:
        for _ in range(epochs):
            for batch in torch.randperm(len(x), generator=order).split(100):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                if term is not None:
                    loss = loss + term(tap.value, y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model):
    return float((model(test[0]).argmax(1) == test[1]).double().mean())


losses = {
    "task alone": None,
    "class-wise pairs": ClassInvariance(0.03, "pairs"),
    "activation norm": ClassInvariance(0.03, "norm"),
}
seeds = range(5)
models = {name: [trained(term, seed) for seed in seeds] for name, term in losses.items()}
for name, found in models.items():
    errors = torch.tensor([1 - accuracy(model) for model in found])
    print(f"{name:17}  test error {100 * errors.mean():.2f} ± {100 * errors.std():.2f} %")

# %% [markdown]
# ## What the layer looks like
#
# Singular values of the layer's answers to the test images (centred), and of its weight. Ten
# classes have nine directions between their means; what lies beyond is variation within classes.


# %%
@torch.no_grad()
def answers(model):
    with Tap(model, TAPPED) as tap:
        model(test[0])
    return tap.value


def values_of_answers(model):
    h = answers(model)
    return torch.linalg.svdvals(h - h.mean(0)) / len(h) ** 0.5


def values_of_weight(model):
    return lorank.measure(model, layers=[HIDDEN])[HIDDEN].values.flatten()


colours = {
    "task alone": "#9aa5b1",
    "class-wise pairs": "#1f6feb",
    "activation norm": "#d1495b",
}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for axis, values, title in zip(
    axes, (values_of_answers, values_of_weight), ("answers", "weight"), strict=True
):
    for name, found in models.items():
        mean = torch.stack([s / s[0] for s in map(values, found)]).mean(0)
        axis.semilogy(
            range(1, len(mean) + 1), mean.clamp(min=1e-4), color=colours[name], label=name
        )
    axis.axvline(9.5, color="black", lw=0.8, ls=":")
    axis.set_title(f"singular values of the {title}, over the largest")
    axis.set_xlabel("index; the dotted line is classes − 1")
axes[0].legend()
plt.show()
for name, found in models.items():
    share = [class_invariance(answers(m), test[1], normalise="spread") for m in found]
    print(f"{name:17}  share of the distance that is within classes {sum(share) / len(share):.3f}")

# %% [markdown]
# ## The rank that the layer needs
#
# `decompose`, then `prune` to each rank: how far can the layer be cut?


# %%
def by_rank(model, ranks):
    whole = lorank.decompose(model, layers=[HIDDEN])
    return [accuracy(lorank.prune(whole, {HIDDEN: rank})) for rank in ranks]


ranks = range(1, 25)
plt.figure(figsize=(6, 3.2), layout="constrained")
for name, found in models.items():
    curves = torch.tensor([by_rank(model, ranks) for model in found])
    plt.plot(ranks, 100 * (1 - curves.mean(0)), color=colours[name], label=name)
plt.xlabel("rank of the penalised layer")
plt.ylabel("test error, %")
plt.yscale("log")
plt.legend()
plt.show()

# %% [markdown]
# ## The study
#
# MNIST with 1,000 training images, ten seeds, a perceptron (*mlp*) and a convolutional network
# (*cnn*), every arm tuned in the same way on held-out images of another seed; in *published*, the
# original setting, nothing is tuned. Bars are 95 % intervals of the paired difference from the
# baseline with the same normalisation.

# %%
place = Path("docs/results/classwise.json")
place = next(f / place for f in (Path.cwd(), *Path.cwd().parents) if (f / place).is_file())
study = json.loads(place.read_text())["figures"]
nets = list(dict.fromkeys(row["net"] for row in study["arms"]))
figure, axes = plt.subplots(
    1, len(nets), figsize=(4.6 * len(nets), 4), layout="constrained", squeeze=False
)
for axis, net in zip(axes[0], nets, strict=True):
    rows = [r for r in study["arms"] if r["net"] == net and r["against_base"]["mean"]]
    for at, row in enumerate(reversed(rows)):
        found = row["against_base"]
        low, high = (100 * v for v in found["interval"])
        axis.plot([low, high], [at, at], color="#1f6feb", lw=2)
        axis.plot(100 * found["mean"], at, "o", color="#1f6feb")
    axis.set_yticks(range(len(rows)), [row["arm"] for row in reversed(rows)])
    axis.axvline(0, color="black", lw=0.8)
    axis.set_title(net)
    axis.set_xlabel("difference of test error, points")
plt.show()

# %% [markdown]
# And the perceptron's penalised layer cut to each rank, its weight alone (left) and by what it
# reads (right).

# %%
shown = ("weight decay", "pairs", "activation norm", "contrastive")
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for axis, curve in zip(axes, ("cut_accuracy", "calibrated_cut_accuracy"), strict=True):
    for row in study["spectra"]:
        if row["net"] == "mlp" and row["arm"] in shown:
            points = [
                (int(rank), 100 * (1 - a)) for rank, a in row[curve].items() if int(rank) < 33
            ]
            axis.plot(*zip(*sorted(points), strict=True), label=row["arm"])
    axis.set_xlabel("rank of the penalised layer")
    axis.set_yscale("log")
axes[0].set_ylabel("test error, %")
axes[0].legend()
plt.show()

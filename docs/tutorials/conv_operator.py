# %% [markdown]
# # A convolution as an operator
#
# What are the singular values of a convolutional layer? Not those of its kernel reshaped to a
# matrix. This page looks at a trained network: the spectral density of a layer, approximations of
# its singular values against the truth, norms and bounds, what a rank cut does, a certificate of
# the whole network, and what norm penalties bring in training.
#
# The method of Yi (*Asymptotic singular value distribution of linear convolutional layers*,
# arXiv 2006.07117) is here a reconstruction from the paper's abstract: of its text nothing more was
# available. What is ours is marked.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import lorank
from lorank.compression import cut_errors, lipschitz
from lorank.linalg import BOUNDS, norm_bracket, operator_norm_bound
from lorank.linalg.convolution.spectrum import operator_singular_values
from lorank.linalg.convolution.symbol import symbol
from lorank.zoo import load_data, load_model

torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# ## A trained network
#
# A pretrained ResNet-20 for CIFAR-10 where its weights lie beside the project; otherwise a ResNet-8
# that is trained on handwritten digits here, in some seconds.


# %%
def beside(name):
    """A file in one of the folders around the current one."""
    folders = (Path.cwd(), *Path.cwd().parents)
    return next((f / name for f in folders if (f / name).is_file()), None)


def trained_on_digits(epochs=6):
    images, labels = (
        torch.as_tensor(t) for t in load_data("digits").train.__getitems__(range(1000))
    )
    model = load_model("resnet8", in_channels=1, width=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(100):
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), torch.zeros(1, 1, 8, 8)


weights = beside("shared/data/resnet_cifar10/resnet20.safetensors")
if weights is not None:
    name, layer = "a pretrained ResNet-20", "layer1.0.conv1"
    model, example = load_model("resnet20", weights=weights).eval(), torch.zeros(1, 3, 32, 32)
else:
    name, layer = "a ResNet-8 trained on digits", "layer1.0.conv1"
    model, example = trained_on_digits()
kernel = model.get_submodule(layer).weight.detach()
print(f"{name}; the layer looked at is {layer}, {tuple(kernel.shape)}")

# %% [markdown]
# ## The spectral density
#
# A plane wave `e^{i⟨a, x⟩}·v` goes through the layer unchanged but for its vector, which becomes
# `F(a)·v`. The small matrix `F(a) = Σ_p K_p·e^{i⟨p, a⟩}` is the symbol, or spectral density matrix.
# Its norm over all frequencies shows what the layer lets pass; its singular values over all
# frequencies are the law that those of the layer follow on large images.

# %%
side = 48
angles = 2 * torch.pi * (torch.arange(side) + 0.5) / side - torch.pi
plane = torch.cartesian_prod(angles, angles)
values = torch.linalg.svdvals(symbol(kernel, plane))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
shown = left.imshow(values[:, 0].reshape(side, side), extent=(-3.14, 3.14, 3.14, -3.14))
figure.colorbar(shown, ax=left, label="norm of the symbol")
left.set(xlabel="frequency across", ylabel="frequency down", title="what passes")
for n, colour in ((4, "#d1495b"), (8, "#9aa5b1"), (12, "#1f6feb")):
    found = operator_singular_values(kernel, n, method="exact").values
    share = torch.linspace(0, 100, len(found))
    right.plot(share, found, color=colour, label=f"layer on {n}×{n} pixels")
law = values.flatten().sort(descending=True).values
right.plot(torch.linspace(0, 100, len(law)), law, "k--", lw=1, label="law (symbol)")
right.set(xlabel="share of values, %", ylabel="singular value", title="zero padding nears the law")
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# Zero padding makes the values of small images smaller than the law: pixels at the border are read
# by fewer taps. The circular approximation cannot see that.
#
# ## Approximations against the truth

# %%
n = 8
truth = operator_singular_values(kernel, n, method="exact").values.double()
counted = truth > 0.1 * truth[0]
print(f"{layer} on {n}×{n} pixels, {len(truth)} singular values; errors over {int(counted.sum())}")
print(f"{'method':14}{'mean error':>12}{'largest':>10}{'top value':>11}  kind")
errors = {}
for method in ("circular", "quantile", "energy", "extrapolated"):
    found = operator_singular_values(kernel, n, method=method)
    error = (found.values.double() / truth - 1)[counted]
    errors[method] = error
    print(
        f"{method:14}{error.abs().mean():12.1%}{error.abs().max():10.1%}{error[0]:+11.1%}  "
        f"{found.kind}"
    )

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
for method, error in errors.items():
    axes.plot(torch.linspace(0, 100, len(error)), 100 * error, label=method)
axes.axhline(0, color="k", lw=0.8)
axes.set(xlabel="share of values, largest first, %", ylabel="error, %")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# `quantile` is the published idea, as reconstructed: close to circular on average. `energy` (ours)
# scales the estimate so that the sum of squares is the exact one, which the kernel gives for
# nothing. `extrapolated` (ours) learns the effect of the border from the exact singular values of
# the same layer on a very small image.
#
# ## The norm
#
# The reshaped kernel's norm is no bound. The upper bounds below hold for images of every size; the
# bracket is closed to a thousandth.

# %%
bracket = norm_bracket(kernel)
reshaped = torch.linalg.matrix_norm(kernel.flatten(1), 2).item()
print(f"certified: {bracket.lower:.4f} to {bracket.upper:.4f}; reshaped kernel: {reshaped:.4f}")
for method in BOUNDS:
    value = operator_norm_bound(kernel, method).item()
    print(f"  {method:16}{value / bracket.lower:6.3f} times the norm")

# %% [markdown]
# ## Every layer, and what a cut does
#
# Ranks that keep 90 % of the squared singular values of the reshaped kernels. The Frobenius error
# of the cut layer is what was foretold, up to the border. The largest error is not.

# %%
ranks = lorank.ranks.energy(lorank.measure(model, layout="channel"), 0.9)
cuts = cut_errors(model, ranks, example, layout="channel")
heads = ("rank", "operator", "foretold", "Frobenius", "foretold")
print(f"{'layer':18}" + "".join(f"{head:>11}" for head in heads))
for key, cut in cuts.items():
    middle = sum(cut.norm) / 2
    print(
        f"{key:18}{cut.rank:11}{middle:11.3f}{cut.predicted_norm:11.3f}{cut.frobenius:11.3f}"
        f"{cut.predicted_frobenius:11.3f}"
    )
wrong = [cut.predicted_norm / (sum(cut.norm) / 2) for cut in cuts.values()]
print(f"foretold over true operator error: {min(wrong):.2f} to {max(wrong):.2f}")

# %%
figure, axes = plt.subplots(figsize=(4.2, 3.8), layout="constrained")
true = [sum(cut.norm) / 2 for cut in cuts.values()]
axes.plot(true, [cut.predicted_norm for cut in cuts.values()], "o", label="operator norm")
axes.plot(
    [cut.frobenius for cut in cuts.values()],
    [cut.predicted_frobenius for cut in cuts.values()],
    "s",
    label="Frobenius norm",
)
top = 1.1 * max(*true, *(cut.predicted_norm for cut in cuts.values()))
axes.plot([0, top], [0, top], color="k", lw=0.8)
axes.set(xlabel="relative error of the operator", ylabel="foretold by the reshaped kernel")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## A certificate of the network
#
# Each layer's certified norm, BatchNorm folded in, multiplied along the network; residual blocks
# add one. Beside it the largest gain that gradient ascent on pairs of inputs finds.

# %%
certificate = lipschitz(model, example)
x = torch.randn_like(example)
change = 1e-2 * torch.randn_like(x)
for _ in range(60):
    change.requires_grad_()
    gain = (model(x + change) - model(x)).norm() / change.norm()
    (slope,) = torch.autograd.grad(gain.log(), change)
    change = (change + 0.3 * change.norm() * slope / slope.norm()).detach()
print(f"certified: {certificate.constant:.3g}; found by search: {gain.item():.3g}")
for step in certificate.steps[:3]:
    print(f"  {step.layer} ({step.operation}): {step.gain:.3f}")

# %% [markdown]
# ## Norm penalties in training
#
# The paper claims that its bounds, used as regularisers, help residual networks generalise; the
# size of its gains is unknown to us. The study here is small: ResNet-8 on 5,000 images of CIFAR-10,
# averaged over 2×2 pixels, λ chosen on held-out images, three seeds
# (`benchmarks/operator_training.py`).

# %%
study = beside("docs/results/operator_training.json")
figures = json.loads(study.read_text())["figures"] if study else {"runs": [], "steps": []}
step_ratio = {f["arm"]: f["ratio"] for f in figures["steps"]}
heads = ("λ", "test", "noise 0.05", "noise 0.1", "norms", "a step")
print(f"{'arm':16}" + "".join(f"{head:>15}" for head in heads))
for arm in dict.fromkeys(f["arm"] for f in figures["runs"]):
    runs = [f for f in figures["runs"] if f["arm"] == arm]

    def spread(key, runs=runs):
        found = torch.tensor([100 * f[key] for f in runs])
        return f"{found.mean():.2f} ± {found.std():.2f}"

    product = torch.tensor([f["product_of_norms"] for f in runs]).log().mean().exp()
    shown = [spread(k) for k in ("accuracy", "accuracy_noise_0.05", "accuracy_noise_0.1")]
    cells = [f"{runs[0]['weight']:g}", *shown, f"{product:.3g}", f"{step_ratio[arm]:.2f}×"]
    print(f"{arm:16}" + "".join(f"{cell:>15}" for cell in cells))

# %% [markdown]
# Read with care: the study is small. In its table every regulariser is more accurate than none by
# several standard deviations, and the certified penalty is not more accurate than a tuned weight
# decay or the penalty on reshaped norms; under the stronger noise it does worst. It does make the
# product of certified norms the smallest, for more time a step. This is no confirmation of the
# paper's claim, and with one small network no refutation.

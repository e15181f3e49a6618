# %% [markdown]
# # Rank, noise and uncertainty of one matrix
#
# A matrix was measured with noise. How many components does it have, how strong is the noise, and
# what is the matrix behind it? This page asks a Bayesian model with a cumulative shrinkage prior,
# first on a matrix whose answer is known, then on an economic panel before and after 1984.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import torch

from lorank.bayes import collapsed
from lorank.linalg import detection_edge, median_noise, shrink

torch.set_num_threads(1)

# %% [markdown]
# ## A matrix whose answer is known
#
# Five components in a 100×50 matrix with noise of standard deviation 1. The weakest lies 1.55
# times above the detection edge `σ·(mn)^¼`, under which a component leaves no trace.

# %%
m, n = 100, 50
strengths = 10 * torch.tensor([3, 2.5, 2, 1.6, 1.3], dtype=torch.float64)


def draw(seed):
    g = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(k, 5, generator=g, dtype=torch.float64)).Q for k in (m, n)
    )
    signal = (left * strengths) @ right.T
    return signal, signal + torch.randn(m, n, generator=g, dtype=torch.float64)


signal, noisy = draw(0)
U, s, Vh = torch.linalg.svd(noisy, full_matrices=False)
found = collapsed(s, (m, n))
print(f"rank {found.rank()}, noise {found.noise:.3f} ± {found.noise_sd:.3f}")
print(f"edge of detection {detection_edge((m, n), found.noise):.2f}")
for h in range(8):
    print(
        f"component {h + 1}: observed {s[h]:6.2f}   d {found.mean[h]:6.2f} ± {found.sd[h]:.2f}   "
        f"shrunk {found.shrunk[h]:6.2f}   P(signal) {found.signal[h]:.3f}"
    )

# %% [markdown]
# Observed values are pushed up by the noise, and the directions that belong to them are turned. So
# the value to use (*shrunk*) is below the true one (*d*), which is below the observed one.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(range(1, 51), s, "o", color="#9aa5b1", ms=4, label="observed")
left.plot(range(1, 51), found.shrunk, ".", color="#1f6feb", label="posterior mean")
left.axhline(found.noise * (m**0.5 + n**0.5), color="#d1495b", ls="--", label="edge of the noise")
left.set_xlabel("component")
left.set_ylabel("singular value")
left.legend(frameon=False)
right.bar(range(9), found.edge_count[:9], color="#1f6feb")
right.set_xlabel("components above the detection edge")
right.set_ylabel("probability")
plt.show()

# %% [markdown]
# The same over ten draws, beside optimal shrinkage with the usual estimate of the noise from the
# median. A good part of the difference is the noise level: the signal pushes
# the middle of the spectrum up, and the median with it.

# %%
errors, ranks = (
    {"collapsed": [], "optimal shrinkage": []},
    {"collapsed": [], "optimal shrinkage": []},
)
noises = {"collapsed": [], "optimal shrinkage": []}
for seed in range(10):
    signal, noisy = draw(seed)
    U, s, Vh = torch.linalg.svd(noisy, full_matrices=False)
    fit, sigma = collapsed(s, (m, n)), median_noise(s, (m, n))
    for name, values, level in (
        ("collapsed", fit.shrunk, fit.noise),
        ("optimal shrinkage", shrink(s, (m, n), sigma), sigma),
    ):
        rest = ((U * values) @ Vh - signal).square().sum() / signal.square().sum()
        errors[name].append(float(rest))
        noises[name].append(level)
        ranks[name].append(fit.rank() if name == "collapsed" else int((values > 0).sum()))
for name in errors:
    print(
        f"{name:18s} error {np.mean(errors[name]):.4f}   noise {np.mean(noises[name]):.3f}   "
        f"ranks {ranks[name]}"
    )

# %% [markdown]
# ## Noise alone
#
# Rank 0 is an answer.

# %%
g = torch.Generator().manual_seed(1)
zeros = [
    collapsed(torch.linalg.svdvals(torch.randn(m, n, generator=g, dtype=torch.float64)), (m, n))
    for _ in range(20)
]
print("ranks found in pure noise:", sorted(each.rank() for each in zeros))

# %% [markdown]
# ## An economic panel before and after 1984
#
# From the middle of the 1980s the economy of the United States moved less, and its sectors less
# together. The study that this model comes from used industrial production by sector. That panel
# is not shipped here; FRED-MD has thirteen of its series, and where the environment names the file
# (`LORANK_FRED_MD=fred_md.csv`) seven disjoint groups of it are used. Otherwise the page takes the
# small quarterly panel that comes with statsmodels: spending, income, investment, prices, money,
# unemployment, interest. It is a panel of aggregates and not of sectors.

# %%
SECTORS = ["IPDCONGD", "IPNCONGD", "IPBUSEQ", "IPDMAT", "IPNMAT", "IPB51222S", "IPFUELS"]


def fred():
    from lorank.zoo.panel import read_panel

    panel = read_panel(os.environ["LORANK_FRED_MD"]).take(SECTORS).growth()
    return [
        panel.between(*years).values for years in (("1960-01", "1983-12"), ("1984-01", "2007-12"))
    ]


def quarterly():
    from statsmodels.datasets import macrodata

    frame = macrodata.load_pandas().data
    growth = 100 * np.diff(
        np.log(frame[["realgdp", "realcons", "realinv", "realgovt", "realdpi", "cpi", "m1"]]),
        axis=0,
    )
    levels = np.diff(frame[["unemp", "tbilrate"]], axis=0)
    late = frame["year"].to_numpy()[1:] >= 1984
    both = np.concatenate([growth, levels], 1)
    return [both[~late], both[late & (frame["year"].to_numpy()[1:] <= 2007)]]


halves = fred() if "LORANK_FRED_MD" in os.environ else quarterly()
scale = np.concatenate(halves).std(0)  # one scale for both halves
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for axis, half, title in zip(axes, halves, ("to 1983", "1984 to 2007"), strict=True):
    X = torch.from_numpy((half - half.mean(0)) / scale)
    s = torch.linalg.svdvals(X)
    fit = collapsed(s, tuple(X.shape))
    size = len(X) ** 0.5  # values in standard deviations of a series
    print(f"{title}: {X.shape[0]}×{X.shape[1]}, rank {fit.rank()}, noise {fit.noise:.2f}")
    print("   observed ", " ".join(f"{v:.2f}" for v in (s / size).tolist()))
    print("   shrunk   ", " ".join(f"{v:.2f}" for v in (fit.shrunk / size).tolist()))
    print("   P(signal)", " ".join(f"{v:.2f}" for v in fit.signal.tolist()))
    axis.plot(range(1, len(s) + 1), s / size, "o", color="#9aa5b1", label="observed")
    axis.plot(range(1, len(s) + 1), fit.shrunk / size, ".", color="#1f6feb", label="posterior mean")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("component")
axes[0].set_ylabel("singular value / √T")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# What can be read from it: the leading value falls after 1984, so there is less common movement.
# What cannot: a rank near the number of series is no finding of as many common factors. With so few
# series there is no bulk to learn the level of the noise from, and each series has movement of its
# own that no other shares and that is not equally strong: to a model of white noise that is signal.

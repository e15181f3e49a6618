"""Whether the draws can be trusted: R-hat, effective draws, divergences, pictures."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorank.bayes.posterior import Posterior
from lorank.errors import LorankError, extra

GOOD_RHAT, GOOD_ESS = 1.01, 400
"""Vehtari et al., 2021: R-hat below 1.01 and 100 effective draws a chain of four."""


@dataclass(frozen=True)
class Diagnosis:
    """Figures of convergence over the identified quantities.

    Attributes:
        rhat: largest rank-normalised split R-hat.
        ess: smallest bulk effective number of draws.
        ess_median: median of it over the quantities.
        worst: name of the quantity with the smallest.
        divergences: how many draws diverged.
        draws: how many draws there are.
        gradients: gradients of all kept draws; 0 for Gibbs.
        advice: one sentence for each thing to do; empty where all is well.
    """

    rhat: float
    ess: float
    ess_median: float
    worst: str
    divergences: int
    draws: int
    gradients: int
    advice: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is left to do."""
        return not self.advice


def inference_data(posterior: Posterior) -> Any:
    """ArviZ ``InferenceData``: sorted d, σ, entries of M, the number above the edge and of slabs.

    U and V are left out on purpose: their signs, and their turns among similar singular values,
    mean nothing, and their R-hat even less.

    Args:
        posterior: of either sampler.

    Returns:
        Groups ``posterior`` and, for NUTS, ``sample_stats``.

    Raises:
        MissingExtraError: if ArviZ is not installed.

    Example:
        >>> from lorank.bayes.gibbs import gibbs
        >>> found = gibbs(np.random.default_rng(0).normal(size=(5, 4)), truncation=2,
        ...               warmup=5, draws=5)
        >>> sorted(inference_data(found).posterior.data_vars)
        ['above', 'd', 'entry', 'sigma', 'slabs']
    """
    arviz = _arviz()
    above = (posterior.d > posterior.edge * posterior.sigma[..., None]).sum(-1)
    found = {
        "d": posterior.d,
        "sigma": posterior.sigma,
        "entry": posterior.entries,
        "above": above.astype(float),
    }
    if posterior.slab is not None:
        found["slabs"] = posterior.slab.sum(-1)
    names = {"num_steps": "n_steps", "accept_prob": "acceptance_rate"}
    statistics = {names.get(key, key): value for key, value in posterior.statistics.items()}
    return arviz.from_dict(
        posterior=found,
        sample_stats=statistics or None,
        dims={"d": ["component"], "entry": ["place"]},
        coords={
            "component": np.arange(1, posterior.d.shape[-1] + 1),
            "place": [f"{i},{j}" for i, j in posterior.places],
        },
    )


def diagnose(posterior: Posterior) -> Diagnosis:
    """Judge the draws of sorted d, σ and entries of M, and say what to do.

    Args:
        posterior: of either sampler.

    Returns:
        Figures and advice.

    Raises:
        LorankError: if there are fewer than 4 draws a chain.
        MissingExtraError: if ArviZ is not installed.

    Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner, Rank-normalization, folding, and
    localization: an improved R-hat, 2021.

    Example:
        >>> from lorank.bayes.gibbs import gibbs
        >>> found = gibbs(np.random.default_rng(0).normal(size=(5, 4)), truncation=2,
        ...               warmup=5, draws=20)
        >>> diagnose(found).good
        False
    """
    if posterior.sigma.shape[1] < 4:
        raise LorankError(f"a diagnosis needs 4 draws a chain, found {posterior.sigma.shape[1]}")
    arviz, series = _arviz(), identified(posterior)
    rhat = {name: float(arviz.rhat(values)) for name, values in series.items()}
    ess = {name: float(arviz.ess(values)) for name, values in series.items()}
    # What is no number (draws that are none) is the worst; max and min would pass over it.
    worst = min(ess, key=lambda name: (not math.isnan(ess[name]), ess[name]))
    divergences = int(posterior.statistics.get("diverging", np.zeros(1)).sum())
    draws = posterior.sigma.size
    gradients = int(posterior.statistics.get("num_steps", np.zeros(1)).sum())
    figures = float(np.max([*rhat.values()])), ess[worst], float(np.median(list(ess.values())))
    advice = _advice(figures[0], ess[worst], worst, divergences, draws, len(posterior.sigma))
    return Diagnosis(*figures, worst, divergences, draws, gradients, advice)


def identified(posterior: Posterior) -> dict[str, np.ndarray]:
    """Name → ``(C, N)`` draws of what the data can tell.

    Example:
        >>> from lorank.bayes.gibbs import gibbs
        >>> found = gibbs(np.random.default_rng(0).normal(size=(5, 4)), truncation=2,
        ...               warmup=5, draws=5)
        >>> list(identified(found))[:3]
        ['d[1]', 'd[2]', 'sigma']
    """
    series = {f"d[{h + 1}]": posterior.d[..., h] for h in range(posterior.d.shape[-1])}
    series["sigma"] = posterior.sigma
    for place, (i, j) in enumerate(posterior.places):
        series[f"entry[{i},{j}]"] = posterior.entries[..., place]
    return series


def _advice(
    rhat: float, ess: float, worst: str, divergences: int, draws: int, chains: int
) -> tuple[str, ...]:
    said = []
    if divergences:
        said.append(
            f"{divergences} of {draws} draws diverged, so the posterior may be cut off somewhere: "
            "raise accept towards 0.99, or take parametrisation='qr' or a smaller truncation"
        )
    if chains < 2:
        said.append("one chain cannot show that it found everything: run at least two")
    if not rhat < GOOD_RHAT:
        said.append(
            f"R-hat is {rhat:.3f}, above {GOOD_RHAT}: the chains do not agree yet; "
            "run longer (warmup and draws)"
        )
    if not ess >= GOOD_ESS:
        said.append(
            f"{worst} has {ess:.0f} effective draws, fewer than {GOOD_ESS}: take more draws"
        )
    return tuple(said)


def plot_trace(posterior: Posterior, components: int = 6) -> Any:
    """Trace plots of the identified quantities, by ArviZ.

    Args:
        posterior: of either sampler.
        components: how many of the leading singular values to show.

    Returns:
        ArviZ's array of axes.

    Raises:
        MissingExtraError: if ArviZ is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from lorank.bayes.gibbs import gibbs
        >>> found = gibbs(np.random.default_rng(0).normal(size=(5, 4)), truncation=2,
        ...               warmup=5, draws=20)
        >>> plot_trace(found).shape
        (3, 2)
    """
    return _arviz().plot_trace(
        inference_data(posterior), **_shown(posterior, components), compact=False
    )


def plot_rank(posterior: Posterior, components: int = 6) -> Any:
    """Rank plots of the identified quantities: flat bars where the chains agree.

    Args:
        posterior: of either sampler.
        components: how many of the leading singular values to show.

    Returns:
        ArviZ's array of axes.

    Raises:
        MissingExtraError: if ArviZ is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from lorank.bayes.gibbs import gibbs
        >>> found = gibbs(np.random.default_rng(0).normal(size=(5, 4)), truncation=2,
        ...               warmup=5, draws=20)
        >>> plot_rank(found).size >= 3
        True
    """
    return _arviz().plot_rank(inference_data(posterior), **_shown(posterior, components))


def _shown(posterior: Posterior, components: int) -> dict[str, Any]:
    kept = np.arange(1, min(components, posterior.d.shape[-1]) + 1)
    return {"var_names": ["d", "sigma"], "coords": {"component": kept}}


def _arviz() -> Any:
    with warnings.catch_warnings():  # it announces its next major version at every import
        warnings.simplefilter("ignore", FutureWarning)
        return extra("arviz", "bayes")

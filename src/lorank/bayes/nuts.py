"""Sample the Bayesian low-rank model by NUTS."""

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from lorank.bayes.checks import check_between, check_counts, check_seed, check_widths
from lorank.bayes.posterior import Draws, Posterior, posterior
from lorank.bayes.prior import Prior
from lorank.bayes.problem import Problem, prepare
from lorank.errors import LorankError, extra, unknown

PRIOR_NAMES = ("csp", "exponential", "half_normal", "horseshoe", "multiplicative_gamma")
PARAMETRISATIONS = ("polar", "qr", "relaxed")


def sample(
    data: Any,
    mask: Any = None,
    *,
    truncation: int | None = None,
    prior: str = "csp",
    parametrisation: str = "polar",
    chains: int = 4,
    warmup: int = 1000,
    draws: int = 4000,
    seed: int = 0,
    progress: bool = True,
    resume: str | Path | None = None,
    constants: Prior | None = None,
    order: float = 0.05,
    epsilon: float = 1e-3,
    corrected: bool = False,
    noise: tuple[float, float] = (0.0, 0.0),
    accept: float = 0.85,
    depth: int = 10,
    threads: int = 2,
) -> Posterior:
    """Posterior of a possibly low-rank matrix behind noise of unknown level, with its uncertainty.

    ``Y = U·diag(d)·Vᵀ + σE`` with U and V uniform among orthonormal columns, a prior on d in
    units of the detection edge ``σ·(mn)^¼``, and ``p(σ) ∝ 1/σ``: c·Y gives c times every draw.

    Args:
        data: ``(rows, columns)``, array or tensor; NaN is allowed where ``mask`` is false.
        mask: ``(rows, columns)`` of bool, true where an entry was observed; all by default.
        truncation: H, most components, of which the last is never a slab; by default the rank
            of the collapsed posterior plus five.
        prior: ``"csp"``, ``"exponential"``, ``"half_normal"``, ``"horseshoe"`` or
            ``"multiplicative_gamma"``.
        parametrisation: ``"polar"`` and ``"qr"`` are exact; ``"relaxed"`` is the paper's, with a
            penalty for orthonormality.
        chains: how many chains, from different starts near the SVD.
        warmup: steps of each that adapt step size and mass matrix and are thrown away.
        draws: steps of each that are kept.
        seed: of everything random.
        progress: show a bar.
        resume: file name ``NAME.npz``; the state of each chain is kept beside it in
            ``NAME.chain-0.npz`` and so on, and a run that was stopped goes on to the same draws.
        constants: constants of the CSP prior; they need ``shifted=False, nothing=0.0``.
        order: width of the soft order of d over the edge; 0 leaves the slots unordered.
        epsilon: ε of the relaxed constraint; much below 2/max(rows, columns), or biased.
        corrected: take away the relaxed constraint's leading bias.
        noise: ``(a, b)`` of an inverse-gamma prior of σ² in place of ``1/σ``.
        accept: acceptance probability to aim at; nearer to 1 means smaller steps.
        depth: greatest depth of a tree: at most ``2^depth`` gradients a draw.
        threads: chains that run at a time; the draws do not depend on it.

    Returns:
        Draws of the identified quantities, the posterior mean, ranks and diagnostics.

    Raises:
        LorankError: if the data cannot be used (see :func:`lorank.bayes.problem.prepare`), a
            name is unknown, a number is out of range, or the file to resume from cannot be
            written, is damaged, was edited or is of another run.
        MissingExtraError: if NumPyro is not installed.

    Cost: ``O((m + n)·H²)`` a gradient, with missing entries ``O(mn·H)``; some tens of gradients
    a draw. Source: Tanaka, Bayesian singular value regularization via a cumulative shrinkage
    process, 2020; Jauch, Hoff and Dunson, 2019, for the polar form; Hoffman and Gelman, 2014.

    Example:
        >>> data = np.random.default_rng(0).normal(size=(5, 4))
        >>> found = sample(data, truncation=2, chains=2, warmup=20, draws=20, progress=False)
        >>> found.d.shape, found.mean.shape
        ((2, 20, 2), (5, 4))
    """
    if prior not in PRIOR_NAMES:
        raise unknown("prior", prior, PRIOR_NAMES)
    if parametrisation not in PARAMETRISATIONS:
        raise unknown("parametrisation", parametrisation, PARAMETRISATIONS)
    check_counts(chains=chains, warmup=warmup, draws=draws, depth=depth, threads=threads)
    check_widths(order, noise)
    check_between("epsilon", epsilon, math.inf)
    check_between("accept", accept, 1)
    _check_resume(resume)
    seed = check_seed(seed)
    if constants is not None and not isinstance(constants, Prior):
        raise LorankError(f"constants are a lorank.bayes.Prior, found {constants!r}")
    numpyro, jax = extra("numpyro", "bayes"), extra("jax", "bayes")
    problem = prepare(data, mask, truncation)
    with jax.enable_x64(True):
        from lorank.bayes import chains as running
        from lorank.bayes.model import Choices, low_rank, start

        constants = constants or Prior(shifted=False, nothing=0.0)
        choices = Choices(prior, constants, parametrisation, order, epsilon, corrected, noise)
        settings = (
            choices,
            warmup,
            draws,
            seed,
            accept,
            depth,
            numpyro.__version__,
            jax.__version__,
        )
        bar, tick = _bar(progress, chains * (warmup + draws))
        plan = running.Plan(warmup, draws, _label(problem, settings), resume, tick)
        with bar:
            found = running.run(
                low_rank(problem, choices),
                [start(problem, choices, seed + 1000 * c) for c in range(chains)],
                plan,
                seed=seed,
                accept=accept,
                dense=[("log_sigma", "t")],
                depth=depth,
                threads=min(threads, chains),
            )
    d, sigma, U, V = (found.pop(name) for name in ("d", "sigma", "U", "V"))
    slab = found.pop("slab", None)
    return posterior(problem, Draws(d, sigma, U, V, slab, found), seed=seed)


def _check_resume(resume: Any) -> None:
    if resume is None:
        return
    if not isinstance(resume, str | os.PathLike) or not Path(resume).name:
        raise LorankError(f"resume names a file to keep the state in, found {resume!r}")
    if not Path(resume).parent.is_dir():
        raise LorankError(f"resume names a file in a folder that exists, found {str(resume)!r}")


def _label(problem: Problem, settings: tuple[Any, ...]) -> str:
    """Fingerprint of all that the draws depend on."""
    digest = hashlib.sha256(repr((settings, problem.shape, problem.truncation)).encode())
    digest.update(np.ascontiguousarray(problem.matrix).tobytes())
    if problem.observed is not None:
        digest.update(np.ascontiguousarray(problem.observed).tobytes())
    return digest.hexdigest()


def _bar(shown: bool, total: int) -> tuple[Any, Any]:
    bar = extra("tqdm", "bayes").tqdm(total=total, disable=not shown, unit="draw", desc="sampling")
    return bar, bar.update

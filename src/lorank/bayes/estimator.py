"""The Bayesian SVD as an estimator of scikit-learn."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lorank.bayes.collapsed import collapsed
from lorank.bayes.entries import as_array, check_range, column_means
from lorank.bayes.prior import Prior
from lorank.errors import LorankError, unknown

METHODS = ("collapsed", "nuts")
OWN = {"data", "mask", "truncation", "seed", "prior", "constants"}
"""Arguments of the sampler that the estimator sets."""


class BayesianSVD(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Singular value decomposition that finds its rank, its noise and its shrinkage.

    ``X = U·diag(d)·Vᵀ + σE`` with a cumulative shrinkage prior on d. ``transform`` projects on
    the components of the posterior mean and shrinks each as on the data of ``fit``, so that
    ``inverse_transform(transform(X))`` is the low-rank part of the posterior mean of X.

    Args:
        method: ``"collapsed"``, in closed form from the singular values, or ``"nuts"``, by
            sampling, which takes missing entries (NaN).
        center: take the mean of each column off first. The columns' means are then no component.
        noise: σ where it is known (``"collapsed"`` only).
        truncation: most components, below ``min(n_samples, n_features)``.
        prior: constants of the prior; for ``"nuts"`` also the name of another prior.
        random_state: seed of the sampler.
        options: further arguments of :func:`lorank.bayes.nuts.sample` as a dict, such as
            ``{"draws": 500}``.

    Attributes:
        rank_: number of components, of 0 or more.
        noise_: standard deviation of the noise in one entry.
        posterior_: :class:`Collapsed`, or the answer of the sampler.
        matrix_: posterior mean of the whole matrix, ``(n_samples, n_features)``.
        components_: right singular vectors ``(rank_, n_features)``.
        singular_values_: shrunk values ``(rank_,)``.
        shrinkage_: what ``transform`` multiplies each component by, ``(rank_,)``.
        mean_: columns' means, zeros where ``center`` is off.

    Cost: one SVD and that of :func:`collapsed`.

    Example:
        >>> x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
        >>> noise = torch.randn(30, 12, generator=torch.Generator().manual_seed(1))
        >>> y = (x @ torch.ones(2, 12) + 0.1 * noise).numpy()
        >>> model = BayesianSVD().fit(y)
        >>> model.rank_, round(model.noise_, 1), model.transform(y).shape
        (1, 0.1, (30, 1))
    """

    def __init__(
        self,
        method: str = "collapsed",
        *,
        center: bool = False,
        noise: float | None = None,
        truncation: int | None = None,
        prior: Prior | str | None = None,
        random_state: int = 0,
        options: dict[str, Any] | None = None,
    ):
        self.method = method
        self.center = center
        self.noise = noise
        self.truncation = truncation
        self.prior = prior
        self.random_state = random_state
        self.options = options

    def fit(self, X, y=None):
        """Find the posterior of a matrix.

        Args:
            X: ``(n_samples, n_features)``, at least 2×2; NaN is missing, with ``"nuts"`` only.
            y: ignored.

        Returns:
            The estimator.

        Raises:
            LorankError: if the method or an option is unknown, or X has missing entries that it
                cannot take, or so large ones that its singular values are no doubles.
        """
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if not isinstance(self.center, bool | np.bool_):
            raise LorankError(f"center is True or False, found {self.center!r}")
        X = self._validated(X, reset=True, missing=self.method == "nuts")
        X = X.astype(np.float64, copy=False)
        check_range(X)
        self.mean_ = column_means(X) if self.center else np.zeros(X.shape[1])
        fit = self._fit_collapsed if self.method == "collapsed" else self._fit_nuts
        fit(X - self.mean_)
        self.matrix_ += self.mean_
        return self

    def transform(self, X):
        """Shrunk coordinates ``(X − mean)·Vᵀ·shrinkage``, ``(n_samples, rank_)``."""
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        return (X - self.mean_) @ self.components_.T * self.shrinkage_

    def inverse_transform(self, X):
        """Matrix of given coordinates, ``X·V + mean``, ``(n_samples, n_features)``.

        Raises:
            LorankError: if there are not ``rank_`` coordinates.
        """
        check_is_fitted(self)
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.rank_:
            raise LorankError(f"there are {self.rank_} coordinates, found an array of {X.shape}")
        return X @ self.components_ + self.mean_

    @property
    def _n_features_out(self) -> int:
        return self.rank_

    def _validated(self, X: Any, *, reset: bool, missing: bool = False) -> Any:
        least = 2 if reset else 1
        # What is not finite is refused by a sentence of our own: it names the way out.
        X = validate_data(
            self,
            as_array(X),
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=least,
            ensure_min_features=least,
        )
        if np.isinf(X).any():
            raise LorankError("a matrix has finite entries, or NaN where one is missing; found inf")
        lacking = int(np.isnan(X).sum())
        if lacking and not missing:
            way = "BayesianSVD(method='nuts') takes them as missing in fit"
            raise LorankError(f"{lacking} of {X.size} entries are NaN: {way}")
        if 2 * lacking > X.size:
            raise LorankError(f"more entries are missing than observed: {lacking} of {X.size}")
        return X

    def _fit_collapsed(self, X):
        U, s, Vh = np.linalg.svd(X, full_matrices=False)
        if isinstance(self.prior, str):
            raise LorankError("a prior by name is for method='nuts'; give a lorank.bayes.Prior")
        found = collapsed(
            torch.from_numpy(s),
            X.shape,
            noise=self.noise,
            truncation=self.truncation,
            prior=self.prior,
        )
        shrunk = found.shrunk.numpy()
        self.posterior_, self.rank_, self.noise_ = found, found.rank(), found.noise
        self.matrix_ = (U * shrunk) @ Vh
        self._keep(_signed(Vh), shrunk, s)

    def _fit_nuts(self, X):
        if self.noise is not None:
            raise LorankError("noise is given to method='collapsed'; the sampler always infers it")
        sample = importlib.import_module("lorank.bayes.nuts").sample
        options = self._checked_options(sample)
        mask = ~np.isnan(X)
        found = sample(
            np.where(mask, X, 0.0),
            mask=None if mask.all() else mask,
            truncation=self.truncation,
            **({"prior": self.prior} if isinstance(self.prior, str) else {"constants": self.prior}),
            seed=self.random_state,
            **options,
        )
        self.posterior_ = found
        self.matrix_ = np.array(found.mean, dtype=np.float64)
        self.noise_, self.rank_ = found.noise, found.rank()
        _, shrunk, Vh = np.linalg.svd(self.matrix_, full_matrices=False)
        Vh = _signed(Vh)
        # How much of each direction of the data the posterior mean keeps; squares of huge numbers
        # would leave the range of doubles.
        filled = np.where(mask, X, self.matrix_)
        unit = np.abs(filled).max()
        self._keep(Vh, shrunk, unit * np.linalg.norm((filled / unit) @ Vh.T, axis=0))

    def _checked_options(self, sample):
        options = {} if self.options is None else self.options
        if not isinstance(options, Mapping):
            raise LorankError(f"options are a dict of sample's arguments, found {options!r}")
        known = {*inspect.signature(sample).parameters} - OWN
        for name in options:
            if name in OWN:
                raise LorankError(f"{name!r} is set by BayesianSVD itself, not in options")
            if name not in known:
                raise unknown("option", name, known)
        return options

    def _keep(self, Vh, shrunk, observed):
        r = self.rank_
        self.components_, self.singular_values_ = Vh[:r], shrunk[:r]
        nothing = np.zeros_like(shrunk[:r])
        self.shrinkage_ = np.divide(shrunk[:r], observed[:r], out=nothing, where=observed[:r] > 0)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = False  # NaN is taken by fit with nuts, never by transform
        return tags


def _signed(Vh):
    """Turn each component so that its largest entry is positive."""
    largest = np.abs(Vh).argmax(1)
    sign = np.sign(Vh[np.arange(len(Vh)), largest])
    return Vh * np.where(sign == 0, 1, sign)[:, None]

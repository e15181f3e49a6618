"""Principal components of quaternion data, as a scikit-learn estimator."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from lorank.errors import LorankError
from lorank.linalg import qmatmul, qsvd, randomized_qsvd
from lorank.linalg.quaternion.algebra import qct

PARTS = 4
LARGE = 500
"""Side from which ``auto`` takes the randomized solver, where few components are wanted."""

MANY = 0.8
"""Share of the full rank from which it does not."""


class QuaternionPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Principal components over the quaternions: ``X − mean ≈ scores·components``.

    A sample is a vector of quaternions, such as one for each pixel of a colour image. Inputs:

    - ``(samples, height, width, 3)``: colour images, taken as pure quaternions r·i + g·j + b·k;
    - ``(samples, features, 4)``: quaternions with parts w, x, y, z, or ``(samples, features)`` of
      the package numpy-quaternion;
    - ``(samples, 4·features)``: a table, four neighbouring columns a quaternion (the memory of the
      array before). Where the columns do not come in fours, columns of zeros are added.

    Scores are a table ``(samples, 4·components)`` of the same order, so that their Euclidean
    distance is that of the quaternion vectors and any estimator can follow in a pipeline.

    A quaternion component is four numbers a sample: compare it with four real components, and it
    gains over as many real ones because of that.

    Args:
        n_components: how many, up to ``min(samples, features)``; by default all.
        svd_solver: ``"full"``, ``"randomized"``, or ``"auto"``: randomized for large data and few
            components.
        n_oversamples: random columns beyond the components.
        n_iter: power iterations.
        random_state: seed of the randomized solver: None, a whole number or a ``RandomState``.

    Attributes:
        components_: ``(components, features, 4)``, orthonormal rows over the quaternions.
        mean_: ``(features, 4)``.
        singular_values_: of the centred data.
        explained_variance_: their squares over ``samples − 1``: a variance summed over four parts.
        explained_variance_ratio_: the same as a share of the whole variance.
        n_components_: number of components.
        n_features_in_: columns of the table.

    Cost: ``O(samples·features·components)``, randomized. Source: Bihan and Sangwine, Quaternion
    principal component analysis of color images, 2003.

    Example:
        >>> images = np.random.default_rng(0).random((20, 8, 8, 3))
        >>> QuaternionPCA(3).fit_transform(images).shape
        (20, 12)
    """

    n_features_in_: int
    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 (scikit-learn's own way)
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "svd_solver": [StrOptions({"auto", "full", "randomized"})],
        "n_oversamples": [Interval(Integral, 0, None, closed="left")],
        "n_iter": [Interval(Integral, 0, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        svd_solver: str = "auto",
        n_oversamples: int = 10,
        n_iter: int = 2,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.svd_solver = svd_solver
        self.n_oversamples = n_oversamples
        self.n_iter = n_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "QuaternionPCA":
        """Find the components.

        Args:
            X: samples, in one of the three layouts.
            y: not looked at.

        Returns:
            The estimator.

        Raises:
            ValueError: if X or an option cannot be used.
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Find the components and give the scores: those of :meth:`transform`, to rounding."""
        U, s = self._fit(X)
        return _table(U * s[:, None])

    def _fit(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        self._validate_params()
        checked: Any = validate_data(self, _flat(X), dtype=FLOATS, ensure_min_samples=2)
        data = _quaternions(checked)
        count = self._count(*data.shape[:2])
        self.mean_ = data.mean(0)
        centred = data - self.mean_
        U, s, Vh = self._decompose(centred, count)
        self.components_, self.singular_values_ = Vh[:count], s[:count]
        self.explained_variance_ = self.singular_values_**2 / (len(data) - 1)
        whole = float(np.square(centred, dtype=np.float64).sum()) / (len(data) - 1)
        self.explained_variance_ratio_ = self.explained_variance_ / max(whole, TINY)
        self.n_components_ = count
        self.n_samples_ = len(data)
        return U[:, :count], s[:count]

    def _decompose(self, centred: np.ndarray, count: int) -> Any:
        m, n, _ = centred.shape
        solver = self.svd_solver
        if solver == "auto":
            few = count < MANY * min(m, n)
            solver = "randomized" if max(m, n) > LARGE and few else "full"
        if solver == "full":
            return qsvd(centred)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return randomized_qsvd(
            centred,
            count,
            n_oversamples=self.n_oversamples,
            n_iter=self.n_iter,
            random_state=torch.Generator().manual_seed(int(seed)),
        )

    def _count(self, samples: int, features: int) -> int:
        full = min(samples, features)
        count = full if self.n_components is None else int(self.n_components)
        if count > full:
            raise LorankError(
                f"n_components is at most min(samples, features) = {full} of quaternions, found "
                f"{count}"
            )
        return count

    def transform(self, X: Any) -> Any:
        """Project samples on the components.

        Args:
            X: samples, in one of the three layouts, of as many features as were fitted.

        Returns:
            Scores, ``(samples, 4·components)``.

        Raises:
            ValueError: if the estimator is not fitted, or X cannot be used.
        """
        check_is_fitted(self)
        checked: Any = validate_data(self, _flat(X), dtype=FLOATS, reset=False)
        data = _quaternions(checked)
        centred = (data - self.mean_).astype(self.components_.dtype, copy=False)
        return _table(qmatmul(centred, qct(self.components_)))

    def inverse_transform(self, X: Any) -> Any:
        """Make samples of scores.

        Args:
            X: scores, ``(samples, 4·components)``.

        Returns:
            Samples, ``(samples, n_features_in_)``; of colour images they hold the real parts too:
            ``.reshape(-1, height, width, 4)[..., 1:]`` are the colours.

        Raises:
            ValueError: if the estimator is not fitted, or the scores have another size.
        """
        check_is_fitted(self)
        scores = np.asarray(X, dtype=self.components_.dtype)
        if scores.ndim != 2 or scores.shape[1] != PARTS * self.n_components_:
            raise LorankError(
                f"scores are (samples, {PARTS * self.n_components_}), found shape {scores.shape}"
            )
        made = qmatmul(_quaternions(scores), self.components_) + self.mean_
        return _table(made)[:, : self.n_features_in_]

    @property
    def _n_features_out(self) -> int:
        return PARTS * self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


FLOATS = [np.float64, np.float32]
TINY = float(np.finfo(np.float64).tiny)


def _flat(X: Any) -> Any:
    """Images and quaternion arrays as a table; anything else is for scikit-learn to judge."""
    array = X if hasattr(X, "shape") else None
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    if array is None or not isinstance(array, np.ndarray):
        return X
    if array.dtype.name == "quaternion":  # the package numpy-quaternion: entries are scalars
        array = np.ascontiguousarray(array).view(np.float64).reshape(*array.shape, PARTS)
    if array.ndim == 4 and array.shape[-1] == 3 and array.dtype.kind in "fiu":
        images = array if array.dtype.kind == "f" else array.astype(np.float64)
        array = np.concatenate([np.zeros_like(images[..., :1]), images], -1)
        return array.reshape(len(array), -1)
    if array.ndim == 3 and array.shape[-1] == PARTS:
        return array.reshape(len(array), -1)
    return array


def _quaternions(table: np.ndarray) -> np.ndarray:
    """Four neighbouring columns as one quaternion, the last one filled with zeros."""
    missing = -table.shape[1] % PARTS
    whole = np.pad(table, ((0, 0), (0, missing))) if missing else table
    return np.ascontiguousarray(whole).reshape(len(whole), -1, PARTS)


def _table(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data).reshape(len(data), -1)

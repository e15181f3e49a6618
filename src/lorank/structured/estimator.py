"""A scikit-learn regressor for many outputs, helped by input and output tasks."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.structured.arms import ACTIVATIONS, Arm, modern, perceptron
from lorank.structured.fit import Plan, fit
from lorank.structured.scale import DIRECTIONS

TASKS = ("in", "out")


class StructuredRegressor(RegressorMixin, BaseEstimator):
    """A perceptron for many outputs that depend on each other, some of them not labelled.

    Inputs are standardised; labels are centred and all divided by one number, which gains more than
    reconstruction tasks where labels are few. The output layer starts with the labels' scale in
    every direction; the tasks can be added.

    Args:
        hidden: units of the hidden layers; with both tasks at least one layer.
        activation: ``"relu"``, ``"gelu"``, ``"tanh"`` or ``"sigmoid"``.
        label_scale: directions of the output layer at the start, ``"random"``, ``"pca"`` or
            ``"keep"`` (:func:`lorank.structured.label_scale_`); None leaves it as torch draws it.
        tasks: of ``"in"`` (a denoising auto-encoder on the first layer, for every input) and
            ``"out"`` (one on the last layer, for every label); their weights fall from
            ``task_weight`` to 0 at half of the training.
        task_weight: of both tasks at first.
        epochs: passes over the labelled rows.
        batch_size: labelled rows of a batch.
        learning_rate: of AdamW at first; it falls to 0 along a cosine.
        weight_decay: of AdamW.
        validation_fraction: share of the labelled rows that is held out; the weights of the epoch
            with the least error on them are kept. 0 keeps the last.
        random_state: seed of weights, masks and order: a number, a generator of NumPy that one is
            drawn from, or None for another one each time.

    Attributes:
        network_: the trained network, a ``torch.nn.Sequential`` of standardised inputs.
        history_: losses by epoch (:class:`lorank.structured.fit.Fitted`).
        n_labelled_: rows with a label, of those given to ``fit``.
        n_features_in_: number of inputs.
        n_outputs_: number of outputs.

    Cost: ``epochs × rows`` passes; with the tasks about twice as much.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> X = draw.normal(size=(200, 5))
        >>> Y = X @ draw.normal(size=(5, 3))
        >>> Y[150:] = np.nan  # without a label
        >>> model = StructuredRegressor(hidden=(32,), tasks=("in",), epochs=60).fit(X, Y)
        >>> model.predict(X).shape, model.n_labelled_, model.score(X[:150], Y[:150]) > 0.9
        ((200, 3), 150, True)
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (256, 128, 64),
        *,
        activation: str = "relu",
        label_scale: str | None = "random",
        tasks: tuple[str, ...] = (),
        task_weight: float = 1.0,
        epochs: int = 100,
        batch_size: int = 16,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        validation_fraction: float = 0.0,
        random_state: int | np.random.RandomState | np.random.Generator | None = 0,
    ):
        self.hidden = hidden
        self.activation = activation
        self.label_scale = label_scale
        self.tasks = tasks
        self.task_weight = task_weight
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X, y, *, X_unlabelled=None, y_only=None):
        """Train the network.

        Args:
            X: inputs ``(n_samples, n_features)``.
            y: labels ``(n_samples,)`` or ``(n_samples, n_outputs)``; NaN is missing, in part or
                a whole row.
            X_unlabelled: more inputs, for the input task and the standardisation.
            y_only: more labels without inputs, for the output task and the labels' scale.

        Returns:
            The estimator.

        Raises:
            LorankError: if all labels or all of one output are missing, values are too large to be
                squared, a setting is out of its range, or more data are given than the tasks and
                the scale can use.
        """
        self._check_settings()
        X, Y = self._validated(X, y)
        extra_x = self._more(X_unlabelled, X, "X_unlabelled")
        extra_y = self._more(y_only, Y, "y_only")
        known = ~np.isnan(Y)
        if not known.any():
            raise LorankError(f"all labels are missing: {len(Y)} rows, found only NaN in them")
        never = np.flatnonzero(~known.any(axis=0))
        if len(never):
            raise LorankError(
                "each output has a label in some row of y, found only NaN in "
                f"output {', '.join(map(str, never[:5]))}: leave such outputs out"
            )
        rows = known.any(axis=1)
        self.n_labelled_, self.n_outputs_ = int(rows.sum()), Y.shape[1]
        seed = self._seed()
        all_x = X if extra_x is None else np.concatenate([X, extra_x])
        self._measure(all_x, Y if extra_y is None else np.concatenate([Y, extra_y]))
        self._train(X, Y, rows, extra_x, extra_y, seed)
        return self

    def predict(self, X):
        """Outputs of the network, ``(n_samples,)`` or ``(n_samples, n_outputs)``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        with torch.no_grad():
            found = self.network_(self._inputs(X)).double().numpy()
        found = found * self.unit_ + self.centre_
        return found[:, 0] if self.flat_ else found

    def score(self, X, y, sample_weight=None):
        """R² of the predictions on labels without missing entries, averaged over the outputs."""
        return super().score(X, y, sample_weight)

    def _check_settings(self) -> None:
        if self.label_scale is not None and self.label_scale not in DIRECTIONS:
            raise unknown("label_scale", self.label_scale, DIRECTIONS)
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)
        for name in ("hidden", "tasks"):
            if not isinstance(getattr(self, name), (tuple, list)):
                raise LorankError(f"{name} is a tuple, found {getattr(self, name)!r}")
        for task in self.tasks:
            if task not in TASKS:
                raise unknown("task", task, TASKS)
        share = self.validation_fraction
        if not isinstance(share, Real) or not 0 <= share < 1:
            raise LorankError(f"validation_fraction is from 0 and below 1, found {share!r}")
        self._plan()

    def _plan(self) -> Plan:
        return Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )

    def _validated(self, X: Any, y: Any) -> tuple[Any, Any]:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        Y = _numbers(y)
        if Y.ndim == 2 and Y.shape[1] == 1:
            Y = column_or_1d(Y, warn=True)
        self.flat_ = Y.ndim == 1
        Y = _matrix(Y)
        if len(Y) != len(X):
            raise LorankError(
                f"there is a row of labels (NaN where missing) for each input, found {len(Y)} "
                f"and {len(X)}"
            )
        return X, Y

    def _more(self, given: Any, like: Any, name: str) -> Any:
        """Extra rows, if they can be of use."""
        if given is None:
            return None
        if name == "X_unlabelled":
            kinds: Any = [np.float64, np.float32]
            found = check_array(given, dtype=kinds, input_name=name)
            self._check_names(given)
            use = "in" in self.tasks
        else:
            found = _matrix(_numbers(given))
            use = "out" in self.tasks or self.label_scale is not None
        if found.shape[1] != like.shape[1]:
            raise LorankError(
                f"{name} has as many columns as its kind in pairs, {like.shape[1]}, "
                f"found {found.shape[1]}"
            )
        if not use:
            raise LorankError(f"{name} would be of no use: no task or scale that is on reads it")
        return found

    def _check_names(self, given: Any) -> None:
        """Columns with names stand in one order."""
        known = getattr(self, "feature_names_in_", None)
        names = getattr(given, "columns", None)
        if known is not None and names is not None and list(names) != list(known):
            raise LorankError(
                f"X_unlabelled has the columns of X in their order, {', '.join(map(str, known))}, "
                f"found {', '.join(map(str, names))}"
            )

    def _measure(self, X: Any, Y: Any) -> None:
        """Centre and scale of the inputs, and one unit for all labels."""
        with np.errstate(over="ignore", invalid="ignore"):  # Inf is refused below
            self.mean_, deviation = X.mean(0), X.std(0)
            self.centre_ = np.nansum(Y, axis=0) / np.maximum((~np.isnan(Y)).sum(0), 1)
            spread = np.sqrt(np.nanmean(np.square(Y - self.centre_)))
        for kind, found in (("inputs", deviation), ("labels", spread)):
            if not np.isfinite(found).all():
                raise LorankError(f"{kind} have a finite deviation, found values too large for one")
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        self.unit_ = float(spread) if spread > 0 else 1.0

    def _train(self, X: Any, Y: Any, rows: Any, extra_x: Any, extra_y: Any, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = (X.shape[1], *self.hidden, Y.shape[1])
            network = perceptron(sizes, self.activation, dtype=torch.float32)
        kept, held = self._split(np.flatnonzero(rows), seed)
        targets = self._targets(Y)
        spare = np.flatnonzero(~rows)
        more_x = [self._inputs(part) for part in (X[spare], extra_x) if part is not None]
        unlabelled = torch.cat(more_x) if "in" in self.tasks else None
        more_y = None if extra_y is None else self._targets(extra_y)
        labels = targets[kept] if more_y is None else torch.cat([targets[kept], more_y])
        arm = Arm(tuple(self.tasks), self._usable_scale(labels))
        weights = self.task_weight, self.task_weight
        regularizers = modern(arm, network, labels, self.epochs, weights=weights, seed=seed)
        inputs = self._inputs(X)
        self.history_ = fit(
            regularizers,
            inputs[kept],
            targets[kept],
            self._plan(),
            x_only=unlabelled if unlabelled is not None and len(unlabelled) else None,
            y_only=more_y if "out" in self.tasks else None,
            valid=(inputs[held], targets[held]) if len(held) else None,
            seed=seed,
        )
        self.n_iter_ = self.epochs
        self.network_ = network.eval()

    def _usable_scale(self, labels: Tensor) -> str | None:
        """The scale, unless labels are all the same or hardly ever complete: they have none."""
        whole = labels[~labels.isnan().any(1)]
        varied = len(whole) > 1 and bool((whole != whole[0]).any())
        return self.label_scale if varied else None

    def _split(self, rows: Any, seed: int) -> tuple[Any, Any]:
        """Labelled rows to train on, and to choose the epoch by."""
        order = np.random.default_rng(seed).permutation(rows)
        count = round(self.validation_fraction * len(rows))
        if self.validation_fraction and not 0 < count < len(rows):
            raise LorankError(
                f"holding out {self.validation_fraction} of {len(rows)} labelled rows leaves one "
                "part empty"
            )
        return order[count:], order[:count]

    def _inputs(self, X: Any) -> Tensor:
        return torch.from_numpy(np.asarray((X - self.mean_) / self.scale_, dtype=np.float32))

    def _targets(self, Y: Any) -> Tensor:
        """Labels about their mean, in units."""
        moved = (Y - self.centre_) / self.unit_
        return torch.from_numpy(np.asarray(moved, dtype=np.float32))

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            if not 0 <= self.random_state < 2**63:
                raise LorankError(f"a seed is from 0 and below 2**63, found {self.random_state}")
            return int(self.random_state)
        draw = np.random.default_rng() if self.random_state is None else self.random_state
        if isinstance(draw, np.random.RandomState):
            return int(draw.randint(2**31 - 1))
        if isinstance(draw, np.random.Generator):
            return int(draw.integers(2**31 - 1))
        raise LorankError(f"random_state is a number, a generator of NumPy or None, found {draw!r}")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.non_deterministic = self.random_state is None
        return tags


def _numbers(y: Any) -> Any:
    """Labels as numbers; NaN is missing."""
    about: Any = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "input_name": "y"}
    return check_array(y, ensure_2d=False, **about)


def _matrix(Y: Any) -> Any:
    return Y[:, None] if Y.ndim == 1 else Y

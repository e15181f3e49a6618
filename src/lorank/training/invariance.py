"""Class-wise invariance in a run: a tap on one layer, and a term of the loss."""

import contextlib
from collections.abc import Iterable

from torch import Tensor, nn

from lorank.nn import Tap
from lorank.nn.surgery import opened
from lorank.penalties import class_invariance
from lorank.training.recipe import Stage


def tapped(stage: Stage, model: nn.Module) -> contextlib.AbstractContextManager[Tap | None]:
    """A tap on the layer whose activations a stage penalises, or nothing.

    Raises:
        LorankError: if there is no such layer.

    Example:
        >>> with tapped(Stage(name="a", epochs=1), nn.ReLU()) as tap:
        ...     tap is None
        True
    """
    if stage.invariance is None:
        return contextlib.nullcontext()
    return Tap(model, stage.invariance.layer, flatten=True)


def check_layers(stages: Iterable[Stage], model: nn.Module) -> None:
    """Refuse a stage whose layer is not there, before the stages ahead of it are trained.

    Args:
        stages: those that are left.
        model: as the first of them finds it.

    Raises:
        LorankError: if there is no such layer.

    Example:
        >>> check_layers([Stage(name="a", epochs=1)], nn.ReLU())
    """
    for stage in stages:
        model = opened(model) if stage.form == "svd" else model
        tapped(stage, model)


def invariance_of(stage: Stage, tap: Tap | None, labels: Tensor) -> dict[str, tuple[float, Tensor]]:
    """The term as (weight, value), of what the tap saw in the pass just made.

    Raises:
        LorankError: if the layer did not run, or labels are not whole numbers, one a sample.
    """
    how = stage.invariance
    if tap is None or how is None:
        return {}
    value = class_invariance(
        tap.value, labels, how.kind, reduce=how.reduce, normalise=how.normalise
    )
    return {"invariance": (how.weight, value)}

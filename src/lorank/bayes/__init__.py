"""Which low-rank matrix explains this one? Bayesian models of a matrix in noise."""

import importlib
from typing import TYPE_CHECKING, Any

from lorank.bayes.collapsed import Collapsed, collapsed
from lorank.bayes.prior import Prior
from lorank.errors import extra

if TYPE_CHECKING:
    from lorank.bayes.estimator import BayesianSVD

__all__ = ["BayesianSVD", "Collapsed", "Prior", "collapsed"]


def __getattr__(name: str) -> Any:
    if name != "BayesianSVD":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra("sklearn", "bayes")
    return importlib.import_module("lorank.bayes.estimator").BayesianSVD

"""Low-rank deep networks: measure, choose, apply.

The names below follow a weight's life: ``calibrate`` on what the network reads, ``measure`` its
singular values, try its ``sensitivity``, choose its rank (``ranks``), ``decompose`` it,
``reconstruct`` it or train it with a ``penalty``, ``prune`` it, ``clip`` its norm, ``fold`` it into
plain layers, count its ``cost``, ``save`` it.
"""

from lorank import linalg, nn, penalties, ranks
from lorank.compression import (
    Calibration,
    Cost,
    calibrate,
    clip,
    cost,
    decompose,
    fold,
    measure,
    prune,
    recalibrate,
    reconstruct,
    sensitivity,
)
from lorank.errors import LorankError, MissingExtraError
from lorank.files import load, save
from lorank.linalg import SVD
from lorank.ranks import Spectra, Spectrum
from lorank.training import penalty, penalty_terms

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - in the order of a weight's life
    "calibrate",
    "Calibration",
    "measure",
    "sensitivity",
    "Spectra",
    "Spectrum",
    "ranks",
    "decompose",
    "reconstruct",
    "SVD",
    "penalty",
    "penalty_terms",
    "penalties",
    "prune",
    "clip",
    "fold",
    "recalibrate",
    "cost",
    "Cost",
    "save",
    "load",
    "nn",
    "linalg",
    "LorankError",
    "MissingExtraError",
]

"""Stages of a weight's life: a model (or a table) in, a model (or a table) out."""

from lorank.compression.calibrate import Calibration, calibrate
from lorank.compression.clip import Clipped, clip
from lorank.compression.cost import Cost, cost
from lorank.compression.decompose import decompose
from lorank.compression.fold import fold
from lorank.compression.latency_plan import latency_plan
from lorank.compression.latency_table import latency_table, timed
from lorank.compression.lipschitz import Certificate, lipschitz
from lorank.compression.measure import measure
from lorank.compression.operator import Operator, Operators, operators
from lorank.compression.operator_cut import CutError, cut_errors
from lorank.compression.prune import prune
from lorank.compression.recalibrate import recalibrate
from lorank.compression.reconstruct import reconstruct
from lorank.compression.sensitivity import sensitivity

__all__ = [
    "Calibration",
    "Certificate",
    "Clipped",
    "Cost",
    "CutError",
    "Operator",
    "Operators",
    "calibrate",
    "clip",
    "cost",
    "cut_errors",
    "decompose",
    "fold",
    "latency_plan",
    "latency_table",
    "lipschitz",
    "measure",
    "operators",
    "prune",
    "recalibrate",
    "reconstruct",
    "sensitivity",
    "timed",
]

"""Stages of a weight's life: a model (or a table) in, a model (or a table) out."""

from lorank.compression.cost import Cost, cost
from lorank.compression.decompose import decompose
from lorank.compression.fold import fold
from lorank.compression.measure import measure
from lorank.compression.prune import prune
from lorank.compression.recalibrate import recalibrate

__all__ = ["Cost", "cost", "decompose", "fold", "measure", "prune", "recalibrate"]

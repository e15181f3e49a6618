"""How many singular values? Pure functions from spectra to ranks, ``{layer: int}``."""

from lorank.ranks.budgets import budget, cost_of
from lorank.ranks.csp import csp
from lorank.ranks.dimensions import effective_rank, stable_rank
from lorank.ranks.noise import gavish_donoho
from lorank.ranks.per_layer import round_to
from lorank.ranks.shares import energy, threshold
from lorank.ranks.shrinkage import optimal_shrinkage
from lorank.ranks.spectrum import Price, Spectra, Spectrum
from lorank.ranks.table import RULES, rule
from lorank.ranks.times import Times
from lorank.ranks.variational import evbmf

__all__ = [
    "RULES",
    "Price",
    "Spectra",
    "Spectrum",
    "Times",
    "budget",
    "cost_of",
    "csp",
    "effective_rank",
    "energy",
    "evbmf",
    "gavish_donoho",
    "optimal_shrinkage",
    "round_to",
    "rule",
    "stable_rank",
    "threshold",
]

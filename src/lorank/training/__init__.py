"""SVD training: a recipe, and a short loop on an existing engine.

Only the penalty is imported here: a loop of your own needs nothing more.
"""

from lorank.training.penalty import penalty, penalty_terms

__all__ = ["penalty", "penalty_terms"]

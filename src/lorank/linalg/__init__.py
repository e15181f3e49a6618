"""Numbers: tensors in, tensors out. Nothing here knows what a layer is."""

from lorank.linalg.gram import gram_singular_values, gram_svd
from lorank.linalg.randomized import leading, randomized_svd
from lorank.linalg.svd import (
    SVD,
    product_singular_values,
    product_svd,
    singular_values,
    svd,
    truncate,
)
from lorank.linalg.unfold import Unfolding
from lorank.linalg.weighted import (
    Moments,
    compensated,
    weighted_cut,
    weighted_error,
    weighted_singular_values,
)

__all__ = [
    "SVD",
    "Moments",
    "Unfolding",
    "compensated",
    "gram_singular_values",
    "gram_svd",
    "leading",
    "product_singular_values",
    "product_svd",
    "randomized_svd",
    "singular_values",
    "svd",
    "truncate",
    "weighted_cut",
    "weighted_error",
    "weighted_singular_values",
]

"""Numbers: tensors in, tensors out. Nothing here knows what a layer is."""

from lorank.linalg.svd import (
    SVD,
    product_singular_values,
    product_svd,
    singular_values,
    svd,
    truncate,
)
from lorank.linalg.unfold import Unfolding

__all__ = [
    "SVD",
    "Unfolding",
    "product_singular_values",
    "product_svd",
    "singular_values",
    "svd",
    "truncate",
]

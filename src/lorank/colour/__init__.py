"""What is a colour image as one matrix of quaternions good for?"""

from typing import TYPE_CHECKING, Any

from lorank.colour.compress import Compressed, Rival, compress, rivals
from lorank.colour.denoise import denoise
from lorank.colour.inpaint import inpaint
from lorank.colour.picture import picture, pixels, psnr
from lorank.errors import extra

if TYPE_CHECKING:
    from lorank.colour.pca import QuaternionPCA

__all__ = [
    "Compressed",
    "QuaternionPCA",
    "Rival",
    "compress",
    "denoise",
    "inpaint",
    "picture",
    "pixels",
    "psnr",
    "rivals",
]


def __getattr__(name: str) -> Any:
    """Load the estimator, and scikit-learn with it, when it is asked for."""
    if name != "QuaternionPCA":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra("sklearn.base", "data")
    from lorank.colour.pca import QuaternionPCA

    return QuaternionPCA

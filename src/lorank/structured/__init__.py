"""Networks helped by reconstructing their inputs and outputs, and by a scaled output layer."""

import importlib
from typing import TYPE_CHECKING, Any

from lorank.errors import extra
from lorank.structured.alternate import alternate, optimizers_of
from lorank.structured.anneal import Anneal
from lorank.structured.missing import Batch, masked_mse, mixed_batches
from lorank.structured.regularizers import Regularizers, Tapped
from lorank.structured.scale import label_scale_, label_statistics
from lorank.structured.tasks import InputTask, OutputTask

if TYPE_CHECKING:
    from lorank.structured.estimator import StructuredRegressor

__all__ = [
    "Anneal",
    "Batch",
    "InputTask",
    "OutputTask",
    "Regularizers",
    "StructuredRegressor",
    "Tapped",
    "alternate",
    "label_scale_",
    "label_statistics",
    "masked_mse",
    "mixed_batches",
    "optimizers_of",
]


def __getattr__(name: str) -> Any:
    if name != "StructuredRegressor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra("sklearn", "data")
    return importlib.import_module("lorank.structured.estimator").StructuredRegressor

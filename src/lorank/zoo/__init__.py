"""Models and data sets by name; whatever needs another package imports it when asked for."""

from lorank.zoo.augment import Augment
from lorank.zoo.data import DATASETS, holdout, load_data
from lorank.zoo.images import Data, Images, as_is
from lorank.zoo.models import MODELS, load_model
from lorank.zoo.resnet import CifarResNet
from lorank.zoo.weights import load_weights

__all__ = [
    "DATASETS",
    "MODELS",
    "Augment",
    "CifarResNet",
    "Data",
    "Images",
    "as_is",
    "holdout",
    "load_data",
    "load_model",
    "load_weights",
]

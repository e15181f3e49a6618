"""Where in a scan is a slice? A CT volume in, the number of the slice out, with a confidence."""

from lorank.localization.cases import Case, read_cases
from lorank.localization.confidence import Confidence, fit_confidence
from lorank.localization.decide import RULES, decide, line_scores
from lorank.localization.dicom import read_dicom
from lorank.localization.finder import Finder, Found, load_finder, new_finder
from lorank.localization.nifti import read_nifti
from lorank.localization.projection import Projection, View, project
from lorank.localization.reading import read_volume
from lorank.localization.synthetic import synthetic_column, synthetic_volume
from lorank.localization.train import recipe, train_finder
from lorank.localization.volume import Volume
from lorank.localization.windows import Windows

__all__ = [
    "RULES",
    "Case",
    "Confidence",
    "Finder",
    "Found",
    "Projection",
    "View",
    "Volume",
    "Windows",
    "decide",
    "fit_confidence",
    "line_scores",
    "load_finder",
    "new_finder",
    "project",
    "read_cases",
    "read_dicom",
    "read_nifti",
    "read_volume",
    "recipe",
    "synthetic_column",
    "synthetic_volume",
    "train_finder",
]

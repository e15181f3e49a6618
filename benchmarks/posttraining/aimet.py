r"""AIMET's greedy SVD, run as its documentation has it (aimet-torch 2.42).

It is not among lorank's dependencies. In an environment of its own::

    pip install --no-deps aimet-torch==2.42.0 torchvision
    pip install 'bokeh<=3.6.3' hvplot holoviews cvxpy osqp jsonschema pandas psutil pybind11 \
        onnx_ir onnxscript

It wants torchvision, whose default build does not fit a CPU build of torch: two of its operators
are declared beforehand, and never called.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posttraining.network import Budget, Network, accuracy

CANDIDATES = 10  # AIMET's default
IMAGES = 500
SCORES = Path("data/greedy_selection_eval_scores_dict.pkl")  # where it leaves its evaluations
BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def greedy(
    network: Network, budget: Budget, scheme: str, fit: bool = False, scores: Path | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Let AIMET evaluate every layer at nine ratios, and choose and cut.

    Args:
        network: with labelled images, of which the first 500 judge.
        budget: in MACs.
        scheme: ``"spatial"`` (k×1, then 1×k) or ``"weight"`` (1×1, then k×k; linear layers too).
        fit: whether scores are fitted by a monotone curve, an option of AIMET's.
        scores: a file of this process's own for its evaluations: the first call leaves them
            there, and another budget then needs no new ones.
    """
    _declare()
    from aimet_torch.common.defs import CostMetric, GreedySelectionParameters
    from aimet_torch.compress import ModelCompressor

    assert network.labelled is not None
    images, labels = (part[:IMAGES] for part in network.labelled)
    calls = 0

    def evaluate(model: nn.Module, iterations: int | None, use_cuda: bool) -> float:
        nonlocal calls
        calls += 1
        return accuracy(model, images, labels)

    known = str(scores) if scores is not None and scores.exists() else None
    chosen = GreedySelectionParameters(budget.share, CANDIDATES, fit, known)
    kind, parameters = _parameters(scheme, chosen)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # it writes pickles
        model, stats = ModelCompressor.compress_model(
            network.model,
            eval_callback=evaluate,
            eval_iterations=None,
            input_shape=tuple(network.example.shape),
            compress_scheme=kind,
            cost_metric=CostMetric.mac,
            parameters=parameters,
        )
        if scores is not None and known is None:
            shutil.copy(SCORES, scores)
    info: dict[str, Any] = {
        "evaluations": calls,
        "samples_per_evaluation": len(images),
        "labels": True,
        "its_own_macs": round(float(stats.mac_compression_ratio), 4),
    }
    return model, info


def _parameters(scheme: str, chosen: Any) -> tuple[Any, Any]:
    from aimet_torch.common.defs import CompressionScheme, RankSelectScheme
    from aimet_torch.defs import SpatialSvdParameters, WeightSvdParameters

    if scheme == "spatial":
        kind = SpatialSvdParameters
        return CompressionScheme.spatial_svd, kind(kind.Mode.auto, kind.AutoModeParams(chosen))
    kind = WeightSvdParameters
    auto = kind.AutoModeParams(RankSelectScheme.greedy, chosen)
    return CompressionScheme.weight_svd, kind(kind.Mode.auto, auto)


def _declare() -> None:
    global _library
    if _library is None:
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(name + BOXES)


_library: torch.library.Library | None = None

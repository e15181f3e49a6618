"""Lorank's calibrated cut: moments in one pass, one budget, and a walk that mends the errors."""

from typing import Any

from torch import nn

import lorank as library
from posttraining.network import Budget, Network
from posttraining.plain import within

WALK = 512
"""Samples of the calibration data that the walk uses."""


def cut(network: Network, budget: Budget) -> tuple[nn.Module, dict[str, Any]]:
    """Calibrate on unlabelled batches, choose the ranks under the budget, cut, fold."""
    low, found = _cut(network, budget)
    return library.fold(low, example=network.example), {"samples": found.samples}


def lorank(network: Network, budget: Budget) -> tuple[nn.Module, dict[str, Any]]:
    """Cut, and solve each layer again for what the cut layers before it give."""
    low, found = _cut(network, budget)
    batches, left = [], WALK
    for batch in network.calibration:
        if left > 0:
            batches.append(batch)
            left -= len(next(iter(batch.values())) if isinstance(batch, dict) else batch)
    low = library.reconstruct(low, network.model, batches, calibration=found)
    info = {"samples": found.samples, "samples_walk": WALK - left}
    return library.fold(low, example=network.example), info


def _cut(network: Network, budget: Budget) -> tuple[nn.Module, library.Calibration]:
    model = network.model
    found = library.calibrate(
        model, network.calibration, answer=network.answer, layers=network.layers
    )
    spectra = library.measure(model, network.example, layers=network.layers, calibration=found)
    ranks = within(network, budget, spectra)
    chosen = {name: rank for name, rank in ranks.items() if rank <= spectra[name].break_even}
    layouts = {name: spectra[name].layout for name in chosen}
    low = library.decompose(model, chosen, layout=layouts, calibration=found)
    return low, found

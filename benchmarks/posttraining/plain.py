"""Cuts that look at the weights only: one energy threshold, one uniform share, one budget."""

import math
from typing import Any

from torch import nn

import lorank
from lorank.ranks import Price, Spectra, Spectrum, cost_of
from posttraining.network import Budget, Network

HALVINGS = 40


def cut(network: Network, ranks: dict[str, int], spectra: Spectra) -> nn.Module:
    """Truncate the layers of a table of ranks and give plain layers back."""
    layouts = {name: spectra[name].layout for name in ranks}
    low = lorank.decompose(network.model, ranks, layout=layouts)
    return lorank.fold(low, example=network.example)


def target(network: Network, budget: Budget, spectra: Spectra) -> int:
    """Count that a budget allows the whole network.

    MACs are a share of all; weights are a share of the counted layers' where the network names
    them, and what is outside of these stays.
    """
    whole = spectra.macs if budget.unit == "macs" else spectra.params
    assert whole is not None
    counted = sum(spectra[n].params.dense for n in network.layers or ()) or whole
    return math.floor(whole - (1 - budget.share) * counted + 1e-6)


def measured(network: Network, layout: str = "channel") -> Spectra:
    """Spectra of the layers that may be cut."""
    return lorank.measure(network.model, network.example, layout=layout, layers=network.layers)


def energy_at(spectra: Spectra, most: int, unit: str) -> tuple[dict[str, int], float]:
    """Apply the energy rule with the largest threshold whose cost is within a count."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        keep = (low + high) / 2
        fits = cost_of(lorank.ranks.energy(spectra, keep=keep), spectra, unit) <= most
        low, high = (keep, high) if fits else (low, keep)
    return lorank.ranks.energy(spectra, keep=low), low


def energy(network: Network, budget: Budget, layout: str) -> tuple[nn.Module, dict[str, Any]]:
    """Cut all layers at one share of their energy, bisected to the budget."""
    spectra = measured(network, layout)
    ranks, keep = energy_at(spectra, target(network, budget, spectra), budget.unit)
    return cut(network, ranks, spectra), {"keep": round(keep, 6)}


def uniform(network: Network, budget: Budget) -> tuple[nn.Module, dict[str, Any]]:
    """Cut every layer to the same share of its cost."""
    spectra = measured(network)
    ranks = {name: uniform_rank(layer, budget) for name, layer in spectra.items()}
    return cut(network, ranks, spectra), {}


def uniform_rank(layer: Spectrum, budget: Budget) -> int:
    """Largest rank at which a layer keeps within a share of its own cost.

    Example:
        >>> import torch
        >>> square = Spectrum(torch.ones(384), (384, 384), "channel", Price(147456, 768))
        >>> uniform_rank(square, Budget("params", 0.7))
        134
    """
    price = layer.price(budget.unit)
    assert isinstance(price, Price)
    return max(1, math.floor(budget.share * price.dense / price.per_rank))


def budgeted(network: Network, budget: Budget, layout: str) -> tuple[nn.Module, dict[str, Any]]:
    """Choose all ranks under one budget by lorank, from the weights alone."""
    spectra = measured(network, layout)
    return cut(network, within(network, budget, spectra), spectra), {}


def within(network: Network, budget: Budget, spectra: Spectra) -> dict[str, int]:
    """Choose by lorank the ranks that lose least within the budget."""
    most = target(network, budget, spectra)
    if budget.unit == "macs":
        return lorank.ranks.budget(spectra, macs=most)
    return lorank.ranks.budget(spectra, params=most)

"""ASVD and SVD-LLM for linear layers, written anew from the papers.

Both cut ``W·S`` instead of ``W`` and undo S on the right: ``W ≈ (U_r·σ_r)·(V_rᵀ·S⁻¹)``.
ASVD (Yuan et al., arXiv 2312.05821): ``S = diag(mean|x|^α)`` over input channels, α = 0.5.
SVD-LLM (Wang et al., arXiv 2403.07378): ``S·Sᵀ = Σ x·xᵀ`` by Cholesky, with a ridge where the
moments are not positive definite.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorank.ranks import Price, Spectra, Spectrum, cost_of
from posttraining.minilm import embedding
from posttraining.network import Budget, Network
from posttraining.plain import HALVINGS, energy_at, target, uniform_rank

ALPHA = 0.5
FLOOR = 1e-6  # of a channel that was never active, in ASVD; of the ridge, in SVD-LLM
RATIOS = tuple(i / 10 for i in range(1, 10))

Cut = tuple[nn.Module, dict[str, Any]]
Factors = dict[str, tuple[Tensor, Tensor, Tensor]]


@torch.inference_mode()
def inputs(network: Network, gather: Callable[[str, Tensor], None]) -> None:
    """Show the inputs of every counted layer, ``(tokens, features)``, batch by batch."""

    def watch(name: str):
        return lambda module, args: gather(name, args[0].flatten(0, -2))

    table = dict(network.model.named_modules())
    hooks = [table[n].register_forward_pre_hook(watch(n)) for n in network.layers or ()]
    try:
        for batch in network.calibration:
            network.model(**batch)
    finally:
        for hook in hooks:
            hook.remove()


def mean_magnitudes(network: Network) -> dict[str, Tensor]:
    """Average ``|x|`` of each input channel of each layer."""
    sums: dict[str, Tensor] = {}
    count: dict[str, int] = {}

    def gather(name: str, x: Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + x.double().abs().sum(0)
        count[name] = count.get(name, 0) + len(x)

    inputs(network, gather)
    return {name: total / count[name] for name, total in sums.items()}


def moments(network: Network) -> dict[str, Tensor]:
    """Sum ``x·xᵀ`` of each layer's inputs, in float64."""
    sums: dict[str, Tensor] = {}

    def gather(name: str, x: Tensor) -> None:
        x = x.double()
        sums[name] = sums.get(name, 0.0) + x.T @ x

    inputs(network, gather)
    return sums


def diagonal(magnitudes: Tensor, alpha: float = ALPHA) -> Tensor:
    """ASVD's scaling, as a matrix."""
    return torch.diag(magnitudes.clamp_min(FLOOR) ** alpha)


def cholesky(moment: Tensor) -> tuple[Tensor, bool]:
    """SVD-LLM's whitening ``S·Sᵀ = M``; and whether a ridge was needed.

    The remedy of the published procedure: where the factorisation fails, the smallest eigenvalue
    is lifted above 0.

    Example:
        >>> cholesky(torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64))[1]
        True
    """
    root, failed = torch.linalg.cholesky_ex(moment)
    if not failed:
        return root, False
    lift = FLOOR - torch.linalg.eigvalsh(moment)[0].clamp_max(0.0)
    eye = torch.eye(len(moment), dtype=moment.dtype)
    while failed:
        root, failed = torch.linalg.cholesky_ex(moment + lift * eye)
        lift = 10 * lift
    return root, True


def factorise(network: Network, scales: dict[str, Tensor]) -> tuple[Factors, Spectra]:
    """SVD of ``W·S`` for each layer: factors with S undone, and the spectra."""
    table = dict(network.model.named_modules())
    factors, spectra = {}, {}
    for name, scale in scales.items():
        weight = table[name].weight.detach().double()
        U, s, Vh = torch.linalg.svd(weight @ scale, full_matrices=False)
        factors[name] = (U, s, torch.linalg.solve(scale, Vh, left=False))
        rows, columns = weight.shape
        price = Price(rows * columns, rows + columns)
        spectra[name] = Spectrum(s, (rows, columns), "channel", price)
    params = sum(p.numel() for p in network.model.parameters())
    return factors, Spectra(spectra, params=params)


def replaced(network: Network, factors: Factors, ranks: dict[str, int]) -> nn.Module:
    """Copy the network with pairs of thin layers, where these are smaller."""
    model = copy.deepcopy(network.model)
    for name, rank in ranks.items():
        U, s, Vh = factors[name]
        dense = model.get_submodule(name)
        if rank * (dense.in_features + dense.out_features) < dense.weight.numel():
            model.set_submodule(name, _pair(dense, U[:, :rank] * s[:rank], Vh[:rank]))
    return model


def _pair(dense: nn.Linear, left: Tensor, right: Tensor) -> nn.Sequential:
    first = nn.Linear(dense.in_features, len(right), bias=False)
    second = nn.Linear(len(right), dense.out_features, bias=dense.bias is not None)
    first.weight, second.weight = (nn.Parameter(x.float().contiguous()) for x in (right, left))
    if dense.bias is not None:
        second.bias = dense.bias
    return nn.Sequential(first, second)


def scales_of(network: Network, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Scalings of all layers, by ``asvd`` or ``svdllm``."""
    if kind == "asvd":
        return {n: diagonal(m) for n, m in mean_magnitudes(network).items()}, {"alpha": ALPHA}
    found = {name: cholesky(moment) for name, moment in moments(network).items()}
    return {n: root for n, (root, _) in found.items()}, {
        "ridged": sum(r for _, r in found.values())
    }


def uniformly(network: Network, budget: Budget, kind: str) -> Cut:
    """Cut every layer to the same share of its weights, as the papers' plain forms do."""
    scales, info = scales_of(network, kind)
    factors, spectra = factorise(network, scales)
    return replaced(
        network, factors, {n: uniform_rank(s, budget) for n, s in spectra.items()}
    ), info


def by_energy(network: Network, budget: Budget, kind: str) -> Cut:
    """Cut every layer at one share of its scaled energy, bisected to the budget."""
    scales, info = scales_of(network, kind)
    factors, spectra = factorise(network, scales)
    ranks, keep = energy_at(spectra, target(network, budget, spectra), budget.unit)
    return replaced(network, factors, ranks), info | {"keep": round(keep, 6)}


def by_loss(network: Network, budget: Budget, kind: str) -> Cut:
    """Share out weights by each layer's truncation loss, among matrices of one shape and place.

    SVD-LLM V2 (Wang et al., arXiv 2503.12340): a layer removes the share
    ``R_l = n·R·(1/log L_l) / Σ(1/log L)`` of its weights, where L_l is its loss at the uniform
    ratio R and the sum goes over its group of n layers (all queries, all keys, …).
    """
    scales, info = scales_of(network, kind)
    factors, spectra = factorise(network, scales)
    groups: dict[str, list[str]] = {}
    for name in spectra:
        place = ".".join(part for part in name.split(".") if not part.isdigit())
        groups.setdefault(place, []).append(name)
    ranks = {}
    for group in groups.values():
        losses = [_left(spectra[n], uniform_rank(spectra[n], budget)) for n in group]
        inverse = [1 / math.log(loss) for loss in losses]
        for name, weight in zip(group, inverse, strict=True):
            removed = (1 - budget.share) * len(group) * weight / sum(inverse)
            ranks[name] = uniform_rank(spectra[name], Budget(budget.unit, max(1 - removed, 0.0)))
    return replaced(network, factors, ranks), info


def _left(spectrum: Spectrum, rank: int) -> float:
    """Norm of what a rank leaves out: ``‖(W − W_r)·S‖_F``."""
    return float(spectrum.values[rank:].square().sum().sqrt())


def by_search(network: Network, budget: Budget, kind: str, sentences: int = 256) -> Cut:
    """ASVD's own search: each layer's loss at nine ratios, one threshold for all by bisection.

    The loss is 1 − cosine of the sentence embeddings to the dense ones on calibration sentences,
    in place of a language model's perplexity.
    """
    scales, info = scales_of(network, kind)
    factors, spectra = factorise(network, scales)
    batches, seen = [], 0
    for batch in network.calibration:
        if seen < sentences:
            batches.append(batch)
            seen += len(batch["input_ids"])
    dense = _embeddings(network.model, batches)
    losses: dict[str, dict[int, float]] = {}
    for name, layer in spectra.items():
        losses[name] = {}
        for ratio in RATIOS:
            rank = uniform_rank(layer, Budget(budget.unit, ratio))
            low = replaced(network, factors, {name: rank})
            found = _embeddings(low, batches)
            losses[name][rank] = 1 - float(F.cosine_similarity(found, dense).mean())
    ranks = _threshold(losses, spectra, target(network, budget, spectra))
    used = {"evaluations": len(RATIOS) * len(spectra) + 1, "samples_per_evaluation": seen}
    return replaced(network, factors, ranks), info | used


def _threshold(losses: dict[str, dict[int, float]], spectra: Spectra, most: int) -> dict[str, int]:
    """Smallest rank of each layer whose loss is within a bound; the bound bisected to a count."""

    def ranks_at(bound: float) -> dict[str, int]:
        return {
            name: min((r for r, x in table.items() if x <= bound), default=spectra[name].full_rank)
            for name, table in losses.items()
        }

    def size(ranks: dict[str, int]) -> int:
        return cost_of(ranks, spectra, "params")

    low, high = 0.0, max(x for table in losses.values() for x in table.values())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if size(ranks_at(middle)) <= most else (middle, high)
    return ranks_at(high)


@torch.inference_mode()
def _embeddings(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    return torch.cat([embedding(model(**batch)) for batch in batches])

"""What low-rank rivals share: ranks of convolutions at a budget, and plain pairs in their place."""

import copy
import math
from collections.abc import Mapping

from torch import Tensor, nn

import lorank
from cifar10.job import Job
from lorank.errors import LorankError
from lorank.ranks import Spectra, cost_of
from posttraining.plain import energy_at


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """All convolutions by name: what these methods cut; the last layer stays as it is."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def measured(job: Job, layout: str) -> Spectra:
    """Spectra of the dense network's convolutions, with what their ranks cost."""
    return lorank.measure(
        job.dense, job.example, layout=layout, layers=list(convolutions(job.dense))
    )


def energy_ranks(spectra: Spectra, share: float) -> dict[str, int]:
    """Ranks by one energy threshold for all layers, the largest that fits a share of the MACs."""
    assert spectra.macs is not None
    most = math.floor(share * spectra.macs)
    least = cost_of(dict.fromkeys(spectra, 1), spectra, "macs")
    if least > most:
        raise LorankError(
            f"{share:g} of the MACs cannot be reached: rank 1 everywhere takes "
            f"{least / spectra.macs:.4f}"
        )
    return energy_at(spectra, most, "macs")[0]


def paying(ranks: Mapping[str, int], spectra: Spectra) -> dict[str, int]:
    """The ranks at which two thin layers save something; the other layers stay as they are."""
    return {name: rank for name, rank in ranks.items() if rank <= spectra[name].break_even}


def pairs(job: Job, dense: nn.Module, ranks: Mapping[str, int], spectra: Spectra) -> nn.Module:
    """Truncate weights to paying ranks and give plain pairs of layers."""
    ranks = paying(ranks, spectra)
    if not ranks:
        return copy.deepcopy(dense)
    layouts = {name: spectra[name].layout for name in ranks}
    training = dense.training
    low = lorank.decompose(dense.eval(), ranks, layout=layouts)
    return lorank.fold(low, example=job.example).train(training)


def is_cut(model: nn.Module) -> bool:
    """Whether a network has plain pairs."""
    return any(isinstance(module, lorank.nn.Pair) for module in model.modules())


def paired(job: Job, weights: Mapping[str, Tensor]) -> nn.Module:
    """The dense network with pairs where kept weights are of pairs, in the shapes that they have.

    Example:
        >>> import torch
        >>> layout_of((3, 3), torch.zeros(5, 4, 3, 1))
        'spatial'
    """
    layers = {name: f"{name}.0.weight" for name in convolutions(job.dense)}
    inner = {name: weights[key] for name, key in layers.items() if key in weights}
    if not inner:
        return copy.deepcopy(job.dense)
    sizes = {name: tuple(job.dense.get_submodule(name).kernel_size) for name in inner}  # type: ignore[arg-type]
    layouts = {name: layout_of(sizes[name], kernel) for name, kernel in inner.items()}
    ranks = {name: len(kernel) for name, kernel in inner.items()}
    low = lorank.decompose(job.dense, ranks, layout=layouts)
    for name in ranks:  # pairs whether they pay or not: what was kept is what comes back
        layer = low.get_submodule(name)
        assert isinstance(layer, lorank.nn.Factored)
        low.set_submodule(name, layer.plain(as_pair=True, multiple=1, shared={}))
    return low


def layout_of(size: tuple[int, ...], inner: Tensor) -> str:
    """The layout whose inner operation has this kernel."""
    height, width = inner.shape[2:]
    if (height, width) == size:
        return "channel"
    if height == width == 1:
        return "channel_reversed"
    return "spatial" if width == 1 else "spatial_reversed"

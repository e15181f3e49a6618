"""Tucker-2 with variational ranks: 1×1, a small k×k core, 1×1, then fine-tuning.

Ranks of both channel modes are those of the empirical variational Bayes rule (EVBMF), weakened by
one factor for all layers as MUSCO does (Gusak et al., Automated multi-stage compression of neural
networks, 2019); the factor is bisected to the budget of MACs.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

import lorank
from cifar10.job import Job, Method
from cifar10.methods.lowrank import convolutions
from lorank.errors import LorankError

HALVINGS = 40
MOST = 16.0  # factors are searched up to this; ranks are at least 1


class Modes(NamedTuple):
    """Output and input channels of a core."""

    out: int
    into: int


class Tucker(Method):
    """Cut at once by higher-order SVD, refined; all epochs fine-tune the three plain layers.

    Args:
        sweeps: of higher-order orthogonal iteration.
    """

    def __init__(self, *, sweeps: int = 3):
        self.sweeps = sweeps

    def begin(self, job: Job) -> nn.Module:
        """Choose ranks, decompose what becomes cheaper by it."""
        model = copy.deepcopy(job.dense)
        for name, modes in chosen(job).items():
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            model.set_submodule(name, thin(layer, modes, self.sweeps))
        return model


def chosen(job: Job) -> dict[str, Modes]:
    """Ranks at the smallest weakening that fits the budget, of the layers where they save MACs."""
    layers = {n: m for n, m in convolutions(job.dense).items() if m.kernel_size != (1, 1)}
    wanted, pixels = variational(job, list(layers)), positions(job, layers)
    total = lorank.cost(job.dense, job.example).macs
    assert total is not None
    dense = {name: layer.weight.numel() * pixels[name][1] for name, layer in layers.items()}
    most = math.floor(job.experiment.budget * total) - (total - sum(dense.values()))

    def at(factor: float) -> tuple[dict[str, Modes], int]:
        modes = {n: weakened(layer, wanted[n], factor) for n, layer in layers.items()}
        macs = {n: thin_macs(layers[n], m, *pixels[n]) for n, m in modes.items()}
        paying = {n: m for n, m in modes.items() if macs[n] < dense[n]}
        return paying, sum(min(macs[n], dense[n]) for n in layers)

    if at(MOST)[1] > most:
        raise LorankError(f"{job.experiment.budget:g} of the MACs is below what Tucker-2 reaches")
    low, high = 0.0, MOST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle)[1] <= most else (middle, high)
    return at(high)[0]


def variational(job: Job, names: list[str]) -> dict[str, Modes]:
    """EVBMF ranks of both channel unfoldings of each kernel."""
    sides = [
        lorank.ranks.evbmf(lorank.measure(job.dense, layout=layout, layers=names))
        for layout in ("channel", "channel_reversed")
    ]
    return {name: Modes(sides[0][name], sides[1][name]) for name in names}


def weakened(layer: nn.Conv2d, modes: Modes, factor: float) -> Modes:
    """``full − factor·(full − EVBMF)`` of both modes: 0 gives full ranks, 1 the rule's.

    Beyond 1 the ranks go below the rule's, where a budget asks for it. A rule that calls a mode
    full would never be weakened: it counts as one below.
    """
    full = layer.out_channels, layer.in_channels
    ranks = [n - factor * (n - min(r, n - 1)) for n, r in zip(full, modes, strict=True)]
    return Modes(*(max(1, math.floor(r)) for r in ranks))


def positions(job: Job, layers: dict[str, nn.Conv2d]) -> dict[str, tuple[int, int]]:
    """Pixels that each layer reads and writes."""
    found: dict[str, tuple[int, int]] = {}

    def watch(name: str):
        def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            found[name] = inputs[0][0, 0].numel(), output[0, 0].numel()

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    with torch.inference_mode():
        job.dense(job.example)
    for handle in handles:
        handle.remove()
    return found


def thin_macs(layer: nn.Conv2d, modes: Modes, read: int, written: int) -> int:
    """MACs of the three layers."""
    ends = read * layer.in_channels * modes.into + written * layer.out_channels * modes.out
    return ends + written * math.prod(layer.kernel_size) * modes.out * modes.into


def thin(layer: nn.Conv2d, modes: Modes, sweeps: int) -> nn.Sequential:
    """Three plain layers in the place of a convolution, bias on the last."""
    outer, core, inner = tucker2(layer.weight.detach(), modes, sweeps)
    first = nn.Conv2d(layer.in_channels, modes.into, 1, bias=False)
    middle = nn.Conv2d(
        modes.into,
        modes.out,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        bias=False,
    )
    last = nn.Conv2d(modes.out, layer.out_channels, 1, bias=layer.bias is not None)
    first.weight = nn.Parameter(inner.T[:, :, None, None].contiguous())
    middle.weight = nn.Parameter(core.contiguous())
    last.weight = nn.Parameter(outer[:, :, None, None].contiguous())
    last.bias = layer.bias
    return nn.Sequential(first, middle, last)


def tucker2(kernel: Tensor, modes: Modes, sweeps: int) -> tuple[Tensor, Tensor, Tensor]:
    """``K ≈ core ×₀ outer ×₁ inner``: higher-order SVD, then sweeps of orthogonal iteration.

    Args:
        kernel: ``(n, c, k, k)``.
        modes: ranks ``(p, q)``.
        sweeps: alternating improvements of both factors.

    Returns:
        ``outer (n, p)``, ``core (p, q, k, k)`` and ``inner (c, q)``, orthonormal columns.

    Source: De Lathauwer, De Moor and Vandewalle, On the best rank-1 and rank-(R1, …, RN)
    approximation of higher-order tensors, 2000.
    """
    outer, inner = leading(kernel, 0, modes.out), leading(kernel, 1, modes.into)
    for _ in range(sweeps):
        outer = leading(torch.einsum("nchw,cq->nqhw", kernel, inner), 0, modes.out)
        inner = leading(torch.einsum("nchw,np->pchw", kernel, outer), 1, modes.into)
    core = torch.einsum("nchw,np,cq->pqhw", kernel, outer, inner)
    return outer, core, inner


def leading(tensor: Tensor, mode: int, rank: int) -> Tensor:
    """Leading left singular vectors of an unfolding; never more than the other modes allow.

    A rank above the number of columns is filled up with an orthonormal complement.
    """
    flat = tensor.movedim(mode, 0).flatten(1)
    return torch.linalg.svd(flat, full_matrices=flat.shape[1] < rank).U[:, :rank]

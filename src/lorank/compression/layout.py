"""In which layout should a kernel be cut? The one that keeps most at the same price."""

from collections.abc import Iterable, Mapping

import torch

from lorank.errors import unknown
from lorank.linalg import Moments, weighted_singular_values
from lorank.linalg.unfold import LAYOUTS
from lorank.nn.surgery import Site, by_site

HALF = 0.5
"""Share of the dense layer's MACs at which layouts are compared."""


def layout_table(every: Iterable[Site], layout: str | Mapping[str, str]) -> dict[str, str]:
    """Layout wanted for each site, from one name for all or a table by layer name.

    Raises:
        LorankError: if a layout or a layer of the table is unknown.
    """
    every = list(every)
    wanted = {s.name: layout for s in every} if isinstance(layout, str) else by_site(every, layout)
    for name in wanted.values():
        if name not in (*LAYOUTS, "auto"):
            raise unknown("layout", name, (*LAYOUTS, "auto"))
    return {s.name: str(wanted.get(s.name, "auto")) for s in every}


def choose_layout(site: Site, wanted: str, moments: Moments | None = None) -> str:
    """Name the layout of one dense weight.

    A layout that the kernel does not admit (a spatial one of a 1×1 kernel or a linear layer)
    becomes ``channel``. ``auto`` compares the layouts at half of the dense layer's MACs and takes
    the one that keeps the largest share of ‖W‖_F² there; on a tie the first in the table. It
    looks at the weight and the strides only, so that measuring and decomposing agree; with
    moments, at the weighed weight.

    Args:
        site: a dense site.
        wanted: a layout's name or ``"auto"``.
        moments: of the layer, where it was calibrated.
    """
    possible = site.view().possible()
    if wanted != "auto":
        return wanted if wanted in possible else "channel"
    paying = {name: _prices(site, name) for name in possible if not site.lookup_only}
    paying = {name: (d, p) for name, (d, p) in paying.items() if p < d}
    if len(paying) < 2:
        return next(iter(paying), "channel")
    kept = {name: _kept(site, name, HALF * d / p, moments) for name, (d, p) in paying.items()}
    return max(kept, key=lambda name: kept[name])


def _prices(site: Site, layout: str) -> tuple[int, int]:
    """MACs of one position: dense, and for each rank."""
    assert site.kind is not None
    return site.view(layout).macs(*site.kind.positions(site.module))


def _kept(site: Site, layout: str, rank: float, moments: Moments | None) -> float:
    """Share of the energy up to a rank (the last one in part), rounded: noise makes no choice."""
    view, weight = site.view(layout), site.module.weight
    if moments is None:
        values = view.singular_values(weight)
    else:
        values = weighted_singular_values(view, weight, moments)
    energy = values.double().square().reshape(-1, values.shape[-1]).sum(0)
    whole = int(rank)
    kept = energy[:whole].sum() + (rank - whole) * energy[whole : whole + 1].sum()
    return round(float(kept / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)), 4)

"""Tables as lists of plain rows: one row a layer, every value ready for JSON."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lorank.nn.surgery import Site, opened, sites
from lorank.ranks import Spectra, Spectrum, cost_of, effective_rank, energy, stable_rank
from lorank.ranks.per_layer import lost

Row = dict[str, Any]

BARS = "▁▂▃▄▅▆▇█"
LOOKED_UP = "only looked up, at no MACs"
UNREACHED = "the inputs of --calibrate do not reach it"


def layer_rows(model: nn.Module, spectra: Mapping[str, Spectrum], keep: float) -> list[Row]:
    """Describe every measured layer: its spectrum in numbers, and what a cut of it would save.

    Args:
        model: the network that was measured.
        spectra: what :func:`lorank.measure` found.
        keep: share of the energy of the cut.

    Returns:
        A row a layer. ``macs_kept`` and ``params_kept`` are what the layer costs at
        ``energy_rank``: no less than before where that rank does not pay.

    Example:
        >>> import lorank
        >>> model = nn.Sequential(nn.Linear(8, 8))
        >>> layer_rows(model, lorank.measure(model), 0.9)[0]["kind"]
        'Linear'
    """
    kinds = {site.name: kind(site) for site in sites(opened(model))}
    stable, effective, kept = stable_rank(spectra), effective_rank(spectra), energy(spectra, keep)
    return [
        {
            "layer": name,
            "kind": kinds[name],
            "layout": found.layout,
            "matrix": list(found.shape),
            "groups": found.values.shape[0] if found.values.ndim == 2 else 1,
            "full_rank": found.full_rank,
            "stable_rank": stable[name],
            "effective_rank": effective[name],
            "energy_rank": kept[name],
            "break_even": found.break_even,
            **_costs(found, kept[name]),
            "spectrum": relative(found),
        }
        for name, found in spectra.items()
    ]


def cut_rows(spectra: Mapping[str, Spectrum], ranks: Mapping[str, int]) -> list[Row]:
    """Say what becomes of every measured layer at given ranks, and why where it stays dense.

    Args:
        spectra: what the ranks were chosen from.
        ranks: layer name → rank; layers that are not named stay dense.

    Example:
        >>> import lorank
        >>> spectra = lorank.measure(nn.Sequential(nn.Linear(8, 8)))
        >>> cut_rows(spectra, {"0": 7})[0]["stays_dense"]
        'rank 7 of 8 saves nothing, only ranks up to 3 do'
    """
    return [_cut_row(name, found, ranks.get(name)) for name, found in spectra.items()]


def _cut_row(name: str, found: Spectrum, rank: int | None) -> Row:
    reason = _stays(found, rank)
    final = found.full_rank if reason or rank is None else rank
    return {
        "layer": name,
        "layout": found.layout,
        "full_rank": found.full_rank,
        "rank": final,
        "energy": 1 - float(lost(found)[final]),
        **_costs(found, final),
        "stays_dense": reason,
    }


def _stays(found: Spectrum, rank: int | None) -> str | None:
    if rank is None:
        return "not chosen"
    if rank >= found.full_rank:
        return "full rank was chosen"
    even = found.break_even
    if rank > even:
        only = f"only ranks up to {even} do" if even else "and no rank does"
        return f"rank {rank} of {found.full_rank} saves nothing, {only}"
    return None


def _costs(found: Spectrum, rank: int) -> Row:
    row: Row = {"params": found.params.dense, "params_kept": found.cost(rank, "params")}
    if found.macs is not None:
        row |= {"macs": found.macs.dense, "macs_kept": found.cost(rank, "macs")}
    return row


def skipped_rows(
    model: nn.Module, spectra: Mapping[str, Spectrum], unreached: Collection[str] = ()
) -> list[Row]:
    """List the layers whose weights were not measured, each with the reason.

    Args:
        model: the network that was measured.
        spectra: what :func:`lorank.measure` found.
        unreached: layers that nobody left out, but that no input of a calibration reaches.

    Example:
        >>> import lorank
        >>> model = nn.ModuleList([nn.Linear(8, 8), nn.Embedding(9, 8)])
        >>> skipped_rows(model, lorank.measure(model))[0]["reason"]
        'only looked up, at no MACs'
    """
    rows = (
        {
            "layer": site.name,
            "kind": type(site.module).__name__,
            "params": _size(site.module),
            "reason": site.reason or _reason(site, unreached),
        }
        for site in sites(opened(model))
        if site.name not in spectra
    )
    # A recurrent layer holds several weights, and is one row.
    return list({(row["layer"], row["reason"]): row for row in rows}.values())


def _reason(site: Site, unreached: Collection[str]) -> str:
    if site.lookup_only:
        return LOOKED_UP
    return UNREACHED if site.name in unreached else "left out as asked"


def _size(module: nn.Module) -> int:
    own = module.parameters(recurse=False)
    return sum(p.numel() for p in own if not nn.parameter.is_lazy(p) and p.ndim > 1)


def totals(spectra: Spectra, ranks: Mapping[str, int]) -> Row:
    """Cost of the whole network, dense and at given ranks.

    Example:
        >>> import lorank
        >>> totals(lorank.measure(nn.Sequential(nn.Linear(8, 8))), {"0": 2})
        {'params': 72, 'params_kept': 40, 'macs': None, 'macs_kept': None}
    """
    row: Row = {"params": spectra.params, "params_kept": cost_of(ranks, spectra)}
    macs = None if spectra.macs is None else cost_of(ranks, spectra, "macs")
    return row | {"macs": spectra.macs, "macs_kept": macs}


def kind(site: Site) -> str:
    """Name a layer's type, and its kernel where it has one.

    Example:
        >>> kind(sites(nn.Conv2d(2, 2, (3, 1)))[0])
        'Conv2d 3×1'
    """
    taps = site.view().kernel_size if site.factored else getattr(site.module, "kernel_size", ())
    return " ".join([type(site.module).__name__, *(["×".join(map(str, taps))] if taps else [])])


def relative(found: Spectrum) -> list[float]:
    """Singular values as shares of the largest, groups pooled, to four digits.

    Example:
        >>> from lorank.ranks import Price
        >>> relative(Spectrum(torch.tensor([2.0, 1.0]), (2, 2), "channel", Price(4, 4)))
        [1.0, 0.5]
    """
    values = found.energy.sqrt()
    shares = values / values[0] if values[0] > 0 else values
    return [float(f"{share:.4g}") for share in shares.tolist()]


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Draw values between 0 and 1 as a row of bars, each the mean of its part.

    Example:
        >>> sparkline([1.0, 0.5, 0.1, 0.0], width=4)
        '█▅▂▁'
    """
    if not values:
        return ""
    parts = torch.tensor(values, dtype=torch.float64).tensor_split(min(width, len(values)))
    return "".join(BARS[round(float(part.mean().clamp(0, 1)) * (len(BARS) - 1))] for part in parts)

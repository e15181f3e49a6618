"""What every rule does around its own formula: check the spectra, keep 1 ≤ rank ≤ full, round."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.ranks.spectrum import Spectrum

RELATIVE = 1e-9
"""Two numbers closer than this are a tie: rounding must not decide a rank, nor may the scale of
the weights."""


def per_layer(
    spectra: Mapping[str, Spectrum], count: Callable[[Spectrum], int], multiple: int = 1
) -> dict[str, int]:
    """Apply a formula to every layer on its own: ``rank = round_to(clamp(count(spectrum)))``.

    Args:
        spectra: layer name → spectrum.
        count: how many singular values of one layer to keep; 0 becomes 1.
        multiple: ranks are rounded up to a multiple of it.

    Returns:
        Layer name → rank, ``1 <= rank <= full_rank``.

    Raises:
        LorankError: if nothing was measured, or a spectrum holds NaN or Inf.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> fc = Spectrum(torch.tensor([3.0, 1.0]), (2, 4), "channel", Price(8, 6))
        >>> per_layer({"fc": fc}, lambda spectrum: 0)
        {'fc': 1}
    """
    check(spectra)
    ranks = {name: min(max(1, count(layer)), layer.full_rank) for name, layer in spectra.items()}
    return round_to(ranks, spectra, multiple)


def round_to(
    ranks: Mapping[str, int], spectra: Mapping[str, Spectrum], multiple: int
) -> dict[str, int]:
    """Round ranks up to a multiple, never above full rank: ``min(full, ⌈r/multiple⌉·multiple)``.

    Processors like even shapes: a rank of 37 often runs no faster than 40, and slower than 64.

    Args:
        ranks: layer name → rank.
        spectra: the spectra of at least these layers.
        multiple: 1 leaves the ranks as they are, 8 suits most processors.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if ``multiple`` is not a whole number of at least 1.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> fc = Spectrum(torch.ones(20), (20, 40), "channel", Price(800, 60))
        >>> round_to({"a": 3, "b": 17}, {"a": fc, "b": fc}, 8)
        {'a': 8, 'b': 20}
    """
    check_multiple(multiple)
    return {
        name: min(spectra[name].full_rank, -(-rank // multiple) * multiple)
        for name, rank in ranks.items()
    }


def check_multiple(multiple: int) -> None:
    """Insist on a whole number of at least 1.

    Raises:
        LorankError: otherwise.

    Example:
        >>> check_multiple(8)
    """
    if isinstance(multiple, bool) or not isinstance(multiple, Integral) or multiple < 1:
        raise LorankError(f"multiple must be a whole number of at least 1, found {multiple!r}")


def check(spectra: Mapping[str, Spectrum]) -> None:
    """Insist on spectra that a rank can be read from.

    Raises:
        LorankError: if it is no table, there is no layer, or a layer has no singular values, too
            many for its shape, NaN, Inf or negative ones, or ones that are not in descending order.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> check({"fc": Spectrum(torch.tensor([3.0, 1.0]), (2, 4), "channel", Price(8, 6))})
    """
    if not isinstance(spectra, Mapping):
        raise LorankError(
            f"ranks are chosen from the table of lorank.measure, found a {type(spectra).__name__}"
        )
    if not spectra:
        raise LorankError("there is nothing to choose ranks for: no layer was measured")
    for name, layer in spectra.items():
        fault = _fault(layer)
        if fault:
            raise LorankError(f"the spectrum of layer {name!r} {fault}")


def _fault(layer: Spectrum) -> str | None:
    if not isinstance(layer.values, Tensor) or layer.values.is_complex():
        found = getattr(layer.values, "dtype", type(layer.values).__name__)
        return f"must be a tensor of real numbers, found {found}"
    s = layer.values.detach()
    if s.ndim not in (1, 2) or s.numel() == 0:
        return f"must have shape (r,) or (groups, r) with entries, found {tuple(s.shape)}"
    if s.shape[-1] > layer.full_rank:
        return f"has {s.shape[-1]} values, and a {layer.shape} matrix at most {layer.full_rank}"
    if not torch.isfinite(s).all():
        return f"must be finite, found {int((~torch.isfinite(s)).sum())} NaN or Inf"
    if (s < 0).any():
        return f"must not be negative, found {float(s.min()):.3g}"
    if (s.diff(dim=-1) > 0).any():
        return "must be in descending order, and is not"
    return None


def pooled(spectrum: Spectrum) -> Tensor:
    """Energies ``(full_rank,)`` in float64, summed over groups, zeros where nothing was measured.

    A layer that was cut before has fewer singular values than its shape allows: the others are 0.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> cut = Spectrum(torch.tensor([3.0]), (2, 4), "channel", Price(8, 6))
        >>> pooled(cut).tolist()
        [9.0, 0.0]
    """
    return _padded(spectrum.energy.detach().cpu(), spectrum.full_rank)


def by_group(spectrum: Spectrum) -> list[Tensor]:
    """Singular values of each group, ``(full_rank,)`` in float64, zeros where none was measured.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> two = Spectrum(torch.tensor([[3.0], [2.0]]), (1, 4), "channel", Price(8, 10))
        >>> by_group(two)
        [tensor([3.], dtype=torch.float64), tensor([2.], dtype=torch.float64)]
    """
    rows = spectrum.values.detach().double().cpu()
    rows = rows if rows.ndim == 2 else rows[None]
    return [_padded(row, spectrum.full_rank) for row in rows]


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values))])


def lost(spectrum: Spectrum) -> Tensor:
    """Share of ‖W‖_F² that each rank loses: ``lost[r] = Σ_{i>r} sᵢ² / Σ sᵢ²``.

    Summed from the smallest value up, so that shares of 1e-6 and less are exact to rounding;
    one minus a share kept would not be.

    Args:
        spectrum: one layer's.

    Returns:
        ``(full_rank + 1,)`` in float64, from 1 at rank 0 down to 0 at full rank; all 0 for a
        zero matrix, where no rank loses anything.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> lost(Spectrum(torch.tensor([3.0, 1.0]), (2, 4), "channel", Price(8, 6))).tolist()
        [1.0, 0.1, 0.0]
    """
    energy = pooled(spectrum)
    tail = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
    return tail / tail[0] if tail[0] > 0 else tail


def ceil(number: float) -> int:
    """Round up, but not for a rounding error: 3.0000000000001 is 3.

    Example:
        >>> ceil(3.0000000000001), ceil(3.01)
        (3, 4)
    """
    return math.ceil(number * (1 - RELATIVE))

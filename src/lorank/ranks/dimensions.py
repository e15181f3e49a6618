"""Rules that count dimensions: how many directions does a matrix really use?"""

from collections.abc import Mapping

import torch

from lorank.errors import LorankError
from lorank.ranks.per_layer import ceil, per_layer, pooled
from lorank.ranks.spectrum import Spectrum


def stable_rank(
    spectra: Mapping[str, Spectrum], scale: float = 1.0, *, multiple: int = 1
) -> dict[str, int]:
    """Scaled stable rank, rounded up: ``r = ⌈scale · ‖W‖_F² / ‖W‖₂²⌉``, at most the exact rank.

    A lower bound of the rank that no small value can move; it is far below what accuracy needs
    unless training pressed for it, hence the scale. Groups are pooled, ``sᵢ² = Σ_g s²_gi``.

    Args:
        spectra: layer name → spectrum, values ``(r,)`` or ``(groups, r)``.
        scale: positive factor.
        multiple: ranks are rounded up to a multiple of it, never above full rank.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if ``scale`` is not positive, or the spectra are empty or not finite.

    Cost: ``O(r)`` per layer. Source: Rudelson and Vershynin, Sampling from large matrices, 2007;
    scaled as a rank by Wang et al., Cuttlefish, 2023.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> fc = Spectrum(torch.tensor([2.0, 1.0, 1.0]), (3, 9), "channel", Price(27, 12))
        >>> stable_rank({"fc": fc}), stable_rank({"fc": fc}, scale=2)
        ({'fc': 2}, {'fc': 3})
    """
    if not 0 < scale < float("inf"):
        raise LorankError(f"scale must be positive and finite, found {scale!r}")
    return per_layer(spectra, lambda layer: _stable(layer, scale), multiple)


def _stable(layer: Spectrum, scale: float) -> int:
    energy = pooled(layer)
    if energy[0] == 0:
        return 0
    return min(ceil(scale * float(energy.sum() / energy[0])), int((energy > 0).sum()))


def effective_rank(spectra: Mapping[str, Spectrum], *, multiple: int = 1) -> dict[str, int]:
    """Exponential of the spectrum's entropy, rounded up.

    ``r = ⌈exp(−Σ pᵢ log pᵢ)⌉`` with ``pᵢ = sᵢ / Σ s``: n equal values give n, and a value that
    is small beside the others counts little. Groups are pooled, ``sᵢ² = Σ_g s²_gi``.

    Args:
        spectra: layer name → spectrum, values ``(r,)`` or ``(groups, r)``.
        multiple: ranks are rounded up to a multiple of it, never above full rank.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if the spectra are empty or not finite.

    Cost: ``O(r)`` per layer. Source: Roy and Vetterli, The effective rank: a measure of effective
    dimensionality, EUSIPCO 2007.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> fc = Spectrum(torch.tensor([1.0, 1.0, 0.0]), (3, 9), "channel", Price(27, 12))
        >>> effective_rank({"fc": fc})
        {'fc': 2}
    """
    return per_layer(spectra, lambda layer: ceil(_effective(layer)), multiple)


def _effective(layer: Spectrum) -> float:
    s = pooled(layer).sqrt()
    if s[0] == 0:
        return 0.0
    p = s / s.sum()
    return float(torch.special.entr(p).sum().exp())

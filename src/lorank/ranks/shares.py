"""Rules that keep what is large: a share of the energy, or all values above a fraction."""

from collections.abc import Mapping

from lorank.errors import LorankError
from lorank.ranks.per_layer import RELATIVE, lost, per_layer, pooled
from lorank.ranks.spectrum import Spectrum


def energy(
    spectra: Mapping[str, Spectrum], keep: float = 0.9, *, multiple: int = 1
) -> dict[str, int]:
    """Smallest rank that keeps a share of each layer's energy.

    ``r = min {r : Σ_{i≤r} sᵢ² ≥ keep · Σ sᵢ²}``, at least 1. The paper states the energy
    removed, ``e = 1 − keep``. ``keep=1`` drops exact zeros only. Groups are cut to one rank,
    chosen on their summed energies.

    Args:
        spectra: layer name → spectrum, values ``(r,)`` or ``(groups, r)``.
        keep: share of ‖W‖_F² to keep, in (0, 1].
        multiple: ranks are rounded up to a multiple of it, never above full rank.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if ``keep`` is out of range, or the spectra are empty or not finite.

    Cost: ``O(r)`` per layer. Source: Yang et al., Learning Low-Rank Deep Neural Networks via
    Singular Vector Orthogonality Regularization and Singular Value Sparsification, 2020.

    Example:
        >>> import torch
        >>> from lorank.ranks import Price, Spectrum
        >>> fc = Spectrum(torch.tensor([3.0, 1.0, 0.1]), (3, 9), "channel", Price(27, 12))
        >>> energy({"fc": fc}, keep=0.89), energy({"fc": fc}, keep=0.99)
        ({'fc': 1}, {'fc': 2})
    """
    if not 0 < keep <= 1:
        raise LorankError(f"keep is a share of the energy in (0, 1], found {keep!r}")
    allowed = (1 - keep) * (1 + RELATIVE)
    return per_layer(spectra, lambda layer: int((lost(layer) > allowed).sum()), multiple)


def threshold(
    spectra: Mapping[str, Spectrum], relative: float = 0.01, *, multiple: int = 1
) -> dict[str, int]:
    """Keep the singular values above a fraction of the layer's largest: ``sᵢ > relative · s₁``.

    A value at the fraction is dropped. Groups are pooled, ``sᵢ² = Σ_g s²_gi``.

    Args:
        spectra: layer name → spectrum, values ``(r,)`` or ``(groups, r)``.
        relative: fraction of the largest value, in [0, 1).
        multiple: ranks are rounded up to a multiple of it, never above full rank.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if ``relative`` is out of range, or the spectra are empty or not finite.

    Cost: ``O(r)`` per layer. Source: the numerical rank, Golub and Van Loan, Matrix
    Computations, 5.4.

    Example:
        >>> import torch
        >>> from lorank.ranks import Price, Spectrum
        >>> fc = Spectrum(torch.tensor([3.0, 1.0, 0.1]), (3, 9), "channel", Price(27, 12))
        >>> threshold({"fc": fc}, relative=0.1)
        {'fc': 2}
    """
    if not 0 <= relative < 1:
        raise LorankError(
            f"relative is a fraction of the largest value in [0, 1), not {relative!r}"
        )
    return per_layer(spectra, lambda layer: _above(layer, relative), multiple)


def _above(layer: Spectrum, relative: float) -> int:
    s = pooled(layer).sqrt()
    return int((s > relative * (1 + RELATIVE) * s[0]).sum())

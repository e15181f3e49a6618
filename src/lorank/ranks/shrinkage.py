"""The rule that keeps what optimal shrinkage does not bring to zero."""

import math
from collections.abc import Mapping

from lorank.linalg.shrinkage import median_noise
from lorank.ranks.noise import check_noise
from lorank.ranks.per_layer import by_group, per_layer
from lorank.ranks.spectrum import Spectrum


def optimal_shrinkage(
    spectra: Mapping[str, Spectrum], noise: float | None = None, *, multiple: int = 1
) -> dict[str, int]:
    """Rank of the matrix after optimal shrinkage of its singular values.

    ``r = #{i : sᵢ > (√m + √n)·σ}``: every value above the bulk of white noise keeps something,
    ``η(s) > 0``. It is a larger rank than that of the hard threshold, because a weak component
    may stay at a small weight. The values themselves are given by
    :func:`lorank.linalg.shrink`. Groups are judged one by one, and the largest count is taken.

    Args:
        spectra: layer name → spectrum, values ``(r,)`` or ``(groups, r)``.
        noise: standard deviation σ of the noise in one entry, ``None`` to take the median's.
        multiple: ranks are rounded up to a multiple of it, never above full rank.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if ``noise`` is not positive, or the spectra are empty or not finite.

    Cost: ``O(r)`` per group. Source: Gavish and Donoho, Optimal shrinkage of singular values,
    IEEE Transactions on Information Theory, 2017.

    Example:
        >>> import torch
        >>> from lorank.ranks import Price, Spectrum
        >>> s = torch.tensor([9.0, 7.0, 1.0, 1.0, 1.0, 0.5])
        >>> optimal_shrinkage({"fc": Spectrum(s, (6, 6), "channel", Price(36, 12))})
        {'fc': 2}
    """
    if noise is not None:
        check_noise(noise)
    return per_layer(spectra, lambda layer: _signals(layer, noise), multiple)


def _signals(layer: Spectrum, noise: float | None) -> int:
    m, n = layer.shape
    bulk = math.sqrt(m) + math.sqrt(n)
    return max(
        int((s > bulk * (noise or median_noise(s, layer.shape))).sum()) for s in by_group(layer)
    )

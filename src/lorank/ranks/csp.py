"""The rule that asks a Bayesian model with a cumulative shrinkage prior."""

from collections.abc import Mapping

from torch import Tensor

from lorank.bayes import Prior, collapsed
from lorank.ranks.noise import check_noise
from lorank.ranks.per_layer import by_group, per_layer
from lorank.ranks.spectrum import Spectrum


def csp(
    spectra: Mapping[str, Spectrum], noise: float | None = None, *, multiple: int = 1
) -> dict[str, int]:
    """How many components are more likely signal than noise, noise level inferred.

    ``r = #{h : P(d_h > σ(mn)^¼ | spectrum) > ½}`` by the collapsed posterior of
    :func:`lorank.bayes.collapsed`. A matrix of pure noise has rank 0 by this rule, and gets 1.
    Groups are judged one by one, and the largest count is taken.

    The rank says what can be told from white noise. It is a lower bound for a network that was
    trained from random weights, because it goes on using the part of them that training left as
    it was. An update ``W − W₀`` has no such part: measure the difference of two models.

    Args:
        spectra: layer name → spectrum, values ``(r,)`` or ``(groups, r)``.
        noise: standard deviation σ of the noise in one entry, ``None`` to infer it.
        multiple: ranks are rounded up to a multiple of it, never above full rank.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if ``noise`` is not positive, or the spectra are empty or not finite.

    Cost: a fifth of a second a layer and more where many components stand out, see ``collapsed``.
    Source: Tanaka, Bayesian singular value regularization via a cumulative shrinkage process,
    2020; the collapsed form is our own.

    Example:
        >>> import torch
        >>> from lorank.ranks import Price, Spectrum
        >>> s = torch.cat([torch.tensor([90.0, 70.0]), torch.linspace(2, 0.1, 18)])
        >>> csp({"fc": Spectrum(s, (20, 20), "channel", Price(400, 40))})
        {'fc': 2}
    """
    if noise is not None:
        check_noise(noise)
    return per_layer(spectra, lambda layer: _signals(layer, noise), multiple)


def _signals(layer: Spectrum, noise: float | None) -> int:
    return max(_count(s, layer.shape, noise) for s in by_group(layer))


def _count(s: Tensor, shape: tuple[int, int], noise: float | None) -> int:
    if min(shape) == 1:
        return 1  # one value: there is nothing to tell it from
    return collapsed(s, shape, noise=noise, prior=Prior()).rank()

"""What a rank cut really does to a convolution, against what the reshaped kernel foretells."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from lorank.compression.decompose import check_rank
from lorank.compression.layout import choose_layout, layout_table
from lorank.compression.measure import layer_error
from lorank.compression.operator import convolutions, geometry
from lorank.compression.operator_layers import Kernel, kernel_of
from lorank.compression.trace import Example
from lorank.errors import LorankError
from lorank.linalg import truncate
from lorank.linalg.convolution.operator import operator_energy
from lorank.nn.surgery import Site, by_site


class CutError(NamedTuple):
    """Relative errors of one layer's cut; plain values.

    Attributes:
        layout: layout of the matrix that is cut.
        rank: singular values that are kept.
        norm: ``‖T − T_r‖₂/‖T‖₂`` of the operator on large images, certified from both sides.
        predicted_norm: ``σ_{r+1}/σ_1`` of the matrix.
        frobenius: ``‖T − T_r‖_F/‖T‖_F`` on the image that the layer sees, exact.
        predicted_frobenius: ``√(Σ_{i>r} σ_i² / Σ σ_i²)`` of the matrix.
    """

    layout: str
    rank: int
    norm: tuple[float, float]
    predicted_norm: float
    frobenius: float
    predicted_frobenius: float


def cut_errors(
    model: nn.Module,
    ranks: Mapping[str, int],
    example: Example,
    *,
    layout: str | Mapping[str, str] = "auto",
    tol: float = 1e-2,
) -> dict[str, CutError]:
    """Say what a cut to given ranks does to each convolution as an operator.

    The largest change of an output, relative to the largest output, is the ratio of operator
    norms. The singular values of the matrix that is cut foretell it badly, in both directions;
    the mean change (Frobenius) they foretell well, up to the border.

    Args:
        model: dense or in SVD form; it is not changed.
        ranks: layer name → rank, as the rules of :mod:`lorank.ranks` give it. Layers that are no
            convolutions are left out, and so are those that read no image of the example.
        example: what the model is called with.
        layout: as given to :func:`lorank.measure`.
        tol: relative gap of the certified norms. What a cut leaves has a flat symbol, and a smaller
            gap takes minutes.

    Raises:
        LorankError: if a layer is unknown, a rank out of range, there is no convolution, or the
            model does not run on the example.

    Cost: a singular value decomposition of each matrix, and two certified norms.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1))
        >>> found = cut_errors(model, {"0": 8}, torch.ones(1, 4, 6, 6), layout="channel")["0"]
        >>> found.norm[1] < 1e-12, found.predicted_norm
        (True, 0.0)
    """
    found = convolutions(model, example)
    every = [site for site, _ in found]
    known = by_site(every, {n: r for n, r in ranks.items() if _is_among(n, every, model)})
    layouts = layout_table(every, layout)
    table: dict[str, CutError] = {}
    for site, size in found:
        if site.name not in known or size is None:
            continue
        try:
            kernel = kernel_of(site.module, size)
            table[site.name] = _cut(site, kernel, known[site.name], layouts[site.name], tol)
        except LorankError as error:
            raise layer_error(site, error) from None
    return table


def _cut(site: Site, kernel: Kernel, rank: int, wanted: str, tol: float) -> CutError:
    view = site.view() if site.factored else site.view(choose_layout(site, wanted))
    whole = view.svd(kernel.weight.double())
    rank = check_rank(rank, min(view.shape))
    kept = truncate(whole, rank)
    rest = kernel.weight.double() - view.kernel(kept.U * kept.S.unsqueeze(-2) @ kept.Vh)
    values = whole.S.square().reshape(-1, whole.S.shape[-1])
    tops = values.amax(0).sqrt()
    return CutError(
        view.layout,
        rank,
        _norm_ratio(kernel, rest, tol),
        float(tops[rank] / tops[0]) if rank < len(tops) and tops[0] > 0 else 0.0,
        _frobenius_ratio(kernel, rest),
        float((values[:, rank:].sum() / values.sum()).sqrt()) if values.sum() > 0 else 0.0,
    )


def _norm_ratio(kernel: Kernel, rest: Tensor, tol: float) -> tuple[float, float]:
    part, whole = kernel.bracket(rest, tol), kernel.bracket(tol=tol)
    if whole.lower == 0:
        return 0.0, 0.0
    return part.lower / whole.upper, part.upper / whole.lower


def _frobenius_ratio(kernel: Kernel, rest: Tensor) -> float:
    energies = [
        operator_energy(weight, kernel.size, **geometry(kernel)) for weight in (rest, kernel.weight)
    ]
    return (energies[0] / energies[1]) ** 0.5 if energies[1] > 0 else 0.0


def _is_among(name: str, every: list[Site], model: nn.Module) -> bool:
    """Whether a name is that of a convolution; a name that is nobody's is refused later."""
    known = {n for s in every for n in (s.name, *s.aliases, *s.members)}
    others = {n for n, _ in model.named_modules(remove_duplicate=False)}
    return name in known or name not in others

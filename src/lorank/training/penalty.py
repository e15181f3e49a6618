"""The one place where a model meets the penalties."""

import math

from torch import Tensor, nn

from lorank.errors import LorankError, unknown
from lorank.nn import Factored
from lorank.nn.surgery import check_module
from lorank.penalties import SPARSITY
from lorank.penalties import orthogonality as orthogonality_of
from lorank.penalties import sparsity as sparsity_of


def penalty(
    model: nn.Module, *, orthogonality: float = 1.0, sparsity: float = 0.0, kind: str = "hoyer"
) -> Tensor:
    """What SVD training adds to the loss: ``λ_o·L_o + λ_s·L_s``.

    ``L_o = Σ (‖UᵀU − I‖_F² + ‖V ᵀV − I‖_F²) / r²`` and ``L_s`` is the sparsity of ``|S|``, both
    summed over the layers in SVD form, tied ones once, in float32 whatever the autocast.

    Args:
        model: a network with layers in SVD form.
        orthogonality: λ_o.
        sparsity: λ_s.
        kind: ``"l1"``, ``"hoyer"`` or ``"hoyer_square"``.

    Returns:
        A scalar.

    Raises:
        LorankError: if no layer is in SVD form, every factor is frozen, the kind is unknown, or a
            weight is negative, NaN or Inf: such a term would be grown, and not a penalty.

    Cost: ``Σ r²·(m + n)`` MACs, whatever the batch. Source: Yang et al., 2020, sections 3.1, 3.2.

    Example:
        >>> import lorank
        >>> model = lorank.decompose(nn.Linear(4, 4))
        >>> bool(penalty(model) < 1e-6)
        True
    """
    for name, weight in (("orthogonality", orthogonality), ("sparsity", sparsity)):
        if not 0 <= weight < math.inf:
            raise LorankError(f"{name} must be finite and not negative, found {weight!r}")
    terms = penalty_terms(model, kind=kind, want=(orthogonality != 0, sparsity != 0))
    return orthogonality * terms["orthogonality"] + sparsity * terms["sparsity"]


def penalty_terms(
    model: nn.Module, *, kind: str = "hoyer", want: tuple[bool, bool] = (True, True)
) -> dict[str, Tensor]:
    """Both terms by name, without their weights, as a run logs them.

    Args:
        model: a network with layers in SVD form.
        kind: sparsity kind.
        want: whether to compute orthogonality and sparsity; a term left out is zero.

    Raises:
        LorankError: as :func:`penalty`.

    Example:
        >>> import lorank
        >>> sorted(penalty_terms(lorank.decompose(nn.Linear(4, 4))))
        ['orthogonality', 'sparsity']
    """
    if kind not in SPARSITY:
        raise unknown("sparsity penalty", kind, SPARSITY)
    layers = factored_layers(model)
    zero = layers[0].S.new_zeros(())
    factors = [f for layer in layers for f in (layer.U, layer.Vh)]
    return {
        "orthogonality": orthogonality_of(factors) if want[0] else zero,
        "sparsity": sparsity_of([layer.S for layer in layers], kind) if want[1] else zero,
    }


def factored_layers(model: nn.Module) -> list[Factored]:
    """Layers in SVD form that can be trained, tied ones once.

    Raises:
        LorankError: if there is none, every one is frozen, or the model is not a module.
    """
    check_module(model)
    layers = {id(m.U): m for m in model.modules() if isinstance(m, Factored)}
    if not layers:
        raise LorankError(
            f"a penalty needs layers in SVD form, and {type(model).__name__} has none: "
            "call lorank.decompose first"
        )
    free = [m for m in layers.values() if m.U.requires_grad or m.S.requires_grad]
    if not free:
        raise LorankError(
            f"a penalty needs factors to train, and all {len(layers)} layers in SVD form are frozen"
        )
    return free

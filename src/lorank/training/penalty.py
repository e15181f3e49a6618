"""The one place where a model meets the penalties."""

import math

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lorank.errors import LorankError, unknown
from lorank.linalg import BOUNDS
from lorank.nn import Factored
from lorank.nn.operator import modules_with_norm, operator_kernel
from lorank.nn.surgery import check_module
from lorank.penalties import SPARSITY
from lorank.penalties import operator_norm as operator_norm_of
from lorank.penalties import orthogonality as orthogonality_of
from lorank.penalties import sparsity as sparsity_of


def penalty(
    model: nn.Module,
    *,
    orthogonality: float = 1.0,
    sparsity: float = 0.0,
    kind: str = "hoyer",
    operator_norm: float = 0.0,
    bound: str = "grid",
) -> Tensor:
    """What SVD training adds to the loss: ``λ_o·L_o + λ_s·L_s``, and ``λ_n·L_n`` where wanted.

    ``L_o = Σ (‖UᵀU − I‖_F² + ‖V ᵀV − I‖_F²) / r²`` and ``L_s`` is the sparsity of ``|S|``, both
    summed over the layers in SVD form, tied ones once, in float32 whatever the autocast.
    ``L_n = Σ b²`` goes over every linear layer and convolution that can be trained, dense or in
    SVD form, with b an upper bound of the layer's norm as an operator on images of any size.

    Args:
        model: a network with layers in SVD form; with ``orthogonality=0`` and ``sparsity=0`` any.
        orthogonality: λ_o.
        sparsity: λ_s.
        kind: ``"l1"``, ``"hoyer"`` or ``"hoyer_square"``.
        operator_norm: λ_n.
        bound: a key of :data:`lorank.linalg.BOUNDS`.

    Returns:
        A scalar.

    Raises:
        LorankError: if no layer is in SVD form, every factor is frozen, the kind is unknown, or a
            weight is negative, NaN or Inf: such a term would be grown, and not a penalty.

    Cost: ``Σ r²·(m + n)`` MACs, whatever the batch; for the norms that of the bound, on a layer in
    SVD form for its core of r channels. Source: Yang et al., 2020, sections 3.1, 3.2.

    Example:
        >>> import lorank
        >>> model = lorank.decompose(nn.Linear(4, 4))
        >>> bool(penalty(model) < 1e-6)
        True
    """
    weights = {
        "orthogonality": orthogonality,
        "sparsity": sparsity,
        "operator_norm": operator_norm,
    }
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise LorankError(f"{name} must be finite and not negative, found {weight!r}")
    # Without any weight the model is still asked for layers in SVD form, as ever.
    norms_alone = operator_norm != 0 and orthogonality == 0 and sparsity == 0
    want = None if norms_alone else (orthogonality != 0, sparsity != 0)
    terms = penalty_terms(model, kind=kind, want=want, bound=bound if operator_norm else None)
    total = [weights[name] * value for name, value in terms.items()]
    return torch.stack([value.to(total[0].device) for value in total]).sum()


def penalty_terms(
    model: nn.Module,
    *,
    kind: str = "hoyer",
    want: tuple[bool, bool] | None = (True, True),
    bound: str | None = None,
) -> dict[str, Tensor]:
    """The terms by name, without their weights, as a run logs them.

    Args:
        model: a network with layers in SVD form.
        kind: sparsity kind.
        want: whether to compute orthogonality and sparsity; a term left out is zero. ``None``
            leaves both out, and takes any network.
        bound: for ``operator_norm``, a key of :data:`lorank.linalg.BOUNDS`; ``None`` leaves it out.

    Raises:
        LorankError: as :func:`penalty`.

    Example:
        >>> import lorank
        >>> sorted(penalty_terms(lorank.decompose(nn.Linear(4, 4))))
        ['orthogonality', 'sparsity']
    """
    if kind not in SPARSITY:
        raise unknown("sparsity penalty", kind, SPARSITY)
    terms: dict[str, Tensor] = {}
    if want is not None:
        layers = factored_layers(model)
        zero = layers[0].S.new_zeros(())
        sides = [side for layer in layers for side in layer.sides()]
        values = [layer.S for layer in layers]
        terms["orthogonality"] = orthogonality_of(sides) if want[0] else zero
        terms["sparsity"] = sparsity_of(values, kind) if want[1] else zero
    if bound is not None:
        terms["operator_norm"] = operator_norm_of(norm_bounds(model, bound))
    return terms


def norm_bounds(model: nn.Module, bound: str = "grid") -> list[Tensor]:
    """Upper bound of the norm of each linear layer and convolution that can be trained.

    A layer in SVD form is served from its core; tied layers count once, where they move alike.

    Raises:
        LorankError: if the bound is unknown, no layer can be trained, or a layer has no bound: it
            pads by reflection or replication or cyclically beyond its kernel's reach, runs in its
            own way, has no weights yet, or holds NaN or Inf.

    Example:
        >>> [round(b.item(), 2) for b in norm_bounds(nn.Sequential(nn.Linear(1, 1)))] != []
        True
    """
    if bound not in BOUNDS:
        raise unknown("bound", bound, BOUNDS)
    check_module(model)
    layers = modules_with_norm(model)
    free = {name: module for name, module in layers.items() if _is_free(module)}
    if not free:
        raise LorankError(
            "a penalty of norms needs a linear layer or convolution to train, and "
            f"{type(model).__name__} has {len(layers)}, all frozen"
            if layers
            else "a penalty of norms needs a linear layer or convolution, and "
            f"{type(model).__name__} has none"
        )
    return [_bound(name, module, bound) for name, module in free.items()]


def _is_free(module: nn.Module) -> bool:
    """Whether a layer's weight can be trained; its bias has no part in the norm."""
    bias = getattr(module, "bias", None)
    return any(p.requires_grad for p in module.parameters() if p is not bias)


def _bound(name: str, module: nn.Module, bound: str) -> Tensor:
    for parameter in module.parameters():
        if is_lazy(parameter) or parameter.device.type == "meta":
            raise LorankError(f"layer {name!r} has no weights yet: load them or run the model once")
    try:
        return operator_kernel(module).bound(bound)
    except LorankError as error:
        raise LorankError(f"layer {name!r}: {error}") from None


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

"""Optimizers and learning rates: pure functions of a stage's settings and progress."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lorank.errors import LorankError
from lorank.linalg.quaternion.unfold import QuaternionUnfolding
from lorank.nn import Factored, SVDEmbedding
from lorank.nn.surgery import svd_form
from lorank.training.muon import Matrices, Muon
from lorank.training.recipe import Optimizer


def parameter_groups(
    model: nn.Module, weight_decay: float, factor_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Sort parameters by their weight decay: weights, factors, and what has none.

    Args:
        model: dense or in SVD form.
        weight_decay: of weights with two axes or more.
        factor_decay: of U, S and Vh. Decay on U and Vh works against orthogonality.

    Returns:
        Groups for any torch optimizer; frozen parameters are left out, tied ones come once.

    Example:
        >>> [len(g["params"]) for g in parameter_groups(nn.Linear(2, 2), 0.1)]
        [1, 1]
    """
    factors = {id(f) for m in model.modules() if isinstance(m, Factored) for f in (m.U, m.S, m.Vh)}
    sorted_by: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            if id(parameter) in factors:
                decay = factor_decay
            else:
                decay = weight_decay if parameter.ndim > 1 else 0.0
            sorted_by.setdefault(decay, []).append(parameter)
    return [{"params": params, "weight_decay": decay} for decay, params in sorted_by.items()]


def matrices(model: nn.Module) -> dict[int, Matrices]:
    """How each weight holds the matrices that Muon steps as such, by the parameter's identity.

    Those are the weights, or U and Vh, of all layers that have an SVD form, and the queries, keys
    and values of packed attention. Embeddings, whose rows are read one by one, and what is tied to
    them are left out, as are quaternions, whose parts make one matrix together, weights that are
    computed (by a parametrization, or a pruning mask), empty ones, and all other layers' (recurrent
    ones, say).

    Raises:
        LorankError: if a layer has not seen an input yet from which it takes its shape.

    Example:
        >>> list(matrices(nn.Conv2d(4, 8, 3, groups=2)).values())
        [2]
    """
    found: dict[int, Matrices] = {}
    rows: set[int] = set()
    for name, module in model.named_modules():
        form = svd_form(module)
        own = {key: p for key, p in module._parameters.items() if p is not None}
        if any(map(is_lazy, own.values())):
            raise LorankError(f"{name!r} must see an input before an optimizer is made: it is lazy")
        if isinstance(module, nn.MultiheadAttention):
            packed = {key: p for key, p in own.items() if "proj_weight" in key}
            found |= {id(p): 3 if key == "in_proj_weight" else 1 for key, p in packed.items()}
        elif form is not None and issubclass(form, SVDEmbedding):
            rows |= set(map(id, own.values()))
        elif isinstance(module, Factored) and not isinstance(module.view, QuaternionUnfolding):
            found |= {id(module.U): "stack", id(module.Vh): "stack"}
        elif form is not None and "weight" in own:
            view, weight = form.unfold(module), own["weight"]
            if not isinstance(view, QuaternionUnfolding) and weight.numel():
                found[id(weight)] = view.groups
    return {key: how for key, how in found.items() if key not in rows}


def by_matrices(group: dict[str, Any], held: dict[int, Matrices]) -> list[dict[str, Any]]:
    """Part a group of parameters by how they hold matrices."""
    parts: dict[Matrices, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        parts.setdefault(held.get(id(parameter), 0), []).append(parameter)
    return [{**group, "params": params, "matrices": how} for how, params in parts.items()]


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """Make a stage's optimizer.

    Raises:
        LorankError: if every parameter is frozen.
    """
    groups = parameter_groups(model, settings.weight_decay, settings.factor_decay)
    if not groups:
        raise LorankError(
            f"training needs a parameter to train, and all of {type(model).__name__} are frozen"
        )
    if settings.name == "muon":
        held = matrices(model)
        groups = [part for group in groups for part in by_matrices(group, held)]
        return Muon(groups, lr=settings.lr, momentum=settings.momentum)
    if settings.name == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.lr)


def rate(settings: Optimizer, progress: float) -> float:
    """Learning rate at a share of the stage between 0 and 1.

    Example:
        >>> rate(Optimizer(lr=1.0, schedule="cosine"), 0.5)
        0.5
    """
    if progress < settings.warmup:
        return settings.lr * progress / settings.warmup
    if settings.schedule == "step":
        return settings.lr * 0.1 ** sum(progress >= m for m in settings.milestones)
    if settings.schedule == "cosine":
        done = (progress - settings.warmup) / (1 - settings.warmup)
        return settings.lr * (0.5 + 0.5 * math.cos(math.pi * done))
    return settings.lr


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value

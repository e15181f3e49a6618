"""Recipes by name: the paper's three stages, and one schedule to a budget."""

from typing import Any

from pydantic import ValidationError

from lorank.errors import LorankError, unknown
from lorank.training.recipe import (
    LAST,
    Cut,
    Distillation,
    Kind,
    Optimizer,
    Recipe,
    Stage,
    Truncation,
)
from lorank.training.recipe_text import fault


def paper(
    *,
    epochs: int = 164,
    orthogonality: float = 1.0,
    sparsity: float = 0.1,
    kind: Kind = "hoyer",
    energy: float = 1 - 3e-6,
    layout: str = "channel",
) -> Recipe:
    """Three stages of equal length, as published: full-rank SVD training, sparsifying, fine-tuning.

    Every stage runs Adam at 1e-3, × 0.1 at 81/164 and 122/164 of it, batch 100, no weight decay;
    ranks by the energy of each layer; orthogonality stays on while fine-tuning.

    Args:
        epochs: of each stage.
        orthogonality: λ_o.
        sparsity: λ_s of the second stage.
        kind: of sparsity.
        energy: share of each layer's energy that the cut keeps (1 − e in the paper).
        layout: ``"channel"`` or ``"spatial"``.

    Source: Yang et al., 2020, and the settings of its published commands. Two things differ on
    purpose: factors start from the SVD of the usual initialisation, and the cut takes the
    singular values of the product.

    Example:
        >>> [stage.name for stage in paper(epochs=1).stages]
        ['pretrain', 'sparsify', 'finetune']
    """
    adam = Optimizer(
        name="adam", lr=1e-3, weight_decay=0, schedule="step", milestones=(81 / 164, 122 / 164)
    )
    common: dict[str, Any] = {
        "epochs": epochs,
        "optimizer": adam,
        "orthogonality": orthogonality,
        "kind": kind,
    }
    cut = Cut(rule=f"energy:{energy!r}")
    return Recipe(
        stages=(
            Stage(name="pretrain", **common),
            Stage(name="sparsify", sparsity=sparsity, cut=cut, **common),
            Stage(name="finetune", **common),
        ),
        batch_size=100,
        layout=layout,
        skip=(LAST,),
    )


CLIP = 5.0
"""Largest gradient norm in SVD form: a step moves the weight by σ² times what it moves a dense
one, so that large singular values can turn one bad batch into divergence."""


def practical(
    *,
    epochs: int = 30,
    dense_epochs: int = 0,
    macs: float | None = None,
    params: float | None = None,
    sparsity: float = 0.01,
    kind: Kind = "hoyer",
    lr: float = 0.01,
    dense_lr: float = 0.1,
    distill: float = 0.5,
    layout: str = "auto",
) -> Recipe:
    """One schedule from trained dense weights to a budget.

    Decompose; sparsify with λ_s rising while ranks fall step by step towards the budget; then
    fine-tune at the reached ranks, with the dense network as a teacher.

    Args:
        epochs: in all, a third of them for sparsifying; dense training not counted.
        dense_epochs: dense training before, for a model without trained weights.
        macs: share or count of MACs to keep; by default 0.35.
        params: share or count of parameters to keep, instead.
        sparsity: λ_s.
        kind: of sparsity.
        lr: peak learning rate in SVD form.
        dense_lr: peak learning rate of the dense training.
        distill: share of the loss that the dense teacher has; 0 for none.
        layout: of the decomposition.

    Example:
        >>> [stage.name for stage in practical(epochs=6, dense_epochs=2).stages]
        ['dense', 'sparsify', 'finetune']
    """
    if macs is None and params is None:
        macs = 0.35
    first = max(1, epochs // 3) if epochs > 1 else epochs
    teacher = Distillation(weight=distill) if distill else None
    stages = [
        Stage(name="dense", form="dense", epochs=dense_epochs, optimizer=Optimizer(lr=dense_lr)),
        Stage(
            name="sparsify",
            epochs=first,
            optimizer=Optimizer(lr=lr, schedule="constant", warmup=0.1, clip=CLIP),
            sparsity=sparsity,
            kind=kind,
            ramp=0.5,
            truncation=Truncation(),
            cut=Cut(macs=macs, params=params),
            distillation=teacher,
        ),
        Stage(
            name="finetune",
            epochs=epochs - first,
            optimizer=Optimizer(lr=lr, clip=CLIP),
            distillation=teacher,
        ),
    ]
    return Recipe(stages=tuple(stages if dense_epochs else stages[1:]), layout=layout)


PRESETS = {"practical": practical, "paper": paper}
"""Recipes by name; each takes its own few options."""


def preset(name: str, **options: Any) -> Recipe:
    """Make a recipe of the table by name; options that are ``None`` keep their defaults.

    Raises:
        LorankError: if the name or an option is unknown, or a value is out of range.

    Example:
        >>> preset("practical", epochs=3, macs=0.5).stages[0].cut.macs
        0.5
    """
    if name not in PRESETS:
        raise unknown("recipe", name, PRESETS)
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return PRESETS[name](**given)
    except ValidationError as error:
        raise LorankError(f"recipe {name!r}: {fault(error)}") from None
    except TypeError as error:
        raise LorankError(f"recipe {name!r} does not take this: {error}") from None

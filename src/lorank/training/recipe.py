"""A recipe is data: what a run does, stage by stage. It can be printed, saved and edited."""

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lorank.errors import LorankError, unknown

LAST = "@last"
"""In a recipe's ``skip``: the last layer of the model, whatever its name."""


Kind = Literal["l1", "hoyer", "hoyer_square"]


class Part(BaseModel):
    """Base of a recipe's parts: values are checked, unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(Part):
    """How a stage steps.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw``.
        lr: peak learning rate.
        momentum: of SGD (Nesterov).
        weight_decay: on weights of dense layers; biases and normalisation have none.
        factor_decay: on U, S and Vh. It works against orthogonality, so it is a setting of its
            own.
        schedule: ``cosine`` to zero, ``step`` (× 0.1 at each milestone), or ``constant``.
        milestones: shares of the stage at which ``step`` falls.
        warmup: share of the stage over which the rate rises from zero.
        clip: largest norm of the gradient, or none.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    factor_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup: float = Field(default=0.0, ge=0, lt=1)
    clip: float | None = Field(default=None, gt=0)


class Cut(Part):
    """How ranks are chosen and cut at the end of a stage.

    Give one of ``macs``, ``params`` (a budget for the whole network: a share below 1 or a count)
    and ``rule`` (a rank rule, for example ``"energy:0.999"``).

    Attributes:
        macs: MACs to keep.
        params: parameters to keep.
        rule: a rule of :data:`lorank.ranks.RULES`, with its value after a colon.
        by: ``product`` (best cut) or ``raw`` (the paper's, on ``|S|``).
        multiple: ranks are multiples of this.
    """

    macs: float | int | None = None
    params: float | int | None = None
    rule: str | None = None
    by: Literal["product", "raw"] = "product"
    multiple: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_target(self) -> "Cut":
        given = [n for n in ("macs", "params", "rule") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"a cut needs one of macs, params and rule, found {given or 'none'}")
        return self


class Truncation(Part):
    """Cut during a stage, as singular values die.

    Attributes:
        every: epochs between two cuts.
        dead: a singular value below this share of its layer's largest is dead, and cut.
        toward: move in steps towards the stage's own cut, so that nothing is left for its end.
        until: share of the stage at which ``toward`` has arrived.
    """

    every: int = Field(default=1, ge=1)
    dead: float = Field(default=1e-3, ge=0, lt=1)
    toward: bool = True
    until: float = Field(default=0.8, gt=0, le=1)


class Distillation(Part):
    """Learn from the dense network as well as from the labels.

    Attributes:
        weight: share of the loss that the teacher has.
        temperature: of both softmaxes.
    """

    weight: float = Field(default=0.5, gt=0, le=1)
    temperature: float = Field(default=4.0, gt=0)


class Stage(Part):
    """One stage of a run.

    Attributes:
        name: shown in logs and progress.
        form: ``dense``, or ``svd``: the model is decomposed when the stage begins.
        epochs: passes over the training data.
        optimizer: how it steps.
        orthogonality: λ_o, on U and Vh.
        sparsity: λ_s, on ``|S|``.
        kind: ``l1``, ``hoyer`` or ``hoyer_square``.
        ramp: share of the stage over which λ_s rises from zero.
        truncation: cuts during the stage, or none.
        cut: cut at the end of the stage, or none.
        distillation: the dense network as a teacher, or none.
        label_smoothing: of the cross-entropy.
    """

    name: str = Field(min_length=1)
    form: Literal["dense", "svd"] = "svd"
    epochs: int = Field(ge=0)
    optimizer: Optimizer = Optimizer()
    orthogonality: float = Field(default=1.0, ge=0)
    sparsity: float = Field(default=0.0, ge=0)
    kind: Kind = "hoyer"
    ramp: float = Field(default=0.0, ge=0, le=1)
    truncation: Truncation | None = None
    cut: Cut | None = None
    distillation: Distillation | None = None
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _dense_is_plain(self) -> "Stage":
        if self.form == "dense" and (self.sparsity or self.truncation or self.cut):
            raise ValueError(f"stage {self.name!r} is dense: it has nothing to sparsify or cut")
        return self


class Recipe(Part):
    """A whole run.

    Attributes:
        stages: in order; once in SVD form, a model stays so until it is folded at the end.
        batch_size: for each process.
        seed: of initialisation, order of the data and augmentation.
        augment: whether the data's own augmentation is used.
        layout: of the decomposition, as in :func:`lorank.decompose`.
        skip: names or patterns of layers to leave dense; ``@last`` is the last layer.
        precision: ``no`` (float32), ``bf16`` or ``fp16``.
        channels_last: memory layout of images and kernels.
        recalibrate: training batches that estimate BatchNorm statistics anew after folding; 0
            for none.
        multiple: pad the ranks of the folded pairs to a multiple of this.
        workers: processes that read lazy data.
    """

    stages: tuple[Stage, ...] = Field(min_length=1)
    batch_size: int = Field(default=128, ge=1)
    seed: int = 0
    augment: bool = True
    layout: str = "auto"
    skip: tuple[str, ...] = ()
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    recalibrate: int = Field(default=0, ge=0)
    multiple: int = Field(default=1, ge=1)
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _dense_comes_first(self) -> "Recipe":
        forms = [stage.form for stage in self.stages]
        if "dense" in forms[forms.index("svd") if "svd" in forms else len(forms) :]:
            raise ValueError("a dense stage cannot follow one in SVD form")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need names of their own, found {names}")
        return self


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
        raise LorankError(f"recipe {name!r}: {_sentence(error)}") from None
    except TypeError as error:
        raise LorankError(f"recipe {name!r} does not take this: {error}") from None


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML or JSON file.

    Raises:
        LorankError: if the file is missing, cannot be parsed, or breaks a rule of the recipe.
    """
    path = Path(path)
    try:
        text = path.read_text()
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise LorankError(
            f"a recipe is a file, and {path} cannot be read: {error.strerror}"
        ) from None
    except ValueError as error:
        raise LorankError(f"{path} is not {path.suffix.lstrip('.') or 'toml'}: {error}") from None
    return make_recipe(table, str(path))


def make_recipe(table: Any, where: str = "recipe") -> Recipe:
    """Check a table as a recipe.

    Raises:
        LorankError: if it breaks a rule.

    Example:
        >>> make_recipe({"stages": [{"name": "only", "epochs": 1}]}).stages[0].form
        'svd'
    """
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise LorankError(f"{where}: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"])
    return f"{place + ': ' if place else ''}{first['msg']}, found {first['input']!r:.80}"


def change(recipe: Recipe, settings: list[str]) -> Recipe:
    """Change a recipe by settings in words, ``batch_size=64`` or ``stages.0.optimizer.lr=0.1``.

    Args:
        recipe: where to start; it is not changed.
        settings: ``path=value``; values are JSON, and text where they are not.

    Raises:
        LorankError: if a path does not exist, or a value breaks a rule.

    Example:
        >>> change(practical(epochs=3), ["stages.0.sparsity=0.5"]).stages[0].sparsity
        0.5
    """
    table = recipe.model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise LorankError(f"a setting is path=value, found {setting!r}")
        _assign(table, path.split("."), _value(text), setting)
    return make_recipe(table)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(table: Any, steps: list[str], value: Any, setting: str) -> None:
    for depth, step in enumerate(steps):
        key: Any = int(step) if isinstance(table, list) and step.isdigit() else step
        known = range(len(table)) if isinstance(table, list) else table
        if not isinstance(table, (list, dict)) or key not in known:
            names = [str(k) for k in known] if isinstance(table, (list, dict)) else []
            raise unknown(f"setting {setting!r}, at", ".".join(steps[: depth + 1]), names)
        if depth == len(steps) - 1:
            table[key] = value
        else:
            table = table[key]

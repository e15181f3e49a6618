"""A recipe is data: what a run does, stage by stage. It can be printed, saved and edited."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LAST = "@last"
"""In a recipe's ``skip``: the last layer of the model, whatever its name."""


Kind = Literal["l1", "hoyer", "hoyer_square"]
Bound = Literal[
    "absolute",
    "frobenius",
    "gram",
    "gram_kernel",
    "grid",
    "half_flattened",
    "refined",
    "schur",
    "taps",
    "unfoldings",
]


class Part(BaseModel):
    """Base of a recipe's parts: values are checked, unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(Part):
    """How a stage steps.

    Attributes:
        name: ``sgd``, ``adam``, ``adamw`` or ``muon`` (:class:`lorank.training.muon.Muon`).
        lr: peak learning rate; of Muon a share of each weight's norm, a tenth of SGD's and less.
        momentum: of SGD and Muon (Nesterov).
        weight_decay: on weights of dense layers; biases and normalisation have none. AdamW and Muon
            shrink weights by it times the rate, the others add it to the gradient.
        factor_decay: on U, S and Vh. It works against orthogonality, so it is a setting of its
            own.
        schedule: ``cosine`` to zero, ``step`` (× 0.1 at each milestone), or ``constant``.
        milestones: shares of the stage at which ``step`` falls.
        warmup: share of the stage over which the rate rises from zero.
        clip: largest norm of the gradient, or none.
    """

    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
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
        by: ``product`` (best cut) or ``raw`` (the paper's, on ``|S|``); cuts on the way to it, of a
            truncation, are the best ones.
        multiple: ranks are multiples of this.
        calibration: training batches that show what each layer reads and how much its output
            matters; layouts and ranks are then chosen by what a cut does to the answer. 0 goes by
            the weights alone.
        factors: of a calibrated cut: ``data``, what is best for the answer now, or ``weights``, the
            truncated weights, which may train on better.
    """

    macs: float | int | None = None
    params: float | int | None = None
    rule: str | None = None
    by: Literal["product", "raw"] = "product"
    multiple: int = Field(default=1, ge=1)
    calibration: int = Field(default=0, ge=0)
    factors: Literal["data", "weights"] = "data"

    @model_validator(mode="after")
    def _one_target(self) -> "Cut":
        given = [n for n in ("macs", "params", "rule") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"a cut needs one of macs, params and rule, found {given or 'none'}")
        if self.calibration and self.by == "raw" and self.factors == "data":
            raise ValueError(
                "a cut of the raw |S| has no factors by data: leave the calibration out, or ask "
                "for factors by weights"
            )
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
        others: weight of what the teacher says of the classes that are not its first, among
            themselves; none for what it leaves them, as plain distillation has it.
    """

    weight: float = Field(default=0.5, gt=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    others: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Invariance(Part):
    """Make one layer's answers to samples of one class alike.

    Attributes:
        layer: its path in the model; the last hidden layer, after its activation, is usual.
        weight: of the term; choose it from 0.003, 0.01, 0.03 and 0.1 on held-out data.
        kind: as in :func:`lorank.penalties.class_invariance`; ``norm`` and ``all_pairs`` are
            controls that see no class.
        reduce: ``sum`` over units, or their ``mean``.
        normalise: ``l2``, ``batch`` or ``spread``, or none.
    """

    layer: str
    weight: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    kind: Literal["pairs", "centre", "covariance", "contrastive", "norm", "all_pairs"] = "pairs"
    reduce: Literal["sum", "mean"] = "sum"
    normalise: Literal["l2", "batch", "spread"] | None = None


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
        operator_norm: λ_n, on the norms of all linear layers and convolutions as operators; also
            in a dense stage.
        bound: of these norms, a key of :data:`lorank.linalg.BOUNDS`.
        ramp: share of the stage over which λ_s rises from zero.
        truncation: cuts during the stage, or none.
        cut: cut at the end of the stage, or none.
        distillation: the dense network as a teacher, or none.
        label_smoothing: of the cross-entropy.
        mixup: largest share of another sample in a sample, up to ½; the teacher is asked of the
            mixture, too. 0 for none; also in a dense stage.
        invariance: class-wise invariance of one layer, or none; also in a dense stage.
    """

    name: str = Field(min_length=1)
    form: Literal["dense", "svd"] = "svd"
    epochs: int = Field(ge=0)
    optimizer: Optimizer = Optimizer()
    orthogonality: float = Field(default=1.0, ge=0)
    sparsity: float = Field(default=0.0, ge=0)
    kind: Kind = "hoyer"
    operator_norm: float = Field(default=0.0, ge=0)
    bound: Bound = "grid"
    ramp: float = Field(default=0.0, ge=0, le=1)
    truncation: Truncation | None = None
    cut: Cut | None = None
    distillation: Distillation | None = None
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0, le=0.5)
    invariance: Invariance | None = None

    @model_validator(mode="after")
    def _dense_is_plain(self) -> "Stage":
        if self.form == "dense" and (self.sparsity or self.truncation or self.cut):
            raise ValueError(f"stage {self.name!r} is dense: it has nothing to sparsify or cut")
        return self

    @model_validator(mode="after")
    def _mixtures_have_no_class(self) -> "Stage":
        if self.mixup and self.invariance is not None:
            raise ValueError(
                f"stage {self.name!r} mixes samples, and invariance looks at answers to samples as "
                "they are: give one of mixup and invariance"
            )
        return self


class Recipe(Part):
    """A whole run.

    Attributes:
        stages: in order; once in SVD form, a model stays so until it is folded at the end.
        batch_size: for each process.
        seed: of initialisation, order of the data, augmentation and mixtures.
        augment: whether the data's own augmentation is used.
        layout: of the decomposition, as in :func:`lorank.decompose`.
        skip: names or patterns of layers to leave dense; ``@last`` is the last layer.
        precision: ``no`` (float32), ``bf16`` or ``fp16``.
        channels_last: memory layout of images and kernels.
        recalibrate: training batches, augmented where training has them so, that estimate
            BatchNorm statistics anew after folding; 0 for none.
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

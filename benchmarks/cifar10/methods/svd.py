"""Lorank's recipe from pretrained weights: sparsify in SVD form, cut to a budget, fine-tune."""

import copy

from torch import Tensor, nn

import lorank
from cifar10.job import Job, Method
from cifar10.methods.dense import fresh
from cifar10.methods.lowrank import convolutions, energy_ranks, paired, paying
from lorank.compression.calibrate import Calibration
from lorank.errors import LorankError, unknown
from lorank.ranks import Spectra

FACTORS = ("data", "weights")
RANKS = (*FACTORS, "trials")


class SVD(Method):
    """Sparsify and cut during the first share of the training; the rest fine-tunes.

    Args:
        sparsify: share of all epochs before the last cut; 0 cuts before training.
        steps: cuts on the way, the last one at the budget; 1 is one cut at the end.
        kind: of sparsity.
        sparsity: λ_s, rising over the first half of the sparsifying.
        orthogonality: λ_o, over the whole training.
        layout: ``"auto"`` chooses for each layer.
        ranks: and layouts that are chosen by what layers read and answer for (``"data"``), or by
            the ``"weights"`` alone; ``"trials"`` are those by data with each layer's loss tried
            out, in a cut before training.
        factors: of all cuts: ``"weights"`` truncates the weights, ``"data"`` weighs the errors by
            what is read and answered for.
        by: ``"product"``, or ``"raw"`` for the published cut of ``|S|``.
        rule: how ranks reach the budget: ``"budget"`` over all layers, or ``"energy"`` for one
            threshold in every layer, as published.
        form: ``"svd"``, or ``"dense"`` for dense layers until the one cut, for comparison; that
            takes one layout for all layers.
        scratch: whether weights are drawn anew instead of pretrained.
        rebuilt: whether factors by data of a dense network are then solved again, layer by layer.
        plain: whether fine-tuning goes on in plain layers instead of SVD form.
        renormed: whether BatchNorm statistics are estimated anew after the training.
    """

    def __init__(
        self,
        *,
        sparsify: float = 0.25,
        steps: int = 4,
        kind: str = "hoyer",
        sparsity: float = 0.01,
        orthogonality: float = 1.0,
        layout: str = "auto",
        ranks: str = "data",
        factors: str = "weights",
        by: str = "product",
        rule: str = "budget",
        form: str = "svd",
        scratch: bool = False,
        rebuilt: bool = True,
        plain: bool = False,
        renormed: bool = False,
    ):
        if form == "dense" and layout == "auto":
            raise LorankError('dense layers until the cut take one layout for all, found "auto"')
        for what, sources in ((ranks, RANKS), (factors, FACTORS)):
            if what not in sources:
                raise unknown("source of ranks or factors", what, sources)
        if ranks == "trials" and sparsify:
            raise LorankError(f"ranks by trials take a cut before training, found {sparsify=}")
        if by == "raw" and factors == "data":
            raise LorankError("a cut of the raw |S| has factors by weights, found by data")
        self.sparsify, self.steps = sparsify, steps
        self.kind, self.sparsity, self.orthogonality = kind, sparsity, orthogonality
        self.layout, self.by = layout, by
        self.rule, self.form, self.scratch = rule, form, scratch
        self.rebuilt, self.plain = rebuilt, plain
        self.ranks, self.factors, self.renormed = ranks, factors, renormed

    def begin(self, job: Job) -> nn.Module:
        """Full rank, in layouts chosen for what is to come; cut at once if nothing sparsifies."""
        start = fresh(job) if self.scratch else job.dense
        if not self.sparsify:
            return self._low(job, start)
        if self.form == "dense":
            return copy.deepcopy(start)
        layouts = {name: spectrum.layout for name, spectrum in self._seen(job, start)[0].items()}
        return lorank.decompose(start, layers=list(layouts), layout=layouts)

    def _seen(self, job: Job, dense: nn.Module) -> tuple[Spectra, Calibration | None]:
        """Spectra of the convolutions of a dense network, and the moments to cut it by."""
        to_rank, to_cut = self._moments(job, dense)
        spectra = lorank.measure(
            dense,
            job.example,
            layout=self.layout,
            layers=list(convolutions(dense)),
            calibration=to_rank,
        )
        if self.ranks == "trials":
            spectra = lorank.sensitivity(dense, spectra, job.calibration(), calibration=to_cut)
        return spectra, to_cut

    def _moments(self, job: Job, model: nn.Module) -> tuple[Calibration | None, Calibration | None]:
        """What layers read and answer for: for the ranks and for the factors, where asked."""
        if self.ranks == self.factors == "weights":
            return None, None
        found = lorank.calibrate(model, job.calibration())
        by_data = self.ranks != "weights", self.factors == "data"
        return found if by_data[0] else None, found if by_data[1] else None

    def _low(self, job: Job, dense: nn.Module) -> nn.Module:
        """Cut a dense network to the budget, in SVD form or plain."""
        spectra, moments = self._seen(job, dense)
        layouts = {name: spectrum.layout for name, spectrum in spectra.items()}
        ranks = paying(self._ranks(spectra, job.experiment.budget), spectra)
        low = lorank.decompose(dense, ranks, layout=layouts, calibration=moments)
        if self.rebuilt and moments is not None:
            low = lorank.reconstruct(low, dense, job.calibration(), calibration=moments)
        return lorank.fold(low, example=job.example) if self.plain else low

    def _ranks(self, spectra: Spectra, macs: float) -> dict[str, int]:
        if self.rule == "energy":
            return energy_ranks(spectra, macs)
        return lorank.ranks.budget(spectra, macs=macs)

    def again(self, job: Job, weights: dict[str, Tensor]) -> nn.Module:
        """Pairs where the kept weights are of pairs, or as begun."""
        factored = any(name.endswith(".Vh") for name in weights)
        if not factored:
            return paired(job, weights)
        return self._same(job, weights) if self.form == "dense" else self.begin(job)

    def _same(self, job: Job, weights: dict[str, Tensor]) -> nn.Module:
        """Layers in SVD form at the ranks that the weights have."""
        ranks = {n: len(weights[f"{n}.S"]) for n in convolutions(job.dense) if f"{n}.S" in weights}
        return lorank.decompose(job.dense, ranks, layout=self.layout)

    def penalty(self, job: Job, model: nn.Module, progress: float) -> Tensor | None:
        """``λ_o·L_o``, with ``λ_s·L_s`` while sparsifying."""
        ramp = min(1.0, 2 * progress / self.sparsify) if progress < self.sparsify else 0.0
        weights = {"orthogonality": self.orthogonality, "sparsity": self.sparsity * ramp}
        if not any(weights.values()) or not _factored(model):
            return None
        return lorank.penalty(model, kind=self.kind, **weights)

    def after_epoch(self, job: Job, model: nn.Module, done: int) -> nn.Module:
        """Cut a step further where a step is due."""
        epochs = job.experiment.schedule.epochs
        if not self.sparsify:
            return model
        if self.form == "dense":
            return self._low(job, model) if done == self._last(epochs) else model
        due = [step for step in range(1, self.steps + 1) if done == self._due(step, epochs)]
        return self._cut(job, model, due[-1] / self.steps) if due else model

    def _due(self, step: int, epochs: int) -> int:
        """The epoch after which a step is made; of several after one epoch only the last is."""
        return max(1, round(self._last(epochs) * step / self.steps))

    def _last(self, epochs: int) -> int:
        """The epoch after which the last cut is made."""
        return max(1, round(self.sparsify * epochs))

    def _cut(self, job: Job, model: nn.Module, share: float) -> nn.Module:
        """Down the cubic schedule, fast first: ``1 − (1 − t)³`` of the way to the budget."""
        eased = 1 - (1 - share) ** 3
        macs = 1 - eased * (1 - job.experiment.budget)
        to_rank, to_cut = self._moments(job, model)
        spectra = lorank.measure(model, job.example, layers=_factored(model), calibration=to_rank)
        ranks = self._ranks(spectra, macs)
        ranks = {n: min(r, spectra[n].values.shape[-1]) for n, r in ranks.items()}
        model = lorank.prune(model, ranks, by=self.by, calibration=to_cut)
        last = share == 1
        return lorank.fold(model, example=job.example) if last and self.plain else model

    def end(self, job: Job, model: nn.Module) -> nn.Module:
        """Plain layers, dense where that is cheaper."""
        model = lorank.fold(model, example=job.example) if _factored(model) else model
        return lorank.recalibrate(model, job.calibration()) if self.renormed else model


def _factored(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, lorank.nn.Factored)]

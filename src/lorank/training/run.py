"""Train: a recipe carried out, from a dense model to a small plain one, resumable at any epoch."""

import copy
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lorank.atomic import replacing
from lorank.compression import (
    Calibration,
    Cost,
    calibrate,
    cost,
    decompose,
    fold,
    measure,
    prune,
    recalibrate,
)
from lorank.compression.trace import Example
from lorank.errors import LorankError, extra
from lorank.files import load, save
from lorank.nn import Factored
from lorank.nn.surgery import opened, sites
from lorank.ranks import Spectra
from lorank.ranks.per_layer import lost
from lorank.training.batches import (
    TrainingData,
    as_trained,
    length,
    mixed,
    test_batches,
    training_batches,
)
from lorank.training.epoch import Actors, Augment, check_weights, laid_out, test_epoch, train_epoch
from lorank.training.invariance import check_layers
from lorank.training.log import Log
from lorank.training.mixup import check_mixing
from lorank.training.objective import CLASSES, Task, check_task
from lorank.training.optimizers import make_optimizer
from lorank.training.recipe import LAST, Cut, Recipe, Stage
from lorank.training.spectra import write_spectra
from lorank.training.state import NAME, State, load_state, save_state
from lorank.training.teacher import check_teacher, fingerprint
from lorank.training.truncation import cut_ranks, step_ranks

DENSE, FACTORED, FOLDED = "dense.safetensors", "svd.safetensors", "model.safetensors"


class Result(NamedTuple):
    """What came out of a run.

    Attributes:
        model: the network in plain torch layers.
        accuracy: its share of right answers on the test data.
        dense_accuracy: that of the dense network that it came from.
        cost: what it costs, on one example.
        dense_cost: what the dense network costs.
        ranks: layer name → rank.
    """

    model: nn.Module
    accuracy: float
    dense_accuracy: float
    cost: Cost
    dense_cost: Cost
    ranks: dict[str, int]


def train(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    folder: str | Path,
    *,
    example: Example | None = None,
    fresh: bool = False,
    quiet: bool = False,
    info: dict[str, Any] | None = None,
    origin: dict[str, Any] | None = None,
    task: Task = CLASSES,
    teacher: nn.Module | None = None,
) -> Result:
    """Carry out a recipe.

    Runs on whatever Hugging Face Accelerate is told to use: one CPU or GPU as it stands, several
    with ``accelerate launch``. After every epoch the folder holds the whole state; a run that was
    killed goes on from there, and on one CPU ends at the same result. A run that has ended is
    not run again.

    Args:
        model: a dense network; it is not changed.
        data: training and test samples (:func:`lorank.zoo.load_data`).
        recipe: what to do.
        folder: where to keep state, log and models; made if needed.
        example: what the model is called with, to count MACs; by default one test sample.
        fresh: forget a run that the folder holds.
        quiet: show nothing.
        info: kept with the saved models.
        origin: kept in the log: ``command``, what was typed, and ``versions`` of programs.
        task: what the network is trained for, by default to tell classes apart. Of another task,
            what logs and results call accuracy is its share of right answers.
        teacher: teaches in every stage with distillation, dense ones too, such as a larger
            network; it is not changed. By default the dense network teaches, from the
            decomposition on.

    Returns:
        The folded network with its figures, the same that ``result.json`` holds.

    Raises:
        LorankError: if a stage has nothing to train, the loss is not finite, a budget cannot be
            reached, the teacher answers in another shape or no stage listens to it, or the folder
            holds another run.
        MissingExtraError: if Accelerate is not installed.
    """
    example = one_sample(data) if example is None else example
    check_precision(model, example)
    if teacher is not None:
        check_precision(teacher, example)
        check_teacher(teacher, model, recipe, example)
    accelerator = _accelerator(recipe)
    folder = _folder(folder)
    if fresh and accelerator.is_main_process:
        (folder / NAME).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    with Log(folder, main=accelerator.is_main_process, quiet=quiet) as log:
        run = _Run(
            accelerator,
            data,
            recipe,
            folder,
            log,
            example,
            info or {},
            model,
            origin,
            task,
            teacher,
        )
        return run.carry_out()


def _accelerator(recipe: Recipe) -> Any:
    """Set the engine up, with all processes that were started.

    Without an accelerator it must be told to join processes on the CPU: it would run each of them
    alone, all writing to one folder.

    Raises:
        LorankError: if it joins other processes than were started.
    """
    engine = extra("accelerate", "train")
    on_cpu = not torch.accelerator.is_available()
    accelerator = engine.Accelerator(mixed_precision=recipe.precision, cpu=on_cpu)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise LorankError(
            f"{started} processes were started, and Accelerate joins {accelerator.num_processes}: "
            "start them with torchrun or accelerate launch"
        )
    return accelerator


def check_precision(model: nn.Module, example: Example) -> None:
    """Refuse a model in another precision than its data.

    Raises:
        LorankError: if the two differ.
    """
    if not isinstance(example, torch.Tensor) or not example.is_floating_point():
        return
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != example.dtype:
            raise LorankError(
                f"training needs weights in the precision of the data, found {name!r} in "
                f"{parameter.dtype} and data in {example.dtype}: call model.to({example.dtype}), "
                'and train in mixed precision by the recipe\'s precision="bf16"'
            )


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LorankError(f"a run needs a folder, and {folder} cannot be one: {error}") from None
    return folder


def one_sample(data: TrainingData) -> Any:
    """Take one test input as a batch of one."""
    if length(data.test) == 0:
        raise LorankError("testing needs at least 1 sample, found 0")
    return data.test[0][0].unsqueeze(0)


class _Run:
    """A recipe on its way: the plain values that its steps share."""

    def __init__(
        self,
        accelerator: Any,
        data: TrainingData,
        recipe: Recipe,
        folder: Path,
        log: Log,
        example: Example,
        info: dict[str, Any],
        dense: nn.Module,
        origin: dict[str, Any] | None = None,
        task: Task = CLASSES,
        teacher: nn.Module | None = None,
    ):
        self.task = task
        self.samples = data.train
        self.accelerator = accelerator
        self.data = data
        self.recipe = recipe
        self.folder = folder
        self.log = log
        device = accelerator.device
        self.example = extra("accelerate.utils", "train").send_to_device(example, device)
        self.info = info
        self.origin = origin or {}
        self.state = State()
        self.taught_by = None if teacher is None else fingerprint(teacher)
        self.teacher = None if teacher is None else self._frozen(teacher)
        self.dense: nn.Module | None = None
        self.before: Spectra | None = None
        self.model = (self._resume(dense) or copy.deepcopy(dense)).to(device)
        workers = recipe.workers
        self.batches = training_batches(data, recipe.batch_size, recipe.seed, workers)
        self.tests = accelerator.prepare(test_batches(data, recipe.batch_size, workers))

    def _resume(self, dense: nn.Module) -> nn.Module | None:
        found = load_state(self.folder, dense, self.recipe)
        self.log.rewind(0 if found is None else found[0].log_bytes)
        if found is None:
            self.log.write(
                "start",
                recipe=self.recipe.model_dump(mode="json"),
                info=self.info,
                processes=self.accelerator.num_processes,
                **self.origin,
            )
            if self.taught_by is not None:
                self.state.facts["teacher"] = self.taught_by
            return None
        self.state, model = found
        if self.state.facts.get("teacher") != self.taught_by:
            raise LorankError(
                f"{self.folder} holds a run with another teacher: give the same one, take another "
                "folder, or start afresh (--fresh)"
            )
        if any(isinstance(m, Factored) for m in model.modules()):
            self._set_dense(load(self.folder / DENSE, dense))
        self.log.console.print(self._where(), highlight=False)
        return model

    def _where(self) -> str:
        """Say where a run that was found goes on."""
        stages = self.recipe.stages
        if self.state.stage >= len(stages):
            return "this run has ended: nothing is trained again"
        return f"resumed at stage {stages[self.state.stage].name!r}, epoch {self.state.epoch + 1}"

    def carry_out(self) -> Result:
        """Run the stages that are left, and give the network back."""
        left = self.recipe.stages[self.state.stage :]
        check_layers(left, self.model)
        check_task(left, self.task)
        check_mixing(left, self.recipe.batch_size, self.samples)
        if not (self.folder / NAME).exists():
            self._keep(0, 0, None)  # so that there is a good state to keep from the first step on
        for index in range(self.state.stage, len(self.recipe.stages)):
            self._stage(index, self.recipe.stages[index])
        return self._finish()

    def _stage(self, index: int, stage: Stage) -> None:
        if stage.form == "svd" and not self._factored():
            self._decompose()
        optimizer = make_optimizer(self.model, stage.optimizer)
        if self.state.optimizer is not None:
            optimizer.load_state_dict(self.state.optimizer)
        actors, batches = self._prepare(optimizer)
        for epoch in range(self.state.epoch, stage.epochs):
            facts = self._epoch(index, stage, epoch, actors, batches)
            check_weights(self.model, stage, epoch)
            if self._truncate(stage, epoch):
                optimizer = make_optimizer(self.model, stage.optimizer)
                actors, batches = self._prepare(optimizer)
            self._report(stage, epoch, facts)
            self._keep(index, epoch + 1, optimizer)
        self._cut(stage)
        self._keep(index + 1, 0, None)

    def _factored(self) -> bool:
        return any(isinstance(m, Factored) for m in self.model.modules())

    def _decompose(self) -> None:
        """Keep the dense network and its figures, then go over to SVD form."""
        self._save(self.model, DENSE)
        self._set_dense(self.model)
        accuracy = self._accuracy(self.model)
        dense = cost(self.model, self.example)
        self.state.facts |= {"dense_accuracy": accuracy, "dense_cost": dense._asdict()}
        layout = self._layout()
        self._keep_spectra(layout)
        self.model = decompose(self.model, layout=layout, skip=self._skip())
        self.log.write(
            "decompose",
            f"dense: accuracy {accuracy:.2%}, {dense.macs:,} MACs, {dense.params:,} parameters",
            accuracy=accuracy,
            cost=dense._asdict(),
        )

    def _skip(self) -> list[str]:
        """Names and patterns of the layers to leave dense."""
        last = sites(opened(self.model))[-1].name
        return [last if name == LAST else name for name in self.recipe.skip]

    def _layout(self) -> str | dict[str, str]:
        """The recipe's layout; where a cut is calibrated, each layer's by what the layer reads."""
        found = {site.name: site.view().layout for site in sites(self.model) if site.factored}
        cuts = [s.cut for s in self.recipe.stages if s.cut is not None and s.cut.calibration]
        if found or not cuts or self.recipe.layout != "auto":
            return found or self.recipe.layout
        spectra = measure(self.model, skip=self._skip(), calibration=self._calibration(cuts[0]))
        return {name: spectrum.layout for name, spectrum in spectra.items()}

    def _keep_spectra(self, layout: str | dict[str, str], ended: bool = False) -> None:
        """Write the spectra of the dense network, at the end with those of the low-rank one."""
        if not self.accelerator.is_main_process:
            return
        assert self.dense is not None  # from the decomposition on
        if self.before is None:
            skip = self._skip()
            self.before = measure(self.dense, self.example, layout=layout, skip=skip)
        after = self._spectra() if ended else None
        write_spectra(self.folder, self.dense, self.before, after)

    def _set_dense(self, dense: nn.Module) -> None:
        """Keep the dense network, which teaches unless somebody else does."""
        self.dense = self._frozen(dense)
        self.teacher = self.teacher or self.dense

    def _frozen(self, network: nn.Module) -> nn.Module:
        frozen = copy.deepcopy(network).to(self.accelerator.device).eval().requires_grad_(False)
        return laid_out(frozen, self.recipe.channels_last)

    def _prepare(self, optimizer: torch.optim.Optimizer) -> tuple[Actors, Any]:
        """Hand model, optimizer and data to the engine; what it held before is let go."""
        self.accelerator.free_memory()
        self.model = laid_out(self.model, self.recipe.channels_last)
        prepared, stepped, batches = self.accelerator.prepare(self.model, optimizer, self.batches)
        last = self.recipe.channels_last
        actors = Actors(
            self.accelerator, prepared, self.model, stepped, self.teacher, last, self.task
        )
        return actors, batches

    def _epoch(
        self, index: int, stage: Stage, epoch: int, actors: Actors, batches: Any
    ) -> dict[str, float]:
        """Train an epoch whose every random number follows from seed, stage, epoch, process."""
        seed = mixed(self.recipe.seed, index, epoch, self.accelerator.process_index)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        self.batches.sampler.epoch = mixed(index, epoch)  # type: ignore[attr-defined]
        bar = self.log.progress.add_task(
            f"{stage.name} {epoch + 1}/{stage.epochs}", total=len(batches), note=""
        )

        def tick(done: int, loss: float) -> None:
            self.log.progress.update(bar, completed=done, note=f"loss {loss:.3f}")

        began = time.perf_counter()
        facts = train_epoch(stage, epoch, actors, batches, self._augment(), generator, tick)
        self.log.progress.remove_task(bar)
        facts["accuracy"] = self._accuracy(actors.prepared)
        facts["seconds"] = round(time.perf_counter() - began, 3)
        return facts

    def _truncate(self, stage: Stage, epoch: int) -> bool:
        """Cut during a stage; says whether the model is a new one."""
        plan = stage.truncation
        if plan is None or (epoch + 1) % plan.every:
            return False
        moments = self._calibration(stage.cut)
        ranks, energy = self._agreed(lambda found: step_ranks(stage, found, epoch + 1), moments)
        smaller = {n: r for n, r in ranks.items() if r < self._ranks()[n]}
        if smaller:
            to_cut = _moments_of_factors(stage.cut, moments)
            self.model = prune(self._plain_model(), smaller, calibration=to_cut)
            kept = {name: energy[name] for name in smaller}
            self.log.write("truncate", ranks=smaller, energy=kept, optimizer="reset")
        return bool(smaller)

    def _cut(self, stage: Stage) -> None:
        cut = stage.cut
        if cut is None:
            return
        moments = self._calibration(cut)
        ranks, energy = self._agreed(lambda spectra: cut_ranks(cut, spectra), moments)
        now = self._ranks()
        ranks = {name: min(rank, now[name]) for name, rank in ranks.items()}
        to_cut = _moments_of_factors(cut, moments)
        self.model = prune(self._plain_model(), ranks, by=cut.by, calibration=to_cut)
        found = cost(self.model, self.example)
        dense = self.state.facts["dense_cost"]
        self.log.write(
            "cut",
            f"{stage.name}: cut to {share(found.macs, dense['macs'])} of the MACs, "
            f"{share(found.params, dense['params'])} of the parameters",
            ranks=ranks,
            cost=found._asdict(),
            **({"energy": energy} if cut.by == "product" else {}),
        )

    def _calibration(self, cut: Cut | None) -> Calibration | None:
        """What the layers read, summed over all processes; ``None`` where no cut asks for it."""
        if cut is None or not cut.calibration:
            return None
        model = laid_out(self._plain_model(), self.recipe.channels_last)
        batches = (
            laid_out(images, self.recipe.channels_last) for images in self._some(cut.calibration)
        )
        return calibrate(model, batches, seed=self.recipe.seed)

    def _agreed(
        self, choose: Any, moments: Calibration | None = None
    ) -> tuple[dict[str, int], dict[str, float]]:
        """Ranks chosen by the main process for all: rounding must not tear processes apart.

        With them comes the share of energy that each of them keeps.
        """
        chosen: list[Any] = [None]
        if self.accelerator.is_main_process:
            spectra = self._spectra(moments)
            ranks = choose(spectra)
            gone = {name: lost(spectra[name]) for name in ranks}
            # A layer that was cut before may have fewer values than its rank.
            kept = {n: 1 - float(gone[n][min(r, len(gone[n]) - 1)]) for n, r in ranks.items()}
            chosen = [(ranks, kept)]
        if self.accelerator.num_processes > 1:
            extra("accelerate.utils", "train").broadcast_object_list(chosen)
        return chosen[0]

    def _spectra(self, moments: Calibration | None = None) -> Spectra:
        layers = [name for name in self._ranks() if moments is None or name in moments]
        return measure(self._plain_model(), self.example, layers=layers, calibration=moments)

    def _plain_model(self) -> nn.Module:
        """The model without what the engine wrapped around it."""
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _ranks(self) -> dict[str, int]:
        return {site.name: site.module.rank for site in sites(self.model) if site.factored}

    def _report(self, stage: Stage, epoch: int, facts: dict[str, float]) -> None:
        ranks = self._ranks()
        total = sum(ranks.values())
        penalties = ("orthogonality", "sparsity", "operator_norm", "invariance")
        about = "".join(f", {name} {facts[name]:.3g}" for name in penalties if name in facts)
        sentence = (
            f"{stage.name} {epoch + 1}/{stage.epochs}: loss {facts['loss']:.3f}{about}, "
            f"accuracy {facts['accuracy']:.2%}" + (f", ranks sum to {total}" if ranks else "")
        )
        self.log.write("epoch", sentence, stage=stage.name, epoch=epoch + 1, **facts, ranks=ranks)
        step = self.recipe.stages.index(stage) * 1000 + epoch
        self.log.curves(step, facts | {"ranks": float(total)})

    def _keep(self, stage: int, epoch: int, optimizer: torch.optim.Optimizer | None) -> None:
        self.state.stage, self.state.epoch = stage, epoch
        self.state.optimizer = None if optimizer is None else optimizer.state_dict()
        self.state.log_bytes = self.log.size
        if self.accelerator.is_main_process:
            save_state(self.folder, self.state, self._plain_model(), self.recipe)
        self.accelerator.wait_for_everyone()
        self.state.optimizer = None

    def _accuracy(self, model: nn.Module) -> float:
        model = laid_out(model.to(self.accelerator.device), self.recipe.channels_last)
        last = self.recipe.channels_last
        return test_epoch(self.accelerator, model, self.tests, last, self.task)

    def _save(self, model: nn.Module, name: str) -> None:
        if self.accelerator.is_main_process:
            save(model, self.folder / name, info=self.info)

    def _finish(self) -> Result:
        if not self._factored():
            self._decompose()
        model = self._plain_model()
        self._keep_spectra(self._layout(), ended=True)
        self._save(model, FACTORED)
        ranks = self._ranks()
        folded = fold(model, multiple=self.recipe.multiple, example=self.example)
        if self.recipe.recalibrate:
            some = self._some(self.recipe.recalibrate)
            recalibrate(folded, as_trained(some, self._augment(), self.recipe.seed))
        accuracy = self._accuracy(folded)
        small, dense = cost(folded, self.example), Cost(**self.state.facts["dense_cost"])
        self._save(folded, FOLDED)
        before = self.state.facts["dense_accuracy"]
        result = Result(folded.cpu(), accuracy, before, small, dense, ranks)
        self._write_result(result)
        return result

    def _augment(self) -> Augment:
        return self.data.augment if self.recipe.augment else None

    def _some(self, count: int) -> list[torch.Tensor]:
        """The first batches of inputs, where the model is."""
        self.batches.sampler.epoch = 0  # type: ignore[attr-defined]
        device = self.accelerator.device
        few = zip(self.batches, range(count), strict=False)
        return [images.to(device) for (images, _), _ in few]

    def _write_result(self, result: Result) -> None:
        facts = {
            "accuracy": result.accuracy,
            "dense_accuracy": result.dense_accuracy,
            "cost": result.cost._asdict(),
            "dense_cost": result.dense_cost._asdict(),
            "ranks": result.ranks,
        }
        if self.accelerator.is_main_process:
            with replacing(self.folder / "result.json") as draft:
                draft.write_text(json.dumps(facts, indent=2) + "\n")
        small, dense = result.cost, result.dense_cost
        self.log.write(
            "end",
            f"low-rank: accuracy {result.accuracy:.2%} (dense {result.dense_accuracy:.2%}) at "
            f"{share(small.macs, dense.macs)} of the MACs, "
            f"{share(small.params, dense.params)} of the parameters",
            **facts,
        )


def share(part: int | None, whole: int | None) -> str:
    """Write a share in percent.

    Example:
        >>> share(1, 8)
        '12.5 %'
    """
    return "an unknown share" if not part or not whole else f"{part / whole:.1%}".replace("%", " %")


def _moments_of_factors(cut: Cut | None, moments: Calibration | None) -> Calibration | None:
    """What factors are cut by: the moments that chose the ranks, or the weights alone."""
    return moments if cut is not None and cut.factors == "data" else None

"""The loop that trains every method: one schedule, one teacher, one resumable state."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lorank
from cifar10.data import Part, View, normalised, seen_images, to, view
from cifar10.job import Job, Method
from cifar10.plan import Schedule
from cifar10.teachers import Teachers
from lorank.atomic import replacing
from lorank.nn import Factored
from lorank.training.batches import mixed
from lorank.training.objective import distillation_loss
from lorank.training.optimizers import make_optimizer, rate, set_rate

JUDGED = 1000  # images a batch
STATE = "state.pt"


@dataclass
class Progress:
    """What a run knows of itself beside its weights."""

    epoch: int = 0
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)


def fit(
    job: Job, method: Method, folder: Path, teachers: Path, compiled: bool
) -> tuple[nn.Module, Progress]:
    """Train a method by its schedule, from where the folder's state left off; give it folded."""
    schedule = job.experiment.schedule
    began = time.perf_counter()
    model, optimizer, progress = _started(job, method, folder)
    if not progress.epoch:
        progress.seconds = time.perf_counter() - began
    answers = Teachers(schedule.teacher, job.cifar, schedule.mix, teachers, job.bfloat16)
    for epoch in range(progress.epoch, schedule.epochs):
        taught = _taught(answers, schedule, epoch)  # its cost is shared by all runs: not counted
        began = time.perf_counter()
        facts = _epoch(job, method, model, optimizer, epoch, taught, compiled)
        changed = method.after_epoch(job, model, epoch + 1)
        if changed is not model:
            model = changed.to(job.device, memory_format=torch.channels_last)
            optimizer = _optimizer(job, method, model)
        progress.epoch = epoch + 1
        progress.seconds += time.perf_counter() - began
        progress.log.append(facts)
        print(f"{job.experiment.name} {epoch + 1}/{schedule.epochs}", facts, flush=True)
        _keep(job, model, optimizer, progress, folder)
    return method.end(job, model).to(job.device), progress


def _taught(answers: Teachers, schedule: Schedule, epoch: int) -> tuple[View, Tensor | None]:
    number = epoch % schedule.views
    cifar = answers.cifar
    said = answers(number) if schedule.distillation is not None else None
    seen = view(number, schedule.mix, cifar.train.places)
    return to(seen, cifar.padded.device), said


def _epoch(
    job: Job,
    method: Method,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    taught: tuple[View, Tensor | None],
    compiled: bool,
) -> dict[str, Any]:
    """One pass over the training images; every random number follows from seed and epoch."""
    schedule, train, device = job.experiment.schedule, job.cifar.train, job.device
    seen, answers = taught
    generator = torch.Generator().manual_seed(mixed(job.experiment.seed, epoch))
    order = torch.randperm(len(train.labels), generator=generator).to(device)
    batches = order[: len(order) // schedule.batch * schedule.batch].split(schedule.batch)
    run = torch.compile(model) if compiled else model
    model.train()
    total = torch.zeros((), device=device)
    for step, some in enumerate(batches):
        progress = (epoch + step / len(batches)) / schedule.epochs
        set_rate(optimizer, rate(schedule.optimizer, progress))
        places = train.places[some]
        with job.autocast():
            outputs = run(seen_images(job.cifar, places, seen))
        loss = task_loss(outputs.float(), job.cifar.whole, places, seen, answers, schedule)
        term = method.penalty(job, model, progress)
        total += loss.detach()
        optimizer.zero_grad()
        (loss if term is None else loss + term).backward()
        if schedule.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), schedule.optimizer.clip)
        optimizer.step()
        method.after_step(job, model, epoch * len(batches) + step + 1)
    mean = float(total) / len(batches)
    if mean != mean or mean == float("inf"):
        raise SystemExit(f"{job.experiment.name}: the loss is {mean} in epoch {epoch + 1}")
    return {"loss": round(mean, 4), **sizes(model)}


def sizes(model: nn.Module) -> dict[str, int]:
    """Sum of the ranks of layers in SVD form: a cut must be seen to have happened."""
    ranks = [m.rank for m in model.modules() if isinstance(m, Factored)]
    return {"ranks": sum(ranks)} if ranks else {}


def task_loss(
    outputs: Tensor,
    whole: Part,
    places: Tensor,
    seen: View,
    answers: Tensor | None,
    schedule: Schedule,
) -> Tensor:
    """Cross-entropy with the labels, those of the mixed-in image by its share, and the teacher."""
    smoothing = schedule.smoothing
    task = F.cross_entropy(outputs, whole.labels[places], label_smoothing=smoothing)
    if seen.share is not None and seen.partner is not None:
        share = seen.share[places]
        own, other = (
            F.cross_entropy(outputs, whole.labels[of], label_smoothing=smoothing, reduction="none")
            for of in (places, seen.partner[places])
        )
        task = torch.lerp(own, other, share).mean()
    if answers is None or schedule.distillation is None:
        return task
    told = schedule.distillation
    learnt = distillation_loss(outputs, answers[places], told.temperature, others=told.others)
    return torch.lerp(task, learnt, told.weight)


def _keep(job: Job, model: nn.Module, optimizer: Any, progress: Progress, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ranks = {n: m.rank for n, m in model.named_modules() if isinstance(m, Factored)}
    state = {
        "settings": job.settings(),
        "model": model.state_dict(),
        "ranks": ranks,
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress),
    }
    with replacing(folder / STATE) as draft:
        torch.save(state, draft)


def _started(
    job: Job, method: Method, folder: Path
) -> tuple[nn.Module, torch.optim.Optimizer, Progress]:
    """The model as begun, or cut and filled as the state has it."""
    path = folder / STATE
    if not path.exists():
        model = method.begin(job).to(job.device, memory_format=torch.channels_last)
        return model, _optimizer(job, method, model), Progress()
    # On the CPU: Adam's count of steps would be read back from a GPU in every step.
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state.get("settings") != job.settings():
        raise SystemExit(
            f"{job.experiment.name} has a state of other settings in {folder}: --again starts anew"
        )
    model = method.again(job, state["model"])
    now = {n: m.rank for n, m in model.named_modules() if isinstance(m, Factored)}
    if state["ranks"] != now:
        model = lorank.prune(model, state["ranks"])
    model = model.to(job.device, memory_format=torch.channels_last)
    model.load_state_dict(state["model"])
    optimizer = _optimizer(job, method, model)
    optimizer.load_state_dict(state["optimizer"])
    return model, optimizer, Progress(**state["progress"])


def _optimizer(job: Job, method: Method, model: nn.Module) -> torch.optim.Optimizer:
    plain = make_optimizer(model, job.experiment.schedule.optimizer)
    return method.optimizer(job, model, plain)


@torch.inference_mode()
def judge(model: nn.Module, part: Part) -> float:
    """Share of right answers, images as they are, in the weights' own precision."""
    model = model.to(memory_format=torch.channels_last).eval()
    right = 0
    for images, labels in zip(part.images.split(JUDGED), part.labels.split(JUDGED), strict=True):
        right += int((model(normalised(images)).argmax(1) == labels).sum())
    return right / len(part.labels)

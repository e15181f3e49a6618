"""Reconstruction tasks against a scaled output layer, on faces: LFPW, 68 points, 50 × 50 pixels.

Two settings. *Published*: sigmoid and tanh units, SGD with momentum at a constant rate, one update
for each task with an optimizer of its own, summed reconstruction losses, weight decay in the tasks
only, codes centred over the batch; 1,000 epochs at 0.001 are compressed to fewer at a rate as many
times larger; also on faces of 25 × 25, with more epochs at a lower rate, and in the published
network, with hidden layers 1025-512-64. *Modern*: ReLU, AdamW, a
cosine, one joint loss with averaged reconstruction losses, annealed to zero at half of the
training, every labelled face also in a mirror, and 30 % of the pixels dropped; the learning rate of
every arm is chosen alike, from one grid that grows at its ends, by the area under the curve on the
135 validation images of the first seed, and of three seeds where labels are few; they also choose
the epoch. A seed sets the split, the initial weights and
the order of the batches, the same for all arms. Only the chosen runs see the test images, once
each. The mean shape checks the protocol.

Runs resume: each ends as one JSON file and one file of weights in the folder of runs. --settings
runs some of the settings, and keeps what the last record says of the others. The pictures are read
from the folder of real data and never written anywhere.
"""

import argparse
import json
import shlex
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lorank.atomic import replacing
from lorank.structured.arms import ARMS, Arm, modern, perceptron, published, published_plan
from lorank.structured.fit import Fitted, Plan, fit
from lorank.structured.points import Landed, landed, point_errors
from lorank.zoo.landmarks import Faces, landmarks, mirrored, read_faces
from record import RESULTS, data_folder, record

HELD = 135
HIDDEN = (256, 128, 64)
BENT = ("sigmoid", "sigmoid", "tanh", "tanh")
RATES = (3e-4, 1e-3, 3e-3)
LADDER = (3e-5, 1e-4, *RATES, 1e-2, 3e-2)
DROPPED = 0.3
CHOOSING = 3
"""Seeds whose validation images choose the learning rate, with fewer than 300 labels."""
PUBLISHED = ("sup", "in", "out", "in+out", "sup, rate ×10")
HALVED = "published, 25×25"
"""The published setting on faces of half the side: a quarter of the inputs, more epochs."""
LARGE = "published, 1025-512-64"
"""The published setting in the published network, which is eleven times as large."""
SETTINGS = ("modern", "published", HALVED, LARGE)
MODERN = (
    *("sup", "scaled sup", "in", "out", "in+out"),
    *("scaled sup, label PCA", "scaled sup, kept", "centred, zero weights"),
    "scaled in+out",
)
MORE = ("in+out, more faces", "scaled sup, label PCA, more shapes")
"""Arms with images and shapes of HELEN as unlabelled data; for few labels only."""


class Sets(NamedTuple):
    """Training faces, test faces, and faces of another set."""

    train: Faces
    test: Faces
    more: Faces


class Run(NamedTuple):
    """One training run; mirror and dropped are of the modern setting."""

    setting: str
    arm: str
    labels: int
    seed: int
    rate: float
    epochs: int
    mirror: bool = True
    dropped: float = DROPPED

    @property
    def key(self) -> str:
        words = "".join(c if c.isalnum() else "-" for c in self.arm)
        about = f"{self.labels}-{self.seed}-{self.rate:.0e}-{self.epochs}"
        setting = self.setting.replace(", 25×25", "25").replace(", 1025-512-64", "1025")
        plain = ("" if self.mirror else "-plain") + ("" if self.dropped == DROPPED else "-whole")
        return f"{setting}-{words}-{about}{plain}"

    @property
    def as_published(self) -> bool:
        return self.setting != "modern"


def shown(run: Run, faces: Faces) -> Faces:
    """The faces in the size that a run reads."""
    if run.setting != HALVED:
        return faces
    return faces._replace(x=avg_pool2d(faces.x.view(-1, 1, 50, 50), 2).flatten(1))


def split(run: Run, sets: Sets) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to choose by, drawn by the seed."""
    order = torch.randperm(len(sets.train.x), generator=torch.Generator().manual_seed(run.seed))
    return order[HELD:][: run.labels], order[:HELD]


def network(run: Run) -> nn.Sequential:
    torch.manual_seed(run.seed)
    hidden = (1025, 512, 64) if run.setting == LARGE else HIDDEN
    sizes = (625 if run.setting == HALVED else 2500, *hidden, 136)
    if run.as_published:
        return perceptron(sizes, BENT, published=True)
    return perceptron(sizes, dropout=run.dropped)


def train(run: Run, sets: Sets) -> tuple[nn.Sequential, Fitted]:
    rows, held = split(run, sets)
    model = network(run)
    faces, judging = (shown(run, chosen_rows(sets.train, some)) for some in (rows, held))
    if run.setting == "modern" and run.mirror:
        faces = joined(faces, mirrored(faces))
    x, y = faces.x, faces.y
    more = sets.more if "more" in run.arm else None
    arm = ARMS.get(run.arm.split(", more")[0].split(", rate")[0], Arm())
    if run.as_published:
        whole = published(arm, model, run.epochs, seed=run.seed)
        plan = published_plan(run.epochs).with_rate(run.rate)
    else:
        labels = y if more is None else torch.cat([y, more.y])
        whole = modern(arm, model, labels, run.epochs, seed=run.seed)
        plan = Plan(epochs=run.epochs, batch_size=batch_size(run.labels), learning_rate=run.rate)
    done = fit(
        whole,
        x,
        y,
        plan,
        x_only=more.x if more is not None and "in" in arm.tasks else None,
        y_only=more.y if more is not None and "out" in arm.tasks else None,
        valid=(judging.x, judging.y),
        seed=run.seed,
    )
    return model, done


def batch_size(labels: int) -> int:
    """Larger batches for more labels: the number of updates stays in hand."""
    return 32 if labels > 300 else 16


def joined(a: Faces, b: Faces) -> Faces:
    return Faces(*(torch.cat(parts) for parts in zip(a, b, strict=True)))


@torch.no_grad()
def worth(model: nn.Module, faces: Faces) -> Landed:
    return landed(point_errors(model.eval()(faces.x), faces.y, faces.sides))


def chosen_rows(faces: Faces, rows: Tensor) -> Faces:
    return Faces(*(part[rows] for part in faces))


def finished(run: Run, sets: Sets, folder: Path) -> dict[str, Any]:
    """The line of a run, trained unless it is there."""
    place = folder / f"{run.key}.json"
    if place.exists():
        return json.loads(place.read_text())
    began = time.process_time()
    model, done = train(run, sets)
    seconds = time.process_time() - began
    valid = worth(model, shown(run, chosen_rows(sets.train, split(run, sets)[1])))
    save_file(dict(model.state_dict()), folder / f"{run.key}.safetensors")
    row = run._asdict() | {
        "valid_auc": valid.auc,
        "best_epoch": done.best,
        "updates": done.updates,
        "cpu_seconds": round(seconds, 1),
    }
    with replacing(place) as draft:
        draft.write_text(json.dumps(row))
    print(row, flush=True)
    return row


def judged(run: Run, sets: Sets, folder: Path) -> dict[str, Any]:
    """A chosen run with its figures on the test images."""
    row = finished(run, sets, folder)
    if "auc" not in row:
        model = network(run)
        model.load_state_dict(load_file(folder / f"{run.key}.safetensors"))
        row |= worth(model, shown(run, sets.test))._asdict()
        with replacing(folder / f"{run.key}.json") as draft:
            draft.write_text(json.dumps(row))
        print(run.key, {k: round(row[k], 4) for k in ("cdf", "auc", "nrmse")}, flush=True)
    return row


def best_rate(arm: str, labels: int, epochs: int, sets: Sets, folder: Path) -> float:
    """The learning rate of the best area on the validation images.

    With few labels one seed says little, and the mean of three chooses. The grid grows where the
    best lies at its end.
    """
    seeds = CHOOSING if labels < 300 else 1
    found: dict[float, float] = {}
    rates = list(RATES)
    while rates:
        for rate in rates:
            runs = [Run("modern", arm, labels, seed, rate, epochs) for seed in range(seeds)]
            areas = [finished(run, sets, folder)["valid_auc"] for run in runs]
            found[rate] = statistics.fmean(areas)
        best = max(found, key=found.__getitem__)
        rates = [r for r in LADDER if r not in found and next_to(r, best)]
    return max(found, key=found.__getitem__)


def next_to(rate: float, best: float) -> bool:
    return abs(LADDER.index(rate) - LADDER.index(best)) == 1


def mean_shape(sets: Sets) -> dict[str, Any]:
    mean = sets.train.y.mean(0).expand_as(sets.test.y)
    found = landed(point_errors(mean, sets.test.y, sets.test.sides))
    return {"setting": "mean shape", "arm": "mean shape"} | found._asdict()


def planned(args: argparse.Namespace, sets: Sets, folder: Path) -> Iterator[Run]:
    """The runs of the settings asked for, arm by arm; learning rates are chosen on the way."""
    for labels in sorted(args.labels if "modern" in args.settings else ()):
        few = labels < 300
        epochs = args.few_epochs if few else args.epochs
        for arm in (*MODERN, *(MORE if few else ())):
            rate = best_rate(arm, labels, epochs, sets, folder)
            for seed in range(args.seeds):
                yield Run("modern", arm, labels, seed, rate, epochs)
    for setting, epochs in (
        ("published", args.published_epochs),
        (HALVED, args.halved_epochs),
        (LARGE, args.large_epochs),
    ):
        for arm in PUBLISHED if setting in args.settings else ():
            rate = (10 if "×10" in arm else 1) / epochs
            for seed in range(args.large_seeds if setting == LARGE else args.seeds):
                yield Run(setting, arm, max(args.labels), seed, rate, epochs)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation over seeds, and the paired difference to plain supervised training."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["setting"], row["labels"], row["arm"]), []).append(row)
    made = []
    for (setting, labels, arm), found in groups.items():
        base = {r["seed"]: r["auc"] for r in groups.get((setting, labels, "sup"), [])}
        gaps = [r["auc"] - base[r["seed"]] for r in found if r["seed"] in base]
        line = {"setting": setting, "labels": labels, "arm": arm, "rate": found[0]["rate"]}
        for name in ("cdf", "auc", "nrmse"):
            line[name] = mean_and_deviation([r[name] for r in found])
        line["gain"] = mean_and_deviation(gaps)
        line["better"] = sum(gap > 0 for gap in gaps)
        line["seeds"] = len(found)
        made.append(line)
    return made


def mean_and_deviation(values: list[float]) -> list[float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return [round(statistics.fmean(values), 5), round(deviation, 5)]


def recorded(settings: tuple[str, ...]) -> list[dict[str, Any]]:
    """What the last record says of some settings."""
    if not settings:
        return []
    rows = json.loads((RESULTS / "structured.json").read_text())["figures"]["runs"]
    return [row for row in rows if row["setting"] in settings]


def load(folder: Path) -> Sets:
    train, test = landmarks(folder, "lfpw")
    return Sets(train, test, read_faces(folder / "helen_train.npz"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 670])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--few-epochs", type=int, default=60, help="with fewer than 300 labels")
    parser.add_argument("--published-epochs", type=int, default=60)
    parser.add_argument("--halved-epochs", type=int, default=100, help="on faces of 25 × 25")
    parser.add_argument("--large-epochs", type=int, default=100, help="in the published network")
    parser.add_argument("--large-seeds", type=int, default=2)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--quick", action="store_true", help="two epochs and seeds, no JSON")
    parser.add_argument("--runs", default="runs/structured")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs, args.few_epochs = 2, 2, 2
        args.published_epochs, args.halved_epochs, args.large_epochs = 2, 2, 2
    torch.set_num_threads(1)
    folder = Path(args.runs)
    folder.mkdir(parents=True, exist_ok=True)
    sets = load(data_folder() / "landmarks")
    rows = [judged(run, sets, folder) for run in planned(args, sets, folder)]
    if not args.quick:
        rows += recorded(tuple(s for s in SETTINGS if s not in args.settings))
    figures = {
        "mean_shape": mean_shape(sets),
        "hidden": HIDDEN,
        "rates": RATES,
        "summary": summary(rows),
        "runs": rows,
    }
    if args.quick:
        print(json.dumps({k: figures[k] for k in ("mean_shape", "summary")}, indent=1))
        return
    names = ("labels", "seeds", "epochs", "few_epochs", "published_epochs", "halved_epochs")
    names += ("large_epochs", "large_seeds")
    settings = {name: getattr(args, name) for name in names}
    words = ["python", "benchmarks/structured.py"]
    record("structured", figures, command=shlex.join(words), **settings)


if __name__ == "__main__":
    main()

"""Read the declarative file: suites of network × method × budget × seed, and how they train."""

import itertools
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field

from lorank.training.recipe import Distillation, Optimizer, Part

FILE = Path(__file__).with_name("experiments.toml")


class Schedule(Part):
    """How every method of a suite trains after it has begun.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        optimizer: of all weights; its rate follows the share of all epochs done.
        distillation: share, temperature and weight of other classes of the teacher, or none.
        teacher: published networks joined by ``+``; the mean of their logits teaches.
        views: how many augmented copies of the training images there are; epochs take turns, and
            what the teacher says of a copy is asked once and kept.
        mix: largest share of another image in an image (mixup); 0 for none.
        smoothing: of the labels.
        images: training images, drawn by the seed; none for all.
        holdout: judge on 5,000 training images that are kept out, never on the test images.
    """

    epochs: int = Field(ge=0)
    batch: int = Field(default=128, ge=1)
    optimizer: Optimizer = Optimizer()
    distillation: Distillation | None = None
    teacher: str = "resnet56"
    views: int = Field(default=16, ge=1)
    mix: float = Field(default=0.0, ge=0, le=0.5)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    images: int | None = Field(default=None, ge=1)
    holdout: bool = False


class Experiment(Part):
    """One row to be: what is trained, by what, to which share of the MACs, from which seed.

    Attributes:
        base: the experiment whose kept network it starts from; none for the published weights.
    """

    suite: str
    network: str
    method: str
    budget: float = Field(gt=0, le=1)
    seed: int
    use: str
    options: dict[str, Any]
    schedule: Schedule
    base: str | None = None

    @property
    def name(self) -> str:
        """Its name for patterns and for the folder of its run."""
        return f"{self.suite}/{self.network}/{self.method}/{self.budget:g}/{self.seed}"

    def asked(self) -> dict[str, Any]:
        """All that its result depends on beside its name, in plain values."""
        return self.model_dump(mode="json", include={"use", "options", "schedule", "base"})


def experiments(file: Path = FILE) -> list[Experiment]:
    """All rows that the file asks for, in its order."""
    content = tomllib.loads(file.read_text())
    found = []
    for suite, asked in content["suites"].items():
        schedule = content["schedules"][asked["schedule"]]
        order = (asked[name] for name in ("networks", "budgets", "methods", "seeds"))
        found += [
            _one(content, schedule, suite, network, method, budget, seed)
            for network, budget, method, seed in itertools.product(*order)
        ]
    return found


def _one(
    content: dict[str, Any],
    schedule: dict[str, Any],
    suite: str,
    network: str,
    method: str,
    budget: float,
    seed: int,
) -> Experiment:
    """A row; what a method says of the schedule comes before what the suite says."""
    settings = dict(content["methods"][method])
    base = content["suites"][suite].get("base")
    use, changes = settings.pop("use"), settings.pop("schedule", {})
    return Experiment(
        suite=suite,
        network=network,
        method=method,
        budget=budget,
        seed=seed,
        use=use,
        options=settings,
        schedule=Schedule.model_validate(joined(schedule, changes)),
        base=base and base.format(network=network, seed=seed),
    )


def joined(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Lay changes over a table, table by table; ``"none"`` takes an entry out.

    Example:
        >>> joined({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "d": "none"})
        {'a': {'b': 5, 'c': 2}}
    """
    out = dict(base)
    for key, value in changes.items():
        if value == "none":
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = joined(out[key], value)
        else:
            out[key] = value
    return out

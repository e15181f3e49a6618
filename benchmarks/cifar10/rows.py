"""The rows: one JSON line a result, and the commands that make them again."""

import json
import shlex
from pathlib import Path
from typing import Any

from cifar10.methods import METHODS
from cifar10.plan import Experiment, Schedule
from record import RESULTS

ROWS = RESULTS / "cifar10.jsonl"

Row = dict[str, Any]


def rows(path: Path = ROWS) -> list[Row]:
    """The rows that are there; of several with one name the last."""
    lines = path.read_text().splitlines() if path.exists() else []
    return list({row["experiment"]: row for row in map(json.loads, lines)}.values())


def add(row: Row, path: Path = ROWS) -> None:
    """Append a line in one write: processes side by side do not tear each other's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def command(name: str, row: Row, *, again: bool = False) -> str:
    """What makes a row, or others like it, again.

    Example:
        >>> row = {"device": "CPU", "threads": 1, "precision": "bfloat16"}
        >>> command("brief/*", row)
        "OMP_NUM_THREADS=1 python benchmarks/cifar10/run.py --device cpu --bfloat16 'brief/*'"
    """
    cpu, half = row["device"] == "CPU", row.get("precision") == "bfloat16"
    words = [f"OMP_NUM_THREADS={row['threads']}"] if cpu else []
    words += ["python", "benchmarks/cifar10/run.py", "--device", "cpu" if cpu else "cuda"]
    if half == cpu:  # the other one is the device's own
        words.append("--bfloat16" if half else "--no-bfloat16")
    words += ["--compile"] if row.get("compiled") else []
    words += ["--again"] if again else []
    return " ".join([*words, shlex.quote(name)])


def made_otherwise(row: Row, plan: dict[str, Experiment]) -> bool:
    """Whether a row is not what the plan asks for under its name, defaults included."""
    asked = plan.get(row["experiment"])
    if asked is None or (row["use"], row["base"]) != (asked.use, asked.base):
        return True
    try:
        settings = vars(METHODS[row["use"]](**row["options"]))
        schedule = Schedule.model_validate(row["schedule"])
    except (TypeError, ValueError):  # an option that is gone
        return True
    return settings != vars(METHODS[asked.use](**asked.options)) or schedule != asked.schedule

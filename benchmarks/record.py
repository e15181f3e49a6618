"""Write a benchmark's figures as JSON, with what is needed to judge and repeat them."""

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

import lorank
from lorank.atomic import replacing

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def record(name: str, figures: Any, *, command: str | None = None, **settings: Any) -> Path:
    """Write ``docs/results/NAME.json``; the folder's tables are made from these files.

    The command recorded is the one that runs, or another that makes all of the figures.
    """
    content = {
        "benchmark": name,
        "command": command or _command(),
        "date": time.strftime("%Y-%m-%d"),
        "lorank": lorank.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "settings": settings,
        "figures": figures,
    }
    path = RESULTS / f"{name}.json"
    RESULTS.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {path.name}")
    return path


def _command() -> str:
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments()])


def arguments() -> list[str]:
    """The command's arguments, without the folder where runs are kept on this machine."""
    words = sys.argv[1:]
    if "--runs" in words:
        place = words.index("--runs")
        del words[place : place + 2]
    return words


def data_folder() -> Path:
    """Where the real data lie: the environment's LORANK_DATA, or ../shared/data."""
    import os

    folder = Path(os.environ.get("LORANK_DATA", RESULTS.parents[2] / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"this benchmark needs real data: set LORANK_DATA (looked in {folder.name})")
    return folder

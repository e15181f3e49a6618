"""The state of a run on disk: one file, replaced as a whole after every epoch."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from lorank.atomic import replacing
from lorank.errors import LorankError
from lorank.files.structure import LayerTable, describe, rebuild
from lorank.training.recipe import Recipe

NAME = "state.pt"
VERSION = 1


@dataclass
class State:
    """Where a run stands: everything that a resumed run needs besides model, data and recipe.

    Attributes:
        stage: index of the stage to go on with.
        epoch: epochs of it that are done.
        optimizer: the optimizer's own state, or ``None`` at the start of a stage.
        log_bytes: length of the log that belongs to this state.
        facts: figures found so far, for the result.
    """

    stage: int = 0
    epoch: int = 0
    optimizer: dict[str, Any] | None = None
    log_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


def save_state(folder: Path, state: State, model: nn.Module, recipe: Recipe) -> None:
    """Write the state atomically: after a crash the folder holds the last whole one."""
    content = {
        "version": VERSION,
        "recipe": recipe.model_dump_json(),
        "layers": json.dumps(describe(model)),
        "model": model.state_dict(),
        "stage": state.stage,
        "epoch": state.epoch,
        "optimizer": state.optimizer,
        "log_bytes": state.log_bytes,
        "facts": json.dumps(state.facts),
    }
    with replacing(folder / NAME) as draft:
        torch.save(content, draft)


def load_state(
    folder: Path, dense_model: nn.Module, recipe: Recipe
) -> tuple[State, nn.Module] | None:
    """Read the state of a run, and the model in it; ``None`` when there is no run yet.

    Only tensors and plain values are read (``weights_only``): a state file cannot run code.

    Raises:
        LorankError: if the file is damaged, belongs to another recipe, or does not fit the model.
    """
    path = folder / NAME
    if not path.exists():
        return None
    content = _read(path)
    if not _same(content["recipe"], recipe):
        raise LorankError(
            f"{folder} holds a run of another recipe: take another folder, "
            "or start afresh (--fresh)"
        )
    model = _model(path, dense_model, json.loads(content["layers"]), content["model"])
    state = State(
        content["stage"],
        content["epoch"],
        content["optimizer"],
        content["log_bytes"],
        json.loads(content["facts"]),
    )
    return state, model


def _same(kept: str, recipe: Recipe) -> bool:
    """Whether a kept recipe asks for the same; a setting that came later has its default there."""
    try:
        return Recipe.model_validate_json(kept) == recipe
    except ValidationError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        if content["version"] != VERSION:
            raise LorankError(f"{path} has version {content['version']}, expected {VERSION}")
    except LorankError:
        raise
    except Exception as error:
        raise LorankError(
            f"{path} is not a whole state of a run ({type(error).__name__}): "
            "start afresh (--fresh), or put back a copy"
        ) from None
    return content


def _model(
    path: Path, dense_model: nn.Module, table: LayerTable, tensors: dict[str, Any]
) -> nn.Module:
    model = rebuild(dense_model, table)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise LorankError(f"{path} does not fit the model: {str(error)[:300]}") from None
    return model

"""What every saved network says about itself: format, version, which names are one tensor."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from lorank.errors import LorankError

FORMAT = "lorank"
VERSION = 1


def manifest_text(manifest: dict[str, Any]) -> str:
    """Write a manifest as JSON.

    Raises:
        LorankError: if it holds more than JSON can.
    """
    try:
        return json.dumps(manifest, indent=2)
    except (TypeError, ValueError) as error:
        raise LorankError(f"info must be what JSON can hold: {error}") from error


def tied_names(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """List tensors by name, each once, and the other names of those that are shared.

    Raises:
        LorankError: if one is on the meta device, sparse, or no tensor.
    """
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise LorankError(
                f"a model is saved as tensors, and {name!r} is a {type(value).__name__}"
            )
        if value.device.type == "meta":
            raise LorankError(f"a model is saved with its weights, and {name!r} is on meta")
        if value.layout is not torch.strided:
            raise LorankError(f"a model is saved as dense tensors, and {name!r} is sparse")
        if id(value) in seen:
            tied[name] = seen[id(value)]
        else:
            seen[id(value)] = name
            tensors[name] = value.detach()
    return tensors, tied

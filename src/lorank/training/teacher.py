"""A teacher of one's own: does it fit, and is it the same when a run goes on?"""

import hashlib

import torch
from torch import Tensor, nn

from lorank.compression.trace import Example, describe, evaluating, run
from lorank.errors import LorankError
from lorank.training.recipe import Recipe


def check_teacher(teacher: nn.Module, model: nn.Module, recipe: Recipe, example: Example) -> None:
    """Refuse a teacher that cannot teach this network, before anything is trained.

    Args:
        teacher: it and the model are called once, in evaluation mode.
        model: the network to train.
        recipe: one of its stages at least must distill.
        example: what both are called with.

    Raises:
        LorankError: if no stage listens, one does not run on the example, or the two answer in
            different shapes.

    Example:
        >>> from lorank.training.presets import preset
        >>> check_teacher(nn.Linear(4, 3), nn.Linear(4, 3), preset("practical"), torch.ones(1, 4))
    """
    if not any(stage.distillation for stage in recipe.stages):
        raise LorankError(
            "a teacher was given, and no stage of the recipe has distillation: "
            "add it to a stage, or leave the teacher out"
        )
    shapes = [_answer(network, example) for network in (teacher, model)]
    if shapes[0] != shapes[1]:
        raise LorankError(
            f"a teacher answers as the network does, found {shapes[0]} and {shapes[1]}"
        )


@torch.no_grad()
def _answer(network: nn.Module, example: Example) -> tuple[int, ...] | str:
    """Shape of what a network gives in evaluation mode."""
    with evaluating(network):
        try:
            found = run(network, _beside(network, example))
        except Exception as error:  # whatever its layers raise
            raise LorankError(
                f"a teacher and its network run on {describe(example)}, and one fails: {error}"
            ) from error
    return tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__


def _beside(network: nn.Module, example: Example) -> Example:
    """The example where the network's weights are."""
    weight = next(network.parameters(), None)
    if weight is None or not isinstance(example, Tensor):
        return example
    return example.to(weight.device)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of names, types and values of a network's tensors.

    Example:
        >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(other)
        (True, False)
    """
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()

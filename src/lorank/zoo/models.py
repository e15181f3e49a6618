"""Networks by name: the zoo's own, the user's own, and those of three model libraries."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lorank.errors import LorankError, MissingExtraError, extra, unknown
from lorank.zoo.named import named
from lorank.zoo.reason import reason
from lorank.zoo.resnet import CifarResNet
from lorank.zoo.small import lenet, mlp, vgg
from lorank.zoo.weights import load_weights

DEPTHS = (8, 20, 32, 44, 56, 110)
MODELS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in DEPTHS},
    **{f"resnet{depth}-b": partial(CifarResNet, depth, shortcut="B") for depth in DEPTHS},
    "mlp": mlp,
    "lenet": lenet,
    "vgg": vgg,
}

# Options that a data set decides: they are offered to every model and dropped where a model has
# no use for them. Any other option is the user's choice and must be understood.
FROM_DATA = ("in_channels", "classes", "size")


def load_model(spec: str, *, weights: str | Path | None = None, **options: Any) -> nn.Module:
    """Make a network by name, with fresh weights or those of a file.

    Args:
        spec: a name of ``MODELS``; ``package.module:function``, a function that returns a module
            (the current directory is importable); ``timm:NAME``; ``torchvision:NAME``; or
            ``hf:NAME_OR_FOLDER``, the ``AutoModel`` of transformers.
        weights: a file for ``load_weights``; without it the weights are the constructor's own.
        **options: ``in_channels``, ``classes`` and ``size`` (of square images) go to every model
            that has a use for them. ``width`` and ``shortcut`` go to networks of the zoo,
            ``pretrained=True`` to timm and torchvision, others to the function or library named;
            those must be understood. ``hf`` models always come with their weights. An option
            that is None counts as not given.

    Returns:
        The network.

    Raises:
        LorankError: if the name or an option is unknown, the function is not to be had or returns
            no module, the library refuses, or the weights do not fit.
        MissingExtraError: if the model library is not installed.

    Example:
        >>> model = load_model("resnet8", in_channels=1, width=8)
        >>> model.conv1
        Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("pretrained") is False:  # no more than the default, said aloud
        del given["pretrained"]
    model = _build(spec, given)
    return model if weights is None else load_weights(model, weights)


def _build(spec: str, options: dict[str, Any]) -> nn.Module:
    head, colon, tail = spec.partition(":")
    if spec in MODELS:
        return MODELS[spec](**_fitting(MODELS[spec], options, spec))
    if not colon:
        others = ["package.module:function", *(f"{name}:NAME" for name in LIBRARIES)]
        raise unknown("model", spec, [*MODELS, *others])
    if head in LIBRARIES:
        return _module(LIBRARIES[head](tail, options, spec), spec)
    function = named(spec)
    return _module(function(**_fitting(function, options, spec)), spec)


def _fitting(build: Callable[..., Any], options: dict[str, Any], spec: str) -> dict[str, Any]:
    try:
        parameters = list(inspect.signature(build).parameters.values())
    except ValueError:  # some built-in callables do not tell what they take
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return options
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [parameter.name for parameter in parameters if parameter.kind in by_name]
    for name in options:
        if name not in known and name not in FROM_DATA:
            raise unknown(f"option of the model {spec!r}", name, known)
    taken = {name: value for name, value in options.items() if name in known}
    needed = [p.name for p in parameters if p.kind in by_name and p.default is p.empty]
    missing = [name for name in needed if name not in taken]
    if missing:
        raise LorankError(
            f"{spec!r} must be callable without further arguments, and needs {', '.join(missing)}: "
            "give them by name"
        )
    return taken


def _module(model: Any, spec: str) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    raise LorankError(
        f"{spec!r} must return a torch.nn.Module, but returned {type(model).__name__}"
    )


def _timm(name: str, options: dict[str, Any], spec: str) -> nn.Module:
    timm = _library("timm", "timm")
    names = {"in_channels": "in_chans", "classes": "num_classes"}
    renamed = {names.get(k, k): v for k, v in options.items() if k != "size"}
    return _asked(spec, timm.create_model, name, **renamed)


def _torchvision(name: str, options: dict[str, Any], spec: str) -> nn.Module:
    models = _library("torchvision.models", "torchvision")
    renamed = {k: v for k, v in options.items() if k not in (*FROM_DATA, "pretrained")}
    if "classes" in options:
        renamed["num_classes"] = options["classes"]
    if options.get("pretrained"):
        renamed["weights"] = "DEFAULT"
    return _asked(spec, models.get_model, name, **renamed)


def _transformers(name: str, options: dict[str, Any], spec: str) -> nn.Module:
    transformers = _library("transformers", "transformers")
    chosen = {k: v for k, v in options.items() if k not in (*FROM_DATA, "pretrained")}
    # Looked up inside the call: transformers imports its classes, and may fail, only then.
    return _asked(spec, lambda: transformers.AutoModel.from_pretrained(name, **chosen))


LIBRARIES = {"timm": _timm, "torchvision": _torchvision, "hf": _transformers}


def _library(module: str, name: str) -> ModuleType:
    try:
        return extra(module, name)
    except MissingExtraError:
        raise
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        # What a library built for another torch raises depends on the pair of versions.
        raise LorankError(
            f"{name} is installed but cannot be imported, most often because a package it needs "
            f"is missing or was built for another torch: {reason(error)}"
        ) from None


def _asked(spec: str, build: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    try:
        return build(*args, **options)
    except (RuntimeError, ValueError, TypeError, LookupError, ImportError, OSError) as error:
        raise LorankError(f"{spec!r} cannot be made: {reason(error)}") from None

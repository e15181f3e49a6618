"""Arguments and options that several commands share."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lorank.errors import LorankError

MODELS_HELP = (
    "A network: a name (resnet8 … resnet110, vgg, lenet, mlp), package.module:function, "
    "timm:NAME, torchvision:NAME, hf:NAME, a file written by lorank, or the folder of a run."
)
DATA_HELP = (
    "Data: digits, fashion-mnist, mnist:FOLDER, cifar10:FOLDER, folder:PATH, "
    "or package.module:function."
)


def amount(text: str) -> int | float:
    """Read a budget: a whole number is a count, any other number a share of the dense network.

    Example:
        >>> amount("0.5"), amount("1000000")
        (0.5, 1000000)
    """
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    raise typer.BadParameter(f"{text!r} is not a number, neither a share (0.5) nor a count")


def pairs(texts: list[str] | None) -> dict[str, Any]:
    """Read ``key=value`` options; values are JSON, and text where they are not.

    Raises:
        LorankError: if there is no equals sign.

    Example:
        >>> pairs(["width=8", "shortcut=B"])
        {'width': 8, 'shortcut': 'B'}
    """
    found: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise LorankError(f"an option of the model is KEY=VALUE, found {text!r}")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODELS_HELP, show_default=False)]
Models = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help=MODELS_HELP, show_default=False)
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Trained dense weights for a model by name: .safetensors, .pt, .pth."
    ),
]
Spec = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="The dense model that a file came from, where the file does not say it.",
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Option of a model by name, such as width=32, classes=100 or pretrained=true; "
        "may be repeated.",
    ),
]
Data = Annotated[str | None, typer.Option(metavar="SPEC", help=DATA_HELP)]
Root = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where a relative folder of --data begins.")
]
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="SIZES",
        help="Size of one input, such as 3,32,32, or 128:int for token numbers; "
        "not needed with --data.",
    ),
]
Layout = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="How a kernel becomes a matrix: auto, channel, channel_reversed, spatial or "
        "spatial_reversed.",
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Layer or pattern (layer1.*) to leave dense; repeatable."),
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Judge on N random test samples only.")
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where to run, such as cpu or cuda; by default an accelerator, if any.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

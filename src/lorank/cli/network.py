"""What the word MODEL means: a name, a file or the folder of a run, and the input it takes."""

import inspect
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.cli.options import pairs
from lorank.cli.show import note
from lorank.errors import LorankError
from lorank.files import load
from lorank.files.checkpoint import read_manifest
from lorank.files.huggingface import CONFIG, is_compressed, open_compressed
from lorank.training.run import FOLDED
from lorank.zoo import MODELS, load_data, load_model
from lorank.zoo import Data as DataSet

NOT_OPTIONS = ("model", "input", "data", "weights")
"""Entries of a manifest's info that are not options of the model."""

LIBRARY_INPUT = (3, 224, 224)
SEED = 0


class Shape(NamedTuple):
    """Size of one input without its batch axis; ``whole`` numbers are tokens."""

    size: tuple[int, ...]
    whole: bool = False

    def __str__(self) -> str:
        return ",".join(map(str, self.size)) + (":int" if self.whole else "")

    def example(self, batch: int = 1) -> Tensor:
        """Draw an input, always the same one."""
        generator = torch.Generator().manual_seed(SEED)
        if self.whole:
            return torch.randint(0, 16, (batch, *self.size), generator=generator)
        return torch.randn(batch, *self.size, generator=generator)


def read_shape(text: str) -> Shape:
    """Read an input size as it is typed.

    Raises:
        LorankError: if it is not of that form.

    Example:
        >>> read_shape("3,32,32").size, str(read_shape("128:int"))
        ((3, 32, 32), '128:int')
    """
    sizes, colon, kind = text.partition(":")
    try:
        size = tuple(int(part) for part in sizes.split(","))
    except ValueError:
        size = ()
    if not size or min(size) < 1 or (colon and kind not in ("int", "float")):
        raise LorankError(
            f"--input is the size of one input without the batch, such as 3,32,32 or 128:int, "
            f"found {text!r}"
        )
    return Shape(size, kind == "int")


class Source(NamedTuple):
    """What the shared options say: where weights, architecture, data and input come from."""

    weights: Path | None = None
    spec: str | None = None
    options: dict[str, Any] = {}  # noqa: RUF012 - read only
    data: DataSet | None = None
    shape: Shape | None = None
    seed: int = SEED

    @property
    def facts(self) -> dict[str, Any]:
        """What data or input decide about a model: channels, classes, size."""
        found: dict[str, Any] = {}
        if self.shape is not None and len(self.shape.size) == 3 and not self.shape.whole:
            found |= {"in_channels": self.shape.size[0], "size": self.shape.size[1]}
        return found | ({"classes": self.data.classes} if self.data else {})


def source(
    weights: Path | None = None,
    spec: str | None = None,
    options: list[str] | None = None,
    data: str | None = None,
    root: Path | None = None,
    shape: str | None = None,
    seed: int = SEED,
) -> Source:
    """Read the shared options.

    Raises:
        LorankError: if the data or the input size cannot be used.
    """
    if root is not None and data is None:
        raise LorankError("--root says where the folder of --data begins, and there is no --data")
    loaded = None if data is None else load_data(data, root=root)
    size = Shape(tuple(loaded.shape)) if loaded else read_shape(shape) if shape else None
    return Source(weights, spec, pairs(options), loaded, size, seed)


class Network(NamedTuple):
    """A model, where it came from, and what it takes.

    Attributes:
        model: in evaluation mode.
        info: what :func:`lorank.save` keeps, to make the architecture again: ``model``,
            ``in_channels``, ``classes``, ``size``, other options, ``input``.
        shape: size of one input, where it is known.
        file: the file it was read from.
        layers: the file's layers in SVD form or folded into a pair.
        trained: whether its weights come from training; ``None`` where nobody can tell.
    """

    model: nn.Module
    info: dict[str, Any]
    shape: Shape | None
    file: Path | None = None
    layers: dict[str, Any] = {}  # noqa: RUF012 - read only
    trained: bool | None = True

    def example(self) -> Tensor | None:
        """Draw one input in the model's dtype; ``None`` where its size is not known."""
        return None if self.shape is None else fitting(self.shape.example(), self.model)


def fitting(inputs: Tensor, model: nn.Module) -> Tensor:
    """Give an input the dtype of a model's weights: one in bfloat16 takes no float32.

    Example:
        >>> fitting(torch.ones(1, 2), nn.Linear(2, 2).bfloat16()).dtype
        torch.bfloat16
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), inputs.dtype)
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def network(text: str, given: Source) -> Network:
    """Find the network that a person named.

    Raises:
        LorankError: if there is none of that name, or its file cannot be used.
    """
    if is_hub_folder(text):
        return _from_folder(Path(text.removeprefix("hf:")), given)
    if is_file(text):
        return _from_file(model_file(text), given)
    if given.spec is not None:
        raise LorankError(f"--model is for files, and {text!r} names a model already")
    return _by_name(text, given)


def is_hub_folder(text: str) -> bool:
    """Whether MODEL is a Hugging Face folder: a compressed one, or a dense one by its path.

    Example:
        >>> is_hub_folder("hf:bert-base-uncased"), is_hub_folder("resnet20")
        (False, False)
    """
    path = Path(text.removeprefix("hf:"))
    dense = not text.startswith("hf:") and text not in MODELS and (path / CONFIG).is_file()
    return dense or is_compressed(path)


def disk_bytes(path: Path) -> int:
    """Size of a model's file, or of the weights in its folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return path.stat().st_size


def is_file(text: str) -> bool:
    """Whether MODEL is a file or a folder; a name of the zoo always is a name.

    Raises:
        LorankError: if it looks like a path, and there is nothing.
    """
    if text in MODELS:
        return False
    path = Path(text)
    looks = path.suffix == ".safetensors" or (os.sep in text and ":" not in text)
    if looks and not path.exists():
        raise LorankError(f"there is no model file or run folder {text}")
    return path.exists()


def model_file(text: str | Path, name: str = FOLDED) -> Path:
    """Name the file that MODEL stands for: itself, or the one in the folder of a run.

    Raises:
        LorankError: if a run folder has none, or the file is of another kind.
    """
    path = Path(text)
    if path.is_dir():
        if not (path / name).is_file():
            raise LorankError(
                f"the folder of a run that has ended holds {name}, and {path} does not"
            )
        return path / name
    if path.suffix != ".safetensors":
        raise LorankError(
            f"a model file of lorank is *.safetensors, found {path}: name its architecture as "
            "MODEL, and give other weights with --weights"
        )
    return path


def _from_file(path: Path, given: Source) -> Network:
    if given.weights is not None:
        raise LorankError(f"--weights are for a model by name, and {path} has its own")
    manifest = read_manifest(path)
    info = dict(manifest.get("info") or {})
    spec = given.spec or info.get("model")
    if spec is None:
        raise LorankError(
            f"{path} does not say which model it came from: name it with --model SPEC"
        )
    options = given.facts | _options(info) | given.options
    torch.manual_seed(SEED)
    model = load(path, load_model(spec, **options)).eval()
    shape = given.shape or (read_shape(info["input"]) if "input" in info else None)
    shape = shape or natural(spec, options)
    return Network(model, _info(spec, options, shape), shape, path, manifest["layers"])


def _from_folder(path: Path, given: Source) -> Network:
    if given.weights is not None:
        raise LorankError(f"--weights are for a model by name, and {path} has its own")
    layers = open_compressed(path)[0]["layers"] if is_compressed(path) else {}
    info = {"model": f"hf:{path}"} | ({"input": str(given.shape)} if given.shape else {})
    return Network(load(path), info, given.shape, path, layers)


def _by_name(spec: str, given: Source) -> Network:
    options = given.facts | given.options
    torch.manual_seed(given.seed)
    model = load_model(spec, weights=given.weights, **options).eval()
    shape = given.shape or natural(spec, options)
    trained = given.weights is not None or is_trained(spec, given.options)
    return Network(model, _info(spec, options, shape), shape, trained=trained)


def is_trained(spec: str, options: dict[str, Any]) -> bool | None:
    """Whether a model by name comes with trained weights; ``None`` where nobody can tell.

    Example:
        >>> is_trained("resnet20", {}), is_trained("timm:resnet18", {"pretrained": True})
        (False, True)
    """
    if options.get("pretrained") or spec.startswith("hf:"):
        return True
    known = spec in MODELS or spec.startswith(("timm:", "torchvision:"))
    return False if known else None


def _options(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in NOT_OPTIONS}


def _info(spec: str, options: dict[str, Any], shape: Shape | None) -> dict[str, Any]:
    """Describe a model for its file; its weights will be the file's, so none are fetched again."""
    kept = {key: value for key, value in options.items() if key != "pretrained"}
    return {"model": spec, **kept} | ({"input": str(shape)} if shape else {})


def natural(spec: str, options: dict[str, Any]) -> Shape | None:
    """Give the input that a model is made for when nobody says otherwise.

    Example:
        >>> str(natural("resnet20", {})), str(natural("lenet", {"in_channels": 3}))
        ('3,32,32', '3,28,28')
    """
    if spec.startswith(("timm:", "torchvision:")):
        return Shape(LIBRARY_INPUT)
    if spec not in MODELS:
        return None
    taken = inspect.signature(MODELS[spec]).parameters
    side = taken["size"].default if "size" in taken else 32
    side = options.get("size", side)
    return Shape((options.get("in_channels", taken["in_channels"].default), side, side))


def warn_if_random(text: str, found: Network) -> None:
    """Say so where figures would be those of an untrained network."""
    if found.trained is False:
        note(f"the weights of {text} are drawn at random: give trained ones with --weights FILE")


def device(name: str | None) -> torch.device:
    """Choose where to run.

    Raises:
        LorankError: if there is no such device here.
    """
    if name is None:
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        torch.zeros(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise LorankError(f"there is no device {name!r} to run on: {first}") from None


def writable(path: Path, ending: str) -> Path:
    """Refuse a place that a file cannot be written to, before any work is done.

    Raises:
        LorankError: if the ending is another one, or the folder is missing or closed.
    """
    if path.suffix != ending:
        raise LorankError(f"the file to write must end in {ending}, found {path}")
    if not path.parent.is_dir():
        raise LorankError(f"a file is written into a folder that exists, found none: {path}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise LorankError(f"{path} cannot be written")
    return path

"""Imports point down only, and outside packages stay in their rooms (see CONTRIBUTING.md)."""

import sys

import pytest

from sources import MODULES, Import, imports, inside, room

FLOORS = [
    {"errors"},
    {"linalg", "atomic"},
    {"bayes"},  # below ranks: one of its models is a rank rule
    {"nn", "ranks", "penalties"},
    {"compression", "colour", "structured"},
    {"files", "zoo", "report"},
    {"training"},  # a run goes through the stages, and writes files to resume from
    {"localization"},  # a task of its own: its finders are trained by a recipe
    {""},  # the face, lorank/__init__.py: made of all rooms below it, used by the command line
    {"cli"},
    {"__main__"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(Room, room that it may import though it is not below) → the reason. There is none today."""

HOMES = {
    "torch": [""],
    "numpy": [
        "bayes/",
        "colour/",
        "files/",
        "localization/",
        "report/",
        "structured/",
        "training/",
        "zoo/",
    ],
    "safetensors": ["files/", "localization/cases.py", "training/", "zoo/weights.py"],
    "pydantic": ["training/", "structured/", "cli/"],
    "accelerate": ["training/", "files/huggingface_model.py"],
    "lightning": ["training/"],
    "tensorboard": ["training/"],
    "typer": ["cli/"],
    "click": ["cli/"],
    "rich": ["cli/", "training/log.py", "training/progress.py"],
    "onnx": ["files/onnx.py", "files/quantized.py"],
    "onnxscript": ["files/onnx.py"],
    "onnxruntime": ["files/onnx.py", "files/quantized.py", "files/runtime.py"],
    "transformers": ["files/", "training/", "zoo/"],
    "matplotlib": ["report/"],
    "jinja2": ["report/"],
    "numpyro": ["bayes/"],
    "jax": ["bayes/"],
    "arviz": ["bayes/"],
    "tqdm": ["bayes/"],
    "sklearn": ["bayes/", "colour/", "structured/", "zoo/"],
    "PIL": ["zoo/"],
    "nibabel": ["localization/nifti.py"],
    "pydicom": ["localization/dicom.py"],
    "pyreadr": ["zoo/"],
    "timm": ["zoo/"],
    "torchvision": ["zoo/"],
}
"""Outside package → where it may be imported: rooms or single files."""

EVERY = [found for path in MODULES for found in imports(path)]
OWN = [i for i in EVERY if i.module.split(".")[0] == "lorank" and i.path != "__init__.py"]
OUTSIDE = [i for i in EVERY if i.module.split(".")[0] not in {"lorank", *sys.stdlib_module_names}]


def importer(found: Import) -> str:
    return found.path.split("/")[0].removesuffix(".py")


def upward(found: Import) -> bool:
    """Whether an import leaves its room and does not go down."""
    here, there = importer(found), room(found.module)
    if here == there or (here, there) in EXCEPTIONS:
        return False
    return FLOOR[there] >= FLOOR[here]


def test_every_room_has_a_floor():
    rooms = {inside(path).split("/")[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert rooms <= FLOOR.keys(), "a new room needs a line in FLOORS"


def test_imports_point_down():
    assert [str(i) for i in OWN if upward(i)] == []


def test_every_exception_has_a_reason_and_is_used():
    used = {(importer(i), room(i.module)) for i in OWN}
    assert all(EXCEPTIONS[pair] and pair in used for pair in EXCEPTIONS)


@pytest.mark.parametrize(
    ("path", "module", "wrong"),
    [
        ("nn/linear.py", "lorank.compression.fold", True),
        ("nn/linear.py", "lorank.ranks", True),
        ("files/onnx.py", "lorank", True),
        ("compression/fold.py", "lorank.training", True),
        ("files/onnx.py", "lorank.zoo", True),
        ("training/run.py", "lorank.compression", False),
        ("files/onnx.py", "lorank.nn.surgery", False),
        ("cli/main.py", "lorank", False),
    ],
)
def test_the_floors_tell_up_from_down(path, module, wrong):
    assert upward(Import(path, 1, module)) is wrong


def test_linalg_needs_torch_alone():
    found = {i.module.split(".")[0] for i in OUTSIDE if importer(i) == "linalg"}
    assert found <= {"torch"}
    below = {room(i.module) for i in OWN if importer(i) == "linalg"}
    assert below <= {"linalg", "errors"}


def at_home(found: Import) -> bool:
    homes = HOMES.get(found.module.split(".")[0], [])
    return any(found.path.startswith(home) for home in homes)


def test_outside_packages_stay_in_their_rooms():
    assert [str(i) for i in OUTSIDE if not at_home(i)] == []


def test_lazy_imports_are_seen():
    assert any(i.module == "onnxruntime" for i in OUTSIDE)
    assert not at_home(Import("nn/linear.py", 1, "onnxruntime"))

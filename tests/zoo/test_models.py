import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from lorank.errors import MissingExtraError
from lorank.zoo import MODELS, load_model


def small(in_channels=3, *, classes=10, hidden=4):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * 16, hidden), nn.Linear(hidden, classes)
    )


def anything(**options):
    return nn.ParameterDict({name: torch.zeros(()) for name in options})


def no_module():
    return 3


def needs(depth, classes=10):
    return nn.Linear(depth, classes)


def a_library(monkeypatch, name, **names):
    module = ModuleType(name)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def called(calls):
    def build(*args, **options):
        calls.append((args, options))
        return nn.Linear(1, 1)

    return build


@pytest.mark.parametrize("name", [n for n in MODELS if "110" not in n and "56" not in n])
def test_every_model_takes_what_a_data_set_says(name):
    model = load_model(name, in_channels=1, classes=3, size=16).eval()
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, 3)


def test_names_are_listed(told):
    said = told(load_model, "resnet21")
    assert said.startswith("unknown model 'resnet21': did you mean 'resnet")
    for name in (*MODELS, "package.module:function", "timm:NAME", "torchvision:NAME", "hf:NAME"):
        assert name in said


def test_options_of_the_zoo(told):
    assert load_model("resnet8", width=4, shortcut="B", pretrained=False).conv1.out_channels == 4
    assert load_model("resnet8", width=None).conv1.out_channels == 16
    assert told(load_model, "resnet8", witdh=4) == (
        "unknown option of the model 'resnet8' 'witdh': did you mean 'width'? "
        "Known: classes, in_channels, shortcut, width"
    )
    assert "unknown option of the model 'resnet8' 'pretrained'" in told(
        load_model, "resnet8", pretrained=True
    )


def test_weights_are_loaded(tmp_path):
    torch.save(load_model("mlp", size=4, width=3).state_dict(), tmp_path / "w.pt")
    model = load_model("mlp", weights=tmp_path / "w.pt", size=4, width=3)
    assert torch.equal(model[1].weight, torch.load(tmp_path / "w.pt")["1.weight"])


def test_a_function_gets_the_options_it_has():
    model = load_model(f"{__name__}:small", in_channels=1, classes=3, size=28, hidden=5)
    assert (model[1].in_features, model[1].out_features, model[2].out_features) == (16, 5, 3)
    assert sorted(load_model(f"{__name__}:anything", size=3, hidden=2)) == ["hidden", "size"]


def test_errors_of_functions(told):
    here = __name__
    assert told(load_model, f"{here}:no_module") == (
        f"'{here}:no_module' must return a torch.nn.Module, but returned int"
    )
    assert "unknown option of the model" in told(load_model, f"{here}:small", depth=3)
    assert "must return a torch.nn.Module, but returned dict" in told(
        load_model, "builtins:dict", classes=3
    )
    assert "there is no module 'no_such_nets'" in told(load_model, "no_such_nets:f")


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_missing_libraries(library):
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    prefix = "hf" if library == "transformers" else library
    with pytest.raises(MissingExtraError, match=rf"pip install 'lorank\[{library}\]'"):
        load_model(f"{prefix}:resnet18")


def test_timm(monkeypatch):
    calls = []
    a_library(monkeypatch, "timm", create_model=called(calls))
    load_model("timm:vit", in_channels=1, classes=7, size=8, pretrained=True, drop_rate=0.1)
    want = {"in_chans": 1, "num_classes": 7, "pretrained": True, "drop_rate": 0.1}
    assert calls == [(("vit",), want)]


@pytest.mark.parametrize(("pretrained", "more"), [(True, {"weights": "DEFAULT"}), (False, {})])
def test_torchvision(monkeypatch, pretrained, more):
    calls = []
    a_library(monkeypatch, "torchvision")
    a_library(monkeypatch, "torchvision.models", get_model=called(calls))
    load_model("torchvision:resnet18", in_channels=3, classes=7, size=8, pretrained=pretrained)
    assert calls == [(("resnet18",), {"num_classes": 7, **more})]


def test_transformers(monkeypatch):
    calls = []
    a_library(monkeypatch, "transformers", AutoModel=SimpleNamespace(from_pretrained=called(calls)))
    load_model("hf:some/folder", classes=7, pretrained=True, local_files_only=True)
    assert calls == [(("some/folder",), {"local_files_only": True})]


def test_what_a_library_refuses(monkeypatch, told):
    def refuse(name, **options):
        raise RuntimeError(f"Unknown model ({name})\nlong story")

    a_library(monkeypatch, "timm", create_model=refuse)
    assert told(load_model, "timm:resnet1") == (
        "'timm:resnet1' cannot be made: Unknown model (resnet1)"
    )


def test_a_library_that_returns_no_module(monkeypatch, told):
    a_library(monkeypatch, "timm", create_model=lambda name: name)
    assert "must return a torch.nn.Module, but returned str" in told(load_model, "timm:resnet1")


@pytest.mark.parametrize(
    "line",
    [
        "raise RuntimeError('operator torchvision::nms does not exist\\nmore')",
        "import no_such_package",
        "raise ImportError('operator torchvision::nms does not exist')",
        "raise AttributeError('operator torchvision::nms does not exist')",
    ],
)
def test_a_broken_library(monkeypatch, told, tmp_path, line):
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    said = told(load_model, "torchvision:resnet18")
    assert said.startswith("torchvision is installed but cannot be imported, most often because")
    assert said.endswith(("nms does not exist", "'no_such_package'"))


def test_a_class_that_its_library_cannot_import(monkeypatch, told):
    class Lazy(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("Failed to import transformers.models.auto")

    monkeypatch.setitem(sys.modules, "transformers", Lazy("transformers"))
    said = told(load_model, "hf:some/folder")
    assert said == "'hf:some/folder' cannot be made: Failed to import transformers.models.auto"


def test_a_function_that_needs_more_says_what(told):
    said = told(load_model, f"{__name__}:needs", classes=3)
    assert "needs depth: give them by name" in said
    assert load_model(f"{__name__}:needs", depth=2, classes=3).weight.shape == (3, 2)

"""Every wrong input has a sentence."""

import math

import pytest
import torch
from torch import nn

import lorank
from compression.networks import small
from lorank import LorankError


def says(sentence):
    return pytest.raises(LorankError, match=sentence)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stage", [lorank.measure, lorank.decompose])
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 4), lambda: nn.Conv2d(4, 4, 3)])
def test_values_that_are_not_finite_name_the_layer(stage, make, bad):
    model = nn.Sequential(nn.Linear(4, 4), make())
    model[1].weight.data.view(-1)[2] = bad
    with says(r"layer '1': a decomposition needs finite values, found 1 NaN or Inf among"):
        stage(model)
    stage(model, skip=["1"])


@pytest.mark.parametrize("factor", ["U", "S", "Vh"])
def test_factors_that_are_not_finite_name_the_layer(factor):
    low = lorank.decompose(small(4, 4, 4))
    getattr(low[2], factor).data.view(-1)[0] = math.nan
    for stage in (lorank.measure, lambda m: lorank.prune(m, {"2": 1})):
        with says("layer '2': a decomposition needs finite values, found 1 NaN or Inf"):
            stage(low)


@pytest.mark.parametrize("rank", [0, -1, True, 2.5, 2.0, 5, "3", "full", None, math.nan, 10**30])
def test_ranks_out_of_range(rank):
    model = small(6, 4, 4)
    sentence = "layer '2': a rank must be a whole number between 1 and 4, found"
    with says(sentence):
        lorank.decompose(model, {"0": 2, "2": rank})
    with says(sentence):
        lorank.prune(lorank.decompose(model), {"0": 2, "2": rank})
    low = lorank.decompose(model, {"0": 2})
    with says("layer '0': a rank must be a whole number between 1 and 4, found 5"):
        lorank.prune(low, {"0": 5})


@pytest.mark.parametrize("model", [nn.Sequential(), nn.ReLU(), nn.Module()])
def test_models_without_parameters(model):
    for stage in (lorank.measure, lorank.decompose):
        with says(f"a model needs parameters, and {type(model).__name__} has none"):
            stage(model)
    assert lorank.cost(model) == (0, None, 0)
    lorank.fold(model)


def test_models_without_a_layer_to_decompose():
    for model, reason in (
        (nn.BatchNorm2d(3), "and BatchNorm2d has none$"),
        (nn.Sequential(nn.LSTM(3, 3)), r"has none \('0': LSTM has no SVD form here;"),
        (nn.Sequential(nn.Embedding(3, 3, max_norm=1)), r"\('0': max_norm rewrites"),
    ):
        for stage in (lorank.measure, lorank.decompose):
            with says("a model needs a layer that can be decomposed, .*" + reason):
                stage(model)


@pytest.mark.parametrize("which", [{"skip": ["*"]}, {"layers": []}, {"layers": ["0"], "skip": "0"}])
def test_choosing_nothing(which):
    for stage in (lorank.measure, lorank.decompose):
        with says(r"no layer was chosen: .* those that can be decomposed \('0', '2'\)"):
            stage(small(4, 4, 4), **which)
    with says("no layer was chosen"):
        lorank.decompose(small(4, 4), {})


def test_an_embedding_that_is_only_looked_up_is_decomposed_when_named():
    with says(r"no layer was chosen: .*\('0'\)"):
        lorank.decompose(nn.Sequential(nn.Embedding(9, 4)))
    assert lorank.decompose(nn.Sequential(nn.Embedding(9, 4)), {"0": 2})[0].rank == 2


@pytest.mark.parametrize("thing", [3, None, "model.pt", nn.Linear, torch.ones(2, 2), {"a": 1}])
def test_what_is_not_a_model(thing):
    for stage in (lorank.measure, lorank.decompose, lorank.cost, lorank.fold):
        with says(f"a model is a torch.nn.Module, found a {type(thing).__name__}"):
            stage(thing)
    with says("a model is a torch.nn.Module"):
        lorank.prune(thing, {})


@pytest.mark.parametrize("table", [3, ["0"], [("0", 2)], "0"])
def test_what_is_not_a_table(table):
    with says("a table by layer name is a dict, found"):
        lorank.decompose(small(4, 4), table)
    with says("a table by layer name is a dict, found"):
        lorank.prune(lorank.decompose(small(4, 4)), table)
    for layout in (3, None, ["channel"]):
        with says("a table by layer name is a dict, found"):
            lorank.measure(small(4, 4), layout=layout)


def test_ranks_and_layers_together():
    with says("takes ranks or layers"):
        lorank.decompose(small(4, 4), {"0": 2}, layers=["0"])


def named():
    return nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4)})


def test_names_that_fit_no_layer_suggest_close_ones():
    close = r"unknown layer 'encodr': did you mean 'encoder'\? Known: decoder, encoder"
    model, low = named(), lorank.decompose(named())
    for call in (
        lambda: lorank.decompose(model, {"encodr": 2}),
        lambda: lorank.decompose(model, layers=["encodr"]),
        lambda: lorank.decompose(model, skip=["encodr"]),
        lambda: lorank.decompose(model, layout={"encodr": "channel"}),
        lambda: lorank.measure(model, layers="encodr"),
        lambda: lorank.measure(model, skip="encodr"),
        lambda: lorank.measure(model, layout={"encodr": "channel"}),
        lambda: lorank.prune(low, {"encodr": 2}),
    ):
        with says(close):
            call()
    with says("unknown layer 'zzz': Known: decoder, encoder"):
        lorank.decompose(model, layers=["zzz"])
    with says("unknown layer 'x': Known: none"):
        lorank.prune(nn.ReLU(), {"x": 1})


def test_unknown_layouts_and_cuts():
    model = named()
    close = r"unknown layout 'chanel': did you mean 'channel'\? Known: auto, channel"
    for stage in (lorank.measure, lorank.decompose):
        with says(close):
            stage(model, layout="chanel")
        with says(close):
            stage(model, layout={"encoder": "chanel"})
    with says(r"unknown cut 'prodct': did you mean 'product'\? Known: product, raw"):
        lorank.prune(lorank.decompose(model), {}, by="prodct")


def test_layers_in_svd_form_already_and_layers_that_are_not():
    low = lorank.decompose(small(4, 4, 4), {"0": 2})
    with says(r"decompose takes dense layers, and '0' is in SVD form already: .* lorank.prune"):
        lorank.decompose(low)
    with says("'0', '2' are in SVD form already"):
        lorank.decompose(lorank.decompose(small(4, 4, 4)))
    more = lorank.decompose(low, {"2": 3})
    assert (more[0].rank, more[2].rank) == (2, 3)
    with says("prune takes layers in SVD form, and '2' is dense: call lorank.decompose"):
        lorank.prune(low, {"2": 2})
    folded = lorank.fold(lorank.decompose(small(8, 8), {"0": 1}))
    assert lorank.decompose(folded, {"0.0": 1})[0][0].rank == 1


def test_lazy_layers():
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4), nn.LazyConv2d(4, 3))
    for stage in (lorank.measure, lorank.decompose):
        with says("layer '1' is lazy and not initialised: run the model once on real input"):
            stage(model)
    for stage in (lorank.cost, lambda m: lorank.measure(m, skip=["1", "2"])):
        with says("parameter '1.weight' is lazy and not initialised"):
            stage(model)
    assert lorank.decompose(model, {"0": 2})[0].rank == 2


def test_weights_on_meta():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))
    for stage in (lorank.measure, lorank.decompose):
        with says("layer '1' has its weight on the meta device: load the weights first"):
            stage(model)
    low = lorank.decompose(model, {"0": 2})
    assert low[1].weight.is_meta and lorank.cost(low).params == 36 + 4


def test_inference_mode():
    model, low = small(4, 4), lorank.decompose(small(4, 4))
    with torch.inference_mode():
        with says("decompose makes parameters to train, and under torch.inference_mode"):
            lorank.decompose(model)
        with says("prune makes parameters to train, and under torch.inference_mode"):
            lorank.prune(low, {"0": 2})
        assert lorank.measure(model)["0"].full_rank == 4


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("layer", [nn.Linear(0, 3), nn.Linear(3, 0), nn.Embedding(0, 3)])
def test_weights_without_entries(layer):
    model = nn.Sequential(nn.Linear(3, 3), layer)
    for stage in (lorank.measure, lorank.decompose):
        with says(r"layer '1': a decomposition needs a matrix with entries, found shape \("):
            stage(model, layers=["1"])
    assert lorank.decompose(model, {"0": 1})[0].rank == 1


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_weights_that_are_not_real(dtype):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = nn.Parameter(torch.ones(3, 3, dtype=dtype), requires_grad=False)
    with says(f"layer '1': a decomposition needs a float tensor, found {dtype}"):
        lorank.decompose(model)
    assert lorank.decompose(model, skip=["1"])[0].rank == 3


def test_frozen_weights_keep_their_flags():
    model = small(4, 4, 4).requires_grad_(False)
    model[2].requires_grad_(True)
    low = lorank.decompose(model)
    for made in (low, lorank.prune(low, {"0": 2}), lorank.fold(low)):
        assert not any(p.requires_grad for p in made[0].parameters())
        assert all(p.requires_grad for p in made[2].parameters())


def test_all_zero_weights_are_a_spectrum_too():
    model = small(4, 4)
    nn.init.zeros_(model[0].weight)
    low = lorank.decompose(model)
    assert not lorank.measure(low)["0"].values.any()
    assert not lorank.prune(low, {"0": 1})[0].weight.any()
    conv = nn.Sequential(nn.Conv2d(3, 3, 3))
    nn.init.zeros_(conv[0].weight)
    assert lorank.decompose(conv)[0].view.layout == "channel"


def test_a_layout_that_a_kernel_does_not_admit_becomes_channel():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv1d(4, 4, 3))
    spectra = lorank.measure(model, layout="spatial")
    assert [s.layout for s in spectra.values()] == ["spatial", "channel", "channel"]
    table = lorank.measure(model, layout={"0": "channel_reversed", "1": "spatial"})
    assert [table[n].layout for n in "01"] == ["channel_reversed", "channel"]

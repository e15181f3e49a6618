"""Layers are found by name, shared weights by identity, and what stays dense says why."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.prune import l1_unstructured

import lorank
from lorank.nn import Factored, SVDConv, SVDEmbedding, SVDLinear
from lorank.nn.surgery import sites


class Language(nn.Module):
    """Embedding and output layer on one weight, as in GPT."""

    def __init__(self, words=60, size=6):
        super().__init__()
        self.table = nn.Embedding(words, size, padding_idx=0)
        self.body = nn.Linear(size, size)
        self.head = nn.Linear(size, words, bias=False)
        self.head.weight = self.table.weight

    def forward(self, indices):
        return self.head(torch.tanh(self.body(self.table(indices))))


class TwoNames(nn.Module):
    """One module under three paths, one of them in a list."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = self.first
        self.more = nn.ModuleList([self.first, nn.Linear(8, 8)])

    def forward(self, x):
        return self.more[1](self.second(torch.relu(self.first(self.more[0](x)))))


class TwoConvolutions(nn.Module):
    """One kernel, read with different strides and biases."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(6, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 6, 3, stride=2, dilation=2, padding=2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class TwoLinear(nn.Module):
    """Two linear layers on one weight and one bias."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


TIES = {
    "embedding and head": (Language, lambda: torch.randint(60, (3, 4)), "table", ["head"]),
    "module under three names": (
        TwoNames,
        lambda: torch.randn(3, 8).double(),
        "first",
        ["second", "more.0"],
    ),
    "kernel": (TwoConvolutions, lambda: torch.randn(2, 6, 7, 7).double(), "a", ["b"]),
    "linear": (TwoLinear, lambda: torch.randn(3, 8).double(), "a", ["b"]),
}
ties = pytest.mark.parametrize(("make", "draw", "name", "others"), TIES.values(), ids=TIES)


def weights_of(model, names):
    """What stands at some paths: factors, dense weight, or the weights of a pair."""
    return [
        [p for key, p in model.get_submodule(name).named_parameters() if not key.endswith("bias")]
        for name in names
    ]


@ties
def test_a_tie_is_decomposed_once_and_stays_a_tie(make, draw, name, others):
    dense, x = make().double(), draw()
    count = sum(p.numel() for p in dense.parameters())
    assert list(lorank.measure(dense)).count(name) == 1
    assert not set(others) & set(lorank.measure(dense))
    low = lorank.decompose(dense)
    torch.testing.assert_close(low(x), dense(x))
    assert lorank.cost(low, (x,)).params == count == lorank.cost(dense, (x,)).params
    cut = lorank.prune(low, {name: 1})
    direct = lorank.decompose(dense, {name: 1})
    torch.testing.assert_close(cut.get_submodule(name).weight, direct.get_submodule(name).weight)
    for model in (low, cut, direct):
        for first, second in zip(*weights_of(model, [name, others[0]]), strict=True):
            assert first is second
        assert model.get_submodule(name).rank == model.get_submodule(others[0]).rank
    folded = lorank.fold(cut)
    torch.testing.assert_close(folded(x), cut(x))
    assert not any(isinstance(m, Factored) for m in folded.modules())
    assert lorank.cost(cut, (x,)) == lorank.cost(folded, (x,))
    assert sum(p.numel() for p in folded.parameters()) == lorank.cost(cut, (x,)).params < count
    shared = {id(p) for p in weights_of(folded, [name])[0]}
    assert shared & {id(p) for p in weights_of(folded, others[:1])[0]}
    again = lorank.fold(low)
    assert weights_of(again, [name])[0][0] is weights_of(again, others[:1])[0][0]
    assert sum(p.numel() for p in again.parameters()) == count


@ties
def test_gradients_of_a_tie_meet_in_one_parameter(make, draw, name, others):
    dense, x = make().double(), draw()
    low = lorank.decompose(dense)
    for contraction in ("rebuild", "thin"):
        for m in low.modules():
            if isinstance(m, Factored):
                m.contraction = contraction
        low.zero_grad(), dense.zero_grad()
        low(x).square().sum().backward()
        dense(x).square().sum().backward()
        layer, weight = low.get_submodule(name), dense.get_submodule(name).weight
        # dL/dU = (dL/dM)·(S·Vh)ᵀ, with dL/dM the matrix of the dense weight's gradient
        G = layer.view.matrix(weight.grad)
        torch.testing.assert_close(layer.U.grad, G @ (layer.S[:, None] * layer.Vh).T)
        torch.testing.assert_close(layer.S.grad, ((layer.U.T @ G) * layer.Vh).sum(-1))
        assert len(list(low.parameters())) == len({id(p) for p in low.parameters()})


@ties
def test_a_tie_takes_one_rank_under_any_of_its_names(make, draw, name, others):
    dense = make().double()
    low = lorank.decompose(dense, {others[0]: 2})
    assert low.get_submodule(name).rank == 2
    assert lorank.prune(low, {others[-1]: 1}).get_submodule(name).rank == 1
    with pytest.raises(lorank.LorankError, match=r"need one entry, found 2 .* and 3"):
        lorank.decompose(dense, {name: 2, others[0]: 3})


def test_a_tied_pair_never_grows_though_an_embedding_stores_its_half_transposed():
    dense = Language(60, 40)
    per_rank = lorank.measure(dense)["table"].params.per_rank
    assert per_rank == 60 + 40 + 40
    count = lorank.cost(dense).params
    for rank in range(1, 41):
        folded = lorank.fold(lorank.decompose(dense, {"table": rank}))
        params = sum(p.numel() for p in folded.parameters())
        assert params == min(count, count - 2400 + rank * per_rank)
        assert isinstance(folded.head, nn.Sequential) == (rank * per_rank < 2400)


def with_hook(method, *args):
    layer = nn.Linear(4, 4)
    getattr(layer, method)(*args or (lambda *_: None,))
    return layer


def patched():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


def computed_bias():
    layer = nn.Linear(4, 4)
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Identity())
    return layer


class OwnForward(nn.Linear):
    def forward(self, input):  # noqa: A002
        return super().forward(input) + 1


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class OwnParameter(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.ones(1))


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))


def tied_to_custom():
    model = nn.ModuleDict({"custom": Custom(), "linear": nn.Linear(4, 4)})
    model["linear"].weight = model["custom"].matrix
    return model


def tied_to_hooked():
    model = nn.ModuleDict({"linear": nn.Linear(4, 4), "other": with_hook("register_forward_hook")})
    model["linear"].weight = model["other"].weight
    return model


def tied_across_kinds():
    model = nn.ModuleDict({"a": nn.Conv2d(4, 4, 3), "b": nn.ConvTranspose2d(4, 4, 3)})
    model["a"].weight = model["b"].weight
    return model


HOOK = "it carries hooks, which would be lost"
REASONS = {
    "weight_norm": (lambda: nn.utils.weight_norm(nn.Linear(4, 4)), "its weight is computed"),
    "weight_norm parametrized": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
        "its weight is computed",
    ),
    "spectral_norm": (lambda: nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)), "its weight is computed"),
    "spectral_norm parametrized": (
        lambda: parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        "its weight is computed",
    ),
    "masked": (
        lambda: l1_unstructured(nn.Linear(4, 4), "weight", 2),
        "its weight is computed",
    ),
    "parametrized bias": (computed_bias, "holds more than a weight and a bias"),
    "forward hook": (lambda: with_hook("register_forward_hook"), HOOK),
    "forward pre-hook": (lambda: with_hook("register_forward_pre_hook"), HOOK),
    "backward hook": (lambda: with_hook("register_full_backward_hook"), HOOK),
    "backward pre-hook": (lambda: with_hook("register_full_backward_pre_hook"), HOOK),
    "own forward": (lambda: OwnForward(4, 4), "OwnForward runs in its own way"),
    "own convolution": (lambda: OwnConvolution(4, 4, 3), "OwnConvolution runs in its own way"),
    "patched forward": (patched, "Linear runs in its own way"),
    "own parameter": (lambda: OwnParameter(4, 4), "holds more than a weight and a bias"),
    "LSTM": (lambda: nn.LSTM(4, 4), "LSTM has no SVD form here"),
    "GRU": (lambda: nn.GRU(4, 4), "GRU has no SVD form here"),
    "Bilinear": (lambda: nn.Bilinear(4, 4, 2), "Bilinear has no SVD form here"),
    "custom": (Custom, "Custom has no SVD form here"),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(4, 4), "EmbeddingBag has no SVD form here"),
    "max_norm": (lambda: nn.Embedding(4, 4, max_norm=1.0), "max_norm rewrites"),
    "sparse table": (lambda: nn.Embedding(4, 4, sparse=True), "sparse gradients need"),
    "frequency": (
        lambda: nn.Embedding(4, 4, scale_grad_by_freq=True),
        "scale_grad_by_freq scales",
    ),
    "tied to a custom module": (tied_to_custom, "Custom has no SVD form here"),
    "tied to a hooked layer": (tied_to_hooked, f"shares its weight with .*other': {HOOK}"),
    "tied across kinds": (tied_across_kinds, "read the weight in different ways"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("make", "reason"), REASONS.values(), ids=REASONS)
def test_what_stays_dense_says_why(make, reason):
    model = nn.Sequential(nn.Linear(4, 4), make())
    with pytest.raises(lorank.LorankError, match=f"stays dense: .*{reason}"):
        lorank.decompose(model, layers=["1*"])
    low = lorank.decompose(model)
    assert isinstance(low[0], SVDLinear)
    assert not any(isinstance(m, Factored) for m in low[1].modules())
    assert low[1].state_dict().keys() == model[1].state_dict().keys()
    if isinstance(model[1], nn.Linear):
        assert torch.equal(low[1](torch.ones(2, 4)), model[1](torch.ones(2, 4)))
        assert {id(p) for p in low.parameters()}.isdisjoint({id(p) for p in model.parameters()})
    alone = "a model needs a layer that can be decomposed, and .* has none .*"
    with pytest.raises(lorank.LorankError, match=alone + reason):
        lorank.decompose(nn.Sequential(make()))


class Renamed(nn.Linear):
    """A subclass that changes nothing runs as its parent does."""


def test_a_subclass_that_changes_nothing_is_decomposed():
    assert isinstance(lorank.decompose(nn.Sequential(Renamed(4, 4)))[0], SVDLinear)


def test_equal_layers_without_entries_are_not_taken_for_one(recwarn):
    model = nn.Sequential(nn.Linear(0, 3), nn.Linear(0, 3), nn.Linear(3, 3))
    assert [s.name for s in sites(model)] == ["0", "1", "2"]
    assert isinstance(lorank.decompose(model, skip=["0", "1"])[2], SVDLinear)


def test_meta_layers_are_not_taken_for_one():
    model = nn.Sequential(nn.Linear(3, 3, device="meta"), nn.Linear(3, 3, device="meta"))
    assert [s.name for s in sites(model)] == ["0", "1"]


def network():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
        nn.Embedding(9, 4),
        nn.ModuleDict({"head[0]": nn.Linear(4, 4), "fc": nn.Linear(4, 2)}),
    )


def test_layers_are_chosen_by_name_and_pattern():
    def chosen(**which):
        low = lorank.decompose(network(), **which)
        return {name for name, m in low.named_modules() if isinstance(m, Factored)}

    assert chosen() == {"0.0", "0.2", "2.head[0]", "2.fc"}
    assert chosen(layers=["0.*"]) == {"0.0", "0.2"}
    assert chosen(layers="2.fc") == {"2.fc"}
    assert chosen(layers=["2.head[0]", "1"]) == {"2.head[0]", "1"}
    assert chosen(skip=["2.*"]) == {"0.0", "0.2"}
    assert chosen(layers=["0.*", "2.*"], skip="0.0") == {"0.2", "2.head[0]", "2.fc"}
    assert chosen(ranks={"2.head[0]": 1}) == {"2.head[0]"}
    low = lorank.decompose(network(), layers=["*"])
    kinds = {type(m) for m in low.modules() if isinstance(m, Factored)}
    assert kinds == {SVDConv, SVDEmbedding, SVDLinear}


def test_layers_after_lazy_ones_became_real_are_decomposed():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyConv1d(3, 1))
    model(torch.randn(2, 5, 6))
    assert all(isinstance(m, Factored) for m in lorank.decompose(model))


def test_a_compiled_model_keeps_its_names():
    model = torch.compile(nn.Sequential(nn.Linear(4, 4)), backend="eager")
    low = lorank.decompose(model, {"_orig_mod.0": 2})
    assert low(torch.ones(1, 4)).shape == (1, 4)


def test_a_model_that_cannot_be_copied():
    model = nn.Sequential(nn.Linear(4, 4))
    model.lock = threading.Lock()
    with pytest.raises(
        lorank.LorankError, match=r"must admit copy.deepcopy, and Sequential does not"
    ):
        lorank.decompose(model)

"""measure, decompose, prune, fold: the same function, the same spectrum, the original untouched."""

import copy
import json

import pytest
import torch
from torch import nn

import lorank
import tolerance
from compression.networks import draw, mixed, small
from lorank.errors import LorankError
from lorank.nn import Attention, Factored, SVDConv, SVDLinear
from matrices import falling, skewed, with_spectrum


def snapshot(model):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = {n: (p.requires_grad, id(p)) for n, p in model.named_parameters()}
    modes = {n: (type(m), m.training, id(m)) for n, m in model.named_modules()}
    hooks = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._buffers) for m in model.modules()
    )
    return state, flags, modes, hooks


def assert_untouched(model, before):
    now = snapshot(model)
    assert now[1:] == before[1:]
    assert all(torch.equal(now[0][k], v) for k, v in before[0].items())


def memory(model):
    tensors = [*model.parameters(), *model.buffers()]
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


STAGES = {
    "measure": lambda m, x: lorank.measure(m, x),
    "cost": lambda m, x: lorank.cost(m, x),
    "decompose": lambda m, x: lorank.decompose(m),
    "decompose one": lambda m, x: lorank.decompose(m, {"body": 2}),
    "decompose attention": lambda m, x: lorank.decompose(m, {"attention.q_proj": 2}),
}
LATER = {
    "measure": lambda m, x: lorank.measure(m, x),
    "cost": lambda m, x: lorank.cost(m, x),
    "prune": lambda m, x: lorank.prune(m, dict.fromkeys(lorank.measure(m), 1)),
    "prune raw": lambda m, x: lorank.prune(m, {"body": 2}, by="raw"),
    "fold": lambda m, x: lorank.fold(m),
    "fold padded": lambda m, x: lorank.fold(m, multiple=4, example=x),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("training", [True, False])
def test_a_stage_leaves_a_dense_model_alone_and_shares_no_memory_with_it(stage, training):
    model = mixed().train(training)
    model.drop.train(not training)
    model.body.weight.requires_grad_(False)
    before = snapshot(model)
    result = stage(model, draw())
    assert_untouched(model, before)
    if isinstance(result, nn.Module):
        assert memory(result).isdisjoint(memory(model))
        assert result.drop.training != training == result.stem.training


@pytest.mark.parametrize("stage", LATER.values(), ids=LATER)
def test_a_stage_leaves_a_model_in_svd_form_alone(stage):
    model = lorank.decompose(mixed())
    lorank.penalty(model).backward()
    before = snapshot(model)
    result = stage(model, draw())
    assert_untouched(model, before)
    assert all(p.grad is not None for n, p in model.named_parameters() if n.endswith(".U"))
    if isinstance(result, nn.Module):
        assert memory(result).isdisjoint(memory(model))


def assert_same(a, b, x):
    want = b.eval()(*x).detach()
    # Every map is normalised or bounded: relative errors add up over a dozen layers.
    allowed = 12 * tolerance.backward(64, 64, want.dtype) * float(want.norm())
    assert tolerance.distance(a.eval()(*x), want) <= allowed


def test_a_whole_life_keeps_the_function():
    dense, x = mixed(), draw()
    low = lorank.decompose(dense, layers=["stem.*", "table", "attention.*", "body"])
    assert isinstance(low.stem[0], SVDConv) and isinstance(low.attention, Attention)
    assert isinstance(low.head, SVDLinear) and low.head.U is low.table.U
    assert_same(low, dense, x)
    same = lorank.prune(low, {name: s.full_rank for name, s in lorank.measure(low).items()})
    assert_same(same, dense, x)
    again = lorank.fold(low)
    assert [type(m) for m in again.modules()] == [type(m) for m in dense.modules()]
    assert again.state_dict().keys() == dense.state_dict().keys()
    assert_same(again, dense, x)
    cut = lorank.prune(low, {"body": 2, "attention.v_proj": 1, "table": 2})
    assert_same(lorank.fold(cut), cut, x)


def test_everything_else_is_kept():
    dense = mixed()
    low = lorank.decompose(dense)
    for key in ("stem.1.running_mean", "stem.1.running_var", "stem.1.num_batches_tracked"):
        assert torch.equal(low.state_dict()[key], dense.state_dict()[key])
        assert low.state_dict()[key].any()
    for key in ("place", "scale", "memory.weight_ih_l0", "body.bias", "stem.3.bias"):
        assert torch.equal(low.state_dict()[key], dense.state_dict()[key])
    assert low.stem[1].momentum == dense.stem[1].momentum


@pytest.mark.parametrize("layout", ["auto", "channel", "channel_reversed", "spatial"])
def test_what_is_measured_is_what_is_cut(layout):
    dense = mixed()
    spectra = lorank.measure(dense, layout=layout)
    low = lorank.decompose(dense, layout=layout)
    after = lorank.measure(low)
    assert spectra.keys() == after.keys()
    for name, spectrum in spectra.items():
        bound = tolerance.backward(*spectrum.shape, torch.float64) * float(spectrum.values.max())
        assert spectrum.layout == after[name].layout and spectrum.shape == after[name].shape
        assert (spectrum.values - after[name].values).abs().max() <= 2 * bound
        assert spectrum.params == after[name].params
        cut = lorank.prune(low, {name: 1}).get_submodule(name)
        error = (cut.weight - dense_weight(dense, name)).norm().detach()
        tail = spectrum.values[..., 1:].norm()
        assert abs(error - tail) <= 10 * bound * spectrum.values.numel()


def dense_weight(model, name):
    if name.startswith("attention.") and not name.endswith("out_proj"):
        at = ["q_proj", "k_proj", "v_proj"].index(name.split(".")[1])
        return model.attention.in_proj_weight.chunk(3)[at]
    return model.get_submodule(name).weight


def trained(m=9, r=5, n=7):
    """A layer as after training without orthogonality: factors skewed, s of any sign."""
    layer = lorank.decompose(nn.Linear(n, m).double(), {"": r})
    with torch.no_grad():
        layer.U.copy_(skewed(m, r))
        layer.Vh.copy_(skewed(n, r, seed=5).mT)
        layer.S.copy_(torch.tensor([0.5, -3.0, 1.0, -0.1, 2.0]))
    return layer


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_product_cut_is_the_best_and_the_raw_cut_is_worse(rank):
    """Negative control: |s| is not the spectrum once the factors are not orthonormal."""
    layer = trained()
    dense = layer.weight.detach()
    tail = float(torch.linalg.svdvals(dense)[rank:].norm())

    def error(by):
        return float((lorank.prune(layer, {"": rank}, by=by).weight - dense).norm().detach())

    assert abs(error("product") - tail) <= tolerance.backward(16, 16, dense.dtype) * 100
    assert error("raw") > 1.05 * tail
    shown = lorank.measure(layer)[""].values
    assert float((shown - torch.linalg.svdvals(dense)[:5]).abs().max()) < 1e-12


def test_the_raw_cut_slices_the_largest_entries():
    layer = trained()
    cut = lorank.prune(layer, {"": 2}, by="raw")
    assert cut.S.tolist() == [3.0, 2.0]
    assert torch.equal(cut.U, layer.U[:, [1, 4]]) and torch.equal(cut.Vh, layer.Vh[[1, 4]])


def test_the_raw_cut_of_a_grouped_layer_chooses_in_each_group():
    low = lorank.decompose(nn.Conv2d(4, 8, 3, groups=2).double(), layers=[""], layout="channel")
    with torch.no_grad():
        low.S.copy_(torch.tensor([[1.0, -4, 2, 0], [-5, 3, 0, 1]]))
    cut = lorank.prune(low, {"": 2}, by="raw")
    assert cut.S.tolist() == [[4, 2], [5, 3]]
    assert torch.equal(cut.U[0], low.U[0][:, [1, 2]]) and torch.equal(cut.Vh[1], low.Vh[1][[0, 1]])


def test_both_cuts_are_one_on_orthonormal_factors():
    weight = with_spectrum(falling(6), 9, 6)
    dense = nn.Linear(6, 9).double()
    dense.weight.data.copy_(weight)
    low = lorank.decompose(dense)
    a, b = (lorank.prune(low, {"": 3}, by=by).weight for by in ("product", "raw"))
    assert tolerance.distance(a, b) <= 2 * tolerance.backward(9, 6, weight.dtype) * float(
        weight.norm()
    )


def test_ranks_are_plain_numbers_that_survive_json_and_numpy():
    low = lorank.decompose(small(6, 5, 4))
    ranks = json.loads(json.dumps({"0": 2}))
    numpy_ranks = {"0": torch.tensor([2]).numpy()[0]}
    assert lorank.prune(low, ranks)[0].rank == lorank.prune(low, numpy_ranks)[0].rank == 2
    assert lorank.decompose(small(6, 5), numpy_ranks)[0].rank == 2
    assert lorank.prune(low, {})[0].rank == 5


@pytest.mark.parametrize("kind", [nn.Linear, nn.Embedding])
def test_a_model_may_be_one_layer(kind):
    dense = kind(6, 5).double()
    x = torch.arange(4) if kind is nn.Embedding else torch.randn(4, 6, dtype=torch.float64)
    assert list(lorank.measure(dense, x, layers=[""])) == [""]
    low = lorank.decompose(dense, {"": 2})
    assert isinstance(low, Factored) and lorank.prune(low, {"": 1}).rank == 1
    assert list(lorank.measure(low, x)) == [""]
    torch.testing.assert_close(lorank.fold(low)(x), low(x))
    assert lorank.cost(low, x) == lorank.cost(lorank.fold(low), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_precisions_stay(dtype):
    dense = small(6, 5, 4).to(dtype)
    low = lorank.decompose(dense)
    for model in (low, lorank.prune(low, {"0": 2}), lorank.fold(low)):
        assert {p.dtype for p in model.parameters()} == {dtype}
    assert lorank.measure(dense)["0"].values.dtype == torch.float32
    gap = tolerance.distance(low[0].weight, dense[0].weight) / float(
        dense[0].weight.detach().norm()
    )
    u = tolerance.eps(dtype) / 2  # factors stored, their product rounded, U·S rounded
    assert gap <= tolerance.storage(dtype) + 2 * u + tolerance.backward(6, 5, torch.float32)


def test_autocast_changes_no_stage():
    dense = small(6, 5, 4)
    low = lorank.decompose(dense)

    def life():
        low = lorank.decompose(dense)
        cut = lorank.prune(low, {"0": 3})
        return lorank.measure(cut)["0"].values, lorank.fold(low)[0].weight, cut[0].weight

    want = life()
    with torch.autocast("cpu", torch.bfloat16):
        got = life()
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert got[1].dtype == torch.float32
    assert low[0].weight.dtype == torch.float32


def test_without_gradients_parameters_still_train():
    with torch.no_grad():
        low = lorank.decompose(small(6, 5, 4))
        cut = lorank.prune(low, {"0": 2})
        folded = lorank.fold(cut)
    for model in (low, cut, folded):
        assert all(p.requires_grad and p.is_leaf for p in model.parameters())
        model(torch.ones(1, 6)).sum().backward()


def test_weights_made_under_inference_mode_are_taken_over():
    with torch.inference_mode():
        dense = small(6, 5)
    low = lorank.decompose(dense)
    low(torch.ones(1, 6)).sum().backward()
    assert all(p.grad is not None for p in low.parameters())
    with torch.inference_mode():
        assert lorank.measure(low)["0"].full_rank == 5
        lorank.cost(low, torch.ones(1, 6))
        torch.testing.assert_close(lorank.fold(low)(torch.ones(1, 6)), low(torch.ones(1, 6)))


def test_gradients_and_graphs_are_not_carried_over():
    dense = small(6, 5, 4)
    dense(torch.ones(1, 6)).sum().backward()
    low = lorank.decompose(dense)
    assert all(p.grad is None for p in low.parameters())


def test_a_decomposed_model_is_copied_pickled_and_loaded(tmp_path):
    low = lorank.decompose(mixed())
    x = draw()
    torch.save(low, tmp_path / "model.pt")
    for twin in (copy.deepcopy(low), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(twin(*x), low(*x))
    other = lorank.decompose(mixed())
    other.load_state_dict(low.state_dict())


def test_output_maps_keep_their_memory_order():
    """Models call view on them: a kernel rebuilt with permuted strides would permute the map."""
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    x = torch.randn(2, 3, 6, 6)
    for layout in ("channel", "channel_reversed", "spatial", "spatial_reversed"):
        for model in (low := lorank.decompose(dense, layout=layout), lorank.fold(low)):
            assert model(x).is_contiguous()
            last = model(x.to(memory_format=torch.channels_last))
            assert last.is_contiguous(memory_format=torch.channels_last)


def test_a_budget_for_a_network_that_was_cut_can_be_applied_as_it_is():
    """A rule names the full rank where a layer is to stay; factors that have less keep it."""
    dense = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    low = lorank.prune(lorank.decompose(dense), {"0": 12, "2": 12})
    x = torch.randn(4, 16)
    same = lorank.prune(low, lorank.ranks.budget(lorank.measure(low), params=1.0))
    assert [layer.rank for layer in (same[0], same[2])] == [12, 12]
    torch.testing.assert_close(same(x), low(x))
    with pytest.raises(LorankError, match="between 1 and 16, found 17"):
        lorank.prune(low, {"0": 17})

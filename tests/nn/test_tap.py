"""A tap gives the live output of a layer, forgets the last pass, and leaves nothing behind."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lorank
from lorank.errors import LorankError
from lorank.nn import Tap


def network():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Sequential(nn.Linear(5, 4), nn.ReLU()))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Skips(nn.Module):
    """A network that can leave a layer out."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x, whole=True):
        x = self.first(x)
        return self.second(x) if whole else x


def test_it_is_what_the_layer_gave_with_its_graph():
    model, x = network(), torch.randn(7, 6)
    with Tap(model, "1", "2.0") as tap:
        y = model(x)
    assert torch.equal(tap["1"], torch.tanh(model[0](x)))
    assert torch.equal(y, tap["2.0"].relu())
    tap["1"].square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
    assert model[2][0].weight.grad is None  # nothing above the layer


def test_layers_in_svd_form():
    dense = network()
    low = lorank.decompose(dense)
    x = torch.randn(7, 6)
    with Tap(low, "0") as tap:
        low(x)
    assert torch.allclose(tap.value, dense[0](x), atol=1e-5)
    tap.value.sum().backward()
    assert low[0].S.grad is not None


def test_hooks_go_also_after_an_error():
    model = network()
    tap = Tap(model, "1")
    with tap:
        assert hooks(model) == 2
    with pytest.raises(RuntimeError), tap:
        model(torch.ones(2, 3))
    assert hooks(model) == 0


def test_flatten_and_the_root():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with Tap(model, "0", "", flatten=True) as tap:
        y = model(torch.ones(3, 1, 5, 5))
    assert tap["0"].shape == (3, 18)
    assert torch.equal(tap[""], y.flatten(1))
    assert list(tap) == ["0", ""] == list(tap.names)


def test_nothing_of_an_earlier_pass_is_read():
    model = Skips()
    with Tap(model, "second") as tap:
        model(torch.ones(1, 3))
        tap["second"]
        model(torch.ones(1, 3), whole=False)
        with pytest.raises(LorankError, match=r"'second' has not run"):
            tap["second"]


def test_what_a_layer_read():
    model, x = network(), torch.randn(2, 6)
    with Tap(model, "1", "2", inputs=True) as tap:
        model(x)
    assert torch.equal(tap["1"], model[0](x)) and torch.equal(tap["2"], model[:2](x))


def test_a_shared_layer_leaves_its_last_output():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    with Tap(model, "0", "2") as tap:
        y = model(torch.ones(1, 3))
    assert torch.equal(tap["0"], y) and torch.equal(tap["2"], y)


def test_names_that_are_not_there():
    with pytest.raises(LorankError, match=r"no layer '2\.1x' in Sequential: did you mean '2\.1'"):
        Tap(network(), "2.1x")
    with pytest.raises(LorankError, match=r"no layer 'conv' in Sequential: it has 0, 1, 2, 2\.0"):
        Tap(network(), "conv")
    with pytest.raises(LorankError, match="it has no layers inside"):
        Tap(nn.Linear(2, 2), "weight")
    with pytest.raises(LorankError, match="at least one layer"):
        Tap(network())
    with pytest.raises(LorankError, match="torch module, found function"):
        Tap(network, "0")
    with Tap(network(), "0", "1") as tap:
        with pytest.raises(LorankError, match="unknown tapped layer '3'"):
            tap["3"]
        with pytest.raises(LorankError, match="tap of one layer, found 2"):
            _ = tap.value


def test_outputs_that_are_no_tensor():
    model = nn.Sequential(nn.GRU(3, 4))
    with Tap(model, "0") as tap:
        model(torch.ones(2, 1, 3))
    with pytest.raises(LorankError, match=r"'0' \(GRU\) gave a tuple"):
        tap["0"]


def test_a_layer_that_never_ran():
    with Tap(network(), "0") as tap, pytest.raises(LorankError, match="has not run"):
        tap["0"]
    model = network()
    with Tap(model, "0") as tap:
        model(torch.ones(1, 6))
    tap.clear()
    with pytest.raises(LorankError, match="has not run"):
        tap["0"]


def test_wrappers_whose_layers_run_unseen():
    model = network()
    with pytest.raises(LorankError, match="DataParallel runs copies"):
        Tap(nn.DataParallel(model), "0")
    with pytest.raises(LorankError, match="compiled model"):
        Tap(torch.compile(model, backend="eager"), "0")
    inside = network()
    inside[2].compile(backend="eager")
    with pytest.raises(LorankError, match="compiled model"):
        Tap(inside, "2.0")
    with Tap(inside, "0") as tap:  # a layer beside the compiled one is seen
        inside[0](torch.ones(1, 6))
    assert tap.value.shape == (1, 5)
    with pytest.raises(LorankError, match="scripted model"):
        Tap(torch.jit.trace(model, torch.ones(1, 6)), "0")


def test_the_network_inside_distributed_data_parallel(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(network())
        with Tap(wrapped, "1") as tap:
            (wrapped(torch.ones(2, 6)).sum() + tap["1"].sum()).backward()
        assert wrapped.module[0].weight.grad is not None
    finally:
        torch.distributed.destroy_process_group()


def test_it_is_opened_once_at_a_time():
    """An inner exit would take the outer one's hooks, and leave it with an old batch."""
    model, x = network(), torch.randn(2, 6)
    tap = Tap(model, "0")
    with tap:
        with pytest.raises(LorankError, match="open already"), tap:
            pass
        model(x)
    assert torch.equal(tap.value, model[0](x)) and hooks(model) == 0
    with tap, Tap(model, "0", inputs=True) as other:
        model(2 * x)
    assert torch.equal(tap.value, model[0](2 * x)) and torch.equal(other.value, 2 * x)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

        def forward(self, x):
            return checkpoint(self.inside, x, use_reentrant=reentrant)

    model = Checkpointed()
    with Tap(model, "inside.0") as tap:
        y = model(torch.ones(2, 3, requires_grad=True))
    assert tap.value.requires_grad is not reentrant  # as the docstring says
    if not reentrant:
        (y.sum() * 0 + tap.value.square().sum()).backward()
        assert model.inside[0].weight.grad.any()


def test_an_error_on_the_way_leaves_nothing_of_the_batch_before():
    model = Skips()
    with Tap(model, "second") as tap:
        model(torch.ones(1, 3))
        with pytest.raises(RuntimeError):
            model(torch.ones(1, 2))
        with pytest.raises(LorankError, match="'second' has not run"):
            tap["second"]


def test_what_cannot_be_flattened_or_read():
    model = network()
    with Tap(model, "0", flatten=True) as tap:
        model(torch.ones(6))
    with pytest.raises(LorankError, match=r"its shape is \(5,\)"):
        tap["0"]
    named = nn.Module()
    named.layer = nn.Linear(3, 3)
    named.forward = lambda x: named.layer(input=x)
    with Tap(named, "layer", inputs=True) as tap:
        named(torch.ones(1, 3))
    with pytest.raises(LorankError, match=r"first positional argument.*NoneType"):
        tap["layer"]

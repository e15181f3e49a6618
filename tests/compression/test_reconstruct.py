"""Factors solved again for what the cut layers before them give."""

import math

import pytest
import torch
from torch import nn

import lorank
from compression.networks import draw, mixed, small
from lorank import LorankError, calibrate, decompose, reconstruct
from lorank.nn import Factored
from tolerance import distance, product


def deep(width=24, layers=5):
    """A random network with a last layer that stays dense."""
    return small(*[width] * layers, 6).double()


def correlated(rows, width, seed):
    """Inputs whose features hang together, to calibrate and to try on."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator).double()
    mix = mix * torch.logspace(0, -1.5, width, dtype=torch.float64)
    x = torch.randn(2 * rows, width, generator=generator).double() @ mix.mT
    return x[:rows], x[rows:]


def error(model, dense, x):
    with torch.no_grad():
        return float((model(x) - dense(x)).square().sum() / dense(x).square().sum())


RANKS = {"0": 8, "2": 8, "4": 8, "6": 8}


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_it_comes_closer_to_the_dense_network(seed, calibrated):
    torch.manual_seed(seed)
    model, (x, held_out) = deep(), correlated(1500, 24, seed)
    known = calibrate(model, [x]) if calibrated else None
    low = decompose(model, RANKS, calibration=known)
    better = reconstruct(low, model, x.split(500), calibration=known)
    assert error(better, model, x) < error(low, model, x)
    assert error(better, model, held_out) < error(low, model, held_out)


@pytest.mark.parametrize("rows", [6, 24, 100])
def test_few_samples_do_little_harm(rows):
    """On average over seeds; least squares without a ridge multiplies the error."""
    ratios = []
    for seed in range(6):
        torch.manual_seed(seed)
        model, (x, _) = deep(), correlated(rows, 24, seed)
        _, held_out = correlated(1000, 24, seed)
        known = calibrate(model, [x])
        low = decompose(model, RANKS, calibration=known)
        better = reconstruct(low, model, [x], calibration=known)
        ratios.append(error(better, model, held_out) / error(low, model, held_out))
    assert math.prod(ratios) < 1.1 ** len(ratios)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(torch.relu(self.up(torch.relu(x + self.body(x)))).movedim(1, -1))


@pytest.mark.parametrize("layout", ["auto", "spatial", "channel_reversed"])
def test_convolutions_in_every_layout(layout):
    """On average: the weights of the errors are a model of first order."""
    ratios = []
    for seed in range(4):
        torch.manual_seed(seed)
        model, x = Images().double(), torch.randn(100, 3, 6, 6).double().cumsum(2).cumsum(3) / 6
        known = calibrate(model, [x], positions=None)
        ranks = {"first": 3, "body": 2, "up": 3}
        low = decompose(model, ranks, layout=layout, calibration=known)
        better = reconstruct(low, model, x.split(50), calibration=known, positions=None)
        for name in ranks:
            before, after = low.get_submodule(name), better.get_submodule(name)
            assert after.rank == before.rank and after.view == before.view
        ratios.append(error(better, model, x) / error(low, model, x))
    assert math.prod(ratios) < 0.98 ** len(ratios)


def of_rank(rank):
    """A network whose weights have this rank."""
    model = deep()
    low = decompose(model, dict.fromkeys(RANKS, rank))
    for name in RANKS:
        model.get_submodule(name).weight.data = low.get_submodule(name).weight.detach()
    return model


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_network_of_low_rank_is_found_again(calibrated):
    """Where a cut loses nothing, nothing changes."""
    model = of_rank(8)
    x, held_out = correlated(500, 24, 0)
    known = calibrate(model, [x]) if calibrated else None
    low = decompose(model, RANKS, calibration=known)
    better = reconstruct(low, model, [x], calibration=known)
    for name in RANKS:
        want = model.get_submodule(name).weight.detach()
        # roots of Gram matrices: half the digits
        assert distance(better.get_submodule(name).weight, want) <= 1e-7 * float(want.norm())
    assert error(better, model, held_out) < 1e-13  # a square
    other = decompose(model, dict.fromkeys(RANKS, 7))  # negative control
    assert error(reconstruct(other, model, [x]), model, held_out) > 1e-4


def test_the_first_layer_gets_the_weighted_cut_and_the_second_what_it_reads():
    """Two layers by hand: the second one is fitted to the output of the first."""
    model, (x, _) = small(10, 9, 8).double(), correlated(4000, 10, 3)
    known = calibrate(model, [x], outputs=False)
    low = decompose(model, {"0": 2, "2": 7}, calibration=known)
    better = reconstruct(low, model, [x], calibration=known)
    assert distance(better[0].weight, low[0].weight) <= 1e-7 * float(low[0].weight.norm())
    with torch.no_grad():
        true, changed = torch.relu(model[0](x)), torch.relu(better[0](x))
        W = torch.linalg.lstsq(changed, true @ model[2].weight.mT).solution.mT
    # rank 7 of 8: the best cut of the fitted weight in the norm of what it reads
    values, axes = torch.linalg.eigh(changed.mT @ changed / len(x))
    root = (axes * values.sqrt()) @ axes.mT
    U, S, Vh = torch.linalg.svd(W @ root)
    want = (U[:, :7] * S[:7]) @ Vh[:7] @ torch.linalg.inv(root)

    def lost(weight):
        return float((changed @ weight.detach().mT - true @ model[2].weight.mT).square().mean())

    # the ridge is n / rows = 0.2 % of the mean direction
    assert lost(want) <= lost(better[2].weight) * (1 + 1e-9) <= 1.002 * lost(want)
    assert lost(low[2].weight) > 1.02 * lost(want)


def test_everything_else_stays_as_it_is():
    model = mixed().train()
    model.stem.eval()
    ranks = {"stem.0": 4, "attention.k_proj": 3, "body": 3}
    low = decompose(model, ranks)
    low.drop.eval()
    low.body.bias.requires_grad_(False)
    before = (
        [{k: v.clone() for k, v in net.state_dict().items()} for net in (model, low)],
        [[m.training for m in net.modules()] for net in (model, low)],
    )
    batches = [draw(20), draw(20)]
    better = reconstruct(low, model, batches)
    after = [dict(net.state_dict()) for net in (model, low)]
    for old, new in zip(before[0], after, strict=True):
        assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)
    assert before[1] == [[m.training for m in net.modules()] for net in (model, low)]
    assert [m.training for m in better.modules()] == before[1][1]
    changed = {k for k, v in better.state_dict().items() if not torch.equal(v, after[1][k])}
    assert changed == {f"{name}.{f}" for name in ranks for f in ("U", "S", "Vh")}
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in (*model.modules(), *better.modules())
    )
    for name, rank in ranks.items():
        assert better.get_submodule(name).rank == rank
    assert not better.body.bias.requires_grad and better.body.U.requires_grad
    assert lorank.cost(lorank.fold(better)) == lorank.cost(lorank.fold(low))


def test_tied_tables_stay_as_they_were_cut():
    """A tied table is looked up as well: what is best for the head would harm the rows."""
    model = mixed()
    low = decompose(model, {"table": 4, "body": 4})
    better = reconstruct(low, model, [draw(30)])
    assert better.head.U is better.table.U
    assert torch.equal(better.table.weight, low.table.weight)
    assert not torch.equal(better.body.weight, low.body.weight)
    with pytest.raises(LorankError, match="below full rank, found none"):
        reconstruct(decompose(model, {"table": 4}), model, [draw(3)])


def test_attention_comes_closer():
    ratios = []
    for seed in range(4):
        torch.manual_seed(seed)
        layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
        model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).double().eval()
        x = torch.randn(60, 6, 16).double() * torch.logspace(0, -2, 16).double()
        ranks = {
            f"layers.{i}.{part}": 5
            for i in range(3)
            for part in ("self_attn.v_proj", "self_attn.out_proj", "linear1", "linear2")
        }
        known = calibrate(model, [x])
        low = decompose(model, ranks, calibration=known)
        better = reconstruct(low, model, x.split(30), calibration=known)
        ratios.append(error(better, model, x) / error(low, model, x))
        assert isinstance(model.layers[0].self_attn, nn.MultiheadAttention)
    assert max(ratios) < 1


class Twice(nn.Module):
    """One layer that runs twice, with another one between."""

    def __init__(self):
        super().__init__()
        self.one, self.between, self.head = (nn.Linear(12, 12) for _ in range(3))

    def forward(self, x):
        x = torch.tanh(self.between(torch.tanh(self.one(x))))
        return self.head(torch.tanh(self.one(x)))


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_a_layer_that_runs_twice(steps):
    model, (x, _) = Twice().double(), correlated(800, 12, 0)
    low = decompose(model, {"one": 6, "between": 5})
    better = reconstruct(low, model, [x], steps=steps)
    assert error(better, model, x) < error(low, model, x)
    assert better.one.rank == 6


def counted(model, name, calls):
    model.get_submodule(name).register_forward_hook(lambda *_: calls.append(name))


@pytest.mark.parametrize(("steps", "stops"), [(1, 1), (2, 2), (3, 2), (4, 4), (20, 4)])
def test_layers_are_solved_a_group_at_a_time(steps, stops):
    model, (x, _) = deep(), correlated(90, 24, 0)
    low = decompose(model, RANKS)
    calls = []
    for name in ("1", "3", "5", "7"):
        counted(model, name, calls)
    reconstruct(low, model, x.split(30), steps=steps)
    # of the dense network and in each of 3 batches, layers up to the last one of a group run
    groups = [4 // stops * (i + 1) for i in range(stops)]
    assert len(calls) == 3 * sum(last - 1 for last in groups)


def test_what_comes_after_the_last_cut_does_not_run():
    model, (x, _) = deep(), correlated(30, 24, 0)
    low, calls = decompose(model, {"0": 4, "4": 5}), []
    for name in ("2", "3", "4", "8"):
        counted(model, name, calls)
    reconstruct(low, model, [x, x])
    assert sorted(calls) == ["2", "2", "3", "3"]  # the second stop, two batches; "4" is stopped


def test_solved_together_is_not_solved_in_turn():
    model, (x, _) = deep(), correlated(600, 24, 1)
    low = decompose(model, RANKS)
    together, apart = (reconstruct(low, model, [x], steps=n) for n in (1, 4))
    assert torch.equal(together[0].weight, apart[0].weight)
    assert not torch.equal(together[2].weight, apart[2].weight)
    assert error(apart, model, x) < error(low, model, x)


def test_the_seed_draws_the_positions():
    torch.manual_seed(1)
    model, x = Images().double(), torch.randn(10, 3, 8, 8).double()
    low = decompose(model, {"body": 2})
    runs = [reconstruct(low, model, [x], positions=4, seed=s).body.weight for s in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_layers_of_full_rank_and_dense_ones_are_left():
    model, (x, _) = deep(), correlated(300, 24, 0)
    low = decompose(model, {"0": 6, "2": 24})
    better = reconstruct(low, model, [x])
    assert isinstance(better[2], Factored) and isinstance(better[4], nn.Linear)
    for a, b in zip(low[2].parameters(), better[2].parameters(), strict=True):
        assert torch.equal(a, b)


def test_float32_is_solved_in_float64():
    model, (x, _) = deep(), correlated(500, 24, 2)
    want = reconstruct(decompose(model, RANKS), model, [x])
    found = reconstruct(decompose(model.float(), RANKS), model, [x.float()])
    assert found[0].U.dtype == torch.float32
    x = x.float()
    gap = float((found(x) - want.float()(x)).norm() / want(x).norm())
    assert gap <= math.sqrt(product(24 * 5, torch.float32))


def networks():
    model = small(6, 6, 6)
    return decompose(model, {"0": 2}), model, [torch.rand(20, 6)]


def test_one_sentence_for_what_cannot_be():
    low, model, batches = networks()
    for change, sentence in (
        ((low, model, []), "reconstruct needs at least one batch, found none"),
        ((model, model, batches), "needs a layer in SVD form below full rank, found none"),
        ((decompose(model), model, batches), "below full rank, found none"),
        ((low, low, batches), "needs the dense network that was cut, and layer '0' is not"),
        ((low, small(6, 7, 6), batches), "layer '0' is not the same in both"),
        ((low, nn.Sequential(nn.ReLU()), batches), "layer '0' is not the same in both"),
        ((low, model, [torch.rand(2, 5)]), r"must run on every batch, and failed on .*\(2, 5\)"),
        ((low, "x", batches), "a model is a torch.nn.Module"),
    ):
        with pytest.raises(LorankError, match=sentence) as caught:
            reconstruct(*change)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, None])
def test_steps_are_counted(steps):
    with pytest.raises(LorankError, match="steps must be a whole number of at least 1, found"):
        reconstruct(*networks(), steps=steps)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_name_the_layer(bad):
    low, model, (x,) = networks()
    broken = x.clone()
    broken[3, 2] = bad
    with pytest.raises(LorankError, match=r"layer '0': .*finite"):
        reconstruct(low, model, [x, broken])
    known = calibrate(model, [x])
    known["0"].outputs[0, 1, 1] = bad
    with pytest.raises(LorankError, match="layer '0': moments of outputs must be finite"):
        reconstruct(low, model, [x], calibration=known)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.left(x) if x.mean() < 10 else self.right(x)


def test_a_layer_that_is_never_reached_is_left():
    model, x = Branch(), torch.rand(40, 6)
    low = decompose(model, {"left": 3, "right": 3})
    better = reconstruct(low, model, [x])
    assert torch.equal(better.right.U, low.right.U)
    with pytest.raises(LorankError, match="reach no layer that was cut"):
        reconstruct(decompose(model, {"right": 3}), model, [x])


def test_batches_that_take_different_ways():
    """The first one shows which layers run."""
    model, x = Branch(), torch.rand(40, 6)
    low = decompose(model, {"left": 3, "right": 3})
    alone, both = (reconstruct(low, model, batches) for batches in ([x], [x, x + 20]))
    assert torch.equal(both.left.U, alone.left.U) and not torch.equal(both.left.U, low.left.U)
    assert torch.equal(both.right.U, low.right.U)


class Routed(nn.Module):
    """Sends each row to one of two layers, and not always the same in both networks."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.first(x)
        to_left = x[:, 0] > 0
        y = torch.zeros_like(x)
        if to_left.any():
            y[to_left] = self.left(x[to_left])
        if not to_left.all():
            y[~to_left] = self.right(x[~to_left])
        return y


def test_rows_that_went_another_way_are_not_compared():
    model = Routed()
    low = decompose(model, {"first": 1, "left": 3, "right": 3})
    batches = [torch.randn(40, 6), torch.randn(1, 6), torch.randn(2, 6)]
    better = reconstruct(low, model, batches)
    assert all(torch.isfinite(p).all() for p in better.parameters())
    assert not torch.equal(better.first.U, low.first.U)


def test_the_calibration_of_another_network_is_refused():
    net, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(16, 8)
    low = lorank.decompose(net, {"0": 2})
    with pytest.raises(LorankError, match="calibration has seen nothing of '0'"):
        lorank.reconstruct(low, net, [x], calibration=lorank.Calibration())


class Residual(nn.Module):
    """Adds to its input in place, after layers have read it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = x.clone()
        x += self.first(x)
        x += self.second(x)
        return x


def test_inputs_changed_in_place_are_seen_as_they_were_read():
    torch.manual_seed(0)
    net, x = Residual().double(), torch.randn(512, 8).double()
    low = lorank.decompose(net, {"first": 3, "second": 3})
    better = lorank.reconstruct(low, net, [x], steps=1)

    class Plain(Residual):
        def forward(self, x):
            x = x + self.first(x)
            return x + self.second(x)

    plain = Plain().double()
    plain.load_state_dict(net.state_dict())
    cut = lorank.decompose(plain, {"first": 3, "second": 3})
    same = lorank.reconstruct(cut, plain, [x], steps=1)
    for name in ("first", "second"):
        one, other = better.get_submodule(name).weight, same.get_submodule(name).weight
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)

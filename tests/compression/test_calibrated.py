"""Measure, choose and cut with a calibration: from the first stage to the answer."""

import pytest
import torch
from torch import nn

import lorank
from compression.networks import draw, mixed, small
from lorank import LorankError, calibrate, decompose, measure
from lorank.compression.calibrate import Calibration
from lorank.compression.measure import predicted_loss
from lorank.linalg import Moments, weighted_error, weighted_singular_values
from lorank.ranks import RULES, Spectra, Spectrum, budget, rule
from tolerance import backward


def inputs(rows, width, seed):
    """Features that hang together, to calibrate and to try on."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator) * torch.logspace(0, -1.5, width)
    x = (torch.randn(2 * rows, width, generator=generator) @ mix.mT).double()
    return x[:rows], x[rows:]


def error(low, model, x):
    with torch.no_grad():
        return float((low(x) - model(x)).square().sum() / model(x).square().sum())


class Small(nn.Module):
    """Convolutions of all sorts, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 12, 3, padding=1)
        self.two = nn.Conv2d(12, 12, 3, stride=2, groups=2)
        self.three = nn.Conv2d(12, 12, (3, 2))
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = torch.relu(self.one(x))
        x = torch.relu(self.three(torch.relu(self.two(x))))
        return self.head(x.movedim(1, -1))


@pytest.mark.parametrize("seed", range(6))
def test_at_equal_ranks_the_answer_is_closer(seed):
    torch.manual_seed(seed)
    model, (x, held_out) = small(24, 20, 20, 6).double(), inputs(1000, 24, seed)
    known, ranks = calibrate(model, [x]), {"0": 6, "2": 6, "4": 3}
    plain, low = (decompose(model, ranks, calibration=c) for c in (None, known))
    assert error(low, model, held_out) < 0.9 * error(plain, model, held_out)
    for name in ranks:  # and each layer's own weighed error is smaller
        view, weight = low.get_submodule(name).view, model.get_submodule(name).weight
        lost = [weighted_error(view, weight - net.get_submodule(name).weight, known[name])
                for net in (low, plain)]  # fmt: skip
        assert lost[0] < lost[1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("layout", ["auto", "channel", "spatial", "spatial_reversed"])
def test_at_equal_ranks_convolutions_are_closer(seed, layout):
    torch.manual_seed(seed)
    model = Small().double()
    x = torch.randn(200, 3, 8, 8, dtype=torch.float64).cumsum(2).cumsum(3) / 8
    x, held_out = x.chunk(2)
    known, ranks = calibrate(model, [x]), {"one": 5, "two": 3, "three": 6, "head": 5}
    layouts = dict.fromkeys(ranks, layout)
    plain, low = (decompose(model, ranks, layout=layouts, calibration=c) for c in (None, known))
    assert error(low, model, held_out) < error(plain, model, held_out)


def test_the_spectra_are_the_weighed_ones_and_know_their_loss():
    torch.manual_seed(0)
    model = Small().double()
    x = torch.randn(50, 3, 8, 8, dtype=torch.float64)
    known = calibrate(model, [x])
    found, plain = measure(model, x, calibration=known), measure(model, x)
    assert list(found) == list(plain) == ["one", "two", "three", "head"]
    assert (found.params, found.macs) == (plain.params, plain.macs)
    low = decompose(model, dict.fromkeys(found, 2), calibration=known)
    for name, layer in found.items():
        view = low.get_submodule(name).view
        assert layer.layout == view.layout and layer.shape == view.shape
        weight = model.get_submodule(name).weight
        assert torch.equal(layer.values, weighted_singular_values(view, weight, known[name]))
        assert layer.loss.shape == (layer.full_rank + 1,) and plain[name].loss is None
        assert torch.equal(layer.loss, predicted_loss(layer.values))
        assert layer.loss[-1] == 0 and bool((layer.loss[1:] <= layer.loss[:-1]).all())


def test_the_loss_is_the_tail_over_the_root_of_the_whole():
    values = torch.tensor([[4.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
    energy = [16 + 9, 4 + 9, 1 + 0]
    want = [sum(energy[r:]) / sum(energy) ** 0.5 for r in range(4)]
    torch.testing.assert_close(predicted_loss(values), torch.tensor(want).double())
    assert predicted_loss(torch.zeros(3)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("layout", ["auto", "channel"])
def test_measuring_and_cutting_agree_on_the_layout(layout):
    """Also where the calibration changes the layout: a negative control."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3)).double()
    # along the first axis inputs hardly change: what is swept there is nearly of rank 1
    x = torch.randn(40, 6, 1, 12, dtype=torch.float64).expand(-1, -1, 8, -1)
    x = x + 0.01 * torch.randn(40, 6, 8, 12, dtype=torch.float64)
    known = calibrate(model, [x], outputs=False)
    spectra = measure(model, x, layout=layout, calibration=known)
    low = decompose(model, {"0": 3, "2": 3}, layout=layout, calibration=known)
    assert [s.layout for s in spectra.values()] == [low[i].view.layout for i in (0, 2)]
    plain = measure(model, x, layout=layout)
    if layout == "auto":
        assert spectra["0"].layout != plain["0"].layout
    else:
        assert {s.layout for s in spectra.values()} == {"channel"}


def test_a_budget_goes_by_the_loss():
    """The knapsack minimises the sum of losses, and not that of shares of energy."""
    torch.manual_seed(0)
    model, (x, _) = small(24, 24, 24, 24, 8).double(), inputs(1000, 24, 0)
    spectra = measure(model, x, calibration=calibrate(model, [x]))
    shares = {
        name: Spectrum(s.values, s.shape, s.layout, s.params, s.macs, s.limit)
        for name, s in spectra.items()
    }
    found = budget(spectra, params=0.6)
    other = budget(Spectra(shares, params=spectra.params), params=0.6)
    assert found != other

    def total(ranks):
        return sum(float(spectra[name].loss[rank]) for name, rank in ranks.items())

    assert total(found) < total(other)
    # weights of layers count on top of it
    heavy = budget(spectra, params=0.6, weights={"2": 100.0})
    assert heavy["2"] > found["2"]


@pytest.mark.parametrize("seed", range(4))
def test_the_whole_way_is_better_than_the_plain_one(seed):
    torch.manual_seed(seed)
    model, (x, held_out) = small(24, 24, 24, 24, 8).double(), inputs(1000, 24, seed)
    known = calibrate(model, [x])
    lost = []
    for calibration in (None, known):
        ranks = budget(measure(model, x, calibration=calibration), params=0.6)
        low = lorank.fold(decompose(model, ranks, calibration=calibration))
        assert lorank.cost(low).params <= 0.6 * lorank.cost(model).params
        lost.append(error(low, model, held_out))
    assert lost[1] < 0.5 * lost[0]


VALUES = {"energy": ":0.9", "threshold": ":0.1", "params": ":0.6", "macs": ":0.6"}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_takes_weighed_spectra(name):
    torch.manual_seed(0)
    model, (x, _) = small(12, 12, 4).double(), inputs(100, 12, 0)
    spectra = measure(model, x, calibration=calibrate(model, [x]))
    ranks = rule(name + VALUES.get(name, ""))(spectra)
    assert ranks.keys() == spectra.keys()
    assert all(1 <= rank <= spectra[n].full_rank for n, rank in ranks.items())


def test_networks_in_svd_form_are_measured_as_the_weights_that_they_are():
    torch.manual_seed(0)
    model = Small().double()
    x = torch.randn(50, 3, 8, 8, dtype=torch.float64)
    low = decompose(model, layout="channel")
    known = calibrate(low, [x])
    found = measure(low, x, calibration=known)
    want = measure(model, x, layout="channel", calibration=calibrate(model, [x]))
    for name in want:
        largest = float(want[name].values.max())
        # squares, of factors that are the weight to rounding
        bound = 20 * backward(*want[name].shape, torch.float64) * largest**2
        gap = (found[name].values.square() - want[name].values.square()).abs().max()
        assert float(gap) <= bound
        assert found[name].layout == "channel" and not found[name].values.requires_grad


def test_everything_in_a_network_is_cut_with_one_calibration():
    model, batch = mixed(), draw(30)
    known = calibrate(model, [batch])
    spectra = measure(model, batch, calibration=known)
    low = decompose(model, dict.fromkeys(spectra, 2), calibration=known)
    for name in ("stem.0", "stem.3", "attention.q_proj", "attention.out_proj", "body", "table"):
        assert name in known and low.get_submodule(name).rank == 2
    assert low.head.U is low.table.U
    lorank.fold(low)(*batch)


def test_names_of_tied_layers_are_known():
    model, batch = mixed(), draw(30)
    known = calibrate(model, [batch])
    a = decompose(model, {"head": 3}, calibration=known)
    b = decompose(model, {"table": 3}, calibration=known)
    assert torch.equal(a.head.U, b.head.U)


def test_full_rank_is_the_layer_to_rounding():
    model, (x, held_out) = small(12, 12, 4).double(), inputs(100, 12, 0)
    low = decompose(model, {"0": 12, "2": 4}, calibration=calibrate(model, [x]))
    assert error(low, model, held_out) < (100 * backward(12, 12, torch.float64)) ** 2


def test_float32_and_less():
    model, (x, held_out) = small(24, 20, 6), inputs(300, 24, 0)
    x, held_out = x.float(), held_out.float()
    known = calibrate(model, [x])
    low = decompose(model, {"0": 6, "2": 3}, calibration=known)
    assert low[0].U.dtype == torch.float32
    assert error(low, model, held_out) < error(decompose(model, {"0": 6, "2": 3}), model, held_out)
    half = decompose(model.bfloat16(), {"0": 6}, calibration=known)
    assert half[0].U.dtype == torch.bfloat16


def test_one_sentence_for_what_cannot_be():
    model, (x, _) = small(12, 12, 4), inputs(100, 12, 0)
    x = x.float()
    known = calibrate(model, [x])
    part = calibrate(model, [x], layers=["0"])
    other = calibrate(small(9, 12, 4), [torch.rand(20, 9)])
    broken = Calibration({"0": Moments(known["0"].inputs * torch.nan, None, 3)}, samples=3)
    for call, sentence in (
        (lambda: decompose(model, calibration=known), "calibration is for a cut: give decompose"),
        (lambda: decompose(model, {"2": 2}, calibration=part), "seen no input of '2': calibrate"),
        (lambda: measure(model, layers=["2"], calibration=part), "seen no input of '2'"),
        (lambda: measure(model, calibration=Calibration()), "seen no input of '0', '2'"),
        (lambda: measure(model, calibration=other), r"layer '0': moments of inputs must be of s"),
        (lambda: decompose(model, {"0": 2}, calibration=other), "layer '0': moments of inputs"),
        (lambda: measure(model, calibration=broken), "layer '0': moments of inputs must be finite"),
        (lambda: decompose(model, {"0": 0}, calibration=known), "layer '0': a rank must be"),
    ):
        with pytest.raises(LorankError, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(measure(model, calibration=part)) == ["0"]

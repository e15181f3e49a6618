"""Measured losses against cuts that are tried by hand."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from compression.networks import small
from lorank import LorankError, calibrate, decompose, measure
from lorank.compression.sensitivity import DISTANCES, FRACTIONS, curve, sensitivity
from lorank.ranks import Price, Spectrum, budget


def network():
    return small(16, 16, 16, 5).double().eval()


def batches(count=2, rows=30):
    return [torch.randn(rows, 16, dtype=torch.float64) for _ in range(count)]


def tried_ranks(layer, fractions=FRACTIONS):
    return [max(1, round(f * layer.break_even)) for f in fractions]


def share(layer):
    """Share of the energy beyond each rank."""
    energy = layer.energy
    return torch.stack([energy[r:].sum() for r in range(len(energy) + 1)]) / energy.sum()


def distances(model, low, inputs, distance="squared"):
    parts = []
    with torch.no_grad():
        for x in inputs:
            true, found = model(x), low(x)
            if distance == "squared":
                parts.append(float((found - true).square().sum() / true.square().sum()))
            else:
                p = true.softmax(-1)
                q = found.softmax(-1)
                parts.append(float((p * (p / q).log()).sum(-1).mean()))
    return sum(parts) / len(parts)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_loss_goes_through_what_was_measured(calibrated, distance):
    """``loss(r)² = d(r)·q(r)`` at the ranks that were tried, d by hand."""
    model, x = network(), batches()
    known = calibrate(model, x) if calibrated else None
    spectra = measure(model, x[0], calibration=known)
    notes = {}
    found = sensitivity(
        model, spectra, x, calibration=known, distance=distance, note=notes.__setitem__
    )
    assert list(found) == list(spectra) == ["0", "2", "4"]
    for name, layer in found.items():
        assert layer.loss.shape == (layer.full_rank + 1,)
        q = share(layer)
        for rank in tried_ranks(layer):
            low = decompose(model, {name: rank}, calibration=known)
            want = distances(model, low, x, distance)
            # answers are compared in float32
            assert notes[f"{name} channel {rank}"] == pytest.approx(want, rel=1e-3)
            assert float(layer.loss[rank] ** 2 / q[rank]) == pytest.approx(want, rel=1e-3)
        assert dataclasses.replace(layer, loss=None) == dataclasses.replace(
            spectra[name], loss=None
        )
    assert (found.params, found.macs) == (spectra.params, spectra.macs)


def test_only_what_pays_is_tried():
    model, x = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)), [torch.rand(8, 16)]
    spectra, notes = measure(model, x[0]), {}
    assert spectra["2"].break_even == 0  # a single row
    found = sensitivity(model, spectra, x, note=notes.__setitem__, fractions=(0.1, 0.12, 1.0))
    assert list(notes) == ["0 channel 1", "0 channel 7"]
    assert found["2"] is spectra["2"] or found["2"].loss is spectra["2"].loss


def spectrum(values, **more):
    n = len(values)
    return Spectrum(
        torch.tensor(values, dtype=torch.float64), (n, n), "channel", Price(1, 1), **more
    )


FALLING = [8.0, 5.0, 3.0, 2.0, 1.0, 0.5]
TRIED = [
    {2: 0.4},
    {1: 0.9, 3: 0.2, 5: 0.01},
    {1: 0.1, 4: 0.3},
    {5: 1e-3, 4: 1e-3},
    {3: 0.0},
    {1: 5.0, 2: 1e-30},
]


@pytest.mark.parametrize("tried", TRIED)
@pytest.mark.parametrize("values", [FALLING, [1.0] * 6, [3.0, 2.0, 1.0, 0.0, 0.0, 0.0]])
def test_the_curve_falls_to_nothing_through_its_points(values, tried):
    layer = spectrum(values)
    loss, q = curve(layer, tried), share(layer)
    assert loss.shape == (7,) and torch.isfinite(loss).all()
    assert bool((loss[1:] <= loss[:-1] * (1 + 1e-12)).all()) and loss[6] == 0
    for rank, d in tried.items():
        if q[rank] == 0:
            assert loss[rank] == 0
            continue
        # a larger rank loses no more than a smaller one; nothing is below what float32 shows
        known = max([d, *(tried[r] for r in tried if r > rank)], default=d)
        want = max(known, torch.finfo(torch.float32).eps ** 2)
        assert float(loss[rank] ** 2 / q[rank]) == pytest.approx(want, rel=1e-9)


def test_the_curve_is_a_power_of_the_energy_lost_between_and_beyond():
    layer, tried = spectrum(FALLING), {2: 0.3, 4: 0.02}
    q = share(layer)
    d = curve(layer, tried)[:6].square() / q[:6]
    power = math.log(0.3 / 0.02) / float((q[2] / q[4]).log())
    assert float(d[3]) == pytest.approx(0.02 * float(q[3] / q[4]) ** power, rel=1e-12)
    for rank, near in ((0, 2), (1, 2), (5, 4)):
        assert float(d[rank]) == pytest.approx(tried[near] * float(q[rank] / q[near]), rel=1e-12)


class Counted(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, []

    def forward(self, x):
        self.calls.append(len(x))
        return self.model(x)

    def __deepcopy__(self, memo):
        other = Counted(copy.deepcopy(self.model, memo))
        other.calls = self.calls
        return other


def test_a_search_goes_on_where_it_stopped():
    model, x = Counted(network()).eval(), batches()
    spectra = measure(model, x[0])
    model.calls.clear()
    notes = {}
    want = sensitivity(model, spectra, x, note=notes.__setitem__)
    tries = len(notes)
    assert tries == sum(len(set(tried_ranks(s))) for s in spectra.values())
    assert len(model.calls) == 2 * (1 + tries)
    half = dict(list(notes.items())[:4])
    model.calls.clear()
    again = {}
    found = sensitivity(model, spectra, x, known=half, note=again.__setitem__)
    assert len(model.calls) == 2 * (1 + tries - 4)
    assert half | again == notes and not half.keys() & again.keys()
    for name in want:
        assert torch.equal(found[name].loss, want[name].loss)
    other = dict.fromkeys(notes, 0.5)  # negative control: what is known is believed
    found = sensitivity(model, spectra, x, known=other)
    assert not torch.equal(found["model.0"].loss, want["model.0"].loss)


def test_an_interrupted_search_has_noted_what_it_knows():
    model, x, notes = network(), batches(), {}

    def stop(key, distance):
        if len(notes) == 2:
            raise KeyboardInterrupt
        notes[key] = distance

    with pytest.raises(KeyboardInterrupt):
        sensitivity(model, measure(model, x[0]), x, note=stop)
    whole = {}
    sensitivity(model, measure(model, x[0]), x, note=whole.__setitem__)
    assert notes == {key: whole[key] for key in notes} and len(notes) == 2


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.side = nn.Linear(16, 16), nn.Linear(16, 9), nn.Linear(16, 9)

    def forward(self, x):
        y = torch.relu(self.body(x))
        return {"one": self.head(y), "two": self.side(y)}


def test_an_answer_is_picked():
    model, x = Pair(), [torch.randn(20, 16)]
    spectra, notes = measure(model, x[0]), {}
    sensitivity(model, spectra, x, answer=lambda y: y["two"], note=notes.__setitem__)
    assert all(notes[k] == 0 for k in notes if k.startswith("head"))
    assert all(notes[k] > 0 for k in notes if not k.startswith("head"))
    sensitivity(model, spectra, x, note=notes.__setitem__)
    assert all(notes[k] == 0 for k in notes if k.startswith("side"))


def test_the_layout_of_the_spectra_is_tried():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x, notes = [torch.randn(3, 4, 6, 6)], {}
    layouts = {"0": "spatial", "2": "channel"}
    spectra = measure(model, x[0], layout=layouts)
    sensitivity(model, spectra, x, note=notes.__setitem__)
    for key, distance in notes.items():
        name, layout, rank = key.split()
        assert layout == layouts[name]
        low = decompose(model, {name: int(rank)}, layout=layouts)
        assert distance == pytest.approx(distances(model, low, x), rel=1e-3)


class Residual(nn.Module):
    """A layer whose errors count, and one whose errors hardly do."""

    def __init__(self):
        super().__init__()
        self.main, self.side = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        U, V = (torch.linalg.qr(torch.randn(16, 16))[0] for _ in range(2))
        self.main.weight.data = (U * torch.logspace(0, -1, 16)) @ V
        self.side.weight.data = V @ U

    def forward(self, x):
        return self.main(x) + 0.01 * torch.tanh(self.side(x))


def test_a_budget_goes_by_what_was_measured():
    """A layer whose errors do not count is cut before one whose errors do."""
    model, x = Residual().double(), batches(1, 100)
    spectra = measure(model, x[0])
    plain, found = budget(spectra, params=0.6), budget(sensitivity(model, spectra, x), params=0.6)
    assert found["side"] < plain["side"] and found["main"] > plain["main"]
    lows = [decompose(model, ranks) for ranks in (found, plain)]
    assert distances(model, lows[0], x) < 0.5 * distances(model, lows[1], x)


def test_the_model_is_left_as_it_was():
    model, x = network().train(), batches()
    model[2].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sensitivity(model, measure(model, x[0]), x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model] == [True, True, False, True, True]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_an_answer_of_nothing_is_no_fault_of_the_cut():
    model, x = network(), batches()
    with torch.no_grad():
        model[4].weight.zero_()
        model[4].bias.zero_()
    notes = {}
    found = sensitivity(model, measure(model, x[0], skip=["4"]), x, note=notes.__setitem__)
    assert set(notes.values()) == {0.0}
    assert torch.isfinite(found["0"].loss).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"distance": "cosine"}, "unknown distance 'cosine': Known: kl, squared"),
        ({"fractions": (0.5, 0.0)}, r"fractions of a rank lie in \(0, 1\], found \(0.5, 0.0\)"),
        ({"fractions": (1.5,)}, "fractions of a rank lie in"),
        ({"fractions": ()}, "fractions of a rank lie in"),
        ({"fractions": (math.nan,)}, "fractions of a rank lie in"),
    ],
)
def test_settings_that_cannot_be(change, sentence):
    model, x = network(), batches()
    with pytest.raises(LorankError, match=sentence):
        sensitivity(model, measure(model, x[0]), x, **change)


def test_data_that_cannot_be():
    model, x = network(), batches()
    spectra = measure(model, x[0])
    broken = x[0].clone()
    broken[2, 3] = math.nan
    known = calibrate(model, x, layers=["0", "2"])
    for call, sentence in (
        (lambda: sensitivity(model, spectra, []), "at least one batch, found none"),
        (lambda: sensitivity(model, spectra, [torch.rand(2, 5)]), r"failed on .* \(2, 5\)"),
        (lambda: sensitivity(model, spectra, [broken]), "answer must be finite, .* uncut"),
        (lambda: sensitivity(model, spectra, x, calibration=known), "no input of '4'"),
        (lambda: sensitivity(small(16, 16).double(), spectra, x), "unknown layer '2'"),
        (lambda: sensitivity(decompose(model), spectra, x), "in SVD form already"),
    ):
        with pytest.raises(LorankError, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)

"""Times of layers: on a clock of the tests, where the right ones are known, and on a real one."""

import json
import math
import statistics
import sys
import time
from dataclasses import replace

import pytest
import torch
from networks import mixed, small
from torch import nn

import lorank
from lorank.compression import latency_plan as plan_verb
from lorank.compression import latency_table, timed
from lorank.compression.latency_plan import Trial, between, paired, quickest
from lorank.compression.latency_table import LatencyTable, check_setting, knots, setting_of
from lorank.compression.turns import ratio, turns
from lorank.compression.twin import dense_twin, thin_twin
from lorank.errors import LorankError
from lorank.files.latency_table import load_table, save_table
from lorank.nn import Factored

FEW = {"repeats": 3, "warmup": 0, "threads": 1}


class Clock:
    """A clock that moves only when a layer works: by its MACs, and a little a call."""

    def __init__(self, call=2000):
        self.now, self.call = 0.0, call

    def __call__(self):
        return self.now

    def work(self, module, args, out):
        if isinstance(module, nn.Linear):
            macs = out[..., 0].numel() * module.weight.numel()
            self.now += 1e-9 * (macs + self.call)
        if isinstance(module, nn.ReLU):
            self.now += 1e-9 * 5000


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    monkeypatch.setattr("lorank.compression.turns.SHORT", 0.0)  # each call once: it is exact
    handle = nn.modules.module.register_module_forward_hook(made.work)
    yield made
    handle.remove()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    ).eval()


X = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))


def test_the_table_is_what_the_clock_says(clock):
    model = network()
    table = latency_table(model, X, lorank.measure(model, X), **FEW)
    square, head = 5 * 64 * 64 + 2000, 5 * 64 * 10 + 2000
    assert table.dense == pytest.approx(2 * square + head + 10000, abs=3)
    for name in ("0", "2"):
        times = table.layers[name]
        assert times.dense == pytest.approx(square, abs=1) and list(times.ranks) == [8, 16, 24]
        for rank, found in times.ranks.items():
            assert found == pytest.approx(5 * rank * 128 + 4000, abs=1)
    assert table.layers["4"].dense == pytest.approx(head, abs=1)
    assert table.layouts == dict.fromkeys(table.layers, "channel")


def test_a_budget_from_the_table_is_kept_by_the_clock(clock):
    model = network()
    spectra = timed(lorank.measure(model, X), latency_table(model, X, lorank.measure(model, X)))
    ranks = lorank.ranks.budget(spectra, latency=0.7)
    cut = lorank.fold(lorank.decompose(model, {n: r for n, r in ranks.items() if r < 32}))
    took = []
    for one in (model, cut):
        before = clock.now
        one(X)
        took.append(clock.now - before)
    assert 0.55 < took[1] / took[0] <= 0.7
    assert took[1] * 1e9 == pytest.approx(lorank.ranks.cost_of(ranks, spectra, "latency"), abs=5)


def test_a_plan_is_kept_and_spends_what_it_may(clock):
    model = network()
    spectra = lorank.measure(model, X)
    plan = plan_verb(model, X, spectra, 0.75, threads=1, repeats=3)
    cut = lorank.fold(lorank.decompose(model, plan.ranks, layout=plan.layouts))
    assert paired(model, cut, example=X, repeats=3) == pytest.approx(plan.measured)
    assert plan.measured <= 0.75 * 1.02 and plan.smallest <= plan.measured
    assert plan.predicted == pytest.approx(plan.measured, abs=1e-3)
    assert all(rank % 8 == 0 for rank in plan.ranks.values())
    assert json.loads(json.dumps(plan.plain()))["setting"]["threads"] == 1


def test_layers_that_do_not_add_up_are_corrected(clock):
    """Pairs that take longer in a network than alone: the table is wrong, and the plan right."""
    model = network()
    spectra = lorank.measure(model, X)

    def tax(module, args, out):
        if type(module) is nn.Sequential and len(module) == 5:
            pairs = sum(not isinstance(m, (nn.Linear, nn.ReLU)) for m in module)
            clock.now += 1e-9 * 2000 * pairs

    handle = nn.modules.module.register_module_forward_hook(tax)
    try:
        plan = plan_verb(model, X, spectra, 0.7, repeats=3)
        cut = thin_twin(model, plan.ranks, spectra)
        assert paired(model, cut, example=X, repeats=3) <= 0.7 * 1.02
        assert plan.predicted < plan.measured - 0.02
    finally:
        handle.remove()


def test_an_unreachable_share_is_refused_before_anything_is_cut(clock, monkeypatch):
    model = network()
    spectra = lorank.measure(model, X)
    monkeypatch.setattr(torch.linalg, "svd", None)  # nothing is decomposed
    with pytest.raises(LorankError, match="cannot be reached here: the smallest") as error:
        plan_verb(model, X, spectra, 0.3, repeats=3)
    said = str(error.value)
    quick = 2 * (5 * 8 * 128 + 4000) + 5 * 640 + 2000 + 10000
    whole = 2 * (5 * 4096 + 2000) + 5 * 640 + 2000 + 10000
    assert f"measured is {math.ceil(1e3 * quick / whole) / 1e3:g}" in said
    assert f"{10000 / quick:.0%} is spent outside" in said
    assert "no multiple of 8 makes faster (4)" in said and "in those cut (0, 2)" in said


def test_where_no_pair_is_faster_everything_stays_dense(clock):
    clock.call = 10**6
    model = network()
    spectra = lorank.measure(model, X)
    with pytest.raises(LorankError, match="the smallest measured is 1"):
        plan_verb(model, X, spectra, 0.9, repeats=3)
    assert plan_verb(model, X, spectra, 1.0, repeats=3).ranks == {}


def test_layers_that_are_alike_are_timed_once(clock, monkeypatch):
    seen = []
    room = sys.modules["lorank.compression.latency_table"]  # the name itself is the verb's
    plain = room._time_layer
    monkeypatch.setattr(room, "_time_layer", lambda *a: seen.append(a[2].shape) or plain(*a))
    model = small(*[64] * 6)
    latency_table(model, X, lorank.measure(model, X), **FEW)
    assert seen == [(5, 64)]


def test_a_tied_layer_pays_for_each_call(clock):
    shared = nn.Linear(64, 64)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(64, 64)).eval()
    layers = latency_table(model, X, lorank.measure(model, X), **FEW).layers
    assert layers["0"].dense == pytest.approx(2 * layers["3"].dense, abs=2)
    for rank, found in layers["3"].ranks.items():
        assert layers["0"].ranks[rank] == pytest.approx(2 * found, abs=2)


def test_a_layer_that_is_not_reached_stays_dense(clock):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            return self.used(x)

    model = Half()
    spectra = lorank.measure(model, X)
    table = latency_table(model, X, spectra, **FEW)
    assert table.layers["idle"].dense == 0 and table.layers["used"].dense > 0
    assert lorank.ranks.budget(timed(spectra, table), latency=0.8)["idle"] == 64
    only = {"idle": spectra["idle"]}
    with pytest.raises(LorankError, match="reaches none of the layers"):
        latency_table(model, X, only)


def test_sizes_that_depend_on_values_are_refused():
    class Positive(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x):
            return self.layer(x[x[:, 0] > 0])

    model, x = Positive(), X.clone()
    x[0, 0] = 99.0
    x[1:, 0] = -1.0
    with pytest.raises(LorankError, match="'layer' depend on the input's values"):
        latency_table(model, x, lorank.measure(model, x))


def test_a_network_with_everything_is_timed_and_left_as_it_was():
    model, before = mixed(), torch.get_num_threads()
    x = (torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randint(20, (2, 4)))
    state = {name: t.clone() for name, t in model.state_dict().items()}
    model.train()
    spectra = lorank.measure(model, x)
    table = latency_table(model, x, spectra, multiple=4, repeats=1, warmup=0, threads=before + 1)
    assert model.training and torch.get_num_threads() == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert set(table.layers) == set(spectra)
    assert all(t.dense > 0 for n, t in table.layers.items()) and table.dense > 0
    assert table.setting.threads == before + 1 and table.setting.dtype == "float64"


def test_channels_last_is_kept():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)).eval()
    model = model.to(memory_format=torch.channels_last)
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)
    spectra = lorank.measure(model, x, layout="spatial")
    assert latency_table(model, x, spectra, **FEW).setting.channels_last
    twin = thin_twin(model, {"0": 8, "1": 8}, spectra)
    weights = [p for p in twin.parameters() if p.ndim == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("layout", ["channel", "channel_reversed", "spatial"])
def test_a_twin_has_the_shapes_of_the_cut(layout):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.Flatten(),
        nn.Linear(256, 9),
    ).eval()
    x = torch.randn(2, 8, 8, 8)
    spectra = lorank.measure(model, x, layout=layout)
    ranks = {name: max(1, s.break_even - 1) for name, s in spectra.items()}
    cut = lorank.fold(lorank.decompose(model, ranks, layout=layout), example=x)
    twin = thin_twin(model, ranks, spectra)
    assert str(twin) == str(cut) and lorank.cost(twin, x) == lorank.cost(cut, x)
    assert not torch.equal(twin(x), cut(x))


def test_a_twin_keeps_ties():
    shared = nn.Linear(32, 32)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    twin = thin_twin(model, {"0": 4}, lorank.measure(model))
    assert twin[0] is twin[2] or twin[0][0].weight is twin[2][0].weight


def test_a_network_in_svd_form_is_timed_by_its_dense_self(clock):
    model = network()
    low = lorank.decompose(model)
    assert not any(isinstance(m, Factored) for m in dense_twin(low).modules())
    dense = latency_table(model, X, lorank.measure(model, X), **FEW)
    found = latency_table(low, X, lorank.measure(low, X), **FEW)
    assert found.layers["0"] == dense.layers["0"] and found.dense == dense.dense
    with pytest.raises(LorankError, match="is in SVD form: plan before decomposing"):
        plan_verb(low, X, lorank.measure(low, X), 0.7)


def test_the_layout_that_keeps_more_in_the_time_is_taken(clock):
    model = network()
    spectra = timed(lorank.measure(model, X), latency_table(model, X, lorank.measure(model, X)))
    slower = lorank.Spectra(spectra, latency=spectra.latency)
    for name, one in spectra.items():
        times = replace(one.times, ranks={r: 3 * t for r, t in one.times.ranks.items()})
        slower[name] = replace(one, layout="spatial", times=times)
    assert {one.layout for one in quickest([slower, spectra], 0.6).values()} >= {"channel"}
    assert quickest([slower, spectra], 0.6)["0"] is spectra["0"]
    with pytest.raises(LorankError, match="must be of the same layers"):
        quickest([spectra, lorank.Spectra({"0": spectra["0"]})], 0.6)
    with pytest.raises(LorankError, match="at least one table"):
        quickest([], 0.6)


def test_a_table_goes_through_json(tmp_path, clock):
    model = network()
    table = latency_table(model, X, lorank.measure(model, X), **FEW)
    assert load_table(save_table(table, tmp_path / "times.json")) == table
    assert LatencyTable.read(json.loads(json.dumps(table.plain()))) == table


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"layers": 3}', '{"layers": {"a": {}}}', '"text"', "{"]
)
def test_a_file_that_is_no_table(tmp_path, content):
    path = tmp_path / "times.json"
    path.write_text(content)
    with pytest.raises(LorankError, match="a table of"):
        load_table(path)


def test_a_table_with_nan_is_refused(tmp_path, clock):
    model = network()
    plain = latency_table(model, X, lorank.measure(model, X), **FEW).plain()
    plain["dense"] = math.nan
    path = tmp_path / "times.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(LorankError, match="a whole number of nanoseconds, found nan"):
        load_table(path)


def test_a_table_of_another_setting_is_refused(clock):
    model = network()
    spectra = lorank.measure(model, X)
    table = latency_table(model, X, spectra, **FEW)
    check_setting(table, model, X, threads=1)
    for other, example, threads, said in (
        (model, X[:2], 1, "batch is 2 and was 5"),
        (model, X, 2, "threads is 2 and was 1"),
        (network().double(), X.double(), 1, "dtype is float64 and was float32"),
    ):
        with pytest.raises(LorankError, match=said):
            check_setting(table, other, example, threads)
    with pytest.raises(LorankError, match="batch is 2"):
        plan_verb(model, X[:2], spectra, 0.8, tables=[table], threads=1)
    with pytest.raises(LorankError, match="found 1 and 2"):
        plan_verb(model, X, spectra, 0.8, tables=[table, table], threads=1)
    assert plan_verb(model, X, spectra, 0.8, tables=[table], threads=1, repeats=3).ranks
    with pytest.raises(LorankError, match="were measured in layout"):
        timed({"0": replace(spectra["0"], layout="spatial")}, table)
    with pytest.raises(LorankError, match="has no layer 'new'"):
        timed({"new": spectra["0"]}, table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repeats": 0}, "repeats must be at least 1, found 0"),
        ({"warmup": -1}, "warmup must be at least 0, found -1"),
        ({"threads": 0}, "threads must be at least 1, found 0"),
        ({"multiple": 0}, "multiple must be a whole number"),
    ],
)
def test_counts_out_of_range(options, said):
    model = network()
    with pytest.raises(LorankError, match=said):
        latency_table(model, X, lorank.measure(model), **options)


@pytest.mark.parametrize("example", [torch.ones(0, 64), (), {"x": torch.ones(0, 64)}])
def test_nothing_to_time(example):
    model = network()
    with pytest.raises(LorankError, match="at least one sample"):
        latency_table(model, example, lorank.measure(model))


def test_an_example_that_does_not_fit():
    model = network()
    with pytest.raises(LorankError, match="failed on a tensor of shape \\(2, 9\\)"):
        latency_table(model, torch.ones(2, 9), lorank.measure(model))


@pytest.mark.parametrize("asked", [0, 1, 0.0, 1.2, math.nan, "0.7", True])
def test_a_share_is_a_fraction(asked):
    model = network()
    with pytest.raises(LorankError, match="a float in \\(0, 1\\]"):
        plan_verb(model, X, lorank.measure(model), asked)


def test_knots_hold_the_ends_and_are_few():
    for most in range(400):
        found = knots(most, 8)
        assert len(found) <= 6 and all(r % 8 == 0 and r <= most for r in found)
        assert list(found) == sorted(set(found))
        if most >= 8:
            assert found[0] == 8 and found[-1] == most // 8 * 8


def test_between_brackets():
    trials = [Trial({}, 1.0, 1.0), Trial({}, 0.4, 0.6), Trial({}, 0.7, 0.9), Trial({}, 0.6, 0.7)]
    assert between(trials, 0.8) == pytest.approx(0.65)
    assert between(trials, 0.65) == pytest.approx(0.5)


def test_a_neighbour_that_comes_and_goes_hits_both_of_a_pair():
    """Noise of whole rounds leaves the median of ratios alone, and not the ratio of medians."""
    g = torch.Generator().manual_seed(0)
    busy = (1 + torch.rand(41, generator=g, dtype=torch.float64) * 9).tolist()
    dense, thin = [2.0 * b for b in busy], [1.0 * b for b in busy]
    assert ratio(thin, dense) == 0.5
    assert abs(statistics.median(thin[:20]) / statistics.median(dense[21:]) - 0.5) > 0.01


def test_short_calls_are_run_several_times_and_long_ones_once():
    count = {"short": 0, "long": 0}

    def short():
        count["short"] += 1

    def long():
        count["long"] += 1
        time.sleep(0.002)

    turns({"s": short, "l": long}, device=torch.device("cpu"), repeats=4, warmup=1)
    assert count["long"] == 2 + 1 + 4 and count["short"] > 5 * count["long"]


def test_patience_ends_the_rounds_but_not_before_five():
    calls = {0: lambda: time.sleep(0.002)}
    found = turns(calls, device=torch.device("cpu"), repeats=1000, seconds=0.0)
    assert len(found[0]) == 5


def test_a_real_clock_sees_a_real_gain():
    """A thin pair of a wide layer is far faster on any machine; its twin network, too."""
    model, x = nn.Sequential(nn.Linear(768, 768), nn.ReLU()).eval(), torch.randn(128, 768)
    spectra = lorank.measure(model, x)
    table = latency_table(model, x, spectra, threads=1, repeats=7)
    times = table.layers["0"]
    assert times.ranks[8] < 0.5 * times.dense <= 0.5 * table.dense * 1.5
    plan = plan_verb(model, x, spectra, 0.6, threads=1, repeats=9, tables=[table])
    assert plan.measured <= 0.6 * 1.02 and 8 <= plan.ranks["0"] < spectra["0"].break_even


def test_a_setting_says_no_name_of_a_machine():
    import platform

    text = str(setting_of(network(), X))
    assert platform.node() == "" or platform.node() not in text

import json
import shutil

import pytest
import torch

from lorank.errors import LorankError
from lorank.localization import View, load_finder, new_finder, read_cases, recipe, train_finder
from lorank.localization.cases import taken
from lorank.localization.train import Jitter, error_figures, located, offsets_task

pytest.importorskip("accelerate", reason="training needs the extra 'train'")

VIEW = View(rows=64, columns=12, column_mm=10.0)
PLAN = recipe(epochs=2, tune=1, macs=0.6, batch_size=16)


def start():
    torch.manual_seed(3)
    return new_finder("offset_net", VIEW, width=4)


@pytest.fixture(scope="module")
def cases():
    return read_cases("synthetic:20", VIEW)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cases):
    folder = tmp_path_factory.mktemp("run")
    return folder, *train_finder(start(), cases, folder, PLAN, per_scan=8, step=4, quiet=True)


def test_a_run_ends_in_a_smaller_calibrated_finder(run, cases):
    folder, finder, result = run
    assert result.cost.macs <= 0.6 * result.dense_cost.macs
    assert finder.confidence is not None and finder.confidence.scans == 10
    again = load_finder(folder)
    one = taken(cases, "test")[0].projection
    a, b = again.locate(one, step=4), finder.locate(one, step=4)
    assert (a.slice, a.row, a.score) == pytest.approx((b.slice, b.row, b.score), rel=1e-5)
    facts = json.loads((folder / "result.json").read_text())
    assert facts["ranks"]


def test_a_run_that_was_stopped_ends_at_the_same_network(run, cases, tmp_path, monkeypatch):
    from lorank.training import run as engine

    real, calls = engine.train_epoch, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(engine, "train_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_finder(start(), cases, tmp_path, PLAN, per_scan=8, step=4, quiet=True)
    monkeypatch.setattr(engine, "train_epoch", real)
    again, _ = train_finder(start(), cases, tmp_path, PLAN, per_scan=8, step=4, quiet=True)
    wanted = run[1].network.state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in again.network.state_dict().items())


def test_a_run_of_other_scans_or_another_view_is_not_gone_on_with(run, cases):
    folder, before = run[0], (run[0] / "finder.safetensors").read_bytes()
    tall = new_finder("offset_net", View(rows=72, columns=12, column_mm=10.0), width=4)
    with pytest.raises(LorankError, match="of another view and backbone"):
        train_finder(tall, cases, folder, PLAN, per_scan=8, quiet=True)
    moved = [case._replace(target=case.target + 1) for case in cases]
    for other, windows in ((moved, 8), (cases[1:], 8), (cases, 7)):
        with pytest.raises(LorankError, match="holds a run of another windows"):
            train_finder(start(), other, folder, PLAN, per_scan=windows, quiet=True)
    assert (folder / "finder.safetensors").read_bytes() == before


def test_a_run_begun_anew_has_no_finder_until_it_ends(run, cases, tmp_path, monkeypatch):
    from lorank.training import run as engine

    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "train_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train_finder(start(), cases, tmp_path, PLAN, per_scan=8, fresh=True, quiet=True)
    with pytest.raises(LorankError, match="there is none at"):
        load_finder(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr": float("nan")}, "lr: Input should be greater than 0, found nan"),
        ({"epochs": -1}, "epochs: Input should be"),
        *(({"macs": macs}, "MACs to keep are a share") for macs in (0, 1.5, float("nan"), True)),
    ],
)
def test_a_recipe_is_checked_before_training(change, says):
    with pytest.raises(LorankError, match=says):
        recipe(**change)


def test_training_lowers_the_error(run, cases):
    folder = run[0]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [e["loss"] for e in log if e["event"] == "epoch" and e["stage"] == "dense"]
    assert losses[-1] < losses[0]


def test_no_scans_to_validate_with_are_refused(cases, tmp_path):
    with pytest.raises(LorankError, match="of the split 'valid', found none"):
        train_finder(start(), taken(cases, "train"), tmp_path, PLAN)


def test_the_task_measures_millimetres():
    task = offsets_task()
    outputs, offsets = torch.tensor([[0.0], [4.0], [-9.0]]), torch.tensor([0.0, 9.0, -1.0])
    assert task.right(outputs, offsets).tolist() == [True, False, False]
    wanted = (0 + (1 - 0.5) + (8 / 5 - 0.5)) / 3  # smooth L1 in units of 5 mm
    assert float(task.loss(None, outputs, offsets)) == pytest.approx(wanted)
    assert float(task.taught(None, outputs, outputs)) == 0


def test_jitter_draws_from_its_generator_alone_and_mirrors_frontal_windows():
    windows = torch.rand(64, 1, 8, 6)
    jitter = [Jitter(VIEW)(windows, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*jitter)
    side = Jitter(View(plane="lateral"))(windows, torch.Generator().manual_seed(5))

    def mirrored(changed):
        plain = (changed - windows).flatten(1).square().sum(1)
        return int((plain > (changed - windows.flip(-1)).flatten(1).square().sum(1)).sum())

    assert 16 <= mirrored(jitter[0]) <= 48 and mirrored(side) == 0


def test_errors_are_summed_up(run, cases):
    assert error_figures([-20.0, 1.0, 3.0])["beyond_10_mm"] == pytest.approx(1 / 3)
    with pytest.raises(LorankError, match="at least 1 scan"):
        error_figures([])
    pairs = located(run[1], taken(cases, "test")[:2], step=8)
    for (found, error), case in zip(pairs, taken(cases, "test"), strict=False):
        assert error == pytest.approx(found.row - case.target)

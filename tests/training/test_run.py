"""A run as a whole: it trains, cuts, resumes and stops as it says."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

import lorank
from lorank.errors import LorankError
from lorank.training.log import read_log
from lorank.training.presets import practical
from lorank.training.recipe_text import change
from lorank.training.run import train
from training.conftest import Problem, images

pytest.importorskip("accelerate", reason="training needs the extra 'train'")

SOURCE = Path(__file__).resolve().parents[2]

FEW = ["batch_size=16"]


@pytest.fixture
def recipe():
    return change(practical(epochs=6, dense_epochs=3, macs=0.5), FEW)


def test_a_run_keeps_its_budget_and_its_word(net, problem, recipe, tmp_path):
    result = train(net, problem, recipe, tmp_path, quiet=True)
    assert result.accuracy > 0.8
    assert result.cost.macs <= 0.5 * result.dense_cost.macs
    assert result.cost.macs == lorank.cost(result.model, torch.zeros(1, 1, 8, 8)).macs
    assert not any(isinstance(m, lorank.nn.Factored) for m in result.model.modules())
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["accuracy"] == result.accuracy
    again = lorank.load(tmp_path / "model.safetensors", net).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in result.model.state_dict().items())


def test_penalties_and_ranks_are_seen_to_move(net, problem, recipe, tmp_path):
    train(net, problem, change(recipe, ["stages.1.sparsity=0.5"]), tmp_path, quiet=True)
    events = read_log(tmp_path)
    epochs = [e for e in events if e["event"] == "epoch" and e["stage"] == "sparsify"]
    assert len({e["sparsity"] for e in epochs}) == len(epochs)
    assert all(e["orthogonality"] >= 0 for e in epochs)
    sums = [sum(e["ranks"].values()) for e in epochs]
    assert sums == sorted(sums, reverse=True)
    assert sums[-1] < sums[0]
    tuned = [e for e in events if e["event"] == "epoch" and e["stage"] == "finetune"]
    assert all("orthogonality" in e and "sparsity" not in e for e in tuned)


def test_the_given_model_is_left_alone(net, problem, recipe, tmp_path):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    train(net, problem, recipe, tmp_path, quiet=True)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("after", "batches", "optimizer"),
    [
        (1, 0, "sgd"),
        (4, 0, "sgd"),
        (5, 0, "sgd"),
        (8, 0, "sgd"),
        (4, 2, "sgd"),
        (8, 2, "sgd"),
        (5, 0, "muon"),
    ],
)
def test_a_run_that_broke_off_ends_at_the_same_weights(
    net, problem, recipe, tmp_path, monkeypatch, after, batches, optimizer
):
    recipe = change(recipe, [f"stages.1.cut.calibration={batches}"])
    recipe = change(recipe, [f"stages.{i}.optimizer.name={optimizer}" for i in range(3)])
    whole = train(net, problem, recipe, tmp_path / "whole", quiet=True)
    from lorank.training import run

    count = 0
    train_epoch = run.train_epoch

    def breaking(*args):
        nonlocal count
        count += 1
        if count > after:
            raise Stop
        return train_epoch(*args)

    monkeypatch.setattr(run, "train_epoch", breaking)
    with pytest.raises(Stop):
        train(net, problem, recipe, tmp_path / "broken", quiet=True)
    monkeypatch.setattr(run, "train_epoch", train_epoch)
    resumed = train(net, problem, recipe, tmp_path / "broken", quiet=True)
    assert resumed.ranks == whole.ranks
    first, second = (r.model.state_dict() for r in (whole, resumed))
    assert all(torch.equal(first[k], second[k]) for k in first)
    said = [
        [{k: v for k, v in e.items() if k != "seconds"} for e in read_log(tmp_path / name)]
        for name in ("whole", "broken")
    ]
    assert said[0] == said[1]


def test_another_order_or_seed_is_another_result(net, problem, recipe, tmp_path):
    """Negative control of the test above: equal weights are not a matter of course."""
    first = train(net, problem, recipe, tmp_path / "a", quiet=True)
    second = train(net, problem, change(recipe, ["seed=1"]), tmp_path / "b", quiet=True)
    x = problem.test.tensors[0]
    assert not torch.equal(first.model.eval()(x), second.model.eval()(x))


def test_factors_by_weights_have_the_ranks_of_the_data_and_the_least_error_of_the_weights(
    net, problem, recipe, tmp_path
):
    uncut = change(recipe, ["stages.1.epochs=0", "stages.2.epochs=0"])
    by_data = change(uncut, ["stages.1.cut.calibration=4"])
    plans = {
        "data": by_data,
        "weights": change(by_data, ["stages.1.cut.factors=weights"]),
        "raw": change(by_data, ["stages.1.cut.factors=weights", "stages.1.cut.by=raw"]),
    }
    found = {k: train(net, problem, r, tmp_path / k, quiet=True) for k, r in plans.items()}
    assert found["data"].ranks == found["weights"].ranks == found["raw"].ranks
    dense = lorank.load(tmp_path / "data" / "dense.safetensors", net)

    def error(result):
        pairs = [(n, m) for n, m in result.model.named_modules() if isinstance(m, lorank.nn.Pair)]
        gaps = [(m.product() - dense.get_submodule(n).weight).square().sum() for n, m in pairs]
        return float(sum(gaps))

    assert error(found["weights"]) < 0.999 * error(found["data"])
    # |S| of a decomposition that nothing has trained are the singular values
    assert error(found["raw"]) == pytest.approx(error(found["weights"]), rel=1e-3)


def test_a_killed_process_resumes(tmp_path):
    script = textwrap.dedent(
        f"""
        import sys, torch, os, signal
        sys.path[:0] = [{str(SOURCE / "tests")!r}, {str(SOURCE / "src")!r}]
        torch.set_num_threads(1)
        from training.conftest import Problem, images, flip
        from lorank.training.presets import practical
        from lorank.training import run
        from lorank.zoo import load_model
        torch.manual_seed(0)
        net = load_model("mlp", in_channels=1, size=8, classes=3, width=16)
        if sys.argv[2] == "kill":
            keep = run.save_state
            calls = []
            def killing(*args):
                keep(*args)
                calls.append(1)
                if len(calls) == 4:
                    os.kill(os.getpid(), signal.SIGKILL)
            run.save_state = killing
        problem = Problem(images(192, 0), images(120, 1), flip)
        run.train(net, problem, practical(epochs=4, dense_epochs=2, params=0.5), sys.argv[1],
                  quiet=True)
        """
    )

    def go(folder: str, how: str) -> int:
        command = [sys.executable, "-c", script, str(tmp_path / folder), how]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, check=False).returncode

    assert go("whole", "run") == 0
    assert go("killed", "kill") == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert go("killed", "run") == 0
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "killed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not list((tmp_path / "killed").glob(".*"))


def test_a_finished_run_gives_its_result_again_without_training(
    net, problem, recipe, tmp_path, monkeypatch
):
    first = train(net, problem, recipe, tmp_path, quiet=True)
    monkeypatch.setattr("lorank.training.run.train_epoch", None)
    second = train(net, problem, recipe, tmp_path, quiet=True)
    assert second.accuracy == first.accuracy
    assert second.ranks == first.ranks


def test_a_run_from_before_a_setting_existed_goes_on(net, problem, recipe, tmp_path, monkeypatch):
    first = train(net, problem, recipe, tmp_path, quiet=True)
    path = tmp_path / "state.pt"
    content = torch.load(path, weights_only=True)
    kept = json.loads(content["recipe"])
    assert kept["stages"][1]["cut"].pop("factors") == "data"
    monkeypatch.setattr("lorank.training.run.train_epoch", None)
    torch.save({**content, "recipe": json.dumps(kept)}, path)
    assert train(net, problem, recipe, tmp_path, quiet=True).accuracy == first.accuracy
    for other in (kept | {"batch_size": 7}, kept | {"gone": 1}, {}):
        torch.save({**content, "recipe": json.dumps(other)}, path)
        with pytest.raises(LorankError, match="another recipe"):
            train(net, problem, recipe, tmp_path, quiet=True)


def test_fresh_forgets_the_old_run(net, problem, recipe, tmp_path):
    train(net, problem, recipe, tmp_path, quiet=True)
    other = change(recipe, ["seed=3"])
    with pytest.raises(LorankError, match="another recipe"):
        train(net, problem, other, tmp_path, quiet=True)
    train(net, problem, other, tmp_path, quiet=True, fresh=True)
    assert read_log(tmp_path)[0]["recipe"]["seed"] == 3


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_state(
    net, problem, recipe, tmp_path
):
    wild = change(recipe, ["stages.1.optimizer.lr=1e20", "stages.1.optimizer.warmup=0"])
    with pytest.raises(LorankError, match=r"stage 'sparsify'.*lower the learning rate"):
        train(net, problem, wild, tmp_path, quiet=True)
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (kept["stage"], kept["epoch"]) == (1, 0)
    assert all(torch.isfinite(v).all() for v in kept["model"].values() if v.is_floating_point())


def test_a_nan_in_the_first_epoch_leaves_a_state_to_start_from(net, problem, recipe, tmp_path):
    wild = change(recipe, ["stages.0.optimizer.lr=1e20"])
    with pytest.raises(LorankError, match="the last good state is kept"):
        train(net, problem, wild, tmp_path, quiet=True)
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (kept["stage"], kept["epoch"]) == (0, 0)


def test_weights_in_another_precision_than_the_data_are_one_sentence(
    net, problem, recipe, tmp_path
):
    with pytest.raises(
        LorankError, match=r"'0.weight' in torch.bfloat16 and data in torch.float32"
    ):
        train(net.bfloat16(), problem, recipe, tmp_path, quiet=True)


def test_a_damaged_state_is_one_sentence(net, problem, recipe, tmp_path):
    train(net, problem, recipe, tmp_path, quiet=True)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:2000])
    with pytest.raises(LorankError, match="not a whole state"):
        train(net, problem, recipe, tmp_path, quiet=True)


def test_a_state_that_would_run_code_is_refused(net, problem, recipe, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"version": 1, "recipe": Evil()}, tmp_path / "state.pt")
    with pytest.raises(LorankError, match="not a whole state"):
        train(net, problem, recipe, tmp_path, quiet=True)
    assert not (tmp_path / "ran").exists()


def test_frozen_models_and_empty_data_are_one_sentence(net, problem, recipe, tmp_path):
    frozen = nn.Sequential(*net).requires_grad_(False)
    with pytest.raises(LorankError, match="frozen"):
        train(frozen, problem, recipe, tmp_path / "a", quiet=True)
    none = Problem(TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0).long()), problem.test)
    with pytest.raises(LorankError, match="at least 2 samples"):
        train(net, none, recipe, tmp_path / "b", quiet=True)
    with pytest.raises(LorankError, match="at least 1 sample"):
        train(net, Problem(problem.train, none.train), recipe, tmp_path / "c", quiet=True)


def test_a_budget_out_of_reach_says_what_is_in_reach(net, problem, recipe, tmp_path):
    with pytest.raises(LorankError, match="smallest"):
        train(net, problem, change(recipe, ["stages.1.cut.macs=0.001"]), tmp_path, quiet=True)


def test_the_papers_raw_cut_and_energy_rule_run(net, problem, tmp_path):
    from lorank.training.presets import paper

    recipe = change(
        paper(epochs=2, energy=0.9), ['stages.1.cut.by="raw"', "skip=[]", "batch_size=64"]
    )
    result = train(net, problem, recipe, tmp_path, quiet=True)
    assert [e["stage"] for e in read_log(tmp_path) if e["event"] == "epoch"] == [
        "pretrain",
        "pretrain",
        "sparsify",
        "sparsify",
        "finetune",
        "finetune",
    ]
    assert result.ranks["4"] < 12


def test_a_calibrated_cut_keeps_more_of_the_answer(net, problem, recipe, tmp_path):
    cut_only = change(recipe, ["stages.1.epochs=0", "stages.2.epochs=0"])
    calibrated = change(cut_only, ["stages.1.cut.calibration=4"])
    errors = []
    for folder, plan in (("plain", cut_only), ("calibrated", calibrated)):
        found = train(net, problem, plan, tmp_path / folder, quiet=True)
        assert found.cost.macs <= 0.5 * found.dense_cost.macs
        dense = lorank.load(tmp_path / folder / "dense.safetensors", net).eval()
        inputs = problem.test.tensors[0]
        with torch.no_grad():
            errors.append(float((found.model.eval()(inputs) - dense(inputs)).square().mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("augmented", [True, False])
def test_recalibration_sees_the_images_that_training_saw(net, problem, recipe, tmp_path, augmented):
    few = ["recalibrate=1", f"augment={augmented}", *(f"stages.{i}.epochs=0" for i in range(3))]
    threes = problem._replace(augment=lambda batch, generator: torch.full_like(batch, 3.0))
    result = train(net, threes, change(recipe, few), tmp_path, quiet=True)
    inputs = torch.full((1, 1, 8, 8), 3.0)
    with torch.no_grad():
        mean = result.model[0](inputs).mean((0, 2, 3))
    is_of_threes = torch.allclose(result.model[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    assert is_of_threes == augmented


def test_recalibration_and_padding_are_part_of_the_result(net, problem, recipe, tmp_path):
    plain = train(net, problem, recipe, tmp_path / "a", quiet=True)
    wanted = change(recipe, ["recalibrate=2", "multiple=4"])
    other = train(net, problem, wanted, tmp_path / "b", quiet=True)
    pairs = [m for m in other.model.modules() if hasattr(m, "svd_layout")]
    widths = [p[0].weight.shape[0] for p in pairs]
    assert all(w % 4 == 0 or other.ranks for w in widths)
    assert not torch.equal(plain.model[1].running_mean, other.model[1].running_mean)


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, torch
            sys.path[:0] = [{str(SOURCE / "tests")!r}, {str(SOURCE / "src")!r}]
            torch.set_num_threads(1)
            from training.conftest import Problem, images, flip
            from lorank.training.presets import practical
            from lorank.training.recipe_text import change
            from lorank.training.run import train
            from lorank.zoo import load_model
            torch.manual_seed(0)
            net = load_model("mlp", in_channels=1, size=8, classes=3, width=16)
            problem = Problem(images(193, 0), images(121, 1), flip)
            recipe = change(practical(epochs=6, dense_epochs=4, params=0.5), ["batch_size=8"])
            train(net, problem, recipe, sys.argv[1])
            """
        )
    )
    # As `accelerate launch` does on several devices; on CPU it starts one process only.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    out = subprocess.run(
        [*command, str(script), str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["accuracy"] > 0.8
    assert out.stderr.count("low-rank: accuracy") == 1
    assert read_log(tmp_path / "run")[0]["processes"] == 2


def test_images_are_what_the_tests_say():
    assert torch.equal(images(4, 0).tensors[0], images(4, 0).tensors[0])

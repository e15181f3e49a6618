"""The class-wise benchmark: how settings are chosen, what resumes, and how figures are made."""

import json
import sys
from pathlib import Path

import pytest
import torch

from lorank.zoo.images import Data, Images

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The benchmarks as modules, and their folder out of the path again."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def test_a_grid_grows_where_the_best_lies_at_its_end():
    from invariance.choice import beyond, choose

    assert beyond(0.01, [0.003, 0.01, 0.03]) == []
    assert beyond(0.03, [0.003, 0.01, 0.03]) == [0.09]
    assert beyond(0.8, [0.2, 0.4, 0.8], 0.9) == []
    best, tried = choose("mlp", "none", {}, lambda _, s: (s.lr - 0.016) ** 2)
    assert (best.lr, best.wd, tried) == (0.02, 0.01, 5)


def test_an_arm_has_the_weight_decay_of_its_baseline():
    from invariance.choice import Setting, choose

    chosen = {"weight decay": Setting(3.0, 0.004, 3.0), "batch norm": Setting(1.0, 0.004, 1.0)}
    for arm, want in (("pairs", 3.0), ("batch norm, pairs", 1.0)):
        best, _ = choose("mlp", arm, chosen, lambda _, s: abs(s.strength - 0.01) + s.lr)
        assert (best.strength, best.wd) == (0.01, want)


def test_paired_differences_by_hand():
    from invariance.figures import paired

    found = paired([-0.02, -0.01, 0.0])
    half = 4.303 * 0.01 / 3**0.5
    assert found["mean"] == -0.01
    assert found["interval"] == pytest.approx([-0.01 - half, -0.01 + half], abs=1e-5)
    assert (found["below_0"], found["pairs"]) == (2, 3)
    assert paired([0.1])["interval"] is None


def test_a_rank_counts_only_if_all_larger_ones_hold():
    from invariance.figures import rank_kept

    run = {"cut": {"1": 0.5, "2": 0.95, "3": 0.7, "4": 0.9, "5": 0.91}}
    assert rank_kept(run, "cut", 0.9) == 4
    assert rank_kept(run, "cut", 0.6) == 2


def test_a_quick_run_is_not_taken_for_a_whole_one(tmp_path):
    from invariance.runs import Ask, run

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3000, 1, 28, 28), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.arange(3000) % 10, (0.0,), (1.0,))
    data = Data("made", images, images, 10, (1, 28, 28), None)
    ask = Ask("mlp", "pairs", 0.01, 0.001, 0.1, 0)
    (tmp_path / f"tuning-{ask.name}.json").write_text(json.dumps({"held_out": 2.0}))
    assert run(ask, data, tmp_path, final=False)["held_out"] == 2.0
    quick = run(ask, data, tmp_path, final=False, scale=0.01)
    assert 0 <= quick["held_out"] <= 1
    assert run(ask, data, tmp_path, final=False, scale=0.01) == quick

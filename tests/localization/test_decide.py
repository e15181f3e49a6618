import math

import numpy as np
import pytest
import torch

from lorank.errors import LorankError
from lorank.localization import RULES, decide, line_scores
from lorank.localization.decide import vote_mode


def by_the_equation(f, first, step, rows, half):
    """The documented sum, written out row by row."""
    at = {first + step * i: float(v) for i, v in enumerate(f)}
    full = (2 * half) // step + 1
    scores = []
    for r in range(rows):
        u = [u for u in range(-half, half + 1) if r + u in at]
        g = [min(max(at[r + k], -half), half) for k in u]
        top = sum(-k * v for k, v in zip(u, g, strict=True))
        bottom = math.sqrt(sum(k * k for k in u)) * math.sqrt(sum(v * v for v in g))
        scores.append(top / bottom * math.sqrt(min(len(u) / full, 1)) if bottom else 0.0)
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize(
    ("first", "step", "half"), [(0, 1, 9), (12, 1, 20), (7, 3, 12), (5, 6, 30)]
)
def test_scores_are_those_of_the_equation(first, step, half):
    f = 40 * torch.randn(30, dtype=torch.float64)
    rows = first + 30 * step + 5
    found = line_scores(f, first, step, rows, half)
    assert torch.allclose(found, by_the_equation(f, first, step, rows, half), atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("step", [1, 3])
def test_every_rule_finds_a_clean_line(rule, step):
    at = torch.arange(10, 190, step)
    found = decide(101.0 - at.double(), 10, step, 200, 40, rule)
    assert found.row == pytest.approx(101, abs=0.5 * step)


@pytest.mark.parametrize("target", [26, 40, 160, 174])
def test_a_line_of_which_a_part_is_seen_is_found(target):
    """Near the end of a scan the windows on one side are missing."""
    at = torch.arange(25, 176)
    offsets = (target - at).double().clamp(-50, 50)
    assert decide(offsets, 25, 1, 200, 40).row == pytest.approx(target, abs=1e-9)


def confused(seed, share=0.25, noise=8.0, half=60, rows=500):
    """Offsets of which a share points to a neighbour, arbitrary far from the target."""
    g = np.random.default_rng(seed)
    target = int(g.integers(120, rows - 120))
    true = (target - np.arange(rows)).astype(float)
    jumps = np.where(g.random(rows) < share, g.choice([-35.0, 35.0], rows), 0)
    near = true + jumps + g.normal(0, noise, rows)
    far = g.uniform(-half, half, rows)
    return torch.from_numpy(np.where(np.abs(true) <= half, near, far)), target


def errors(rule, **about):
    found = []
    for seed in range(60):
        curve, target = confused(seed, **about)
        found.append(abs(decide(curve, 0, 1, len(curve), 60, rule).row - target))
    return float(np.mean(found))


def test_matched_lines_stand_confusion_and_the_other_rules_do_not():
    # The median of n window votes with noise 8 scatters by about 8·1.25/√n; n is some 30 here.
    bound = 8 * 1.25 / math.sqrt(30)
    assert errors("line") < bound and errors("line_raw") < bound
    assert errors("vote_median") > 2.5 * bound
    assert errors("zero_crossing") > 2.5 * bound


def test_long_offsets_that_vote_for_no_row_do_not_match_a_line():
    """A step from +60 to −60 has a cosine of √3/2 with a line; its votes lie all over the place."""
    rows, target, step = 500, 130, 380
    at = torch.arange(rows, dtype=torch.float64)
    curve = torch.where(at < step, 60.0, -60.0).double()
    line = (at - target).abs() <= 60
    jumps = 35.0 * (at % 5 < 2) * torch.where(at % 2 == 0, 1.0, -1.0)  # two of five are confused
    curve[line] = (target - at + jumps)[line]
    assert abs(decide(curve, 0, 1, rows, 60, "line_raw").row - step) < 5
    assert decide(curve, 0, 1, rows, 60).row == pytest.approx(target, abs=1)


def test_a_rule_that_should_fail_on_noise_alone_does():
    curve = torch.from_numpy(np.random.default_rng(0).uniform(-60, 60, 500))
    clean, _ = confused(0, share=0, noise=0)
    assert decide(curve, 0, 1, 500, 60).score < 0.5 < decide(clean, 0, 1, 500, 60).score


def test_votes_beyond_the_image_are_lost():
    offsets = torch.tensor([500.0, 500.0, 500.0, 2.0])
    assert vote_mode(offsets, 0, 1, 10, 5).row == 5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("offsets", "says"),
    [
        (torch.zeros(0), "at least one"),
        (torch.zeros(3, 1), "one offset a window"),
        (torch.tensor([0.0, math.nan]), "NaN or Inf in 1 of 2"),
    ],
)
def test_a_curve_that_decides_nothing_is_refused(rule, offsets, says):
    with pytest.raises(LorankError, match=says):
        decide(offsets, 0, 1, 10, 4, rule)


def test_a_flat_curve_and_a_short_line():
    assert decide(torch.zeros(50), 0, 1, 50, 10).score == 0
    with pytest.raises(LorankError, match="at least 2 windows"):
        decide(torch.zeros(50), 0, 6, 300, 10)
    with pytest.raises(LorankError, match="unknown decision"):
        decide(torch.zeros(50), 0, 1, 50, 10, "lines")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("first", "step", "rows"), [(5, 1, 20), (-1, 1, 40), (0, 0, 40)])
def test_windows_outside_the_image_are_refused(rule, first, step, rows):
    with pytest.raises(LorankError, match=f"go down an image of {rows} rows, found centres from"):
        decide(torch.zeros(30), first, step, rows, 10, rule)
    with pytest.raises(LorankError, match="go down an image"):
        line_scores(torch.zeros(30), first, step, rows, 10)


def test_a_curve_that_is_no_tensor_is_refused():
    with pytest.raises(LorankError, match=r"one offset a window, .* found ndarray"):
        decide(np.zeros(30), 0, 1, 30, 10)

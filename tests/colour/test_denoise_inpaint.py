import math

import numpy as np
import pytest
import torch

import lorank
from colour.images import draw, normal, smooth, spectrum
from lorank.colour import denoise, inpaint, psnr
from lorank.colour.forms import FORMS, make_form
from lorank.linalg import qsvdvals

forms = pytest.mark.parametrize("name", FORMS)


@pytest.mark.parametrize("parts", [3, 4])
def test_noise_of_quaternions_follows_the_law_of_its_sum_of_variances(parts):
    """Largest and middle singular value of pure and of full quaternion noise."""
    m, n = 120, 160
    x = normal(m, n, parts)
    s = qsvdvals(make_form("quaternion", x).matrix(x))
    level = make_form("quaternion", x).entry_noise(1.0)
    assert level == math.sqrt(parts)
    # The edge is reached to O(n^(-2/3)), and from below as a rule.
    assert float(s[0]) == pytest.approx(level * (math.sqrt(m) + math.sqrt(n)), rel=0.03)
    assert lorank.linalg.shrinkage.median_noise(s, (m, n)) == pytest.approx(level, rel=0.02)


def test_pure_noise_leaves_nothing():
    left = [float(denoise(1.05 * normal(60, 60, 3, seed=i), 1.05 * 1.1).norm()) for i in range(3)]
    assert left == [0.0, 0.0, 0.0]
    assert float(denoise(normal(60, 60, 3), 0.5).norm()) > 0  # noise underestimated


@forms
def test_denoising_beats_every_fixed_rank(name):
    truth = smooth(64, 80)
    noisy = truth + 0.1 * normal(64, 80, 3)
    made = make_form(name, truth)
    factors = made.svd(made.matrix(noisy))
    cuts = [made.image(made.product(*made._cut(factors, r))) for r in range(1, 12)]
    best = max(psnr(cut, truth) for cut in cuts)
    got = psnr(denoise(noisy, 0.1, form=name), truth)
    assert got > best - 0.1 and got > psnr(noisy, truth) + 6
    # The level read off the middle is right where most values are noise.
    assert psnr(denoise(noisy, form=name), truth) > got - 0.3


def test_shrinkage_of_quaternions_is_asymptotically_optimal():
    """No threshold or other noise level does better on a full quaternion signal."""
    values = 8 * torch.linspace(3, 1, 5).double()
    truth = spectrum(values, 80, 100)
    noisy = truth + 0.15 * normal(80, 100, 4, seed=5)
    errors = {t: float((denoise(noisy, 0.15 * t) - truth).norm()) for t in (0.8, 1.0, 1.25)}
    assert min(errors, key=errors.get) == 1.0


def test_no_noise_changes_nothing():
    x = smooth(20, 24)
    assert torch.allclose(denoise(x, 0.0), x, atol=1e-12)
    assert torch.allclose(inpaint(x, torch.ones(20, 24, dtype=torch.bool)), x, atol=0)


@forms
def test_holes_are_filled(name):
    truth = smooth(40, 50)
    known = torch.rand(40, 50, generator=draw()) < 0.6
    image = truth.clone()
    image[~known] = torch.nan  # what stands in holes is not looked at
    filled = inpaint(image, known, form=name, threshold=1e-3)
    assert torch.equal(filled[known], truth[known])
    mean = torch.where(known[..., None], truth, truth[known].mean(0))
    assert psnr(filled, truth) > psnr(mean, truth) + 10
    assert torch.equal(filled, inpaint(image, known, form=name, threshold=1e-3))


def test_a_smaller_threshold_explains_the_known_pixels_better():
    truth, known = smooth(30, 40), torch.rand(30, 40, generator=draw()) < 0.7
    results = [psnr(inpaint(truth, known, threshold=t), truth) for t in (0.1, 0.01, 0.001)]
    assert results == sorted(results)


def test_quaternion_data_are_filled_by_quaternions_alone():
    truth = spectrum(torch.tensor([20.0, 10.0]).double(), 40, 40)
    known = torch.rand(40, 40, generator=draw()) < 0.5
    error = {}
    for form in FORMS:
        filled = inpaint(truth, known, form=form, threshold=1e-3)
        error[form] = float((filled - truth).norm() / truth.norm())
    assert error["quaternion"] < 0.01
    assert min(error["channels"], error["unfolded"]) > 10 * error["quaternion"]


def test_numpy_in_numpy_out():
    image = smooth(12, 14).numpy().astype(np.float32)
    known = np.ones((12, 14), bool)
    for got in (denoise(image, 0.1), inpaint(image, known)):
        assert isinstance(got, np.ndarray) and got.dtype == np.float32 and got.shape == (12, 14, 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: denoise(x, -1.0), "at least 0, found -1.0"),
        (lambda x: denoise(x, float("nan")), "found nan"),
        (lambda x: denoise(x, "low"), "at least 0, found 'low'"),
        (lambda x: denoise(x, form="rgb"), "unknown form 'rgb'"),
        (lambda x: inpaint(x, torch.ones(4, 6)), "true and false, found shape .4, 6. of float32"),
        (lambda x: inpaint(x, torch.ones(5, 4, dtype=torch.bool)), "one height and width"),
        (lambda x: inpaint(x, torch.zeros(4, 6, dtype=torch.bool)), "needs a known pixel"),
        (lambda x: inpaint(x, x[..., 0] > 0, threshold=0.0), "share in .0, 1., found 0.0"),
        (lambda x: inpaint(x, x[..., 0] > 0, rank=9), "from 1 to 4, found 9"),
        (lambda x: inpaint(x, x[..., 0] > 0, n_iter=0), "n_iter is at least 1"),
        (lambda x: inpaint(x, x[..., 0] > 0, tol=float("nan")), "tol at least 0"),
        (lambda x: inpaint(x[..., 0], x[..., 0] > 0), "found shape .4, 6."),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, said):
    with pytest.raises(lorank.LorankError, match=said):
        call(torch.ones(4, 6, 3))

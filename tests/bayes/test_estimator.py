"""The estimator: scikit-learn's own checks, what it finds, and what it refuses."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the estimator needs the extra 'bayes'")

from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from lorank.bayes import BayesianSVD, Prior
from lorank.bayes.gibbs import gibbs
from lorank.errors import LorankError


def matrix(m=40, n=25, rank=3, noise=0.3, seed=0):
    draw = np.random.default_rng(seed)
    M = draw.normal(size=(m, rank)) @ draw.normal(size=(rank, n))
    return M, M + noise * draw.normal(size=(m, n))


def test_the_checks_of_scikit_learn():
    results = check_estimator(BayesianSVD(), on_skip=None, on_fail=None)
    failed = [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"]
    assert failed == []
    assert sum(r["status"] == "passed" for r in results) > 30


def test_rank_noise_and_matrix():
    M, Y = matrix()
    model = BayesianSVD().fit(Y)
    assert model.rank_ == 3
    assert model.noise_ == pytest.approx(0.3, rel=0.1)
    assert model.posterior_.rank() == 3
    assert np.square(model.matrix_ - M).sum() < 0.5 * np.square(Y - M).sum()
    assert model.components_.shape == (3, 25)
    assert np.allclose(model.components_ @ model.components_.T, np.eye(3))


def test_transform_and_back_is_the_low_rank_part_of_the_posterior_mean():
    _, Y = matrix()
    for center in (False, True):
        model = BayesianSVD(center=center).fit(Y + 5)
        back = model.inverse_transform(model.transform(Y + 5))
        rest = np.linalg.svd(model.matrix_ - back, compute_uv=False)
        shrunk = model.posterior_.shrunk.numpy()
        assert rest[0] == pytest.approx(shrunk[model.rank_], rel=1e-6)
        assert np.linalg.matrix_rank(back - model.mean_) == model.rank_


def test_the_mean_is_a_component_unless_it_is_taken_off():
    _, Y = matrix(rank=2)
    assert BayesianSVD().fit(Y + 50).rank_ == BayesianSVD(center=True).fit(Y + 50).rank_ + 1


def test_noise_alone_has_no_component():
    _, Y = matrix(rank=0)
    model = BayesianSVD().fit(Y)
    assert (model.rank_, model.transform(Y).shape) == (0, (40, 0))
    assert np.array_equal(model.inverse_transform(model.transform(Y)), np.zeros_like(Y))


def test_a_constant_matrix():
    model = BayesianSVD(center=True).fit(np.full((6, 4), 3.0))
    assert (model.rank_, model.noise_) == (0, 0.0)
    assert BayesianSVD().fit(np.full((6, 4), 3.0)).rank_ == 1
    # The mean of 0.1 is not 0.1: what rounding leaves over is no component.
    rows = np.tile(np.random.default_rng(0).normal(size=5), (10, 1))
    for constant in (np.full((7, 5), 0.1), rows):
        model = BayesianSVD(center=True).fit(constant)
        assert (model.rank_, model.noise_) == (0, 0.0)
        assert np.array_equal(model.matrix_, constant)


def test_tensors_and_masked_arrays():
    _, Y = matrix()
    plain = BayesianSVD().fit(Y)
    tensor = torch.from_numpy(Y).requires_grad_()
    assert np.array_equal(BayesianSVD().fit(tensor).components_, plain.components_)
    assert np.array_equal(plain.transform(tensor), plain.transform(Y))
    assert BayesianSVD().fit(tensor.bfloat16()).rank_ == 3
    with pytest.raises(LorankError, match="entries are NaN"):
        BayesianSVD().fit(np.ma.array(Y, mask=Y > 2))


@pytest.mark.parametrize("center", [False, True])
def test_entries_that_are_too_large(center):
    _, Y = matrix()
    huge = Y * (1.7e308 / np.abs(Y).max())
    with pytest.raises(LorankError, match=r"40×25 matrix are at most 2\.84e.306 in size"):
        BayesianSVD(center=center).fit(huge)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_the_sampler_s_answer_scales(scale, monkeypatch):
    """No square leaves the range of doubles; exact Gibbs stands in for NUTS, which takes longer."""

    def quick(data, mask=None, *, truncation=None, constants=None, seed=0):
        return gibbs(data, mask, truncation=truncation, warmup=30, draws=40, seed=seed)

    monkeypatch.setattr("lorank.bayes.nuts.sample", quick)
    _, Y = matrix(12, 8)
    plain, scaled = (BayesianSVD("nuts", truncation=5).fit(Y * s) for s in (1.0, scale))
    assert plain.rank_ == scaled.rank_ == 3
    assert np.allclose(scaled.shrinkage_, plain.shrinkage_, rtol=1e-6)
    assert (plain.shrinkage_ > 0.5).all()
    for name in ("sd", "mean", "entries", "d"):
        given, expected = (getattr(m.posterior_, name) for m in (scaled, plain))
        assert np.allclose(given / scale, expected, rtol=1e-6, atol=1e-9), name


def test_settings_reach_the_posterior():
    _, Y = matrix()
    assert BayesianSVD(noise=30.0).fit(Y).rank_ == 0
    assert len(BayesianSVD(truncation=5).fit(Y).posterior_.signal) == 5
    model = clone(BayesianSVD(prior=Prior(alpha=2.0))).fit(Y)
    assert model.posterior_.prior.alpha == 2.0


def test_it_stands_in_a_pipeline():
    _, Y = matrix()
    line = make_pipeline(StandardScaler(), BayesianSVD())
    found = line.fit_transform(Y)
    assert found.shape == (40, line[-1].rank_)
    assert list(line.get_feature_names_out()) == [f"bayesiansvd{i}" for i in range(found.shape[1])]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (np.nan, r"1 of 1000 entries are NaN: BayesianSVD\(method='nuts'\)"),
        (np.inf, "found inf"),
    ],
)
def test_entries_that_are_not_finite(entries, sentence):
    _, Y = matrix()
    Y[3, 4] = entries
    with pytest.raises(LorankError, match=sentence):
        BayesianSVD().fit(Y)


def test_more_missing_than_observed():
    _, Y = matrix()
    Y[:21] = np.nan
    with pytest.raises(LorankError, match="more entries are missing than observed: 525 of 1000"):
        BayesianSVD("nuts").fit(Y)


@pytest.mark.parametrize("shape", [(1, 8), (8, 1)])
def test_one_row_or_column(shape):
    with pytest.raises(ValueError, match=r"1 (sample|feature)"):
        BayesianSVD().fit(np.ones(shape))


def test_numbers_below_the_normal_ones():
    _, Y = matrix()
    plain, tiny = BayesianSVD().fit(Y), BayesianSVD().fit(Y * 1e-310)
    assert np.allclose(tiny.shrinkage_, plain.shrinkage_, rtol=1e-6)


def test_what_is_refused():
    _, Y = matrix()
    with pytest.raises(LorankError, match="did you mean 'collapsed'"):
        BayesianSVD("colapsed").fit(Y)
    with pytest.raises(LorankError, match="center is True or False, found 'no'"):
        BayesianSVD(center="no").fit(Y)
    with pytest.raises(LorankError, match="from 1 to 24"):
        BayesianSVD(truncation=25).fit(Y)
    with pytest.raises(LorankError, match="always infers"):
        BayesianSVD("nuts", noise=1.0).fit(Y)
    for options, sentence in (
        ({"drws": 3}, "unknown option 'drws': did you mean 'draws'"),
        ({3: 1}, "unknown option 3"),
        ({"seed": 1}, "'seed' is set by BayesianSVD itself"),
        ([1], "options are a dict"),
        ({"draws": "many"}, "draws is a positive whole number"),
    ):
        with pytest.raises(LorankError, match=sentence):
            BayesianSVD("nuts", options=options).fit(Y)
    with pytest.raises(LorankError, match="3 coordinates"):
        BayesianSVD().fit(Y).inverse_transform(np.ones((2, 2)))


@pytest.mark.slow
def test_nuts_takes_missing_entries():
    pytest.importorskip("numpyro", reason="sampling needs the extra 'bayes'")
    M, Y = matrix(20, 12, rank=2, noise=0.2)
    lacking = np.random.default_rng(1).random(Y.shape) < 0.1
    few = {"chains": 1, "warmup": 60, "draws": 60, "progress": False}
    model = BayesianSVD("nuts", truncation=4, options=few).fit(np.where(lacking, np.nan, Y))
    assert model.rank_ == 2
    assert model.noise_ == pytest.approx(0.2, rel=0.3)
    # What was missing is found far better than by the mean of what was not.
    gap = np.square(model.matrix_ - M)[lacking].mean()
    assert gap < 0.1 * np.square(M)[lacking].mean()
    assert model.transform(Y).shape == (20, 2)

"""Diagnostics: chains that agree, chains that do not, and what is said about them."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("arviz", reason="diagnostics need the extra 'bayes'")

from lorank.bayes.diagnostics import diagnose, identified, inference_data, plot_rank, plot_trace
from lorank.bayes.gibbs import gibbs
from lorank.bayes.posterior import Posterior, _coins
from lorank.errors import LorankError


def posterior(apart: float = 0.0, draws: int = 1000, chains: int = 4) -> Posterior:
    """Independent normal draws, which are effective one for one; the first chain may lie apart."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        values = generator.normal(size=(chains, draws, *shape))
        values[0] += apart
        return values

    d = -np.sort(-(10 + normal(2)), axis=-1)
    statistics = {
        "diverging": np.zeros((chains, draws), bool),
        "num_steps": np.full((chains, draws), 7),
    }
    return Posterior(
        np.zeros((3, 4)),
        np.ones((3, 4)),
        d,
        5 + 0.1 * normal(),
        np.full((chains, draws, 2), 0.5),
        normal(3),
        np.array([[0, 0], [1, 2], [2, 3]]),
        1.5,
        statistics,
    )


def test_good_chains_are_good():
    found = diagnose(posterior())
    assert found.good
    assert found.rhat < 1.01
    # The estimator of the effective number scatters by a few per cent for independent draws.
    assert found.ess > 0.8 * 4000
    assert found.gradients == 7 * 4000


def test_a_chain_apart_is_seen():
    found = diagnose(posterior(apart=3.0))
    assert found.rhat > 1.1
    assert any("R-hat" in sentence for sentence in found.advice)


def test_divergences_say_what_to_do():
    clean = posterior()
    clean.statistics["diverging"][0, :5] = True
    found = diagnose(clean)
    assert found.divergences == 5
    assert any("raise accept" in sentence for sentence in found.advice)


@pytest.mark.parametrize("draws", [slice(None), 7])
def test_draws_that_are_no_numbers_are_not_good(draws):
    """NaN passes every comparison with max and min, in the middle of other quantities too."""
    broken = posterior()
    broken.d[:, draws, 1] = np.nan
    found = diagnose(broken)
    assert not found.good
    assert np.isnan(found.rhat) and np.isnan(found.ess) and found.worst == "d[2]"
    assert any("R-hat is nan" in sentence for sentence in found.advice)


def test_few_draws_and_one_chain_are_named():
    said = " ".join(diagnose(posterior(draws=50, chains=1)).advice)
    assert "one chain" in said
    assert "effective draws" in said
    with pytest.raises(LorankError, match="4 draws"):
        diagnose(posterior(draws=3))


def test_only_identified_quantities_are_kept():
    found = inference_data(posterior())
    assert set(found.posterior.data_vars) == {"d", "sigma", "entry", "above", "slabs"}
    assert list(found.posterior["place"].values) == ["0,0", "1,2", "2,3"]
    assert list(identified(posterior())) == [
        "d[1]",
        "d[2]",
        "sigma",
        "entry[0,0]",
        "entry[1,2]",
        "entry[2,3]",
    ]
    without = dataclasses.replace(posterior(), slab=None)
    assert "slabs" not in inference_data(without).posterior
    with pytest.raises(LorankError, match="only the prior 'csp'"):
        without.rank("slabs")


def test_coins_are_counted():
    p = np.array([[0.5, 0.25], [1.0, 0.0]])
    np.testing.assert_allclose(_coins(p), [[0.375, 0.5, 0.125], [0, 1, 0]])


def test_ranks_by_three_rules():
    made = dataclasses.replace(
        posterior(),
        d=np.tile([10.0, 1.0], (4, 1000, 1)),
        sigma=np.ones((4, 1000)),
        slab=np.tile([0.9, 0.8], (4, 1000, 1)),
    )
    assert [made.rank(rule) for rule in ("edge", "mode", "slabs")] == [1, 1, 2]
    with pytest.raises(LorankError, match="Known: edge, mode, slabs"):
        made.rank("energy")


def test_pictures():
    matplotlib = pytest.importorskip("matplotlib", reason="pictures need the extra 'plot'")
    matplotlib.use("Agg")
    assert plot_trace(posterior(draws=20)).shape == (3, 2)
    assert plot_rank(posterior(draws=20)).size >= 3


def test_moments_of_the_matrix_fit_its_draws():
    Y = 10 * np.outer(np.arange(5.0), np.ones(4)) / 5 + np.random.default_rng(0).normal(size=(5, 4))
    found = gibbs(Y, truncation=2, warmup=50, draws=400)
    for place, (i, j) in enumerate(found.places):
        draws = found.entries[..., place]
        spread = draws.std() / np.sqrt(len(draws.ravel()))
        assert found.sd[i, j] == pytest.approx(draws.std(), rel=1e-6)
        # by symmetry the mean leaves out Monte Carlo noise that the draws have; correlated by ten
        assert abs(found.mean[i, j] - draws.mean()) < 5 * np.sqrt(10) * spread

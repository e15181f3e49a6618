"""The NUTS sampler: its density against one written by hand, its law, its files, its sentences."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("numpyro", reason="the samplers need the extra 'bayes'")
import jax

from lorank.bayes.diagnostics import diagnose
from lorank.bayes.gibbs import gibbs, log_mixture
from lorank.bayes.nuts import PRIOR_NAMES, sample
from lorank.bayes.prior import Prior
from lorank.bayes.problem import prepare
from lorank.bayes.resume import load_arrays, save_arrays
from lorank.errors import LorankError, MissingExtraError

PLAIN = Prior(shifted=False, nothing=0.0)
TINY = {"truncation": 2, "chains": 2, "warmup": 30, "draws": 30, "progress": False}


def matrix(rows=8, columns=6, strength=12.0, seed=0):
    generator = np.random.default_rng(seed)
    u, v = generator.normal(size=rows), generator.normal(size=columns)
    M = strength * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    return M, M + generator.normal(size=(rows, columns))


def by_hand(problem, choices, d, sigma, U, V, sticks, t):
    """Log posterior up to a constant, from the definition: no rotation, no trick."""
    x = d / (sigma * problem.edge)
    log_slab = np.append(-np.cumsum(sticks), -np.inf)
    total = np.logaddexp(*log_mixture(x, log_slab, choices.constants)).sum()
    total -= np.logaddexp(0, -t).sum()  # the Jacobian of softplus
    total -= choices.constants.alpha * sticks.sum() - np.log(sticks).sum()
    total -= 0.5 * (np.maximum(np.diff(x), 0) ** 2).sum() / choices.order**2
    Y = problem.matrix
    a, b = choices.noise
    R = Y - (U * d) @ V.T
    total -= Y.size * np.log(sigma) + 0.5 * (R**2).sum() / sigma**2
    return total - 2 * a * np.log(sigma) - b / problem.unit**2 / sigma**2


@pytest.mark.parametrize("form", ["polar", "qr"])
def test_the_density_is_the_definition(form):
    """Differences of the log density between random points, to rounding."""
    with jax.enable_x64(True):
        from numpyro.infer.util import log_density

        from lorank.bayes.model import Choices, low_rank

        problem = prepare(matrix(5, 6)[1], None, 3)
        choices = Choices(form=form, noise=(2.0, 1.5))
        generator = np.random.default_rng(0)
        gaps = []
        for _ in range(4):
            sites = {
                "sum": generator.normal(size=(5, 3)),
                "difference": generator.normal(size=(5, 3)),
                "rest": generator.normal(size=(1, 3)),
                "t": generator.normal(size=3) * 3,
                "log_sigma": np.asarray(generator.normal() * 0.3),
                "stick": generator.exponential(size=2),
            }
            value, trace = log_density(low_rank(problem, choices), (), {}, sites)
            read = {name: np.asarray(trace[name]["value"]) for name in ("d", "sigma", "U", "V")}
            free = sum(0.5 * (sites[name] ** 2).sum() for name in ("sum", "difference", "rest"))
            hand = by_hand(problem, choices, **read, sticks=sites["stick"], t=sites["t"])
            # NumPyro's density of the sticks has no Jacobian: sites are in their own space here.
            hand -= np.log(sites["stick"]).sum()
            gaps.append(float(value) + free - hand)
            for Q in (read["U"], read["V"]):
                np.testing.assert_allclose(Q.T @ Q, np.eye(3), atol=1e-10)
    assert np.ptp(gaps) < 1e-9 * max(1, np.abs(gaps).max())


def test_the_relaxed_penalty_and_its_correction():
    with jax.enable_x64(True):
        from numpyro.infer.util import log_density

        from lorank.bayes.model import Choices, low_rank

        problem = prepare(matrix(5, 6)[1], None, 3)
        sites = {
            "left": 1.1 * np.eye(5, 3),
            "right": np.eye(6, 3),
            "t": np.ones(3),
            "log_sigma": np.zeros(()),
            "stick": np.ones(2),
        }
        plain, corrected = (
            float(
                log_density(low_rank(problem, Choices(form="relaxed", corrected=c)), (), {}, sites)[
                    0
                ]
            )
            for c in (False, True)
        )
        tighter = log_density(
            low_rank(problem, Choices(form="relaxed", epsilon=5e-4)), (), {}, sites
        )[0]
    misfit = 3 * (1.1**2 - 1) ** 2
    assert plain - float(tighter) == pytest.approx(misfit / (2 * 5e-4) - misfit / (2 * 1e-3))
    assert corrected - plain == pytest.approx(-0.5 * (5 - 3 - 1) * 3 * np.log(1.1**2))


@pytest.fixture(scope="module")
def run():
    """One run for all that only look: compiling takes most of its time."""
    M, Y = matrix(strength=20.0)
    before = jax.config.jax_enable_x64
    found = sample(
        Y.astype(np.float32), truncation=3, chains=2, warmup=150, draws=150, progress=False
    )
    assert jax.config.jax_enable_x64 == before, "the user's own setting was changed"
    return M, Y, found


def test_signal_is_found_with_its_rank_and_noise(run):
    M, Y, found = run
    assert [found.rank(by) for by in ("edge", "mode")] == [1, 1]
    assert np.linalg.norm(found.mean - M) < np.linalg.norm(Y - M)
    assert 0.7 < found.noise < 1.4
    assert found.rank_distribution("slabs").sum() == pytest.approx(1)


def test_draws_are_whole(run):
    _, Y, found = run
    assert found.d.dtype == np.float64
    assert found.d.shape == (2, 150, 3)
    assert found.mean.shape == found.sd.shape == Y.shape
    assert (np.diff(found.d, axis=-1) <= 0).all()
    assert not np.array_equal(found.d[0], found.d[1])
    assert (found.statistics["num_steps"] > 0).all()
    data = found.inference_data()
    assert {"d", "sigma", "entry"} <= set(data.posterior.data_vars)
    assert "n_steps" in data.sample_stats


@pytest.mark.slow
def test_scale_seed_and_threads():
    """A power of two scales exactly; chains draw the same whether or not they run together."""
    Y = matrix()[1].T
    one = sample(Y, **TINY)
    np.testing.assert_array_equal(one.d * 8, sample(8 * Y, threads=1, **TINY).d)
    assert not np.array_equal(one.d, sample(Y, seed=1, **TINY).d)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_draws(tmp_path, monkeypatch):
    from lorank.bayes import chains

    Y, path = matrix()[1], tmp_path / "run.npz"
    settings = {**TINY, "warmup": 60, "draws": 90, "chains": 1}
    whole = sample(Y, **settings)
    saves, save = itertools.count(), chains._save

    def stop(*arguments):
        save(*arguments)
        if next(saves) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(chains, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(Y, resume=path, **settings)
    assert [p.name for p in tmp_path.iterdir()] == ["run.chain-0.npz"]
    again = sample(Y, resume=path, **settings)
    np.testing.assert_array_equal(again.d, whole.d)
    np.testing.assert_array_equal(again.mean, whole.mean)
    with pytest.raises(LorankError, match="another run"):
        sample(Y, resume=path, **{**settings, "draws": 91})
    (tmp_path / "run.chain-0.npz").write_bytes(b"not a state")
    with pytest.raises(LorankError, match="plain arrays"):
        sample(Y, resume=path, **settings)


@pytest.mark.slow
def test_missing_entries():
    M, Y = matrix(9, 7, strength=40.0)
    mask = np.random.default_rng(1).random(Y.shape) > 0.15
    found = sample(
        np.where(mask, Y, np.nan),
        mask,
        truncation=2,
        chains=2,
        warmup=150,
        draws=150,
        progress=False,
    )
    assert np.linalg.norm((found.mean - M)[~mask]) < 0.5 * np.linalg.norm(M[~mask])
    whole = np.ones_like(mask)
    np.testing.assert_array_equal(sample(Y, whole, **TINY).d, sample(torch.from_numpy(Y), **TINY).d)


BAD = {
    "a vector": (np.ones(5), {}, "at least 3 rows"),
    "one row": (np.ones((1, 5)), {}, "at least 3 rows"),
    "one column": (np.ones((5, 1)), {}, "at least 3 rows"),
    "words": (np.array([["a"] * 3] * 3), {}, "real numbers"),
    "NaN": (np.full((4, 4), np.nan), {}, "mask="),
    "infinite": (np.full((4, 4), np.inf), {"mask": np.ones((4, 4), bool)}, "marked observed"),
    "zero": (np.zeros((5, 4)), {}, "zeros"),
    "constant": (np.full((5, 4), 3.0), {}, "constant"),
    "no noise": (
        np.outer(np.arange(1.0, 6), np.arange(1.0, 5)),
        {"truncation": 2},
        "rank 1 exactly",
    ),
    "full rank": (np.random.default_rng(0).normal(size=(5, 4)), {"truncation": 4}, "from 2 to 3"),
    "mask shape": (np.eye(4), {"mask": np.ones(4, bool)}, "data's shape"),
    "mostly missing": (np.eye(4), {"mask": np.eye(4, dtype=bool)}, "at least half"),
    "empty row": (np.eye(4), {"mask": np.arange(4)[:, None] > np.zeros(4)}, "every row"),
    "prior": (np.eye(4), {"prior": "horse"}, "did you mean 'horseshoe'"),
    "form": (np.eye(4), {"parametrisation": "QR"}, "Known: polar, qr, relaxed"),
    "no draws": (np.eye(4), {"draws": 0}, "draws is a positive whole number"),
    "accept": (np.eye(4), {"accept": 1.0}, "between 0 and 1"),
    "epsilon": (np.eye(4), {"epsilon": 0.0}, "epsilon is a number positive"),
    "seed": (np.eye(4), {"seed": None}, "seed is a whole number"),
    "noise": (np.eye(4), {"noise": (-1.0, 0.0)}, "at least 0"),
    "noise of one": (np.eye(4), {"noise": (1.0,)}, "two numbers"),
    "noise of none": (np.eye(4), {"noise": (math.nan, 1.0)}, "two numbers"),
    "accept of text": (np.eye(4), {"accept": "high"}, "accept is a number"),
    "depth": (np.eye(4), {"depth": 0}, "depth is a positive whole number"),
    "long seed": (np.eye(4), {"seed": 2**70}, "below 2"),
    "constants": (np.eye(4), {"constants": 3}, "lorank.bayes.Prior, found 3"),
    "complex": (torch.eye(4) * 1j, {}, "real numbers"),
    "sparse": (torch.eye(4).to_sparse(), {}, "layout torch.sparse_coo"),
    "no numbers": (torch.eye(4, device="meta"), {}, "on meta"),
    "masked": (np.ma.array(np.eye(4), mask=np.eye(4) > 0), {}, "4 that are not; mark missing"),
    "too large": (1.7e308 * np.eye(4), {}, "4×4 matrix are at most"),
    "resume": (np.eye(4), {"resume": 3}, "names a file to keep the state in, found 3"),
    "no resume": (np.eye(4), {"resume": ""}, "names a file to keep the state in"),
    "resume nowhere": (np.eye(4), {"resume": "nowhere/run.npz"}, "in a folder that exists"),
    "shifted": (matrix()[1], {"constants": Prior(), "truncation": 2}, "without steps"),
}


def test_one_array_is_no_state(tmp_path):
    with (tmp_path / "state.npz").open("wb") as file:
        np.save(file, np.eye(2))
    with pytest.raises(LorankError, match="is not a sampler's state"):
        load_arrays(tmp_path / "state.npz")


def test_a_damaged_file_is_no_state(tmp_path):
    """Every byte of a small file turned: what is read is what was written, or one sentence."""
    place = tmp_path / "state.npz"
    save_arrays(place, {"x": np.arange(3.0)})
    whole = place.read_bytes()
    for i in range(len(whole)):
        place.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        try:
            found = load_arrays(place)
        except LorankError:
            continue
        assert all(array.tolist() == [0, 1, 2] for array in found.values())


EDITS = {
    "no draws of d": lambda a: a.pop("draws_d"),
    "no draws of steps": lambda a: a.pop("draws_num_steps"),
    "too few draws": lambda a: a.update(draws_d=a["draws_d"][1:]),
    "another type": lambda a: a.update(draws_d=a["draws_d"].astype(np.float32)),
    "no state": lambda a: a.pop("state_0"),
    "another shape": lambda a: a.update(state_1=np.zeros(7)),
    "nothing done": lambda a: a.pop("done"),
    "too much done": lambda a: a.update(done=np.asarray(51)),
    "less than nothing done": lambda a: a.update(done=np.asarray(-1)),
    "a word done": lambda a: a.update(done=np.asarray("all")),
    "no label": lambda a: a.pop("label"),
    "another label": lambda a: a.update(label=np.asarray("x")),
}


def saved(place):
    """A state of two leaves and ten draws of two sites, as a sampler saves it."""
    from lorank.bayes import chains

    state = {"z": np.arange(4.0), "key": np.arange(2, dtype=np.uint32)}
    draws = {"d": np.ones((10, 3)), "num_steps": np.arange(10, dtype=np.int32)}
    plan = chains.Plan(20, 30, "label", None, lambda done: None)
    chains._save(place, state, 30, draws, plan)
    kinds = {
        "d": jax.ShapeDtypeStruct((3,), np.float64),
        "num_steps": jax.ShapeDtypeStruct((), np.int32),
    }

    def load():
        with jax.enable_x64(True):
            return chains._load(place, state, kinds, plan)

    return state, draws, load


def test_a_state_comes_back(tmp_path):
    state, draws, load = saved(tmp_path / "state.npz")
    done, found, (kept,) = load()
    assert done == 30
    assert {name: value.tolist() for name, value in kept.items()} == {
        name: value.tolist() for name, value in draws.items()
    }
    assert all(np.array_equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("edit", EDITS)
def test_a_state_edited_by_hand(tmp_path, edit):
    _, _, load = saved(tmp_path / "state.npz")
    arrays = load_arrays(tmp_path / "state.npz")
    EDITS[edit](arrays)
    save_arrays(tmp_path / "state.npz", arrays)
    said = "state of another run" if "label" in edit else "does not hold a whole state"
    with pytest.raises(LorankError, match=said):
        load()


def test_a_number_edited_by_hand(tmp_path):
    """Of the right shape and kind, so only the fingerprint tells."""
    place = tmp_path / "state.npz"
    saved(place)
    with np.load(place) as file:
        arrays = dict(file)
    np.savez(place, **arrays)
    assert load_arrays(place)["draws_d"][3, 1] == 1  # written by others, and still the same
    arrays["draws_d"][3, 1] = 2
    np.savez(place, **arrays)
    with pytest.raises(LorankError, match="was changed after it was written; delete it"):
        load_arrays(place)
    del arrays["fingerprint"]
    np.savez(place, **arrays)
    with pytest.raises(LorankError, match="was changed after it was written"):
        load_arrays(place)


def test_one_fault_stops_all_chains(monkeypatch):
    """Ctrl-C and a damaged file of one chain: nobody waits for the draws of the others."""
    from lorank.bayes import chains

    plan, begun = chains.Plan(1, 1, "label", None, lambda done: None), []

    def chain(number):
        begun.append(number)
        if number == 1:
            raise LorankError("damaged")
        assert plan.stopped.wait(60), "a chain was left to run"
        raise chains.CancelledError

    monkeypatch.setattr(chains, "_chain", chain)
    with pytest.raises(LorankError, match="damaged"):
        chains._side_by_side([(0,), (1,), (2,), (3,)], 2, plan)
    assert 3 not in begun


def test_a_chain_ends_after_its_block():
    from lorank.bayes import chains

    plan = chains.Plan(10, 1000, "label", None, lambda done: plan.stopped.set())
    lengths = []

    def blocks(state, length):
        lengths.append(length)
        return state, {"d": np.zeros((length, 2))}

    with pytest.raises(chains.CancelledError):
        chains._chain(0, None, blocks, plan)
    assert lengths == [chains.BLOCK]


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-160, 1e160, 1e300])
def test_a_problem_of_any_scale(scale):
    _, Y = matrix()
    plain, scaled = prepare(Y, truncation=2), prepare(Y * scale, truncation=2)
    assert scaled.unit == pytest.approx(plain.unit * scale, rel=1e-12) or scale < 1e-300
    assert np.allclose(scaled.matrix, plain.matrix, atol=1e-12) or scale < 1e-300
    assert scaled.noise_prior((2.0, 0.0)) == (2.0, 0.0)


def test_the_prior_of_the_noise_is_in_the_unit():
    problem = prepare(1e-100 * matrix()[1], truncation=2)
    assert problem.noise_prior((2.0, 3.0))[1] == pytest.approx(3 / problem.unit**2)
    with pytest.raises(LorankError, match="a variance of the data's magnitude, found 3"):
        prepare(1e-300 * matrix()[1], truncation=2).noise_prior((2.0, 3.0))


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_a_sentence(name):
    data, arguments, said = BAD[name]
    with pytest.raises(LorankError, match=said):
        sample(data, progress=False, **arguments)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpyro", None)
    with pytest.raises(MissingExtraError, match=r"lorank\[bayes\]"):
        sample(matrix()[1])


@pytest.mark.slow
@pytest.mark.parametrize("prior", PRIOR_NAMES)
def test_every_prior_runs(prior):
    M, Y = matrix(strength=20.0)
    found = sample(Y, prior=prior, truncation=3, chains=2, warmup=200, draws=200, progress=False)
    assert np.linalg.norm(found.mean - M) < np.linalg.norm(Y - M)
    assert (found.slab is None) == (prior != "csp")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two minutes alone, many more beside others
def test_all_samplers_agree():
    """Means of σ and sorted d within five Monte Carlo standard errors of exact Gibbs.

    The relaxed form is compared with its norm correction at a small ε: its leading bias is gone.
    """
    import arviz

    _, Y = matrix(10, 7, strength=14.0)
    settings = {"truncation": 3, "noise": (3.0, 2.0)}
    exact = gibbs(Y, chains=4, warmup=500, draws=5000, **settings)
    for form in ("polar", "qr", "relaxed"):
        found = sample(
            Y,
            parametrisation=form,
            corrected=True,
            epsilon=3e-4,
            chains=4,
            draws=1500,
            progress=False,
            **settings,
        )
        assert diagnose(found).rhat < 1.05
        for get in (lambda p: p.sigma, *(lambda p, h=h: p.d[..., h] for h in range(3))):
            errors = [float(arviz.mcse(get(p))) for p in (exact, found)]
            assert abs(get(exact).mean() - get(found).mean()) < 5 * np.hypot(*errors), form

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the estimator needs scikit-learn")

from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from colour.images import normal, spectrum
from lorank.colour import QuaternionPCA
from lorank.linalg import qct, qmatmul

EPS = np.finfo(np.float64).eps


@parametrize_with_checks(
    [QuaternionPCA(), QuaternionPCA(1, svd_solver="randomized", random_state=0)]
)
def test_it_is_an_estimator(estimator, check):
    check(estimator)


def data(samples=40, features=25, seed=0):
    values = torch.cat([torch.tensor([9.0, 6.0, 4.0]), torch.linspace(0.5, 0.1, 20)]).double()
    return spectrum(values, samples, features, seed).numpy() + 2.0


def test_components_are_orthonormal_and_the_best():
    X = data()
    pca = QuaternionPCA(3).fit(X)
    C = pca.components_
    gram = qmatmul(C, np.ascontiguousarray(qct(C)))
    gram[..., 0] -= np.eye(3)
    assert np.linalg.norm(gram) < 100 * 25 * EPS
    rebuilt = pca.inverse_transform(pca.transform(X)).reshape(X.shape)
    centred = X - X.mean(0)
    real = np.block(blocks(centred))
    values = np.linalg.svd(real, compute_uv=False)[::4]
    best = np.sqrt((values[3:] ** 2).sum())
    assert np.linalg.norm(rebuilt - X) == pytest.approx(best, rel=1e-9)
    assert np.allclose(pca.singular_values_, values[:3], rtol=1e-12)
    whole = (centred**2).sum() / (len(X) - 1)
    assert np.allclose(pca.explained_variance_, values[:3] ** 2 / (len(X) - 1))
    assert np.allclose(pca.explained_variance_ratio_, pca.explained_variance_ / whole)


def blocks(q):
    w, x, y, z = np.moveaxis(q, -1, 0)
    return [[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]


def test_the_randomized_solver_finds_the_same():
    X = data(60, 50)
    full = QuaternionPCA(3, svd_solver="full").fit(X)
    fast = QuaternionPCA(3, svd_solver="randomized", random_state=1, n_iter=4).fit(X)
    # Gaps of the spectrum raised to a power of nine: far below the tolerance.
    assert np.allclose(fast.singular_values_, full.singular_values_, rtol=1e-8)
    assert np.allclose(fast.components_, full.components_, atol=1e-5)  # one gauge, too
    again = clone(fast).fit(X)
    assert np.array_equal(again.components_, fast.components_)


def test_auto_takes_the_sketch_for_large_data(monkeypatch):
    taken = []
    from lorank.colour import pca as module

    for name in ("qsvd", "randomized_qsvd"):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, n=name, f=real, **k: (taken.append(n), f(*a, **k))[1]
        )
    X = np.random.default_rng(0).standard_normal((20, 4 * 600))
    QuaternionPCA(2).fit(X)
    QuaternionPCA(2).fit(X[:, :80])
    QuaternionPCA().fit(X)
    assert taken == ["randomized_qsvd", "qsvd", "qsvd"]


def test_layouts_are_one_thing():
    rng = np.random.default_rng(0)
    images = rng.random((15, 5, 6, 3))
    array = np.concatenate([np.zeros((15, 5, 6, 1)), images], -1).reshape(15, 30, 4)
    results = [
        QuaternionPCA(4, svd_solver="full").fit_transform(X)
        for X in (images, array, array.reshape(15, 120), torch.as_tensor(images))
    ]
    for other in results[1:]:
        assert np.array_equal(other, results[0])
    pca = QuaternionPCA(14, svd_solver="full").fit(images)
    colours = pca.inverse_transform(pca.transform(images)).reshape(15, 5, 6, 4)[..., 1:]
    assert np.allclose(colours, images, atol=1e-12)  # 14 directions hold 15 centred samples
    bytes_ = (images * 255).astype(np.uint8)
    assert QuaternionPCA(2).fit_transform(bytes_).shape == (15, 8)


def test_arrays_of_numpy_quaternion():
    quaternion = pytest.importorskip("quaternion", reason="numpy-quaternion is not installed")
    array = np.random.default_rng(0).random((12, 5, 4))
    scores = QuaternionPCA(2).fit_transform(quaternion.as_quat_array(array))
    assert np.array_equal(scores, QuaternionPCA(2).fit_transform(array))


def test_columns_that_do_not_come_in_fours():
    X = np.random.default_rng(0).random((12, 6))
    pca = QuaternionPCA().fit(X)
    assert pca.components_.shape == (2, 2, 4)
    assert np.allclose(pca.inverse_transform(pca.transform(X)), X)


def test_distances_of_scores_are_distances_of_quaternions():
    X = normal(10, 20, 4).numpy()
    scores = QuaternionPCA().fit_transform(X)
    assert np.linalg.norm(scores[3] - scores[7]) == pytest.approx(np.linalg.norm(X[3] - X[7]))


def test_in_a_pipeline_with_names():
    X, y = data(40), np.arange(40) % 2
    X[y == 1] += 1
    model = make_pipeline(QuaternionPCA(3), KNeighborsClassifier(1))
    assert model.fit(X[:30], y[:30]).score(X[30:], y[30:]) == 1
    names = model[0].get_feature_names_out()
    assert len(names) == 12 and names[0] == "quaternionpca0"


def test_real_data_have_real_components():
    """Quaternions without imaginary parts: the ordinary analysis."""
    X = np.random.default_rng(0).standard_normal((30, 8)) * np.arange(1, 9)
    array = np.zeros((30, 8, 4))
    array[..., 0] = X
    mine, real = QuaternionPCA(3).fit(array), PCA(3).fit(X)
    assert np.allclose(mine.explained_variance_, real.explained_variance_)
    assert np.allclose(np.abs(mine.components_[..., 0]), np.abs(real.components_), atol=1e-9)
    assert np.abs(mine.components_[..., 1:]).max() < 1e-12


def test_single_precision_stays():
    pca = QuaternionPCA(2).fit(data().astype(np.float32))
    assert pca.components_.dtype == np.float32
    assert pca.transform(data().astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda X: QuaternionPCA(26).fit(X), "at most min.samples, features. = 25"),
        (lambda X: QuaternionPCA(0).fit(X), "n_components"),
        (lambda X: QuaternionPCA(svd_solver="fast").fit(X), "svd_solver"),
        (lambda X: QuaternionPCA().fit(X[:1]), "minimum of 2"),
        (lambda X: QuaternionPCA().fit(np.full_like(X, np.nan)), "NaN"),
        (lambda X: QuaternionPCA(2).fit(X).transform(X[:, :5]), "features"),
        (lambda X: QuaternionPCA(2).fit(X).inverse_transform(X[:, 0]), r"\(samples, 8\), found"),
        (lambda X: QuaternionPCA(2).transform(X), "not fitted"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(data())


def test_noise_is_not_mistaken_for_components():
    X = normal(30, 20, 4).numpy()
    ratio = QuaternionPCA(1).fit(X).explained_variance_ratio_[0]
    assert ratio < 0.2


def test_a_missing_package_is_one_sentence(monkeypatch):
    import sys

    import lorank.colour

    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(lorank.MissingExtraError, match=r"pip install 'lorank\[data\]'"):
        lorank.colour.QuaternionPCA  # noqa: B018

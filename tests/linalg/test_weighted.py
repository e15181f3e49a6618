"""Cuts weighed by moments, against roots, truncations and projections that are formed densely."""

import itertools
import math

import numpy as np
import pytest
import torch

from lorank.errors import LorankError
from lorank.linalg import Moments, Unfolding, svd, truncate, weighted_cut, weighted_singular_values
from lorank.linalg.weighted import DAMPING, compensated, shrink, weighted_error
from tolerance import TEN, backward, distance, eps, product

VIEWS = {
    "linear wide": (5, 9),
    "linear tall": (9, 5),
    "linear one output": (1, 6),
    "stored transposed": (5, 9, (), 1, True),
    "conv1d": (6, 4, (3,)),
    "conv2d": (6, 3, (3, 2)),
    "conv2d tall": (12, 2, (2, 2)),
    "conv2d groups": (6, 4, (3, 3), 2),
    "depthwise": (4, 4, (3, 3), 4),
    "conv3d": (3, 2, (2, 3, 2)),
    "transposed": (6, 3, (3, 2), 1, True),
    "transposed groups": (6, 4, (2, 3), 2, True),
}
CASES = [(k, layout) for k, size in VIEWS.items() for layout in Unfolding(*size).possible()]
SPLIT = [(k, layout) for k, layout in CASES if Unfolding(*VIEWS[k], layout=layout).outer_axes]
WHOLE = [case for case in CASES if case not in SPLIT]
DRAWN = 10**9
"""So many rows that shrinking moves a moment by parts in 1e9."""


def weight(view, dtype=torch.float64):
    inside = view.in_channels // view.groups
    ends = (view.in_channels, view.out_channels // view.groups)
    ends = ends if view.transposed else (view.out_channels, inside)
    return torch.randn(*ends, *view.kernel_size, dtype=torch.float64).to(dtype)


def sizes(view):
    n = view.in_channels // view.groups * math.prod(view.kernel_size)
    return n, view.out_channels // view.groups


def moment(groups, n, rank=None, spread=2.0):
    """Strongly different weights along random axes, 0 along all but ``rank`` of them."""
    values = torch.logspace(spread / 2, -spread / 2, n, dtype=torch.float64)
    if rank is not None:
        values[rank:] = 0
    axes = torch.linalg.qr(torch.randn(groups, n, n, dtype=torch.float64))[0]
    return (axes * values) @ axes.mT


def seen(view, *, outputs=True, rows=DRAWN, rank=None):
    n, m = sizes(view)
    H = moment(view.groups, m) if outputs else None
    return Moments(moment(view.groups, n, rank), H, rows)


def root(symmetric):
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def whole(view, kernel):
    """``W`` of each group, ``(out, patch)``, straight from the kernel as torch stores it."""
    blocks = kernel.double().unflatten(0, (view.groups, -1))
    blocks = blocks.transpose(1, 2) if view.transposed else blocks
    return blocks.reshape(*blocks.shape[:2], -1).numpy()


def taps(view):
    """For each tap of the outer operation, the entries of a patch that the inner one reads."""
    patch = np.arange(sizes(view)[0]).reshape(-1, *view.kernel_size)
    for fixed in itertools.product(*(range(view.kernel_size[a]) for a in view.outer_axes)):
        at = dict(zip(view.outer_axes, fixed, strict=True))
        index = [at.get(a, slice(None)) for a in range(len(view.kernel_size))]
        yield patch[(slice(None), *index)].reshape(-1)


def sides(view, moments):
    """``H^½`` and ``G_in^½`` of each group, with the share of the isotropic part written out."""
    G = shrink(moments.inputs, moments.rows).numpy()
    inner = [root(np.mean([g[np.ix_(at, at)] for at in taps(view)], axis=0)) for g in G]
    _, m = sizes(view)
    if moments.outputs is None:
        return [np.eye(m)] * view.groups, inner
    isotropic = [np.trace(h) / m * np.eye(m) for h in moments.outputs.numpy()]
    damped = zip(moments.outputs.numpy(), isotropic, strict=True)
    return [root((1 - DAMPING) * h + DAMPING * i) for h, i in damped], inner


def whitened(view, kernel, moments):
    """``H^½·A·G_in^½`` of each group, row by row (output, outer tap)."""
    found = []
    for W, H, G in zip(whole(view, kernel), *sides(view, moments), strict=True):
        blocks = np.stack([H @ W[:, at] @ G for at in taps(view)], axis=1)
        found.append(blocks.reshape(view.shape))
    return np.stack(found)


def product_of(view, factors):
    return view.kernel((factors.U * factors.S.unsqueeze(-2)) @ factors.Vh)


def loss(view, change, moments):
    """``‖H^½·D·G^½‖_F²`` over whole patches."""
    G = shrink(moments.inputs, moments.rows).numpy()
    H, _ = sides(view, moments)
    parts = zip(whole(view, change), H, G, strict=True)
    return sum(np.linalg.norm(h @ D @ root(g)) ** 2 for D, h, g in parts)


def rounding(view, kernel, moments):
    """Bound of the rounding of a weighed square: each factor is off by a few ``size·eps``."""
    return 4 * backward(*view.shape, torch.float64) * loss(view, kernel, moments)


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_values_are_those_of_the_matrix_between_two_roots(kind, layout, outputs):
    view = Unfolding(*VIEWS[kind], layout=layout)
    kernel, moments = weight(view), seen(view, outputs=outputs)
    found = weighted_singular_values(view, kernel, moments)
    want = torch.from_numpy(np.linalg.svd(whitened(view, kernel, moments), compute_uv=False))
    assert found.dtype == torch.float64
    assert found.shape == ((view.groups,) if view.groups > 1 else ()) + (min(view.shape),)
    want = want if view.groups > 1 else want[0]
    # squares, because the values are roots of a Gram matrix's
    bound = 4 * backward(*view.shape, torch.float64) * float(want.max()) ** 2
    assert float((found.square() - want.square()).abs().max()) <= bound
    plain = torch.linalg.svdvals(view.matrix(kernel))
    assert distance(found, plain) > 0.01 * float(plain.norm())  # negative control


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize(("kind", "layout"), WHOLE)
def test_the_cut_loses_what_lies_beyond_its_rank_and_no_more(kind, layout, outputs):
    view = Unfolding(*VIEWS[kind], layout=layout)
    kernel, moments = weight(view), seen(view, outputs=outputs)
    values = weighted_singular_values(view, kernel, moments).reshape(view.groups, -1)
    allowed = rounding(view, kernel, moments)
    for rank in range(1, min(view.shape) + 1):
        low = product_of(view, weighted_cut(view, kernel, moments, rank))
        tail = float(values[:, rank:].square().sum())
        assert abs(loss(view, kernel - low, moments) - tail) <= allowed
    plain = product_of(view, truncate(svd(view.matrix(kernel)), 1))
    if min(view.shape) > 1:
        best = float(values[:, 1:].square().sum())
        assert loss(view, kernel - plain, moments) > 1.02 * best + allowed  # negative control


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_factors_are_an_svd(kind, layout):
    view = Unfolding(*VIEWS[kind], layout=layout)
    rank = min(2, *view.shape)
    U, S, Vh = weighted_cut(view, weight(view), seen(view), rank)
    batch = (view.groups,) if view.groups > 1 else ()
    assert U.shape == (*batch, view.shape[0], rank) and U.dtype == torch.float64
    assert S.shape == (*batch, rank) and Vh.shape == (*batch, rank, view.shape[1])
    eye, bound = torch.eye(rank, dtype=torch.float64), TEN * max(view.shape) * eps(torch.float64)
    assert float((U.mT @ U - eye).abs().max()) <= bound
    assert float((Vh @ Vh.mT - eye).abs().max()) <= bound
    assert bool((S[..., :-1] >= S[..., 1:]).all()) and bool((S >= 0).all())


@pytest.mark.parametrize("kind", ["linear wide", "linear tall", "conv2d", "conv2d groups"])
def test_no_competitor_of_the_same_rank_is_better(kind):
    view = Unfolding(*VIEWS[kind])
    kernel, moments = weight(view), seen(view)
    low = weighted_cut(view, kernel, moments, 2)
    best = loss(view, kernel - product_of(view, low), moments)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(10):
            U = low.U + scale * torch.randn_like(low.U)
            Vh = low.Vh + scale * torch.randn_like(low.Vh)
            other = product_of(view, low._replace(U=U, Vh=Vh))
            assert loss(view, kernel - other, moments) >= best


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize(("kind", "layout"), SPLIT)
def test_the_left_factor_is_fitted_to_whole_patches(kind, layout, outputs):
    view = Unfolding(*VIEWS[kind], layout=layout)
    kernel, moments = weight(view), seen(view, outputs=outputs)
    rank = max(1, min(view.shape) // 2)
    low = product_of(view, weighted_cut(view, kernel, moments, rank))
    unfitted = []
    for M, H, G in zip(whitened(view, kernel, moments), *sides(view, moments), strict=True):
        U, S, Vh = np.linalg.svd(M, full_matrices=False)
        cut = (U[:, :rank] * S[:rank]) @ Vh[:rank]
        cut = cut.reshape(H.shape[0], -1, view.shape[1]) @ np.linalg.inv(G)
        unfitted.append(np.einsum("ab,btc->atc", np.linalg.inv(H), cut).reshape(view.shape))
    other = view.kernel(torch.from_numpy(np.stack(unfitted)))
    allowed = rounding(view, kernel, moments)
    found = loss(view, kernel - low, moments)
    assert found <= loss(view, kernel - other, moments) + allowed
    # and the best for its row space: a step of the left factor to any side makes it worse
    factors = weighted_cut(view, kernel, moments, rank)
    for _ in range(5):
        U = factors.U + 0.01 * torch.randn_like(factors.U)
        near = product_of(view, factors._replace(U=U))
        assert loss(view, kernel - near, moments) >= found - allowed


def test_the_fit_gains_where_neighbouring_taps_are_alike():
    """On average over kernels: a negative control for the test above."""
    view = Unfolding(4, 4, (3, 3), layout="spatial")
    place = torch.arange(3.0, dtype=torch.float64)
    near = torch.exp(-(place[:, None] - place).abs() / 3)
    smooth = torch.kron(torch.eye(4, dtype=torch.float64), torch.kron(near, near))[None]
    moments, kernel = Moments(smooth, None, DRAWN), weight(view)
    U, S, Vh = truncate(svd(view.matrix(kernel)), 4)
    low = weighted_cut(view, kernel, moments, 4)
    plain = loss(view, kernel - view.kernel((U * S) @ Vh), moments)
    assert loss(view, kernel - product_of(view, low), moments) < 0.95 * plain


@pytest.mark.parametrize("rows", [1, 3, 50, DRAWN])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize(("kind", "layout"), [("linear wide", "channel"), ("conv2d", "spatial")])
def test_moments_of_any_rank_will_do(kind, layout, rank, rows):
    view = Unfolding(*VIEWS[kind], layout=layout)
    kernel, moments = weight(view), seen(view, rank=rank, rows=rows)
    moments = moments._replace(outputs=torch.zeros_like(moments.outputs) if rank == 0 else None)
    for kept in (1, 2, min(view.shape)):
        low = product_of(view, weighted_cut(view, kernel, moments, kept))
        assert torch.isfinite(low).all()
        # nowhere larger than the kernel by more than directions that are hardly ever seen allow
        assert loss(view, kernel - low, moments) <= loss(view, kernel, moments)
    # full rank: the explicit pseudo-inverse loses the condition number, once in each factor
    condition = float(torch.linalg.cond(shrink(moments.inputs, moments.rows)).max())
    size = loss(view, kernel, moments)
    lost = product(math.prod(view.shape), kernel.dtype) * condition
    assert loss(view, kernel - low, moments) <= rounding(view, kernel, moments) + lost**2 * size


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_full_rank_is_the_kernel(kind, layout):
    view = Unfolding(*VIEWS[kind], layout=layout)
    kernel, moments = weight(view), seen(view)
    low = product_of(view, weighted_cut(view, kernel, moments, min(view.shape)))
    # the moments' condition numbers are 100 each, and enter by a Gram matrix
    bound = 100**2 * backward(*view.shape, torch.float64) * float(kernel.norm())
    assert distance(low, kernel) <= bound


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_isotropic_moments_give_the_plain_cut(kind, layout):
    view = Unfolding(*VIEWS[kind], layout=layout)
    kernel = weight(view)
    n, m = sizes(view)
    eye = torch.eye(n, dtype=torch.float64).expand(view.groups, n, n)
    H = torch.eye(m, dtype=torch.float64).expand(view.groups, m, m)
    rank = min(2, *view.shape)
    plain = truncate(svd(view.matrix(kernel)), rank)
    for moments in (Moments(eye, None, 50), Moments(eye, H, DRAWN)):
        low = product_of(view, weighted_cut(view, kernel, moments, rank))
        values = torch.linalg.svdvals(view.matrix(kernel)).square().reshape(view.groups, -1)
        gap = (values[:, rank - 1] - values[:, rank : rank + 1].sum(-1)).min() / values.max()
        bound = backward(*view.shape, torch.float64) * float(kernel.norm()) / float(gap)
        assert distance(low, product_of(view, plain)) <= bound


def test_with_fewer_samples_than_features_the_cut_becomes_the_plain_one():
    view, kernel = Unfolding(8, 40), weight(Unfolding(8, 40))
    plain = product_of(view, truncate(svd(kernel), 3))
    gaps = []
    for rows in (4, 400, 40_000):
        # what an isotropic input looks like in so few samples
        x = torch.randn(rows, 40, dtype=torch.float64)
        moments = Moments((x.mT @ x / rows)[None], None, rows)
        gaps.append(distance(product_of(view, weighted_cut(view, kernel, moments, 3)), plain))
        raw = Moments(moments.inputs, None, DRAWN)  # negative control: believed as it is
        assert distance(product_of(view, weighted_cut(view, kernel, raw, 3)), plain) > gaps[-1]
    assert max(gaps) < 0.05 * float(plain.norm())


@pytest.mark.parametrize("rows", [2, 30, 10_000])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_shrinking_follows_the_equation(n, rows):
    S = moment(3, n, spread=1.0)
    found = shrink(S, rows)
    for one, s in zip(found.numpy(), S.numpy(), strict=True):
        square, trace = np.trace(s @ s), np.trace(s)
        below = (rows + 1 - 2 / n) * (square - trace**2 / n)
        rho = 0 if n == 1 else min(1, ((1 - 2 / n) * square + trace**2) / below)
        want = (1 - rho) * s + rho * trace / n * np.eye(n)
        np.testing.assert_allclose(one, want, rtol=0, atol=TEN * n * eps(S.dtype) * trace)


@pytest.mark.parametrize("rows", [5, 50, 5000])
def test_shrinking_as_scikit_learn_does(rows):
    covariance = pytest.importorskip("sklearn.covariance", reason="a second opinion")
    n = 60
    x = torch.randn(rows, n, dtype=torch.float64) * torch.linspace(0.1, 3, n, dtype=torch.float64)
    S = x.mT @ x / rows
    want, rho = covariance.oas(x.numpy(), assume_centered=True)
    # it leaves the terms 2 / n out: numerator and denominator are off by these shares
    allowed = rho * (2 / n + 2 / n / (rows + 1)) * 1.1 * float((S - want.diagonal().mean()).norm())
    assert distance(shrink(S, rows), torch.from_numpy(want)) <= allowed + TEN * n * 1e-15


def test_shrinking_nothing_and_keeping_the_trace():
    assert torch.equal(shrink(torch.zeros(2, 3, 3), 5), torch.eye(3).expand(2, 3, 3))
    S = moment(2, 6, rank=2)
    for rows in (1, 10, 1000):
        traces = shrink(S, rows).diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close(traces, S.diagonal(dim1=-2, dim2=-1).sum(-1))
        assert float(torch.linalg.eigvalsh(shrink(S, rows)).min()) > 0


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_compensation_is_least_squares(kind, layout):
    view = Unfolding(*VIEWS[kind], layout=layout)
    kernel, (n, m) = weight(view), sizes(view)
    rows = 400
    x = torch.randn(view.groups, rows, n, dtype=torch.float64)
    changed = x @ (torch.eye(n) + 0.3 * torch.randn(n, n)).double() + 0.1 * torch.randn_like(x)
    inputs, cross = changed.mT @ changed / rows, x.mT @ changed / rows
    found = compensated(view, kernel, Moments(inputs, None, DRAWN), cross)
    assert found.shape == kernel.shape and found.dtype == torch.float64
    W = torch.from_numpy(whole(view, kernel))
    for g, got in enumerate(whole(view, found)):
        target = (x[g] @ W[g].mT).numpy()
        want = np.linalg.lstsq(changed[g].numpy(), target, rcond=None)[0].T
        condition = np.linalg.cond(inputs[g].numpy())
        # normal equations, and the part of a shrinkage that so many rows leave
        allowed = condition * (backward(n, m, torch.float64) + 2 * n / DRAWN)
        size = np.linalg.norm(want) + np.linalg.norm(W[g])
        assert np.linalg.norm(got - want) <= allowed * size
        assert np.linalg.norm(want - W[g].numpy()) > 0.1 * np.linalg.norm(W[g])  # it had to move


def test_compensation_of_what_has_not_changed_is_the_kernel():
    view = Unfolding(5, 9)
    kernel = weight(view)
    for rows, rank in ((3, 2), (DRAWN, 9)):
        moments = seen(view, outputs=False, rows=rows, rank=rank)
        same = compensated(view, kernel, moments, moments.inputs)
        assert distance(same, kernel) <= 100 * product(9, kernel.dtype) * float(kernel.norm())


def test_compensation_from_few_samples_does_not_overshoot():
    """One sample says how one direction changed: the answer there may reach the true one at most.

    ``W'·x̂ = W·x̂ + s·W·(x − x̂)`` with a step s in [0, 1].
    """
    view, n = Unfolding(4, 30), 30
    kernel = weight(view)
    x = torch.randn(n, 1, dtype=torch.float64)
    changed = x + 0.3 * torch.randn_like(x)
    moments = Moments((changed @ changed.mT)[None], None, 1)
    found = compensated(view, kernel, moments, (x @ changed.mT)[None])
    before, after = (distance(k @ changed, kernel @ x) for k in (kernel, found))
    assert after <= before


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("kind", VIEWS)
def test_the_error_is_that_of_the_answers(kind, outputs):
    """``Σ_ij H_ij·E[δ_i·δ_j]`` of the answers ``δ = D·x`` to a set of patches."""
    view = Unfolding(*VIEWS[kind])
    change, (n, m) = weight(view), sizes(view)
    x = torch.randn(view.groups, 300, n, dtype=torch.float64)
    moments = seen(view, outputs=outputs)._replace(inputs=x.mT @ x / 300, rows=10**12)
    delta = x @ torch.from_numpy(whole(view, change)).mT
    second = delta.mT @ delta / 300
    H = torch.eye(m, dtype=torch.float64).expand(view.groups, m, m)
    if moments.outputs is not None:
        mean = moments.outputs.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        H = (1 - DAMPING) * moments.outputs + DAMPING * mean * H
    want = float((H * second).sum())
    found = weighted_error(view, change, moments)
    # shrinkage by ρ of at most about (1 + n) / rows, over the sampling spread of 300 patches
    assert found == pytest.approx(want, rel=1e-9)
    for layout in view.possible():
        again = weighted_error(Unfolding(*VIEWS[kind], layout=layout), change, moments)
        assert again == pytest.approx(found, rel=product(n * m, change.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_in_less_precision_are_cut_as_what_they_hold(dtype):
    view = Unfolding(6, 3, (3, 3), layout="spatial")
    kernel, moments = weight(view, dtype), seen(view)
    exact, found = (weighted_cut(view, k, moments, 2) for k in (kernel.double(), kernel))
    assert all(torch.equal(a, b) for a, b in zip(exact, found, strict=True))
    values = weighted_singular_values(view, kernel.requires_grad_(), moments)
    assert torch.equal(values, weighted_singular_values(view, kernel.double(), moments))
    assert not values.requires_grad and not found.U.requires_grad


BROKEN = {
    "inputs of another kernel": {"inputs": torch.eye(4).double()[None]},
    "inputs without groups": {"inputs": torch.eye(6).double()},
    "outputs of another kernel": {"outputs": torch.eye(6).double()[None]},
    "inputs with NaN": {"inputs": torch.full((1, 6, 6), math.nan).double()},
    "inputs with Inf": {"inputs": torch.full((1, 6, 6), math.inf).double()},
    "outputs with NaN": {"outputs": torch.full((1, 4, 4), math.nan).double()},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_moments_that_do_not_fit_are_refused(broken):
    view = Unfolding(4, 6)
    kernel, moments = weight(view), seen(view)._replace(**broken)
    for call in (
        lambda: weighted_singular_values(view, kernel, moments),
        lambda: weighted_cut(view, kernel, moments, 2),
        lambda: weighted_error(view, kernel, moments),
        lambda: compensated(view, kernel, moments, torch.eye(6).double()[None]),
    ):
        with pytest.raises(LorankError, match=r"^moments of (in|out)puts must be"):
            call()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    view = Unfolding(4, 6)
    kernel, moments = weight(view), seen(view)
    broken = kernel.clone()
    broken[1, 2] = bad
    cross = torch.eye(6).double()[None]
    for call in (
        lambda: weighted_singular_values(view, broken, moments),
        lambda: weighted_cut(view, broken, moments, 2),
        lambda: weighted_error(view, broken, moments),
        lambda: compensated(view, broken, moments, cross),
        lambda: compensated(view, kernel, moments, bad * cross),
        lambda: compensated(view, kernel, moments, cross[:, :4]),
    ):
        with pytest.raises(LorankError, match=r"finite values, found|must be of shape|be finite"):
            call()


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_a_rank_out_of_range_is_refused(rank):
    view = Unfolding(4, 6)
    with pytest.raises(LorankError, match=f"between 1 and 4, found {rank}"):
        weighted_cut(view, weight(view), seen(view), rank)


@pytest.mark.parametrize("layout", ["channel", "channel_reversed", "spatial", "spatial_reversed"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_power_alone_is_a_multiple_of_the_identity(layout, groups):
    torch.manual_seed(0)
    view = Unfolding(6, 8, (3, 3), groups, False, layout)
    kernel = torch.randn(6, 8 // groups, 3, 3, dtype=torch.float64)
    n, m = 8 // groups * 9, 6 // groups
    half = torch.randn(groups, m, m, dtype=torch.float64)
    H, power = half @ half.mT, torch.full((groups, 1, 1), 2.5, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64).expand(groups, n, n)
    alone, whole = Moments(power, H, 10**12), Moments(2.5 * eye, H, 10**12)
    one, other = (weighted_singular_values(view, kernel, s) for s in (alone, whole))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    one, other = (weighted_cut(view, kernel, s, 2) for s in (alone, whole))
    products = [(f.U * f.S.unsqueeze(-2)) @ f.Vh for f in (one, other)]
    torch.testing.assert_close(*products, rtol=1e-8, atol=1e-8)
    with pytest.raises(LorankError, match="found the power of the inputs alone"):
        compensated(view, kernel, alone, power)

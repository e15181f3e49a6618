"""All singular values of a convolution, by every method, against the operator as a matrix."""

import math
from itertools import pairwise

import pytest
import torch
from conv_cases import GEOMETRIES, descending, kernel, smooth

import tolerance
from lorank import LorankError
from lorank.linalg import operator_energy, operator_matrix, operator_singular_values
from lorank.linalg.convolution.auto import mean_error
from lorank.linalg.convolution.spectrum import METHODS, NAMES

D = torch.float64
ZEROS = ("quantile", "energy", "extrapolated")


def truth(K, size, **geometry):
    return torch.linalg.svdvals(operator_matrix(K, size, **geometry))


def bound(values, dtype=D):
    """Weyl: values move by no more than the matrix, whose computed SVD is backward stable."""
    return tolerance.backward(len(values), len(values), dtype) * max(float(values[0]), 1e-300)


def assert_same(found, values, dtype=D):
    assert found.dtype == dtype and len(found) == len(values)
    assert (found.double() - values).abs().max() <= 4 * bound(values, dtype)


@pytest.mark.parametrize("padding", ["zeros", "circular", "valid"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_exact_is_exact_for_every_geometry(name, padding):
    shape, size, settings = GEOMETRIES[name]
    if padding == "valid" and name in ("kernel larger than the image", "one pixel"):
        pytest.skip("nothing is written")
    geometry = {"padding": padding, **settings}
    want = truth(kernel(shape), size, **geometry)
    got = operator_singular_values(kernel(shape), size, method="exact", **geometry)
    assert got.kind == "exact" and got.error < 1e-9
    assert_same(got.values, want)
    auto = operator_singular_values(kernel(shape), size, **geometry)
    assert auto.kind == "exact"
    assert_same(auto.values, want)


@pytest.mark.parametrize("name", [n for n in GEOMETRIES if n != "stride and dilation"])
def test_circular_is_the_union_over_frequencies(name):
    shape, size, settings = GEOMETRIES[name]
    geometry = {"padding": "circular", **settings}
    got = operator_singular_values(kernel(shape), size, method="circular", **geometry)
    assert got.kind == "exact"
    assert_same(got.values, truth(kernel(shape), size, **geometry))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_circular_with_dilation_and_stride(stride):
    geometry = {"padding": "circular", "stride": stride, "dilation": 3}
    got = operator_singular_values(kernel((3, 2, 3, 3)), 8, method="circular", **geometry)
    assert_same(got.values, truth(kernel((3, 2, 3, 3)), 8, **geometry))


def test_a_stride_that_does_not_divide_the_image_has_no_exact_symbol():
    geometry = {"padding": "circular", "stride": 2}
    found = operator_singular_values(kernel((3, 2, 3, 3)), 7, method="circular", **geometry)
    assert found.kind == "estimate"
    assert operator_singular_values(kernel((3, 2, 3, 3)), 7, **geometry).kind == "exact"


def test_the_aliases_of_a_stride_side_by_side():
    """Stride s, circular: of ``[F at the s² aliases]/s``."""
    from lorank.linalg.convolution.symbol import symbol

    K, n, s = kernel((3, 2, 3, 3)), 8, 2
    step = 2 * math.pi * torch.arange(n // s, dtype=D) / n
    alias = 2 * math.pi * torch.arange(s, dtype=D) / s
    a = (step[:, None] + alias).reshape(-1, 1, s, 1).expand(-1, n // s, s, s)
    b = (step[:, None] + alias).reshape(1, -1, 1, s).expand(n // s, -1, s, s)
    F = symbol(K, torch.stack([a, b], -1)).flatten(2, 3)  # (a, b, aliases, out, in)
    side_by_side = F.permute(0, 1, 3, 2, 4).flatten(-2) / s
    want = truth(K, n, padding="circular", stride=s)
    assert_same(descending(torch.linalg.svdvals(side_by_side)), want)


def test_dilation_gives_copies_of_the_undilated_layer():
    K = kernel((3, 2, 3, 3))
    found = operator_singular_values(K, 8, dilation=2, method="exact").values
    assert_same(found, descending(truth(K, 4).repeat(4)))
    assert_same(found, truth(K, 8, dilation=2))


def test_a_1x1_kernel_gives_copies_of_its_matrix():
    K = kernel((4, 3, 1, 1))
    for method in ("exact", "circular", "quantile", "energy", "extrapolated", "auto"):
        found = operator_singular_values(K, 5, method=method).values
        assert_same(found, descending(torch.linalg.svdvals(K[..., 0, 0]).repeat(25)))


def test_shifting_the_taps_changes_nothing_circular_and_something_under_zeros():
    K = kernel((3, 2, 2, 2))
    early, late = ({"padding": [p, p]} for p in ((1, 0), (0, 1)))
    assert_same(truth(K, 5, **early), truth(K.flip(2, 3), 5, **late))
    wide = torch.nn.functional.pad(K, (2, 0, 0, 0))
    circular = [truth(k, 5, padding="circular") for k in (K, wide)]
    assert_same(*circular)
    assert (truth(K, 5) - truth(wide, 5)).abs().max() > 0.01


@pytest.mark.parametrize("n", [6, 8, 10])
def test_the_border_is_a_perturbation_of_known_rank(n):
    """``rank(T − C) ≤ R`` and Weyl: each value lies between two of the circular ones."""
    K = kernel((3, 3, 3, 3))
    zeros, circle = truth(K, n), truth(K, n, padding="circular")
    gap = operator_matrix(K, n) - operator_matrix(K, n, padding="circular")
    R = 3 * (n**2 - (n - 2) ** 2)
    assert torch.linalg.matrix_rank(gap) <= R
    slack = bound(circle)
    assert (zeros[:-R] >= circle[R:] - slack).all() and (zeros[R:] <= circle[:-R] + slack).all()
    assert (zeros[:-1] < circle[1:] - slack).any(), "with rank 1 it would be false"


def test_the_norm_grows_with_the_image_towards_the_symbol_s():
    K = smooth(4)
    angles = torch.linspace(-math.pi, math.pi, 65, dtype=D)
    from lorank.linalg.convolution.symbol import symbol

    grid = torch.cartesian_prod(angles, angles)
    sup = float(torch.linalg.matrix_norm(symbol(K, grid), 2).max())
    norms = [float(truth(K, n)[0]) for n in (3, 4, 6, 8, 12)]
    assert all(a < b for a, b in pairwise(norms))
    assert norms[-1] <= sup * (1 + 1e-3)
    deficits = [(sup - s) * (n + 1) ** 2 for s, n in zip(norms, (3, 4, 6, 8, 12), strict=True)]
    assert max(deficits) <= 1.5 * min(deficits)
    full = float(truth(K, 6, padding=2)[0])
    assert float(truth(K, 6, padding="valid")[0]) <= float(truth(K, 6)[0]) <= full <= sup * 1.001


def test_the_small_end_is_not_on_the_symbol():
    """A symbol bounded away from 0, and a Toeplitz matrix that is as good as singular."""
    K = torch.tensor([[[2.0, 1.0, 0.0]]], dtype=D)
    zeros = operator_singular_values(K, 30, method="exact").values
    circle = operator_singular_values(K, 30, padding="circular").values
    assert float(circle[-1]) > 0.99 and float(zeros[-1]) < 1e-8


def test_the_reshaped_kernel_has_another_norm():
    box = torch.ones(1, 1, 3, 3, dtype=D)
    found = operator_singular_values(box, 8, padding="circular")
    assert abs(float(found.values[0]) - 9) < 1e-12
    assert abs(float(torch.linalg.matrix_norm(box.reshape(1, 9), 2)) - 3) < 1e-12


KERNELS = {
    "gauss 3x3": (kernel((6, 6, 3, 3)), 1.0),
    "gauss wide": (kernel((8, 4, 3, 3), 1), 1.0),
    "smooth": (smooth(6), 1.0),
    "gauss 2x2": (kernel((6, 6, 2, 2), 2), 1.0),
    "gauss 5x5": (kernel((4, 4, 5, 5), 3), 2.0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_estimates_keep_to_the_error_that_they_state(name):
    K, _ = KERNELS[name]
    n = 12
    want = truth(K, n)
    errors = {}
    for method in ("circular", "coarse", *ZEROS):
        found = operator_singular_values(K, n, method=method)
        assert found.kind == "estimate" and found.method == method
        assert (found.values.diff() <= 0).all() and (found.values >= 0).all()
        errors[method] = mean_error(found.values, want)
        assert errors[method] <= found.error
    # The gates of the specification, at 12 pixels: 3.5 % scaled, 1.5 % extrapolated, for 3x3.
    reach = max(K.shape[-1] - 1, 2) / 2
    assert errors["energy"] <= 0.035 * reach
    assert errors["extrapolated"] <= 0.015 * reach
    assert errors["extrapolated"] < errors["energy"] < errors["circular"]


def test_the_largest_value_is_extrapolated_like_one_over_n_squared():
    for K, _ in KERNELS.values():
        want = truth(K, 12)[0]
        found = operator_singular_values(K, 12, method="extrapolated").values[0]
        assert abs(found - want) <= 0.03 * want


def test_scaled_values_have_the_exact_energy():
    K = kernel((4, 3, 3, 3))
    for size in (9, (7, 12)):
        values = operator_singular_values(K, size, method="energy").values
        assert abs(float(values.square().sum()) / operator_energy(K, size) - 1) < 1e-12


@pytest.mark.parametrize("geometry", [{"stride": 2}, {"padding": "valid"}, {"padding": 2}], ids=str)
def test_borders_of_other_layers_are_extrapolated_too(geometry):
    K, size = kernel((6, 4, 3, 3)), 20 if "stride" in geometry else 13
    want = truth(K, size, **geometry)
    found = operator_singular_values(K, size, method="extrapolated", **geometry)
    assert found.kind == "estimate" and len(found.values) == len(want)
    circular = operator_singular_values(K, size, method="circular", **geometry)
    assert mean_error(found.values, want) < min(0.05, mean_error(circular.values, want) / 2)
    assert math.isinf(found.error) == ("padding" in geometry), (
        "only measured where the size is kept"
    )


def test_a_long_image():
    K = kernel((4, 4, 3, 3))
    want = truth(K, (6, 24))
    found = operator_singular_values(K, (6, 24), method="extrapolated")
    assert mean_error(found.values, want) <= min(found.error, 0.02)


def test_coarse_values_of_wide_layers():
    K = kernel((32, 28, 3, 3))
    every = operator_singular_values(K, 20, padding="circular", method="circular").values
    coarse = operator_singular_values(K, 20, padding="circular", method="coarse")
    assert coarse.kind == "estimate"
    assert mean_error(coarse.values, every) <= min(0.01, coarse.error)
    assert not torch.equal(coarse.values, every)
    few = operator_singular_values(K, 4, padding="circular", method="coarse")
    assert few.kind == "exact", "a grid no smaller than the image's own"


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(
    ("shape", "size", "geometry"),
    [
        ((4, 4, 3, 3), 8, {}),
        ((4, 3, 3, 3), (7, 9), {"padding": "circular"}),
        ((4, 2, 3, 3), 9, {"groups": 2, "stride": 2}),
        ((3, 3, 3, 3), 8, {"dilation": 2}),  # every value four times
        ((4, 3, 1, 1), 4, {}),  # every value sixteen times
        ((2, 3, 3), 9, {"transposed": True, "stride": 2}),
        ((1, 1, 3), 2, {}),
    ],
    ids=str,
)
def test_leading_values(shape, size, geometry, count):
    K = kernel(shape)
    want = truth(K, size, **geometry)
    found = operator_singular_values(K, size, method="leading", count=count, **geometry)
    assert found.kind == "exact" and len(found.values) == min(count, len(want))
    assert (found.values - want[:count]).abs().max() <= found.error * float(want[0]) + bound(want)
    assert found.error <= 1e-8


def test_auto_meets_the_accuracy(monkeypatch):
    monkeypatch.setattr("lorank.linalg.convolution.auto.EXACT_WORK", 0.0)
    K, n = kernel((4, 4, 3, 3)), 16
    want = truth(K, n)
    methods = []
    for accuracy in (0.2, 0.02, 0.012, 1e-6):
        found = operator_singular_values(K, n, accuracy=accuracy)
        assert mean_error(found.values, want) <= found.error <= accuracy
        methods.append(found.method)
    assert methods == ["energy", "extrapolated", "extrapolated", "exact"]


def test_auto_says_where_it_falls_short(monkeypatch):
    monkeypatch.setattr("lorank.linalg.convolution.auto.EXACT_WORK", 0.0)
    monkeypatch.setattr("lorank.linalg.convolution.auto.SMALL_WORK", 0.0)
    found = operator_singular_values(kernel((4, 4, 3, 3)), 16, accuracy=1e-3)
    assert found.method == "energy" and found.error > 1e-3


def test_auto_samples_the_frequencies_of_large_images(monkeypatch):
    K = kernel((16, 16, 3, 3))
    every = operator_singular_values(K, 48, padding="circular")
    assert every.method == "circular"
    monkeypatch.setattr("lorank.linalg.convolution.auto.SYMBOL_WORK", 0.0)
    found = operator_singular_values(K, 48, padding="circular", accuracy=0.02)
    assert found.method == "coarse" and found.kind == "estimate"
    assert mean_error(found.values, every.values) <= found.error <= 0.02
    tight = operator_singular_values(K, 48, padding="circular", accuracy=1e-9)
    assert tight.method == "circular" and tight.kind == "exact"


@pytest.mark.parametrize("method", [m for m in NAMES if m != "leading"])
def test_precision_is_kept(method):
    K = kernel((4, 4, 3, 3))
    double = operator_singular_values(K, 6, method=method).values
    assert double.dtype == D
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with torch.autocast("cpu", torch.bfloat16):
            single = operator_singular_values(K.to(dtype), 6, method=method).values
        assert single.dtype == torch.float32
        # Rounding the kernel moves the operator by at most eps·Σ‖K_p‖ ≤ 3·eps·‖K‖_F; and float32.
        moved = 3 * tolerance.eps(dtype) * float(K.norm()) + 4 * bound(double, torch.float32)
        if method in ("exact", "auto"):
            assert (single.double() - double).abs().max() <= moved


@pytest.mark.parametrize("method", NAMES)
def test_a_zero_kernel(method):
    found = operator_singular_values(torch.zeros(2, 3, 3, 3), 12, method=method)
    assert (found.values == 0).all()


@pytest.mark.parametrize("method", ["exact", "circular", *ZEROS, "auto"])
def test_a_kernel_of_low_rank(method):
    K = torch.einsum("or,rihw->oihw", kernel((5, 2)), kernel((2, 4, 3, 3)))
    found = operator_singular_values(K, 8, method=method)
    assert len(found.values) == 4 * 64
    # A quantile function is interpolated over the jump to 0, which smears a value or two.
    assert int((found.values > 1e-2 * found.values[0]).sum()) <= 2 * 64 + 2
    assert method in ("circular", *ZEROS) or (found.values[128:] < 1e-12).all()


def test_no_gradient_history():
    K = kernel((2, 2, 3, 3)).requires_grad_()
    for method in NAMES:
        assert not operator_singular_values(K, 6, method=method).values.requires_grad


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "exat"}, "unknown method 'exat': did you mean 'exact'"),
        ({"method": "energy", "padding": "circular"}, "circular padding has none"),
        ({"accuracy": 0.0}, "accuracy is above 0"),
        ({"method": "leading", "count": 0}, "count at least 1, found 0.03 and 0"),
        ({"padding": "reflect"}, "copies pixels"),
    ],
)
def test_what_cannot_be_asked(settings, sentence):
    with pytest.raises(LorankError, match=sentence):
        operator_singular_values(kernel((2, 2, 3, 3)), 4, **settings)


def test_nan_is_refused_by_every_method():
    bad = torch.tensor([[[1.0, math.nan, 0.0]]])
    for method in NAMES:
        with pytest.raises(LorankError, match="finite values, found 1 NaN"):
            operator_singular_values(bad, 4, method=method)


def test_every_method_is_explained():
    import lorank.linalg.convolution.spectrum as module

    assert all(f"``{name}``" in (module.__doc__ or "") for name in NAMES)
    assert set(METHODS) < set(NAMES)
    assert "reconstruction from the" in (METHODS["quantile"].__doc__ or "").lower()


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("groups", [1, 4])
def test_a_scale_goes_through_every_method(method, groups):
    """Powers of two change no digit, also where squares would overflow or vanish."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4 // groups, 3, 3, generator=g)
    plain = operator_singular_values(weight, 12, groups=groups, method=method)
    for scale in (2.0**-100, 2.0**100):
        found = operator_singular_values(weight * scale, 12, groups=groups, method=method)
        assert torch.equal(found.values, plain.values * scale)
        assert found[1:] == plain[1:]


@pytest.mark.parametrize("accuracy", [0.03, 0.01])
def test_auto_keeps_its_accuracy_where_the_kernel_reaches_over_an_axis(accuracy):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 16, 5, 5, generator=g)
    truth = operator_singular_values(weight, (3, 40), method="exact").values
    found = operator_singular_values(weight, (3, 40), accuracy=accuracy)
    assert mean_error(found.values, truth) <= min(accuracy, found.error)

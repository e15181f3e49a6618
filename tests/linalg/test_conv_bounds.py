"""Every bound of a convolution's norm lies above the norm, whatever the kernel and the image.

The oracle is the layer itself, torch's own, written out as a matrix column by column; and the
symbol's norm on a fine grid of frequencies, from below.
"""

import itertools
import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F

import tolerance
from lorank import LorankError
from lorank.linalg import (
    BOUNDS,
    SVD,
    Unfolding,
    norm_bracket,
    operator_norm_bound,
)
from lorank.linalg.convolution import bracket
from lorank.linalg.convolution.blocks import kernel_blocks, trimmed
from lorank.linalg.convolution.bounds_grid import secant_grid
from lorank.linalg.convolution.core import core_kernel
from lorank.linalg.convolution.norms import below, enclosed, gram, gram_bound
from lorank.linalg.convolution.symbol import symbol
from lorank.linalg.convolution.uncertified import alternating_norm, reshaped_norm
from matrices import with_spectrum

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def normal(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


def worst(n=16):
    """The 2×2-channel layer for which the secant factor of n points is reached."""
    z = torch.zeros(3, 3, dtype=torch.complex128)
    for p, q in itertools.product((-1, 1), repeat=2):
        phase = torch.tensor(-math.pi * (p + q) / n, dtype=torch.float64)
        z[p + 1, q + 1] = 0.25 * torch.exp(1j * phase)
    rows = torch.stack([z.real, -z.imag]), torch.stack([z.imag, z.real])
    return torch.stack(rows)


def peaked(c, k):
    bump = torch.tensor([1.0, 2, 1]).double()[:k] / 4
    low = normal(c, 2) @ normal(2, c, seed=1)
    return 0.2 * normal(c, c, k, k) + torch.einsum("oi,p,q->oipq", low, bump, bump)


# name → (kernel, settings of the layer, sizes of the image)
KERNELS = {
    "3x3": (normal(4, 3, 3, 3), {}, (5, 6)),
    "wide": (normal(2, 6, 3, 3), {}, (4, 4)),
    "5x5": (normal(3, 3, 5, 5), {}, (6, 6)),
    "even": (normal(3, 3, 2, 2), {}, (6, 5)),
    "4x2": (normal(3, 2, 4, 2), {}, (5, 6)),
    "1x1": (normal(4, 3, 1, 1), {}, (3, 3)),
    "1x3": (normal(3, 3, 1, 3), {}, (3, 8)),
    "larger than the image": (normal(2, 2, 5, 5), {}, (3, 2)),
    "one pixel": (normal(3, 3, 3, 3), {}, (1, 1)),
    "all ones": (torch.ones(1, 1, 3, 3).double(), {}, (8, 8)),
    "peaked": (peaked(5, 3), {}, (6, 6)),
    "worst for the grid": (worst(8), {}, (6, 6)),
    "zero": (torch.zeros(2, 3, 3, 3).double(), {}, (4, 4)),
    "rank one": ((normal(4, 1) @ normal(1, 27)).reshape(4, 3, 3, 3), {}, (5, 5)),
    "one tap": (F.pad(normal(3, 3, 1, 1), (2, 0, 1, 1)), {}, (4, 4)),
    "stride": (normal(3, 2, 3, 3), {"stride": 2}, (6, 7)),
    "strides": (normal(2, 2, 3, 3), {"stride": (1, 3)}, (5, 7)),
    "stride beyond the kernel": (normal(2, 2, 2, 2), {"stride": 3}, (7, 8)),
    "1x1, stride": (normal(3, 2, 1, 1), {"stride": 2}, (5, 4)),
    "dilation": (normal(2, 2, 3, 3), {"dilation": 2}, (7, 6)),
    "stride and dilation": (normal(2, 2, 3, 3), {"stride": 2, "dilation": 3}, (9, 9)),
    "stride 4, dilation 2": (normal(2, 2, 3, 3), {"stride": 4, "dilation": 2}, (9, 9)),
    "groups": (normal(4, 2, 3, 3), {"groups": 2}, (5, 5)),
    "depthwise": (normal(4, 1, 3, 3), {"groups": 4}, (6, 6)),
    "depthwise, stride": (normal(4, 1, 3, 3), {"groups": 4, "stride": 2}, (6, 6)),
    "line": (normal(4, 3, 5), {}, (9,)),
    "line, stride": (normal(2, 3, 7), {"stride": 3}, (12,)),
    "volume": (normal(2, 2, 2, 3, 2), {}, (4, 3, 4)),
}


def layer_matrix(weight, size, settings, padding):
    """The layer as a matrix, by what torch's operation does to each unit image."""
    axes = weight.ndim - 2
    channels = weight.shape[1] * settings.get("groups", 1)
    inputs = torch.eye(channels * math.prod(size), dtype=weight.dtype)
    x = inputs.reshape(-1, channels, *size)
    dilation = settings.get("dilation", 1)
    reach = [dilation * (k - 1) for k in weight.shape[2:]]
    if padding != "valid":
        around = [p for r in reversed(reach) for p in (r // 2, r - r // 2)]
        mode = "constant" if padding == "zeros" else padding
        x = F.pad(x, around, mode=mode)
    return CONV[axes](x, weight, **settings).flatten(1).T


def norm_of(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2)) if matrix.numel() else 0.0


def fine(weight, **settings):
    """The symbol's norm from below, on a grid finer than any bound's, polyphase and all."""
    blocks = kernel_blocks(weight.double(), **settings)
    points = {1: 400, 2: 60, 3: 16}[blocks.ndim - 3]
    steps = [torch.arange(points) * (2 * math.pi / points)] * (blocks.ndim - 3)
    angles = torch.cartesian_prod(*steps).reshape(points ** len(steps), -1)
    return float(torch.linalg.svdvals(symbol(blocks, angles))[..., 0].max())


@cache
def observed(name, dtype):
    """What no bound may lie below: norms on a grid, with zeros and without padding."""
    weight, settings, size = KERNELS[name]
    weight = weight.to(dtype).double()
    found = [fine(weight, **settings), norm_of(layer_matrix(weight, size, settings, "zeros"))]
    reach = [settings.get("dilation", 1) * (k - 1) for k in weight.shape[2:]]
    if all(n > r for n, r in zip(size, reach, strict=True)):
        found.append(norm_of(layer_matrix(weight, size, settings, "valid")))
    # The oracle's own rounding: a computed norm of a matrix of this size.
    room = 1 + tolerance.backward(math.prod(size) * 6, math.prod(size) * 6, torch.float64)
    return max(found) / room


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize("name", KERNELS)
def test_every_bound_is_above_the_norm(name, method, dtype):
    weight, settings, _ = KERNELS[name]
    bound = float(operator_norm_bound(weight.to(dtype), method, **settings))
    assert bound >= observed(name, dtype)
    assert math.isfinite(bound)
    assert (bound == 0) or name != "zero" or bound < 1e-15


@pytest.mark.parametrize("size", [(3, 3), (4, 6), (9, 5), (1, 1), (2, 7)])
@pytest.mark.parametrize("method", ["unfoldings", "grid", "gram", "gram_kernel", "refined"])
def test_every_size_and_circular_padding(method, size):
    weight = normal(3, 4, 3, 3)
    bound = float(operator_norm_bound(weight, method))
    for padding in ("zeros", "circular"):
        if padding == "circular" and min(size) < 2:
            continue
        assert norm_of(layer_matrix(weight, size, {}, padding)) <= bound


@pytest.mark.parametrize("method", BOUNDS)
def test_the_transposed_layer_is_the_adjoint(method):
    weight, size = normal(4, 3, 3, 3), (4, 5)
    unit = torch.eye(4 * 20, dtype=torch.float64).reshape(-1, 4, *size)
    T = TRANSPOSED[2](unit, weight, stride=2, padding=1, output_padding=1).flatten(1).T
    assert norm_of(T) <= float(operator_norm_bound(weight, method, stride=2))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_bracket_holds_the_norm_and_is_as_tight_as_asked(name, dtype):
    weight, settings, _ = KERNELS[name]
    weight = weight.to(dtype)
    tol = 1e-3 if weight.ndim < 5 else 1e-2
    found = norm_bracket(weight, tol=tol, **settings)
    assert found.lower <= found.upper <= found.lower * (1 + tol)
    assert observed(name, dtype) <= found.upper
    if found.upper:
        F_at = symbol(_blocks(weight, settings)[found.group], found.frequency[None])[0]
        value = (found.left.conj() @ (F_at @ found.right.to(F_at.dtype)).to(found.left)).abs()
        assert float(value) == pytest.approx(found.lower, rel=1e-3)


def _blocks(weight, settings):
    return trimmed(kernel_blocks(weight.double(), **settings))


def test_the_upper_end_is_reached_by_large_images():
    weight = normal(2, 3, 3)
    found = norm_bracket(weight, tol=1e-6)
    norms = [norm_of(layer_matrix(weight, (n,), {}, "zeros")) for n in (8, 32, 200)]
    assert norms[0] < norms[1] < norms[2] <= found.upper
    assert norms[2] > found.lower * (1 - 1e-3)


def test_tolerances_nest():
    weight = normal(8, 8, 3, 3, dtype=torch.float32)
    brackets = [norm_bracket(weight, tol=tol) for tol in (1e-1, 1e-2, 1e-4, 1e-7)]
    assert max(b.lower for b in brackets) <= min(b.upper for b in brackets)


def test_the_stride_is_worth_knowing():
    """Negative control: the unstrided norm is far above that of the strided layer."""
    weight = normal(4, 4, 3, 3)
    assert norm_bracket(weight, stride=2).upper < 0.9 * norm_bracket(weight).lower


@pytest.mark.parametrize("n", [8, 16, 32])
def test_the_secant_factor_is_the_least(n):
    """On the grid of the transform this layer loses the whole factor; a smaller one fails."""
    weight = worst(n)
    _, factor = secant_grid((3, 3), n // 2)
    on = torch.arange(n).double() * (2 * math.pi / n)
    seen = symbol(weight, torch.cartesian_prod(on, on))
    top = float(torch.linalg.svdvals(seen)[:, 0].max())
    sup = norm_bracket(weight, tol=1e-8)
    assert top * factor == pytest.approx(sup.lower, rel=1e-7)
    assert top * (1 + (factor - 1) * 0.9) < sup.lower


def test_a_grid_without_its_factor_is_no_bound():
    weight = normal(3, 3, 3, 3)
    angles, _ = secant_grid((3, 3), 4)
    seen = float(torch.linalg.svdvals(symbol(weight, angles))[:, 0].max())
    assert seen < norm_bracket(weight).lower


@pytest.mark.parametrize("name", ["3x3", "5x5", "all ones", "peaked", "line"])
def test_the_reshaped_norm_is_no_bound(name):
    weight, _, _ = KERNELS[name]
    assert float(reshaped_norm(weight)) < 0.9 * norm_bracket(weight).lower


def test_alternating_iteration_stops_below_the_norm():
    """From the exact norm of the tensor it would be a bound; the iteration need not find that.

    Two separate peaks, 1 at frequency 0 and 0.7 at π: each is a stationary point.
    """
    even = torch.ones(3, 3).double() / 9
    odd = even * torch.tensor([1.0, -1, 1]).outer(torch.tensor([1.0, -1, 1]))
    u, v = (torch.linalg.qr(normal(4, 2, seed=s)).Q for s in (5, 6))
    pairs = [torch.outer(u[:, i], v[:, i])[..., None, None] for i in range(2)]
    weight = pairs[0] * even + 0.7 * pairs[1] * odd
    upper = norm_bracket(weight).upper
    ratios = [float(alternating_norm(weight, 50, seed)) / upper for seed in range(12)]
    assert min(ratios) < 0.75
    assert max(ratios) > 0.99


DIFFERENTIABLE = [m for m in BOUNDS if m != "refined"]


@pytest.mark.parametrize("method", DIFFERENTIABLE)
@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (2, 3, 4), (2, 2, 1, 1)])
def test_gradients_by_finite_differences(method, shape):
    weight = normal(*shape, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: operator_norm_bound(w, method), weight)


@pytest.mark.parametrize("settings", [{"stride": 2}, {"groups": 2}, {"dilation": 2}])
def test_gradients_of_other_layers(settings):
    weight = normal(4, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: operator_norm_bound(w, **settings), weight)


def test_the_refined_bound_has_the_gradient_of_the_norm():
    weight = normal(3, 2, 3, 3).requires_grad_()
    bound = operator_norm_bound(weight, "refined")
    gradient = torch.autograd.grad(bound, weight)[0]
    step = 1e-4 * normal(3, 2, 3, 3, seed=9)
    ends = [norm_bracket((weight + s * step).detach(), tol=1e-9).upper for s in (-1, 1)]
    # The gradient is taken within the bracket's gap of the maximiser, and is in its proportion.
    assert float((gradient * step).sum()) == pytest.approx((ends[1] - ends[0]) / 2, rel=0.05)


@pytest.mark.parametrize("method", BOUNDS)
def test_a_zero_kernel_has_a_finite_gradient(method):
    weight = torch.zeros(2, 2, 3, 3, requires_grad=True)
    bound = operator_norm_bound(weight, method)
    bound.backward()
    assert bound.item() < 1e-15
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("method", BOUNDS)
def test_the_scale_of_a_kernel_does_not_matter(method):
    weight = normal(3, 3, 3, 3, dtype=torch.float32)
    plain = float(operator_norm_bound(weight, method))
    for scale in (2.0**-100, 2.0**100):
        assert float(operator_norm_bound(weight * scale, method)) == pytest.approx(plain * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", BOUNDS)
def test_half_precision_is_computed_in_float32_and_certified(method, dtype):
    weight = normal(4, 3, 3, 3).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        bound = operator_norm_bound(weight, method)
        bound.backward()
    assert bound.dtype == torch.float32 and weight.grad.dtype == dtype
    assert float(bound.detach()) >= fine(weight.detach())


def test_wide_layers_in_float32_are_certified_against_float64():
    for seed in range(3):
        weight = normal(24, 20, 3, 3, seed=seed, dtype=torch.float32)
        exact = norm_bracket(weight.double(), tol=1e-4)
        found = norm_bracket(weight)
        assert found.lower <= exact.upper and exact.lower <= found.upper
        for method in ("grid", "gram", "refined"):
            assert float(operator_norm_bound(weight, method)) >= exact.lower


@pytest.mark.parametrize("spectrum", [[1.0] * 6, [1.0, 0.999, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_norms_of_known_matrices(spectrum, dtype):
    A = with_spectrum(spectrum, 9, 6, 4, dtype=dtype)
    low, high = enclosed(A)
    eps = tolerance.backward(9, 6, dtype)
    assert (low <= 1 + eps).all() and (high >= 1 - eps).all() and (high - low <= 4 * eps).all()
    for steps in (0, 1, 5):
        assert (gram_bound(A, steps) >= 1 - eps).all()
        assert (gram_bound(A, steps) <= 6**0.5 ** (steps + 1) + 10 * eps).all()
    aims = torch.tensor([0.5, 0.99, 1.01, 2.0], dtype=dtype)
    found = below(A, gram(A), aims)
    assert found[:2].isinf().all()
    torch.testing.assert_close(found[2:], aims[2:], rtol=eps, atol=0)


LAYERS = [
    Unfolding(8, 12, (3, 2), layout="channel"),
    Unfolding(8, 12, (3, 3), layout="channel_reversed"),
    Unfolding(12, 10, (3, 3), layout="spatial"),
    Unfolding(8, 12, (3, 3), 2, layout="spatial_reversed"),
    Unfolding(8, 12, (3, 3), 2, transposed=True),
    Unfolding(8, 12, (5,), layout="channel_reversed"),
    Unfolding(8, 12),
]


@pytest.mark.parametrize("view", LAYERS, ids=lambda v: f"{v.layout} {v.kernel_size} {v.groups}")
@pytest.mark.parametrize("stride", [1, 2])
def test_the_core_of_a_layer_in_svd_form_has_its_norm(view, stride):
    rows, columns = view.shape
    lead = (view.groups,) if view.groups > 1 else ()
    factors = SVD(normal(*lead, rows, 2), normal(*lead, 2), normal(*lead, 2, columns))
    U, S, Vh = factors
    weight = view.kernel((U * S.abs().unsqueeze(-2)) @ Vh)
    core = core_kernel(view, factors)
    assert core.numel() < weight.numel() or view.groups > 1
    settings = {"groups": view.groups, "stride": stride} if view.kernel_size else {}
    found, want = (norm_bracket(k, tol=1e-4, **settings) for k in (core, weight))
    assert found.lower <= want.upper and want.lower <= found.upper


def test_the_core_gives_the_gradient_of_the_dense_kernel():
    view = Unfolding(8, 6, (3, 3))
    factors = [normal(8, 2), normal(2), normal(2, 54)]

    def gradients(kernel):
        leaves = [f.clone().requires_grad_() for f in factors]
        bound = operator_norm_bound(kernel(*leaves), "grid")
        return torch.autograd.grad(bound, leaves)

    dense = gradients(lambda U, S, Vh: view.kernel((U * S.abs()) @ Vh))
    for got, want in zip(gradients(lambda *f: core_kernel(view, SVD(*f))), dense, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("function", [operator_norm_bound, norm_bracket])
@pytest.mark.parametrize(
    ("weight", "settings", "sentence"),
    [
        (
            torch.ones(1, 1, 3, 3),
            {"padding": "reflect"},
            "no bound .* holds with padding 'reflect'",
        ),
        (torch.ones(1, 1, 3, 3), {"padding": "replicate"}, "copied border pixels count more than"),
        (torch.ones(1, 1, 3, 3), {"padding": "refelct"}, "unknown padding 'refelct'"),
        (
            torch.ones(1, 1, 3, dtype=torch.complex64),
            {},
            "real float tensor, found torch.complex64",
        ),
        (torch.ones(1, 1, 3, dtype=torch.int64), {}, "real float tensor, found torch.int64"),
        (torch.full((1, 1, 3), math.nan), {}, "finite values, found 3 NaN or Inf among 3"),
        (torch.full((2, 2), math.inf), {}, "finite values, found 4 NaN or Inf among 4"),
        (torch.ones(3), {}, r"found shape \(3,\)"),
        (torch.ones(1, 0, 3), {}, r"found shape \(1, 0, 3\)"),
        (torch.ones(3, 1, 3), {"groups": 2}, "groups must divide the first axis"),
        (torch.ones(1, 1, 3), {"stride": 0}, "integers of at least 1.*found 0"),
        (torch.ones(1, 1, 3), {"stride": (1, 2)}, r"one for each of 1 axes, found \(1, 2\)"),
    ],
)
def test_what_has_no_bound(function, weight, settings, sentence):
    with pytest.raises(LorankError, match=sentence):
        function(weight, **settings)


def test_reflect_padding_would_break_every_bound():
    """Negative control: this is why it is refused."""
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    reflected = norm_of(layer_matrix(weight, (4, 4), {}, "reflect"))
    assert reflected > 1.1 * float(operator_norm_bound(weight, "refined"))


def test_an_unknown_bound_and_a_gap_that_is_none():
    with pytest.raises(LorankError, match=r"unknown bound 'grids': did you mean 'grid'\?"):
        operator_norm_bound(torch.ones(1, 1, 3), "grids")
    for tol in (0.0, -1.0, 1.0, math.nan):
        with pytest.raises(LorankError, match="a relative gap is between 1e-9 and 1"):
            norm_bracket(torch.ones(1, 1, 3), tol=tol)


def test_a_flat_symbol_ends_with_sound_ends(monkeypatch):
    """An orthogonal convolution is as large everywhere: the search gives up, and says how far."""
    Q = torch.linalg.qr(normal(4, 4)).Q
    half, other = Q[:, :2] @ Q[:, :2].T, Q[:, 2:] @ Q[:, 2:].T
    flat = torch.stack([half, torch.zeros(4, 4).double(), other], dim=-1)
    monkeypatch.setattr(bracket, "MOST", (64, 2**38))
    found = norm_bracket(flat, tol=1e-8)
    assert found.lower <= 1 + 1e-12 and found.upper >= 1
    assert found.upper < 1.1


@pytest.mark.parametrize("seed", range(6, 12))
def test_a_bracket_closes_where_two_peaks_are_nearly_as_high(seed):
    """Cells around the lower peak of some of these kernels have the larger powers."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(12, 12, 3, 3, generator=generator).double()
    wide = norm_bracket(kernel)
    for tol in (1e-5, 1e-6, 1e-7):
        found = norm_bracket(kernel, tol=tol)
        assert found.lower <= found.upper <= found.lower * (1 + tol)
        assert wide.lower <= found.upper and found.lower <= wide.upper  # both hold the norm

"""A convolution as a matrix, against torch's own convolutions."""

import math

import pytest
import torch
import torch.nn.functional as F
from conv_cases import GEOMETRIES, descending, kernel

import tolerance
from lorank import LorankError
from lorank.linalg import operator_energy, operator_matrix
from lorank.linalg.convolution.operator import convolution

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
EPS = tolerance.eps(torch.float64)


def each(value, axes):
    return [value] * axes if isinstance(value, int) else list(value)


def by_torch(weight, size, *, padding, **settings):
    """The matrix of a layer as torch runs it, one column for each pixel read."""
    axes = weight.ndim - 2
    transposed = settings.pop("transposed", False)
    groups = settings.get("groups", 1)
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    read = (channels, *each(size, axes))
    x = torch.eye(math.prod(read), dtype=weight.dtype).unflatten(1, read)
    reach = [
        d * (k - 1)
        for d, k in zip(each(settings.get("dilation", 1), axes), weight.shape[2:], strict=True)
    ]
    if transposed:
        return TRANSPOSED[axes](x, weight, padding=padding, **settings).flatten(1).T
    if padding in ("zeros", "circular"):
        around = [p for r in reversed(reach) for p in (r // 2, r - r // 2)]
        mode = {"zeros": "constant", "circular": "circular"}[padding]
        x, padding = F.pad(x, around, mode=mode), 0
    return CONV[axes](x, weight, padding=padding, **settings).flatten(1).T


PLAIN = {n: g for n, g in GEOMETRIES.items() if "transposed" not in g[2]}
WRAPS_ONCE = {
    n: g for n, g in PLAIN.items() if n not in ("kernel larger than the image", "one pixel")
}


@pytest.mark.parametrize("name", PLAIN)
def test_zero_padding_is_torch_s(name):
    shape, size, settings = PLAIN[name]
    K = kernel(shape)
    want = by_torch(K, size, padding="zeros", **settings)
    assert torch.equal(operator_matrix(K, size, **settings), want)


@pytest.mark.parametrize("name", WRAPS_ONCE)
def test_circular_padding_is_torch_s(name):
    shape, size, settings = WRAPS_ONCE[name]
    if name.startswith(("dilations", "stride and dilation")):
        size = 9  # torch wraps a border around an image only once
    K = kernel(shape)
    want = by_torch(K, size, padding="circular", **settings)
    assert torch.equal(operator_matrix(K, size, padding="circular", **settings), want)


def test_a_circular_kernel_larger_than_the_image_is_wrapped():
    K = kernel((2, 2, 5))
    short = K[..., :3].clone()
    short[..., :2] += K[..., 3:]  # taps 3 and 4 of a circle of three are taps 0 and 1
    got, want = (operator_matrix(k, 3, padding="circular") for k in (K, short))
    assert tolerance.distance(descending(torch.linalg.svdvals(got)), torch.linalg.svdvals(want)) < (
        tolerance.backward(6, 6, torch.float64) * float(K.norm()) * 5
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": (0, 0)},
        {"padding": (2, 1), "stride": (2, 3)},
        {"padding": 3, "dilation": 2},
        {"padding": 4},
    ],
    ids=str,
)
def test_any_number_of_zeros(settings):
    K = kernel((3, 2, 3, 3))
    assert torch.equal(operator_matrix(K, (6, 7), **settings), by_torch(K, (6, 7), **settings))


def test_valid_padding_adds_nothing():
    K = kernel((3, 2, 3, 2))
    assert torch.equal(operator_matrix(K, 5, padding="valid"), by_torch(K, 5, padding=0))


def test_zeros_before_and_after():
    K = kernel((3, 2, 2, 2))
    padded = by_torch(K, (5, 5), padding="zeros")  # of an even kernel: the zero comes after
    assert torch.equal(operator_matrix(K, 5, padding=[(0, 1), (0, 1)]), padded)
    assert not torch.equal(operator_matrix(K, 5, padding=[(1, 0), (1, 0)]), padded)


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": 0},
        {"padding": 1, "stride": 2},
        {"padding": 1, "stride": 2, "output_padding": 1},
        {"padding": (1, 0), "stride": (3, 1), "output_padding": (2, 0), "dilation": (1, 2)},
    ],
    ids=str,
)
def test_transposed_layers_are_torch_s(settings):
    K = kernel((2, 3, 3, 3))
    got = operator_matrix(K, (4, 3), transposed=True, **settings)
    assert torch.equal(got, by_torch(K, (4, 3), transposed=True, **settings))


@pytest.mark.parametrize("padding", ["zeros", "circular", "valid"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_apply_and_adjoint_are_the_matrix(name, padding):
    shape, size, settings = GEOMETRIES[name]
    if padding == "valid" and name in ("kernel larger than the image", "one pixel"):
        pytest.skip("nothing is written")
    layer = convolution(kernel(shape), size, padding=padding, **settings)
    T = torch.block_diag(*layer.matrix())
    read, written = layer.read_shape(), layer.written_shape()
    x, y = (torch.eye(n, dtype=T.dtype) for n in reversed(T.shape))
    bound = tolerance.product(T.shape[1], T.dtype) * float(T.norm())
    assert tolerance.distance(layer.apply(x.unflatten(1, read)).flatten(1).T, T) <= bound
    assert tolerance.distance(layer.adjoint(y.unflatten(1, written)).flatten(1), T) <= bound


@pytest.mark.parametrize("padding", ["zeros", "circular", "valid", 1])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_energy_is_the_matrix_s(name, padding):
    shape, size, settings = GEOMETRIES[name]
    if padding in ("valid", 1) and name in ("kernel larger than the image", "one pixel", "1x1"):
        pytest.skip("nothing is written")
    if padding == 1 and "transposed" in name:
        pytest.skip("padding of a transposed layer is tested with torch's")
    geometry = {"padding": padding, **settings}
    T = operator_matrix(kernel(shape), size, **geometry)
    energy = operator_energy(kernel(shape), size, **geometry)
    assert abs(energy - float(T.square().sum())) <= tolerance.product(T.numel(), T.dtype) * energy


def test_zero_padding_has_less_energy_than_circular():
    """``(1 − 2/(3n))²`` of it, for equal energy in each tap of a 3×3 kernel."""
    K, n = torch.ones(1, 1, 3, 3, dtype=torch.float64), 14
    ratio = operator_energy(K, n) / operator_energy(K, n, padding="circular")
    assert abs(ratio - (1 - 2 / (3 * n)) ** 2) <= 10 * EPS


@pytest.mark.parametrize("power", [1, 2])
def test_even_moments_are_quadratic_in_the_size(power):
    """Three sizes fix a moment for all: here a fourth is foretold."""
    K = kernel((3, 2, 3, 3))

    def moment(n):
        return float(torch.linalg.svdvals(operator_matrix(K, n)).pow(2 * power).sum())

    a, b, c, d = (moment(n) for n in (5, 6, 7, 8))
    assert abs(d - (3 * c - 3 * b + a)) <= 1e3 * EPS * d
    small = [moment(n) for n in (1, 2, 3)]
    if power == 2:  # negative control: with an image inside the kernel's reach it is not yet so
        assert abs(moment(4) - (3 * small[2] - 3 * small[1] + small[0])) > 1e-3 * d


def test_dilation_splits_into_copies():
    K = kernel((3, 2, 3, 3))
    parts = list(convolution(K, 8, dilation=2).parts())
    assert [(p.windows[0].size, p.windows[0].dilation, often) for p, often in parts] == [(4, 1, 4)]
    assert len(list(convolution(K, 7, dilation=2).parts())) == 4  # images of 4 and 3 pixels
    assert len(list(convolution(K, 7, dilation=2, stride=2).parts())) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"padding": "reflect"},
            "'reflect' copies pixels of the image, so the layer is no section",
        ),
        ({"padding": "replicate"}, "'replicate' copies pixels"),
        ({"padding": "sames"}, "unknown padding 'sames'"),
        ({"padding": -1}, r"one number or \(before, after\), found -1"),
        ({"padding": (1, 1, 1)}, "for each of 2 axes"),
        ({"padding": "valid", "size": 2}, "leaves nothing of an image of 2"),
        ({"size": 0}, "an image size is an integer of at least 1"),
        ({"size": (4, 4, 4)}, "one for each of 2 axes"),
        ({"size": 4.0}, "found 4.0"),
        ({"stride": 0}, "a stride is an integer of at least 1"),
        ({"dilation": (1, 0)}, "a dilation is an integer of at least 1"),
        ({"groups": 3}, "groups must divide the first axis of a kernel, found 3"),
        ({"transposed": True, "padding": 1, "output_padding": 2}, "below the stride"),
    ],
)
def test_what_no_layer_can_be(settings, sentence):
    size = settings.pop("size", 4)
    with pytest.raises(LorankError, match=sentence):
        operator_matrix(kernel((4, 2, 3, 3)), size, **settings)


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        (torch.ones(2, 2, 3, dtype=torch.complex64), "real float tensor, found torch.complex64"),
        (torch.ones(2, 2, 3, dtype=torch.int64), "found torch.int64"),
        (torch.ones(2, 2), r"one to three axes of taps, found shape \(2, 2\)"),
        (torch.ones(1, 1, 1, 1, 1, 1), "one to three axes"),
        (torch.ones(2, 0, 3), "matrix with entries"),
        (torch.tensor([[[1.0, math.nan]]]), "finite values, found 1 NaN or Inf among 2"),
    ],
)
def test_what_no_kernel_can_be(weight, sentence):
    for call in (operator_matrix, operator_energy):
        with pytest.raises(LorankError, match=sentence):
            call(weight, 4)


def test_an_output_padding_may_exceed_the_stride_below_the_dilation():
    """Its last pixels are written by no tap, or by one alone."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 3, generator=g, dtype=torch.float64)
    settings = {"stride": 2, "dilation": 4, "padding": 1, "output_padding": 3}
    units = torch.eye(2 * 5, dtype=torch.float64).reshape(-1, 2, 5)
    want = torch.nn.functional.conv_transpose1d(units, weight, **settings).flatten(1).T
    assert torch.equal(operator_matrix(weight, 5, transposed=True, **settings), want)
    with pytest.raises(LorankError, match="below the stride or the dilation"):
        operator_matrix(weight, 5, transposed=True, **settings | {"output_padding": 4})
